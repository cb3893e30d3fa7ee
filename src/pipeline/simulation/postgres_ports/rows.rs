//! Writes rows, and reads them.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::Timestamp;

use super::{
    super::{
        columns::{RowColumns, tuples},
        mongo::name_of,
        postgres::DatabaseContents,
        world::SimulatedWorld,
    },
    connection::{SimulatedConnection, connection_lost},
};
use crate::{
    error::{Error, Result},
    mapping::Rows,
    model::{change::CollectionId, partition::Partition, table::Table},
    pipeline::{
        planted::{self, Bug},
        ports::{ChunkTransaction, KeyPages, RowApplier, RowCopier, RowReader},
    },
    sink::{
        Keys,
        metadata::{chunks::Marker, dead_letters::DeadLetter},
        rows::{pipelining::AppliedBatch, upsert::Batch},
    },
};

/// The port that applies batches.
pub(super) struct SimulatedApplier {
    pub(super) link: SimulatedConnection,
    pub(super) partition: Partition,
    pub(super) fingerprint: i64,
    pub(super) in_haste: bool,
}

#[async_trait]
impl RowApplier for SimulatedApplier {
    async fn apply(&mut self, batch: &Batch<'_>) -> Result<AppliedBatch> {
        let Self { link, partition, fingerprint, in_haste } = self;
        if *in_haste {
            link.lock_table()?;
        }
        let (partition, fingerprint) = (*partition, *fingerprint);
        let what = format!("worker {} stores {}", partition.0, summary(batch));
        if planted::has(Bug::PositionBeforeRows) && !batch.collections.is_empty() {
            let first = Batch { reached: batch.reached, shown: batch.shown, ..Batch::default() };
            link.transact("the position, too early", batch.is_durable, |world, pg| {
                pg.apply(world, partition, fingerprint, &first)
            })
            .await?;
        }
        let applied = link
            .transact(&what, batch.is_durable, |world, pg| pg.apply(world, partition, fingerprint, batch))
            .await;
        Ok(AppliedBatch { written: applied?, deleted: 0 })
    }

    async fn note_ahead(&mut self, time: Timestamp) -> Result<()> {
        let note = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            (pg.ahead, pg.settled) = (pg.ahead.max(Some(time)), false);
            Ok(())
        };
        self.link
            .change(&format!("worker {} notes that rows may be ahead up to {time:?}", self.partition.0), note)
            .await
    }

    async fn note_shown(&mut self, time: Timestamp) -> Result<()> {
        let note = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.noted = pg.noted.max(Some(time));
            Ok(())
        };
        self.link
            .change(
                &format!("worker {} notes that rows may show states up to {time:?}", self.partition.0),
                note,
            )
            .await
    }
}

/// What is in a batch, for the story.
fn summary(batch: &Batch<'_>) -> String {
    let whole: usize = batch.collections.iter().map(|changes| changes.upserted.count).sum();
    let deleted: usize = batch.collections.iter().map(|changes| changes.deleted.count).sum();
    let parts: usize = batch.parts.iter().map(|part| part.keys.count).sum();
    let reached: Vec<_> =
        batch.reached.iter().map(|reached| (reached.collection, reached.position)).collect();
    let (letters, healed) = (batch.dead_letters.len(), batch.healed.len());
    format!(
        "{whole} whole, {parts} parts, {deleted} deleted, {letters} dead letters, {healed} healed, \
         {reached:?}, shown {:?}, durable: {}",
        batch.shown, batch.is_durable
    )
}

#[async_trait]
impl RowCopier for SimulatedConnection {
    async fn begin<'a>(
        &'a mut self,
        collection: CollectionId,
        tables: &[Table],
    ) -> Result<Box<dyn ChunkTransaction + 'a>> {
        self.wait().await?;
        let (_, root) = (collection, tables.first().cloned());
        Ok(Box::new(SimulatedChunk { link: self, root, rows: Vec::new(), letters: Vec::new(), saved: 0 }))
    }
}

/// A transaction that copies a chunk.
struct SimulatedChunk<'a> {
    link: &'a SimulatedConnection,
    root: Option<Table>,
    rows: Vec<RowColumns>,
    letters: Vec<DeadLetter>,
    /// How many rows there were at the savepoint.
    saved: usize,
}

#[async_trait]
impl ChunkTransaction for SimulatedChunk<'_> {
    async fn write(&mut self, rows: &mut Rows) -> Result<u64> {
        self.link.wait().await?;
        let Some(root) = &self.root else { return Ok(0) };
        let new: Vec<_> = tuples(root, rows).collect();
        rows.clear();
        let count = u64::try_from(new.len()).unwrap_or(0);
        {
            // PostgreSQL refuses a row at once, and the session stays usable.
            let world = self.link.shared.lock();
            let mut pg = world.pg.now.clone();
            let name = pg.name_of_table(&root.name)?;
            for columns in &new {
                pg.put(&world, name, columns.clone())?;
            }
        }
        self.rows.extend(new);
        Ok(count)
    }

    async fn dead_letters(&mut self, letters: &[DeadLetter]) -> Result<()> {
        self.letters.extend_from_slice(letters);
        Ok(())
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.saved = self.rows.len();
        Ok(())
    }

    async fn release_savepoint(&mut self) -> Result<()> {
        Ok(())
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.rows.truncate(self.saved);
        Ok(())
    }

    async fn commit(self: Box<Self>, marker: Marker<'_>) -> Result<()> {
        let Self { link, rows, letters, .. } = *self;
        let (name, number) = (name_of(marker.collection), usize::try_from(marker.number).unwrap_or(0));
        let copy = |world: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            for columns in &rows {
                let before = pg.rows.len();
                pg.put(world, name, columns.clone())?;
                if pg.rows.len() == before {
                    world.report_violation(format!("c{name} has two rows for one document"));
                }
            }
            let batch = Batch { dead_letters: &letters, ..Batch::default() };
            pg.apply(world, Partition(0), 0, &batch).map(drop)
        };
        let mark = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let chunk = pg.plans.get_mut(&name).and_then(|plan| plan.chunks.get_mut(number));
            let chunk = chunk.filter(|chunk| chunk.copied.is_none());
            chunk.map(|chunk| chunk.copied = Some(marker.documents)).ok_or_else(connection_lost)
        };
        let what = format!("chunk {number} of c{name}: {} rows", rows.len());
        if planted::has(Bug::ChunkTwice) {
            link.change(&what, copy).await?;
            return link.change("and its mark", mark).await;
        }
        link.change(&what, |world, pg| copy(world, pg).and_then(|()| mark(world, pg))).await
    }
}

/// The port that reads rows.
pub(super) struct SimulatedReader {
    pub(super) link: SimulatedConnection,
    pub(super) seen: HashSet<Vec<u8>>,
}

#[async_trait]
impl RowReader for SimulatedReader {
    async fn documents(
        &mut self,
        tables: &[Table],
        keys: &Keys,
        most: usize,
    ) -> Result<Option<HashMap<Vec<u8>, Rows>>> {
        let Some(root) = tables.first() else { return Ok(Some(HashMap::new())) };
        let read = |_: &SimulatedWorld, pg: &DatabaseContents| {
            let name = pg.name_of_table(&root.name)?;
            let mut found = HashMap::new();
            for key in keys.iter() {
                let Some(doc) = pg.doc_of_key(name, key) else { continue };
                let Some(row) = pg.rows.get(&(name, doc)) else { continue };
                let values: Vec<_> =
                    root.columns.iter().map(|column| row.columns.get(&column.name)).collect();
                let values: Vec<_> = values.into_iter().map(|value| value.map(Vec::as_slice)).collect();
                let mut rows = Rows::new(tables.len());
                rows.tables[0].push(&values);
                found.insert(key.to_vec(), rows);
            }
            let bytes: usize = found.values().map(Rows::byte_len).sum();
            Ok((bytes <= most).then_some(found))
        };
        self.link.query(read).await?
    }

    async fn forget_seen(&mut self, _: &Table) -> Result<()> {
        self.seen.clear();
        self.link.wait().await
    }

    async fn see(&mut self, keys: &Keys) -> Result<()> {
        self.link.wait().await?;
        self.seen.extend(keys.iter().map(<[u8]>::to_vec));
        Ok(())
    }

    async fn unseen<'a>(&'a mut self, _: &Table, table: &Table) -> Result<Box<dyn KeyPages + 'a>> {
        let Self { link, seen } = self;
        let keys = |_: &SimulatedWorld, pg: &DatabaseContents| {
            let name = pg.name_of_table(&table.name)?;
            let rows = pg.rows.iter().filter(|((of, _), _)| *of == name);
            let keys = rows.filter_map(|(_, row)| row.columns.get(&table.columns.first()?.name).cloned());
            Ok::<_, Error>(keys.filter(|key| !seen.contains(key)).collect::<Vec<_>>())
        };
        let keys = link.query(keys).await??;
        Ok(Box::new(SimulatedPages { link, keys }))
    }
}

/// Keys, page by page.
pub(super) struct SimulatedPages<'a> {
    pub(super) link: &'a SimulatedConnection,
    pub(super) keys: Vec<Vec<u8>>,
}

#[async_trait]
impl KeyPages for SimulatedPages<'_> {
    async fn next(&mut self, most: u16) -> Result<Keys> {
        self.link.wait().await?;
        let mut page = Keys::default();
        let most = self.keys.len().min(usize::from(most)).min(2);
        self.keys.drain(..most).for_each(|key| page.push(&key));
        Ok(page)
    }
}
