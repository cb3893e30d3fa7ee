//! Writes the chunks of a snapshot: one transaction per chunk, over all tables of its collection, with its
//! marker.
//!
//! Rows are sent without being copied in this process: the encoder's buffer itself becomes the messages, and
//! gets its memory back once they are sent. The tables of one [`ChunkWriter::write`] are sent one after the
//! other, each as a binary COPY: if a COPY is refused at its start, as every further one is after the first
//! failure, the driver loses count of the server's answers, and the session is lost.

use std::{collections::HashMap, pin::pin};

use bytes::Bytes;
use futures_util::{SinkExt, future::try_join_all, try_join};
use tokio_postgres::{Client, Error as PgError, Statement};

use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    mapping::Rows,
    metrics,
    model::{change::CollectionId, table::Table},
    sink::{
        Session, Target,
        connection::{round_trip::OneRoundTrip, sqlstate, transaction::WriteTransaction},
        metadata::{
            chunks::{self, Marker},
            dead_letters::{self, DeadLetter},
        },
        tables::sql,
    },
};

/// The start of a binary COPY: signature, flags, length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Its end, in place of a tuple's column count.
const TRAILER: &[u8] = b"\xff\xff";
/// The maximum size of a message. The driver's write buffer grows to the largest one, and stays so.
const FRAME: usize = 128 * 1024;

/// A session that copies chunks. Prepares each collection's statements once.
#[derive(Debug)]
pub struct Copier {
    session: Session,
    schema: String,
    pipeline: String,
    plans: HashMap<CollectionId, CopyPlan>,
}

#[derive(Debug)]
struct CopyPlan {
    schema: String,
    tables: Vec<Table>,
    statements: Vec<Statement>,
}

impl Copier {
    /// Copies over `session`, which must be one of a fence's target.
    pub fn new(session: Session, target: &Target) -> Self {
        let (schema, pipeline) = (target.schema().to_owned(), target.pipeline().to_owned());
        Self { session, schema, pipeline, plans: HashMap::new() }
    }

    /// Begins the transaction of a chunk of `collection`, whose mapping writes `tables`.
    pub async fn begin(&mut self, collection: CollectionId, tables: &[Table]) -> Result<ChunkWriter<'_>> {
        let Self { session, schema, pipeline, plans } = self;
        let doing = "begin to copy a chunk";
        let (transaction, plan) = match plans.remove(&collection) {
            Some(plan) if plan.tables == tables => (session.enter(doing).await?, plan),
            _ => {
                let prepare = async |client: &_| CopyPlan::prepare(client, schema, tables).await;
                session.enter_along(doing, prepare).await?
            }
        };
        let plan = plans.entry(collection).insert_entry(plan).into_mut();
        Ok(ChunkWriter { transaction, plan, pipeline, sent: SentAmount::default() })
    }
}

impl CopyPlan {
    async fn prepare(client: &Client, schema: &str, tables: &[Table]) -> Result<Self> {
        let prepare = async |table: &Table| {
            let prepared = client.prepare(&sql::copy_in(schema, table)).await;
            prepared.map_err(|e| sqlstate::error(copying(table), &e))
        };
        let statements = try_join_all(tables.iter().map(prepare)).await?;
        Ok(Self { schema: schema.to_owned(), tables: tables.to_vec(), statements })
    }
}

fn copying(table: &Table) -> String {
    format!("copy rows into {}", sql::quote(&table.name))
}

/// An open chunk. Dropping it without [`Self::commit`] rolls it back.
pub struct ChunkWriter<'a> {
    transaction: WriteTransaction<'a>,
    plan: &'a CopyPlan,
    pipeline: &'a str,
    sent: SentAmount,
}

/// The content of the transaction.
#[derive(Clone, Copy, Default)]
struct SentAmount {
    rows: u64,
    bytes: u64,
}

impl ChunkWriter<'_> {
    /// Sends rows in [`Framing::Copy`](crate::mapping::Framing::Copy), and clears them: afterwards the
    /// buffers are empty and have their memory back, also after an error. Returns how many rows the server
    /// accepted. Errors: [`Kind::TargetRefusedRows`](crate::error::Kind) if the content of a row is refused;
    /// then call [`Self::rollback_to_savepoint`] or drop.
    pub async fn write(&mut self, rows: &mut Rows) -> Result<u64> {
        let plans = self.plan.tables.iter().zip(&self.plan.statements);
        let mut sent = SentAmount::default();
        let mut refused = None;
        for (rows, (table, statement)) in rows.tables.iter_mut().zip(plans) {
            let bytes = rows.bytes.split().freeze();
            let length = u64::try_from(bytes.len()).unwrap_or(0);
            if rows.count > 0 && refused.is_none() {
                match copy(&self.transaction, statement, bytes).await {
                    Ok(rows) => sent = SentAmount { rows: sent.rows + rows, bytes: sent.bytes + length },
                    Err(e) => refused = Some(sqlstate::row_error(copying(table), &e)),
                }
            }
            rows.count = 0;
        }
        if let Some(error) = refused {
            return Err(error);
        }
        self.sent = SentAmount { rows: self.sent.rows + sent.rows, bytes: self.sent.bytes + sent.bytes };
        Ok(sent.rows)
    }

    /// Sets the savepoint, replacing an earlier one.
    pub async fn savepoint(&mut self) -> Result<()> {
        self.run("set a savepoint", "SAVEPOINT docrow").await
    }

    /// Undoes everything written since [`Self::savepoint`], which stays set, whether or not a row was
    /// refused.
    pub async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.run("roll back to a savepoint", "ROLLBACK TO SAVEPOINT docrow").await
    }

    /// Keeps everything written since [`Self::savepoint`].
    pub async fn release_savepoint(&mut self) -> Result<()> {
        self.run("release a savepoint", "RELEASE SAVEPOINT docrow").await
    }

    /// Stores dead letters with the chunk, no document twice.
    pub async fn dead_letters(&mut self, letters: &[DeadLetter]) -> Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let statement = dead_letters::insert_statement();
        let stored = dead_letters::insert(&self.transaction, &statement, self.pipeline, letters).await;
        stored.map(drop).map_err(|e| sqlstate::error("store dead letters", &e))
    }

    /// Sets the chunk's marker and commits: once this returns `Ok`, the chunk is durable. After an error it
    /// may be durable or not, which the plan shows: see the contract in [`sink`](crate::sink). A chunk whose
    /// marker is already set is refused (see [`chunks`]): nothing is copied twice.
    pub async fn commit(self, marker: Marker<'_>) -> Result<()> {
        let doing = || format!("commit chunk {} of {}", marker.number, marker.collection);
        // In one round trip.
        let marked = chunks::mark(&self.transaction, self.pipeline, marker);
        try_join!(self.check_types(), marked).map_err(|e| e.within(doing()))?;
        failpoint::reach(Failpoint::ChunkBeforeCommit);
        // The marker was set, so the transaction is sound, and COMMIT can't mean ROLLBACK.
        self.transaction.commit().await.map_err(|e| sqlstate::row_error(doing(), &e))?;
        metrics::ROWS_WRITTEN.add_to("copy", self.sent.rows);
        metrics::WRITTEN_BYTES.add_to("copy", self.sent.bytes);
        metrics::LAST_COMMIT.set(metrics::unix_seconds());
        failpoint::reach(Failpoint::ChunkCommitted);
        Ok(())
    }

    /// Refuses columns whose type has changed: COPY accepts any bytes as a value of the new type. The rows
    /// that are written prevent another change now.
    async fn check_types(&self) -> Result<()> {
        let plan = self.plan;
        let columns = || plan.tables.iter().flat_map(|table| table.columns.iter().map(move |c| (table, c)));
        let names: Vec<String> =
            columns().map(|(table, _)| sql::qualified(&plan.schema, &table.name)).collect();
        let (attributes, types): (Vec<&str>, Vec<u32>) =
            columns().map(|(_, c)| (&*c.name, c.ty.oid())).unzip();
        let question = "SELECT t || ', column ' || quote_ident(c) || ', is of type ' || format_type(a.atttypid, a.atttypmod) \
            FROM unnest($1::text[], $2::text[], $3::oid[]) AS wanted (t, c, o) \
            JOIN pg_attribute a ON attrelid = to_regclass(t) AND attname = c WHERE atttypid <> o LIMIT 1";
        let fail = |e| sqlstate::error("check the types of columns", &e);
        match self.transaction.fetch_opt(question, &[&names, &attributes, &types]).await.map_err(fail)? {
            None => Ok(()),
            Some(row) => {
                let found: String = row.try_get(0).map_err(fail)?;
                let advice = "it was changed while docrow copied; change it back";
                Err(Error::new(Code::ColumnChanged, format!("{found} now: {advice}")))
            }
        }
    }

    async fn run(&mut self, doing: &str, statement: &str) -> Result<()> {
        self.transaction.batch_execute(statement).await.map_err(|e| sqlstate::error(doing, &e))
    }
}

async fn copy(
    transaction: &WriteTransaction<'_>,
    statement: &Statement,
    mut bytes: Bytes,
) -> Result<u64, PgError> {
    let mut sink = pin!(transaction.copy_in::<_, Bytes>(statement).await?);
    sink.feed(Bytes::from_static(HEADER)).await?;
    while !bytes.is_empty() {
        let frame = bytes.split_to(bytes.len().min(FRAME));
        sink.feed(frame).await?;
    }
    sink.feed(Bytes::from_static(TRAILER)).await?;
    sink.finish().await
}
