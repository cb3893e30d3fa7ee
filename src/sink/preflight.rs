//! Whether the target will do, asked before anything is written to it.

use super::{Session, failure, sql::quote};
use crate::error::{Error, Kind, Result};

/// The oldest server that is supported, as in `server_version_num`.
const OLDEST: i32 = 130_000;

/// A NULL privilege is that on a schema which does not exist.
const QUESTION: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), \
    current_setting('server_encoding'), current_setting('transaction_read_only')::bool, \
    current_user::text, current_database()::text, \
    has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP'), \
    (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') \
     FROM pg_namespace WHERE nspname = 'docrow'), \
    (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') \
     FROM pg_namespace WHERE nspname = $1)";

/// Checks version, encoding, that it can be written to, and the privileges to create what docrow creates.
/// Errors: [`Kind::TargetRefused`], saying what to do, with the very GRANT where one is missing. Writes
/// nothing.
pub async fn preflight(session: &Session, schema: &str) -> Result<()> {
    let doing = "check the target";
    let row = session.client.query_one(QUESTION, &[&schema]).await.map_err(|e| failure::of(doing, &e))?;
    let get = |e| failure::of(doing, &e);
    let found = Found {
        version: row.try_get(0).map_err(get)?,
        version_name: row.try_get(1).map_err(get)?,
        encoding: row.try_get(2).map_err(get)?,
        read_only: row.try_get(3).map_err(get)?,
        user: row.try_get(4).map_err(get)?,
        database: row.try_get(5).map_err(get)?,
        may_create_schema: row.try_get(6).map_err(get)?,
        may_create_temporary: row.try_get(7).map_err(get)?,
        docrow: row.try_get(8).map_err(get)?,
        schema: row.try_get(9).map_err(get)?,
    };
    found.judge(schema).map_or(Ok(()), |problem| Err(Error::new(Kind::TargetRefused, problem)))
}

#[derive(Clone)]
struct Found {
    version: i32,
    version_name: String,
    encoding: String,
    read_only: bool,
    user: String,
    database: String,
    may_create_schema: bool,
    may_create_temporary: bool,
    docrow: Option<bool>,
    schema: Option<bool>,
}

impl Found {
    /// What stands in the way, and what to do about it.
    fn judge(&self, schema: &str) -> Option<String> {
        let Self { version_name, encoding, .. } = self;
        let (user, database) = (quote(&self.user), quote(&self.database));
        if self.version < OLDEST {
            return Some(format!("PostgreSQL {version_name} is too old: docrow needs 13 or newer"));
        }
        if self.read_only {
            return Some("the target is read-only: point the target URI at the primary".to_owned());
        }
        if encoding != "UTF8" {
            let advice = "create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0";
            return Some(format!(
                "database {database} has encoding {encoding}, which can't hold all text: {advice}"
            ));
        }
        let absent = self.docrow.is_none() || self.schema.is_none();
        if absent && !self.may_create_schema {
            let what = if self.docrow.is_none() { "docrow" } else { schema };
            return Some(format!(
                "user {user} may not create schema {}: run GRANT CREATE ON DATABASE {database} TO {user}",
                quote(what)
            ));
        }
        if !self.may_create_temporary {
            return Some(format!(
                "user {user} may not create temporary types: run GRANT TEMPORARY ON DATABASE {database} TO {user}"
            ));
        }
        for (name, granted) in [("docrow", self.docrow), (schema, self.schema)] {
            if granted == Some(false) {
                let name = quote(name);
                return Some(format!(
                    "user {user} may not create tables in schema {name}: run GRANT USAGE, CREATE ON SCHEMA {name} TO {user}"
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        Found {
            version: 150_010,
            version_name: "15.10".into(),
            encoding: "UTF8".into(),
            read_only: false,
            user: "u".into(),
            database: "d".into(),
            may_create_schema: true,
            may_create_temporary: true,
            docrow: None,
            schema: Some(true),
        }
    }

    #[track_caller]
    fn assert_refused(found: Found, word: &str) {
        let problem = found.judge("public").unwrap();
        assert!(problem.contains(word), "{problem}");
    }

    #[test]
    fn servers_before_13_are_refused() {
        assert_refused(
            Found { version: 120_022, version_name: "12.22".into(), ..good() },
            "12.22 is too old",
        );
        assert!(Found { version: 130_000, ..good() }.judge("public").is_none());
        assert!(good().judge("public").is_none());
    }

    #[test]
    fn a_missing_privilege_is_named_with_its_grant() {
        assert_refused(
            Found { may_create_schema: false, ..good() },
            r#"GRANT CREATE ON DATABASE "d" TO "u""#,
        );
        assert_refused(
            Found { schema: Some(false), ..good() },
            r#"GRANT USAGE, CREATE ON SCHEMA "public" TO "u""#,
        );
        assert_refused(Found { may_create_temporary: false, ..good() }, "GRANT TEMPORARY");
        let prepared_by_an_administrator = Found { may_create_schema: false, docrow: Some(true), ..good() };
        assert!(prepared_by_an_administrator.judge("public").is_none());
    }

    #[test]
    fn a_target_that_cannot_hold_the_rows_is_refused() {
        assert_refused(Found { read_only: true, ..good() }, "primary");
        assert_refused(Found { encoding: "LATIN1".into(), ..good() }, "UTF8");
    }
}
