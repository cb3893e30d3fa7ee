//! A collection's state in PostgreSQL: the mapping in force, the position, and whether everything is copied.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{Difference, DifferenceKind, diff::difference};
use crate::{
    config::Config,
    error::{Code, Error, Result},
    mapping::Mapping,
    model::{change::Position, table::Table},
    schema::MappingSpec,
    sink::{
        Session, Target,
        metadata::{
            chunks::{self, Extent},
            dead_letters::{self, DeadKeys},
            mapping_versions, pauses, positions, runner,
        },
        tables::ddl,
    },
};
use mongodb::bson::RawDocumentBuf;

/// How long to wait for new columns to be filled.
const FILLING: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// A mapping in force.
#[derive(Debug)]
pub(super) struct InForce {
    stored: mapping_versions::Mapping,
    pub(super) mapping: Arc<Mapping>,
}

impl InForce {
    pub(super) fn version(&self) -> u16 {
        self.stored.version
    }

    fn is(&self, stored: &mapping_versions::Mapping) -> bool {
        let own = &self.stored;
        (own.version, own.filled, &own.text) == (stored.version, stored.filled, &stored.text)
    }
}

/// The state of a collection.
#[derive(Clone, Debug)]
pub(super) struct CollectionState {
    pub(super) in_force: Arc<InForce>,
    /// Everything up to here is in its rows.
    pub(super) position: Option<Position>,
    pub(super) extent: Extent,
    /// Why the collection is stopped, if it is.
    pub(super) stopped: Option<String>,
    /// Whether the collection is paused.
    pub(super) is_paused: bool,
}

/// Where the state is read.
pub(super) struct PipelineState {
    config: Arc<Config>,
    session: Session,
    collection: String,
    /// Passed to all encoders.
    in_force: Arc<watch::Sender<Arc<InForce>>>,
    /// The version whose columns were not filled in time.
    unfilled: Option<u16>,
}

impl PipelineState {
    /// Opens it for a collection. Errors: [`Kind::Usage`](crate::error::Kind) if it was never copied.
    pub(super) async fn open(config: Arc<Config>, target: &Target, collection: String) -> Result<Self> {
        let session = target.connect().await?;
        let stored = stored(&session, &config.name, &collection).await?;
        let in_force = Arc::new(watch::Sender::new(Arc::new(compile(&config, stored)?)));
        Ok(Self { config, session, collection, in_force, unfilled: None })
    }

    /// The mapping in force, as last read.
    pub(super) fn in_force(&self) -> Arc<InForce> {
        self.in_force.borrow().clone()
    }

    /// The same, whenever it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<InForce>> {
        self.in_force.subscribe()
    }

    /// Reads everything; waits for columns that are being filled.
    pub(super) async fn look(&mut self) -> Result<CollectionState> {
        let pipeline = &self.config.name;
        let deadline = Instant::now() + FILLING;
        let stored = loop {
            let stored = stored(&self.session, pipeline, &self.collection).await?;
            if stored.filled || self.unfilled == Some(stored.version) {
                break stored;
            }
            // The process that fills them may have been killed.
            if Instant::now() > deadline {
                let name = &self.collection;
                tracing::warn!("{name}: new columns are not filled yet; docrow run continues that");
                self.unfilled = Some(stored.version);
                break stored;
            }
            sleep(POLL).await;
        };
        let stopped = stored.stopped.clone();
        if !self.in_force().is(&stored) {
            let name = &self.collection;
            tracing::info!("{name}: compared with version {} of its mapping from now on", stored.version);
            self.in_force.send_replace(Arc::new(compile(&self.config, stored)?));
        }
        let positions = positions::load_of(&self.session, pipeline, &self.collection).await?;
        let position = positions.into_iter().map(|stored| stored.position).min();
        let extent = chunks::extent(&self.session, pipeline, &self.collection).await?;
        let paused = pauses::all(&self.session, pipeline).await?;
        let is_paused = paused.iter().any(|pause| pause.collection == self.collection);
        Ok(CollectionState { in_force: self.in_force(), position, extent, stopped, is_paused })
    }

    /// Whether the mapping in force differs from `before`.
    pub(super) async fn has_changed(&mut self, before: &Arc<InForce>) -> Result<bool> {
        Ok(!Arc::ptr_eq(before, &self.look().await?.in_force))
    }

    /// The process that runs the pipeline, if any.
    pub(super) async fn runner(&self) -> Result<Option<String>> {
        runner::holder(&self.session, &self.config.name).await
    }

    /// The documents of the collection that have a dead letter.
    pub(super) async fn dead(&self) -> Result<DeadKeys> {
        dead_letters::keys_of(&self.session, &self.config.name, &self.collection).await
    }

    /// Which of these documents have one.
    pub(super) async fn dead_among(&self, keys: &[String]) -> Result<DeadKeys> {
        dead_letters::among(&self.session, &self.config.name, &self.collection, keys).await
    }

    /// All documents of the collection that have one, in pages.
    pub(super) async fn dead_documents(&self, after: i64) -> Result<Vec<(i64, RawDocumentBuf)>> {
        dead_letters::document_keys(&self.session, &self.config.name, &self.collection, after).await
    }

    /// The tables and columns that are missing.
    pub(super) async fn missing(&self) -> Result<Vec<Difference>> {
        let in_force = self.in_force();
        let tables = in_force.mapping.tables();
        let there = ddl::columns(&self.session, &self.config.schema, tables).await?;
        let has = |table: &Table, column: &str| {
            there.iter().any(|(name, own)| *name == table.name && own == column)
        };
        let mut missing = Vec::new();
        for table in tables {
            if !there.iter().any(|(name, _)| *name == table.name) {
                missing.push(difference(&table.name, None, DifferenceKind::NoTable));
                continue;
            }
            for column in table.columns.iter().filter(|column| !has(table, &column.name)) {
                missing.push(difference(&table.name, None, DifferenceKind::NoColumn(column.name.clone())));
            }
        }
        Ok(missing)
    }
}

async fn stored(session: &Session, pipeline: &str, collection: &str) -> Result<mapping_versions::Mapping> {
    let stored = mapping_versions::load_one(session, pipeline, collection).await?;
    stored.ok_or_else(|| {
        let advice = "copy it with docrow run or backfill, or name the collections with --include";
        let missing = format!("{collection} has not been copied by pipeline {pipeline}: {advice}");
        Error::new(Code::NotCopied, missing)
    })
}

fn compile(config: &Config, stored: mapping_versions::Mapping) -> Result<InForce> {
    config.check_mask_key(&stored.collection, stored.masked_by.as_deref())?;
    let mapping = config.compile(&MappingSpec::parse(&stored.text, "docrow.schemas")?)?;
    Ok(InForce { stored, mapping: Arc::new(mapping) })
}
