//! The statements of docs/roles.md and of `docrow check`, run as a user would: mongosh's helpers are replaced
//! by the commands that they send, because mongosh is not available here.

use docrow::roles;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use serde_json::Value;

/// The first code block under a heading of docs/roles.md.
pub(super) fn documented(heading: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/roles.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, code) = section.split_once("\n```").unwrap();
    let (_, code) = code.split_once('\n').unwrap();
    code.split_once("\n```").unwrap().0.to_owned()
}

/// Runs statements of mongosh, each beginning with `db.` at the beginning of a line.
pub(super) async fn run_in_mongosh(client: &Client, statements: &str) {
    for statement in format!("\n{statements}").split("\ndb.").skip(1) {
        let (database, command) = command(statement);
        client
            .database(&database)
            .run_command(command)
            .await
            .unwrap_or_else(|e| panic!("db.{statement}: {e}"));
    }
}

/// The command that a helper sends: `getSiblingDB("admin").grantRolesToUser("docrow", […])`.
fn command(statement: &str) -> (String, Document) {
    let (database, call) = statement
        .strip_prefix("getSiblingDB(\"")
        .and_then(|rest| rest.split_once("\")."))
        .expect("getSiblingDB");
    let (helper, arguments) = call.trim().strip_suffix(')').unwrap().split_once('(').unwrap();
    let json = format!("[{}]", with_quoted_keys(arguments));
    let arguments: Vec<Value> = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
    let mut arguments = arguments.into_iter().map(|argument| Bson::try_from(argument).unwrap());
    let first = arguments.next().unwrap();
    let command = match (helper, first) {
        ("createRole" | "createUser", Bson::Document(mut made)) => {
            let name = made.remove(if helper == "createRole" { "role" } else { "user" }).unwrap();
            let mut command = doc! { helper: name };
            command.extend(made);
            command
        }
        ("grantRolesToUser" | "revokeRolesFromUser", user) => {
            doc! { helper: user, "roles": arguments.next().unwrap() }
        }
        ("grantPrivilegesToRole" | "revokePrivilegesFromRole", role) => {
            doc! { helper: role, "privileges": arguments.next().unwrap() }
        }
        (other, _) => panic!("{other} is no helper that is known here"),
    };
    (database.to_owned(), command)
}

/// JavaScript as JSON: without comments, keys in quotes.
fn with_quoted_keys(code: &str) -> String {
    let code: String =
        code.lines().map(|line| line.split(" //").next().unwrap()).collect::<Vec<_>>().join("\n");
    let code: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let (mut json, mut word, mut in_string) = (String::new(), String::new(), false);
    let mut before = ' ';
    for c in code.chars() {
        if !in_string && (c.is_alphanumeric() || c == '_') {
            word.push(c);
        } else {
            let quote = if c == ':' && !in_string && !word.is_empty() { "\"" } else { "" };
            json.push_str(&format!("{quote}{word}{quote}{c}"));
            word.clear();
            in_string ^= c == '"' && before != '\\';
        }
        before = c;
    }
    json + &word
}

/// `docrow check` and docs/roles.md agree: each statement that docrow can print is there, for the example's
/// names, and the document has no other. So a grant that the document says to leave out is never recommended.
#[test]
fn statements_that_check_prints_are_the_documented_ones() {
    let [database, schema, docrow] = ["warehouse", "public", "docrow"];
    let whole = roles::privilege("shop", "", &["changeStream", "collStats", "find", "listCollections"]);
    let split = roles::privilege("shop", "", &["splitVector"]);
    let oplog = roles::privilege("local", "oplog.rs", &["collStats", "find"]);
    let one_by_one = [
        roles::grant_connect(database, docrow),
        roles::grant_temporary(database, docrow),
        roles::create_schema("docrow", docrow),
        roles::grant_schema(schema, docrow),
        roles::grant_tables("docrow", docrow),
        roles::grant_functions("docrow", docrow),
        roles::grant_table("public.orders", docrow),
    ];
    let expected: Vec<_> = one_by_one.iter().map(|statement| format!("{statement};")).collect();
    assert_eq!(documented("### One by one, in PostgreSQL").lines().collect::<Vec<_>>(), expected);
    let user = (docrow, "admin");
    let one_by_one = [
        roles::grant_privilege(docrow, &whole),
        roles::grant_privilege(docrow, &split),
        roles::grant_privilege(docrow, &oplog),
        roles::grant_role(user, ("read", "shop")),
        roles::grant_role(user, ("read", "local")),
        roles::grant_role(user, ("readAnyDatabase", "admin")),
    ];
    assert_eq!(documented("### One by one, in MongoDB").lines().collect::<Vec<_>>(), one_by_one);
    // Nor does the document have statements that docrow does not print.
    let cluster = roles::cluster_privilege(&["replSetGetConfig", "replSetGetStatus"]);
    assert_eq!(documented("### On the cluster"), roles::grant_privilege(docrow, &cluster));
    // And they are parts of the initial statements.
    for privilege in [whole, split, oplog] {
        assert!(documented("## MongoDB").contains(&privilege), "{privilege}");
    }
    for statement in [roles::create_schema("docrow", docrow), roles::grant_schema(schema, docrow)] {
        assert!(documented("## PostgreSQL").contains(&format!("{statement};")), "{statement}");
    }
}

#[test]
fn statements_are_read_as_mongosh_does() {
    let statement = "getSiblingDB(\"admin\").createRole({\n  role: \"r\", // so\n  // not that: x\n  privileges: \
        [{ resource: { db: \"s: \\\"\", collection: \"\" }, actions: [\"find\"] }]\n})";
    let privilege = doc! { "resource": { "db": "s: \"", "collection": "" }, "actions": ["find"] };
    assert_eq!(
        command(statement),
        ("admin".to_owned(), doc! { "createRole": "r", "privileges": [privilege] })
    );
    let (_, command) =
        command("getSiblingDB(\"$external\").grantRolesToUser(\"CN=x\", [{ role: \"read\", db: \"s\" }])");
    assert_eq!(command, doc! { "grantRolesToUser": "CN=x", "roles": [{ "role": "read", "db": "s" }] });
}
