//! Applies batches of the change stream: one transaction per batch, sent at once, with the positions it
//! reaches.
//!
//! Every statement is prepared once per session, and all messages of a batch are sent before the first answer
//! is awaited: a batch costs one round trip. First the transaction enters the pipeline, which fails if
//! another process has taken it. Then, for each collection, in this order: all rows of deleted documents are
//! deleted, children first, or, with soft deletes, their root rows are marked, and child rows without one are
//! deleted; root rows are inserted or, where they differ, updated; the child rows of a table are merged:
//! deleted if they no longer exist, and inserted or updated likewise. For documents of which only some fields
//! changed, only the columns and tables of these fields are written; if one has no row, the batch fails, and
//! the caller writes the document whole. Dead letters and positions come last.
//!
//! A COMMIT after a failed statement gets a normal answer, but does nothing. So a batch is applied if and
//! only if *every* answer up to that of COMMIT is a success.

use std::collections::HashMap;

use futures_util::try_join;
use mongodb::bson::Timestamp;
use tokio_postgres::{Client, Statement};

pub use super::pipelining::AppliedBatch;
use super::pipelining::{BatchStatement, StatementPipe};
use crate::{
    error::{Error, Result},
    mapping::Rows,
    metrics,
    model::{change::CollectionId, partition::Partition, table::Table},
    sink::{
        Keys, Session, Target,
        composite_array::CompositeArray,
        connection::{fence_entry::FenceEntry, sqlstate},
        metadata::{
            dead_letters::{self, DeadKey, DeadLetter},
            positions::{self, PartitionPositions, Reached},
        },
        tables::sql,
    },
};

/// What to write in one transaction.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// The changes, no collection twice.
    pub collections: Vec<CollectionBatch<'a>>,
    /// The changes to some fields of documents that have no other changes; no part twice.
    pub parts: Vec<PartBatch<'a>>,
    /// Documents that could not be mapped or written, none twice.
    pub dead_letters: &'a [DeadLetter],
    /// Documents with a dead letter that are written now, or no longer exist: it is removed.
    pub healed: &'a [DeadKey],
    /// The positions reached; empty while a batch is applied in parts, except for the last.
    pub reached: &'a [Reached<'a>],
    /// Up to which cluster time rows may show states once it is applied, if known.
    pub shown: Option<Timestamp>,
    /// Whether it must be on the server's disk, with everything that this session wrote before it, when it is
    /// applied. Otherwise it is visible at once, but a server that crashes shortly afterwards loses it, rows
    /// and positions alike.
    pub is_durable: bool,
}

/// The changes of one collection, at most one per document.
#[derive(Clone, Copy, Debug)]
pub struct CollectionBatch<'a> {
    /// The collection.
    pub collection: CollectionId,
    /// The tables that its mapping writes, root first.
    pub tables: &'a [Table],
    /// The rows of all upserted documents in [`Framing::Composite`](crate::mapping::Framing::Composite), a
    /// buffer per table.
    pub rows: &'a Rows,
    /// The keys of the documents that `rows` are of.
    pub upserted: &'a Keys,
    /// The keys of the deleted documents.
    pub deleted: &'a Keys,
}

/// Changes to the same fields of some documents, at most one per document.
#[derive(Clone, Copy, Debug)]
pub struct PartBatch<'a> {
    /// The collection, and a number that distinguishes its parts.
    pub part: (CollectionId, usize),
    /// The names of the fields.
    pub fields: &'a [Box<str>],
    /// The tables of the fields, reduced to their columns, root first.
    pub tables: &'a [Table],
    /// The rows in [`Framing::Composite`](crate::mapping::Framing::Composite), a buffer per table.
    pub rows: &'a Rows,
    /// The keys of the documents.
    pub keys: &'a Keys,
}

/// A session that applies one partition's batches.
#[derive(Debug)]
pub struct Applier {
    session: Session,
    schema: String,
    pipeline: String,
    partition: Partition,
    fingerprint: i64,
    plans: HashMap<CollectionId, BatchPlan>,
    parts: HashMap<(CollectionId, usize), BatchPlan>,
    bookkeeping: BookkeepingStatements,
    /// Counts the row types, so that each gets a unique name.
    row_types: usize,
}

#[derive(Debug)]
struct BookkeepingStatements {
    entry: FenceEntry,
    reach: Statement,
    bury: Statement,
    heal: Statement,
}

#[derive(Debug)]
struct BatchPlan {
    tables: Vec<Table>,
    /// For a part. Fields without a column have the same tables, but not the same statements.
    fields: Vec<Box<str>>,
    statements: Vec<TableStatements>,
}

#[derive(Debug)]
struct TableStatements {
    /// [`sql::delete`], or, for a root table with soft deletes, [`sql::mark_deleted`].
    delete: Statement,
    /// For a child table with soft deletes: [`sql::delete_rootless`].
    orphans: Option<Statement>,
    /// [`sql::upsert`] for the root table, or [`sql::patch`] for that of a part; [`sql::merge`] for a child
    /// table.
    write: Statement,
}

impl Applier {
    /// Applies `partition`'s batches over `session`, which must be one of a fence's target. The positions it
    /// stores belong to the stream with this `fingerprint`.
    pub async fn new(
        session: Session,
        target: &Target,
        partition: Partition,
        fingerprint: i64,
    ) -> Result<Self> {
        let fail = |e| sqlstate::error("prepare to apply changes", &e);
        let client = &session.client;
        // Every statement finds its rows by key: no plan is better than the index, and none needs to be
        // planned again each time.
        let settings = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off; SET work_mem = '64MB'";
        let (insert, remove) = (dead_letters::insert_statement(), dead_letters::remove_statement());
        // In one round trip.
        let ((), reach, bury, heal) = try_join!(
            client.batch_execute(settings),
            positions::prepare(client),
            client.prepare(&insert),
            client.prepare(&remove)
        )
        .map_err(fail)?;
        let bookkeeping = BookkeepingStatements { entry: session.entry()?.clone(), reach, bury, heal };
        let (schema, pipeline) = (target.schema().to_owned(), target.pipeline().to_owned());
        let (plans, parts, row_types) = (HashMap::new(), HashMap::new(), 0);
        Ok(Self { session, schema, pipeline, partition, fingerprint, plans, parts, bookkeeping, row_types })
    }

    /// Applies a batch: once this returns `Ok`, its rows and positions are visible, and, if requested,
    /// durable. Errors: with [`Kind::TargetRefusedRows`](crate::error::Kind) nothing was written and the
    /// session stays usable, so that the caller can apply halves of the batch to find the document; after any
    /// other see the contract in [`sink`](crate::sink).
    pub async fn apply(&mut self, batch: &Batch<'_>) -> Result<AppliedBatch> {
        for collection in &batch.collections {
            self.plan(collection).await?;
        }
        for part in &batch.parts {
            self.plan_part(part).await?;
        }
        let BookkeepingStatements { entry, reach, bury, heal } = &self.bookkeeping;
        let (client, mut pipe) = (&self.session.client, StatementPipe::default());
        let begin = if batch.is_durable { "BEGIN" } else { "BEGIN; SET LOCAL synchronous_commit = off" };
        pipe.text(BatchStatement::Begin, client, begin);
        pipe.add(BatchStatement::Begin, entry.enter(client));
        for collection in &batch.collections {
            let plan = self.plans.get(&collection.collection);
            plan.ok_or_else(|| Error::bug("apply a batch: no plan for a collection"))?
                .add_to(&mut pipe, client, collection);
        }
        for part in &batch.parts {
            let plan =
                self.parts.get(&part.part).ok_or_else(|| Error::bug("apply a batch: no plan for a part"))?;
            plan.add_part_to(&mut pipe, client, part);
        }
        let pipeline = self.pipeline.as_str();
        if !batch.dead_letters.is_empty() {
            pipe.add(
                BatchStatement::Bookkeeping,
                dead_letters::insert(client, bury, pipeline, batch.dead_letters),
            );
        }
        if !batch.healed.is_empty() {
            pipe.add(BatchStatement::Bookkeeping, dead_letters::remove(client, heal, pipeline, batch.healed));
        }
        if !batch.reached.is_empty() {
            let written = PartitionPositions {
                pipeline,
                partition: self.partition,
                fingerprint: self.fingerprint,
                reached: batch.reached,
                shown: batch.shown,
            };
            pipe.add(BatchStatement::Bookkeeping, positions::upsert(client, reach, written));
        }
        pipe.text(BatchStatement::Commit, client, "COMMIT");
        let applied = pipe.run().await?;
        let rows = batch.collections.iter().map(|collection| collection.rows);
        let bytes = rows.chain(batch.parts.iter().map(|part| part.rows)).map(Rows::byte_len).sum::<usize>();
        metrics::WRITTEN_BYTES.add_to("upsert", u64::try_from(bytes).unwrap_or(0));
        metrics::ROWS_WRITTEN.add_to("upsert", applied.written);
        metrics::ROWS_DELETED.add(applied.deleted);
        metrics::LAST_COMMIT.set(metrics::unix_seconds());
        Ok(applied)
    }

    /// Stores how far rows may be ahead of the positions.
    pub async fn note_ahead(&mut self, time: Timestamp) -> Result<()> {
        positions::set_ahead(&mut self.session, &self.pipeline, Some(time)).await
    }

    /// Stores how far rows are about to be ahead, for batches without a position.
    pub async fn note_shown(&mut self, time: Timestamp) -> Result<()> {
        positions::note_shown(&mut self.session, &self.pipeline, time).await
    }

    /// Makes sure that the collection's statements are prepared for exactly these tables.
    async fn plan(&mut self, batch: &CollectionBatch<'_>) -> Result<()> {
        if self.plans.get(&batch.collection).is_some_and(|plan| plan.tables == batch.tables) {
            return Ok(());
        }
        let plan = self.prepare(batch.tables, &[], sql::upsert).await?;
        self.plans.insert(batch.collection, plan);
        Ok(())
    }

    /// The same for those of a part, whose number belonged to other fields before if the mapping has changed.
    async fn plan_part(&mut self, batch: &PartBatch<'_>) -> Result<()> {
        let is_of = |plan: &BatchPlan| plan.tables == batch.tables && plan.fields == batch.fields;
        if self.parts.get(&batch.part).is_some_and(is_of) {
            return Ok(());
        }
        let patch =
            |schema: &str, table: &Table, row_type: &str| sql::patch(schema, table, row_type, batch.fields);
        let plan = self.prepare(batch.tables, batch.fields, patch).await?;
        self.parts.insert(batch.part, plan);
        Ok(())
    }

    /// Prepares a plan whose root table is written by `write_root`.
    async fn prepare(
        &mut self,
        tables: &[Table],
        fields: &[Box<str>],
        write_root: impl Fn(&str, &Table, &str) -> String,
    ) -> Result<BatchPlan> {
        let mut statements = Vec::with_capacity(tables.len());
        for (i, table) in tables.iter().enumerate() {
            let fail = |e| sqlstate::error(BatchStatement::Write(table).to_string(), &e);
            let client = &self.session.client;
            self.row_types += 1;
            let row_type = format!("docrow_{}", self.row_types);
            client.batch_execute(&sql::create_row_type(&row_type, table)).await.map_err(fail)?;
            let write = match i {
                0 => write_root(&self.schema, table, &row_type),
                _ => sql::merge(&self.schema, table, &row_type),
            };
            let delete = if table.soft_delete { sql::mark_deleted } else { sql::delete };
            let orphans = match tables.first() {
                Some(root) if root.soft_delete && i > 0 => Some(
                    client.prepare(&sql::delete_rootless(&self.schema, root, table)).await.map_err(fail)?,
                ),
                _ => None,
            };
            statements.push(TableStatements {
                orphans,
                delete: client.prepare(&delete(&self.schema, table)).await.map_err(fail)?,
                write: client.prepare(&write).await.map_err(fail)?,
            });
        }
        Ok(BatchPlan { tables: tables.to_vec(), fields: fields.to_vec(), statements })
    }
}

impl BatchPlan {
    fn add_to<'a>(
        &'a self,
        pipe: &mut StatementPipe<'a>,
        client: &'a Client,
        batch: &'a CollectionBatch<'_>,
    ) {
        let statements = || self.tables.iter().zip(&self.statements);
        let (upserted, deleted) = (CompositeArray::keys(batch.upserted), CompositeArray::keys(batch.deleted));
        for (table, statement) in statements().rev() {
            let delete = statement.orphans.as_ref().unwrap_or(&statement.delete);
            pipe.array(BatchStatement::Delete(table), client, delete, deleted);
        }
        if let (Some((root, statement)), Some(rows)) = (statements().next(), batch.rows.tables.first()) {
            pipe.array(BatchStatement::Write(root), client, &statement.write, CompositeArray::rows(rows));
        }
        self.add_children_to(pipe, client, upserted, batch.rows);
    }

    /// A patch must find all of its rows: otherwise the batch fails, and must be written in another way.
    fn add_part_to<'a>(&'a self, pipe: &mut StatementPipe<'a>, client: &'a Client, batch: &'a PartBatch<'_>) {
        let keys = CompositeArray::keys(batch.keys);
        let root = self.tables.first().zip(self.statements.first()).zip(batch.rows.tables.first());
        if let Some(((root, TableStatements { write, .. }), rows)) = root {
            let (rows, wanted) = (CompositeArray::rows(rows), i64::try_from(keys.count()).unwrap_or(-1));
            // The statement returns one row, or fails. Where only `extra` may change, it usually does not.
            let has_columns = root.patched().is_some_and(|(columns, _)| !columns.is_empty());
            let written = if has_columns { u64::try_from(batch.keys.count).unwrap_or(0) } else { 0 };
            pipe.add(BatchStatement::Write(root), async move {
                client.execute(write, &[&rows, &wanted]).await.map(|_| written)
            });
        }
        self.add_children_to(pipe, client, keys, batch.rows);
    }

    /// Merges the child rows of the documents with these keys.
    fn add_children_to<'a>(
        &'a self,
        pipe: &mut StatementPipe<'a>,
        client: &'a Client,
        keys: CompositeArray<'a>,
        rows: &'a Rows,
    ) {
        let tables = self.tables.iter().zip(&self.statements).zip(&rows.tables);
        for ((table, TableStatements { delete, write, .. }), rows) in tables.skip(1) {
            let rows = CompositeArray::rows(rows);
            if rows.count() == 0 {
                pipe.array(BatchStatement::Delete(table), client, delete, keys);
            } else if keys.count() > 0 {
                pipe.add(BatchStatement::Write(table), async move {
                    client.execute(write, &[&keys, &rows]).await
                });
            }
        }
    }
}
