//! The documents, rows and files in README and docs match docrow's output.

use std::{fs, path::Path};

use docrow::{
    config::{Config, Overrides},
    demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
};
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use serde_json::Value;
use tokio::process::Command;
use tokio_postgres::SimpleQueryMessage;

use crate::support::{Home, Place, connect};

const README: &str = include_str!("../../README.md");
const USERS: &str = include_str!("../../schemas/users.toml");

/// The text between a line and the end of its block.
fn block<'a>(text: &'a str, first: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{first}")).unwrap_or_else(|| panic!("no {first:?}"));
    rest.split_once("\n```").unwrap().0
}

/// README's document: an object of JavaScript, which is also valid YAML.
fn shown_document() -> Document {
    let value: Value = serde_norway::from_str(block(README, "```js\n")).unwrap();
    let Bson::Document(document) = Bson::try_from(value).unwrap() else { panic!("no document") };
    document
}

/// Other documents, in which the field that it has as a string is a number.
fn others(shown: &Document) -> Vec<Document> {
    let other = |id| {
        let mut other = shown.clone();
        other.insert("_id", id);
        for line in other.get_array_mut("lines").unwrap() {
            line.as_document_mut().unwrap().insert("qty", 2);
        }
        other
    };
    (100..130).map(other).collect()
}

/// A table in README's form: its name, its columns, and a line per row; numbers are right-aligned.
async fn table(postgres: &tokio_postgres::Client, name: &str, margin: usize) -> String {
    let found = postgres.simple_query(&format!("SELECT * FROM {name} WHERE _id = 7 ORDER BY 1, 2")).await;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for message in found.unwrap() {
        let SimpleQueryMessage::Row(row) = message else { continue };
        if rows.is_empty() {
            rows.push(row.columns().iter().map(|column| column.name().to_owned()).collect());
        }
        rows.push((0..row.len()).map(|n| row.get(n).unwrap_or("NULL").to_owned()).collect());
    }
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap();
    let line = |(at, row): (usize, &Vec<String>)| {
        let cells = row.iter().enumerate().map(|(n, cell)| {
            let width = width(n);
            if cell.parse::<f64>().is_ok() { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        let label = if at == 0 { format!("{name}:") } else { String::new() };
        format!("{label:margin$}{}", cells.collect::<Vec<_>>().join(" │ ")).trim_end().to_owned() + "\n"
    };
    rows.iter().enumerate().map(line).collect()
}

/// Separate servers, because the names of databases are those of the examples.
struct Shop {
    place: Place,
    home: Home,
    _servers: (Mongod, Postgres),
}

impl Shop {
    /// With the collections that README's configuration includes, and exactly that configuration.
    async fn open() -> Self {
        let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let client = Client::with_uri_str(mongod.uri()).await.unwrap();
        let (mongodb_uri, postgres_uri) = (mongod.uri(), postgres.uri("postgres"));
        let place = Place { name: "shop".to_owned(), mongodb_uri, postgres_uri, client };
        let orders = place.collection("orders");
        orders.insert_many(others(&shown_document())).await.unwrap();
        orders.insert_one(shown_document()).await.unwrap();
        let customers = place.client.database("crm").collection("customers");
        customers.insert_one(doc! { "_id": 1, "name": "Ada" }).await.unwrap();
        let mut home = Home::empty();
        home.env("MONGODB_URI", &place.mongodb_uri);
        home.env("POSTGRES_URI", &place.postgres_uri);
        let configuration = block(README, "```toml\nname = ");
        fs::write(home.path().join("docrow.toml"), format!("name = {configuration}\n")).unwrap();
        Self { place, home, _servers: (mongod, postgres) }
    }

    /// Runs the block of a document that contains `part`.
    async fn does(&self, document: &str, part: &str) {
        let mut blocks = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let script = blocks.find(|block| block.contains(part)).unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-euc", script]).current_dir(self.home.path()).kill_on_drop(true);
        let uri = environment_of_psql(&self.place.postgres_uri);
        let output = bash.envs(uri).output().await.unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The environment with which `psql` connects without arguments.
fn environment_of_psql(uri: &str) -> [(&'static str, String); 4] {
    let config: tokio_postgres::Config = uri.parse().unwrap();
    [
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", config.get_ports()[0].to_string()),
        ("PGUSER", config.get_user().unwrap().to_owned()),
        ("PGDATABASE", config.get_dbname().unwrap().to_owned()),
    ]
}

/// README's configuration, copied unchanged, needs only the two connection strings; its document becomes the
/// rows shown below it; and the query in docs/mapping.md works on them.
#[tokio::test]
async fn the_orders_become_the_rows_that_are_shown() {
    let shop = Shop::open().await;
    shop.home.finish(&["check"]).await.with_code(0);
    shop.home.finish(&["backfill"]).await.with_code(0);
    let postgres = connect(&shop.place.postgres_uri).await;
    let shown = block(README, "```text\norders:");
    let margin = 15;
    let found = [table(&postgres, "orders", margin).await, table(&postgres, "orders_lines", margin).await];
    assert_eq!(format!("orders:{shown}\n"), found.join("\n"), "README shows other rows than these");

    let mapping = include_str!("../../docs/mapping.md");
    let question = block(mapping, "```sql\nSELECT _id, _extra");
    let answer = postgres.query(&format!("SELECT _id, _extra{question}"), &[]).await.unwrap();
    assert_eq!(answer.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [7]);
    fs::create_dir(shop.home.path().join("schemas")).unwrap();
    shop.does(mapping, "SELECT mapping FROM docrow.schemas").await;
    let plan = shop.home.finish(&["plan"]).await.with_code(0).quiet();
    assert!(plan.out.contains("= shop.orders: nothing to do"), "{}", plan.out);
}

/// README's excerpt of a mapping file consists of lines of that file, in their order; `# …` stands for
/// omitted lines.
#[test]
fn the_mapping_file_is_an_excerpt_of_the_one_that_is_there() {
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/users.toml").exists());
    let excerpt = block(README, "```toml\ncollection = ");
    let excerpt = format!("collection = {excerpt}");
    let mut file = USERS.lines();
    for line in excerpt.lines().filter(|line| !line.is_empty() && *line != "# …") {
        assert!(file.any(|there| there == line), "schemas/users.toml has not, or not in this order: {line}");
    }
}

/// README's configuration with its comments uncommented, except for those that name another default, is the
/// same as docrow's defaults.
#[test]
fn the_configuration_has_the_defaults() {
    let shown = block(README, "```toml\nname = ").lines().skip(1);
    let defaults =
        shown.filter(|line| line.starts_with('[') || line.starts_with("# ") && !line.contains("default:"));
    let written: String = defaults.map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
    assert!(written.matches(" = ").count() >= 13, "{written}");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("schemas")).unwrap();
    let used = |text: &str| {
        let uris = [("[source]", "mongodb://a"), ("[target]", "postgres://b/c")];
        let text = uris.iter().fold(text.to_owned(), |text, (section, uri)| {
            text.replacen(section, &format!("{section}\nuri = '{uri}'"), 1)
        });
        let file = folder.path().join("docrow.toml");
        fs::write(&file, text).unwrap();
        let config = Config::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap();
        // The default address is marked as not configured.
        let address = config.serve.as_ref().map(|serve| serve.address);
        (format!("{:?}", Config { serve: None, ..config }), address)
    };
    assert_eq!(used(&written), used("[source]\n[target]\n"));
}
