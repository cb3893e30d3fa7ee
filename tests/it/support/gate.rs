//! Points where docrow is held, so that a test can do something to it right there.
//!
//! A trigger takes an advisory lock that the test holds. Opening the gate lets everyone through.

use docrow::sink::{Target, metadata::schema};

use super::{Docrow, Place};

/// What the gate blocks.
pub(crate) enum Before<'a> {
    /// Updates of one of docrow's own tables, of rows `NEW` that satisfy a condition.
    Update(&'a str, &'a str),
    /// Statements of this kind, for example `ALTER TABLE`, which builds the keys.
    Statement(&'a str),
}

/// A closed gate, until it is opened or dropped.
pub(crate) struct Gate {
    /// Holds the lock.
    holder: tokio_postgres::Client,
    lock: u32,
}

impl Gate {
    /// A closed gate in front of the future actions of docrow, which has not been started yet. A place has
    /// one of each kind.
    pub(crate) async fn close(place: &Place, before: Before<'_>) -> Self {
        let target = Target::parse(&place.postgres_uri, "public", "gate").unwrap();
        schema::create(&mut target.connect().await.unwrap(), "public").await.unwrap();
        // The scope of an advisory lock is the database, and so the test.
        let (lock, result, attach) = match before {
            Before::Update(table, condition) => (
                7001,
                ("trigger", "NEW"),
                format!("TRIGGER gate BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({condition})"),
            ),
            Before::Statement(tag) => (
                7002,
                ("event_trigger", ""),
                format!("EVENT TRIGGER gate ON ddl_command_start WHEN TAG IN ('{tag}')"),
            ),
        };
        let (kind, value) = result;
        let make = format!(
            "CREATE FUNCTION docrow.gate_{lock}() RETURNS {kind} LANGUAGE plpgsql SET lock_timeout = 0 AS $$ \
             BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN {value}; END $$; \
             CREATE {attach} EXECUTE FUNCTION docrow.gate_{lock}()"
        );
        place.postgres().await.batch_execute(&make).await.unwrap();
        Self::hold(place, lock).await
    }

    /// The gate before updates, which was opened, closed again.
    pub(crate) async fn close_again(place: &Place) -> Self {
        Self::hold(place, 7001).await
    }

    async fn hold(place: &Place, lock: u32) -> Self {
        let holder = place.postgres().await;
        holder.batch_execute(&format!("SELECT pg_advisory_lock({lock})")).await.unwrap();
        Self { holder, lock }
    }

    /// Waits until this many sessions of docrow are held by the gate, or by one another behind it. Sessions
    /// of a killed docrow stay there, too.
    pub(crate) async fn reached(&self, docrow: &mut Docrow, sessions: i64) {
        let question = "WITH RECURSIVE held (pid) AS ( \
             SELECT pid FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)) \
             UNION SELECT a.pid FROM pg_stat_activity a JOIN held h ON h.pid = ANY (pg_blocking_pids(a.pid))) \
             SELECT count(*) FROM held";
        let waiting = async || self.holder.query_one(question, &[]).await.unwrap().get::<_, i64>(0);
        docrow.until("it stands before the gate", async || waiting().await >= sessions).await;
    }

    /// Lets everyone through, from now on.
    pub(crate) async fn open(self) {
        self.holder.batch_execute(&format!("SELECT pg_advisory_unlock({})", self.lock)).await.unwrap();
    }
}
