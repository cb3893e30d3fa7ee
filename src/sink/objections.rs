//! What stands in the way of replicating into a target, each with what to do about it. Pure.

use tokio_postgres::{Error as PgError, Row};

use super::identifiers::quote;
use crate::{error::Code, roles};

/// The oldest server that is supported, as in `server_version_num`.
const OLDEST: i32 = 130_000;

/// An obstacle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetObjection {
    /// Its error code.
    pub code: Code,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: TargetRemedy,
}

/// How to remove an obstacle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetRemedy {
    /// In words.
    Words(String),
    /// By running this statement as a privileged user.
    Statement(String),
}

impl TargetObjection {
    fn new(code: Code, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, what: what.into(), remedy: TargetRemedy::Words(remedy.into()) }
    }

    fn granted_by(what: impl Into<String>, statement: String) -> Self {
        Self { code: Code::TargetPrivilege, what: what.into(), remedy: TargetRemedy::Statement(statement) }
    }

    /// On one line.
    pub(super) fn sentence(&self) -> String {
        let Self { what, remedy, .. } = self;
        match remedy {
            TargetRemedy::Words(words) => format!("{what}: {words}"),
            TargetRemedy::Statement(statement) => format!("{what}: run {statement}"),
        }
    }
}

/// What the server says of itself, and of what its user may do there.
#[derive(Clone)]
pub(super) struct TargetFacts {
    pub(super) version: i32,
    pub(super) version_name: String,
    pub(super) encoding: String,
    pub(super) read_only: bool,
    pub(super) is_standby: bool,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) may_create_schema: bool,
    pub(super) may_create_temporary: bool,
    pub(super) docrow: Option<bool>,
    pub(super) schema: Option<bool>,
    /// All tables in the schema docrow.
    pub(super) bookkeeping: bool,
    pub(super) functions: bool,
}

impl TargetFacts {
    pub(super) fn read(row: &Row) -> Result<Self, PgError> {
        Ok(Self {
            version: row.try_get(0)?,
            version_name: row.try_get(1)?,
            encoding: row.try_get(2)?,
            read_only: row.try_get(3)?,
            is_standby: row.try_get(4)?,
            user: row.try_get(5)?,
            database: row.try_get(6)?,
            may_create_schema: row.try_get(7)?,
            may_create_temporary: row.try_get(8)?,
            docrow: row.try_get(9)?,
            schema: row.try_get(10)?,
            bookkeeping: row.try_get(11)?,
            functions: row.try_get(12)?,
        })
    }

    /// The obstacles to writing, and how to remove them.
    pub(super) fn judge(&self, schema: &str) -> Vec<TargetObjection> {
        let mut objections = self.judge_server();
        if self.read_only {
            let (what, remedy) = if self.is_standby {
                ("the target is read-only: it is a standby", "point the target URI at the primary")
            } else {
                (
                    "the target is read-only by default (default_transaction_read_only)",
                    "reset that for docrow's role, ALTER ROLE … SET default_transaction_read_only = off; \
                     a service may have set it because its disk is full",
                )
            };
            objections.push(TargetObjection::new(Code::TargetReadOnly, what, remedy));
        }
        self.judge_privileges(schema, &mut objections);
        objections
    }

    /// The obstacles to any use.
    pub(super) fn judge_server(&self) -> Vec<TargetObjection> {
        let Self { version_name, encoding, .. } = self;
        let database = quote(&self.database);
        let mut objections = Vec::new();
        if self.version < OLDEST {
            objections.push(TargetObjection::new(
                Code::TargetTooOld,
                format!("PostgreSQL {version_name} is too old"),
                "docrow needs 13 or newer",
            ));
        }
        if encoding != "UTF8" {
            objections.push(TargetObjection::new(
                Code::TargetEncoding,
                format!("database {database} has encoding {encoding}, which can't hold all text"),
                "create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            ));
        }
        objections
    }

    fn judge_privileges(&self, schema: &str, objections: &mut Vec<TargetObjection>) {
        let (user, database) = (quote(&self.user), quote(&self.database));
        for (name, granted) in [("docrow", self.docrow), (schema, self.schema)] {
            if granted.is_none() && !self.may_create_schema {
                let name = quote(name);
                objections.push(TargetObjection::granted_by(
                    format!("user {user} may not create schema {name}"),
                    roles::create_schema(&name, &user),
                ));
            }
        }
        if !self.may_create_temporary {
            objections.push(TargetObjection::granted_by(
                format!("user {user} may not create temporary types"),
                roles::grant_temporary(&database, &user),
            ));
        }
        for (name, granted) in [("docrow", self.docrow), (schema, self.schema)] {
            if granted == Some(false) {
                let name = quote(name);
                objections.push(TargetObjection::granted_by(
                    format!("user {user} may not create tables in schema {name}"),
                    roles::grant_schema(&name, &user),
                ));
            }
        }
        if !self.bookkeeping {
            objections.push(TargetObjection::granted_by(
                format!("user {user} may not read and write the tables of schema \"docrow\""),
                roles::grant_tables(&quote("docrow"), &user),
            ));
        }
        if !self.functions {
            objections.push(TargetObjection::granted_by(
                format!("user {user} may not call the functions of schema \"docrow\""),
                roles::grant_functions(&quote("docrow"), &user),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> TargetFacts {
        TargetFacts {
            version: 150_010,
            version_name: "15.10".into(),
            encoding: "UTF8".into(),
            read_only: false,
            is_standby: false,
            user: "u".into(),
            database: "d".into(),
            may_create_schema: true,
            may_create_temporary: true,
            docrow: None,
            schema: Some(true),
            bookkeeping: true,
            functions: true,
        }
    }

    #[track_caller]
    fn assert_refused(found: TargetFacts, word: &str) {
        let objections = found.judge("public");
        assert!(objections.len() == 1 && objections[0].sentence().contains(word), "{objections:?}");
    }

    #[test]
    fn servers_before_13_are_refused() {
        assert_refused(
            TargetFacts { version: 120_022, version_name: "12.22".into(), ..good() },
            "12.22 is too old",
        );
        assert_eq!(TargetFacts { version: 130_000, ..good() }.judge("public"), []);
        assert_eq!(good().judge("public"), []);
    }

    #[test]
    fn a_missing_privilege_is_named_with_its_grant() {
        assert_refused(
            TargetFacts { may_create_schema: false, ..good() },
            r#"run CREATE SCHEMA "docrow" AUTHORIZATION "u""#,
        );
        assert_refused(
            TargetFacts { schema: Some(false), ..good() },
            r#"run GRANT USAGE, CREATE ON SCHEMA "public" TO "u""#,
        );
        assert_refused(TargetFacts { may_create_temporary: false, ..good() }, "GRANT TEMPORARY");
        assert_refused(
            TargetFacts { bookkeeping: false, ..good() },
            "ALL TABLES IN SCHEMA \"docrow\" TO \"u\"",
        );
        assert_refused(TargetFacts { functions: false, ..good() }, "GRANT EXECUTE");
        let prepared_by_an_administrator =
            TargetFacts { may_create_schema: false, docrow: Some(true), ..good() };
        assert_eq!(prepared_by_an_administrator.judge("public"), []);
    }

    #[test]
    fn a_target_that_cannot_hold_the_rows_is_refused() {
        assert_refused(TargetFacts { read_only: true, is_standby: true, ..good() }, "primary");
        assert_refused(TargetFacts { read_only: true, ..good() }, "default_transaction_read_only");
        assert_refused(TargetFacts { encoding: "LATIN1".into(), ..good() }, "UTF8");
    }

    #[test]
    fn all_that_is_wrong_is_said() {
        let found =
            TargetFacts { read_only: true, schema: Some(false), may_create_temporary: false, ..good() };
        assert_eq!(found.judge("public").len(), 3);
    }
}
