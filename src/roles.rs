//! All statements that grant docrow what it needs. `docrow check` and errors print the statements that are
//! generated here; docs/roles.md shows the same ones, and a test compares them. There is no function for what
//! should not be granted.
//!
//! Names of PostgreSQL objects come quoted as in SQL; names of MongoDB objects are quoted here, as in
//! JavaScript.

use serde_json::Value;

/// The privileges on a table that docrow writes.
const ROWS: &str = "SELECT, INSERT, UPDATE, DELETE";

/// A privilege of MongoDB, as in a role: actions on collections; an empty name stands for all.
pub fn privilege(database: &str, collection: &str, actions: &[&str]) -> String {
    privilege_on(&format!("db: {}, collection: {}", js(database), js(collection)), actions)
}

/// A privilege of MongoDB on the cluster as a whole.
pub fn cluster_privilege(actions: &[&str]) -> String {
    privilege_on("cluster: true", actions)
}

fn privilege_on(resource: &str, actions: &[&str]) -> String {
    let actions = actions.iter().map(|action| js(action)).collect::<Vec<_>>().join(", ");
    format!("{{ resource: {{ {resource} }}, actions: [{actions}] }}")
}

/// Adds a [`privilege`] to a role in `admin`.
pub fn grant_privilege(role: &str, privilege: &str) -> String {
    format!("db.getSiblingDB(\"admin\").grantPrivilegesToRole({}, [{privilege}])", js(role))
}

/// Grants a user, of the database that it was created in, a built-in role on a database.
pub fn grant_role((user, of): (&str, &str), (role, on): (&str, &str)) -> String {
    let (of, user, role, on) = (js(of), js(user), js(role), js(on));
    format!("db.getSiblingDB({of}).grantRolesToUser({user}, [{{ role: {role}, db: {on} }}])")
}

fn js(text: &str) -> String {
    Value::from(text).to_string()
}

/// Lets a user of PostgreSQL connect.
pub fn grant_connect(database: &str, user: &str) -> String {
    format!("GRANT CONNECT ON DATABASE {database} TO {user}")
}

/// Lets it create the types in which rows are sent.
pub fn grant_temporary(database: &str, user: &str) -> String {
    format!("GRANT TEMPORARY ON DATABASE {database} TO {user}")
}

/// Creates a schema that it owns.
pub fn create_schema(schema: &str, user: &str) -> String {
    format!("CREATE SCHEMA {schema} AUTHORIZATION {user}")
}

/// Lets it create tables in a schema.
pub fn grant_schema(schema: &str, user: &str) -> String {
    format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}")
}

/// Lets it write a table that it does not own.
pub fn grant_table(table: &str, user: &str) -> String {
    format!("GRANT {ROWS} ON {table} TO {user}")
}

/// The same for all tables of a schema.
pub fn grant_tables(schema: &str, user: &str) -> String {
    format!("GRANT {ROWS} ON ALL TABLES IN SCHEMA {schema} TO {user}")
}

/// Lets it call the functions of a schema.
pub fn grant_functions(schema: &str, user: &str) -> String {
    format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {user}")
}
