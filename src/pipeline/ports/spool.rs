//! The state directory: the spool, and what else survives a crash there.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use mongodb::bson::RawDocument;

use crate::{
    checkpoint::{Checkpoint, SpoolSpan, SpoolWrite, Waiting},
    error::{Error, Kind, Result},
    model::change::{Change, Namespace, Position},
};

/// What is written to the spool at once. See [`SpoolWrite`].
#[derive(Clone, Debug, Default)]
pub(crate) struct SpoolUpdate {
    /// The names of the changes' collections, by their numbers.
    pub(crate) names: Arc<[Namespace]>,
    pub(crate) changes: Vec<Change>,
    pub(crate) token: Option<Position>,
    pub(crate) spans: Vec<(Namespace, Option<SpoolSpan>)>,
    pub(crate) fingerprint: Option<i64>,
    pub(crate) life: Option<i64>,
}

/// What the spool says about itself.
#[derive(Clone, Debug)]
pub(crate) struct SpoolState {
    pub(crate) life: i64,
    pub(crate) spans: HashMap<Namespace, SpoolSpan>,
    pub(crate) token: Option<Position>,
    pub(crate) fingerprint: Option<i64>,
}

/// An open state directory. See [`Checkpoint`] for what each method promises.
#[async_trait]
pub(crate) trait SpoolLog: Send + Sync {
    async fn reconcile(&self, identity: String) -> Result<()>;
    async fn plan(&self, namespace: Namespace) -> Result<Option<Vec<u8>>>;
    async fn save_plan(&self, namespace: Namespace, plan: Vec<u8>) -> Result<()>;

    async fn state(&self) -> Result<SpoolState>;
    async fn write(&self, update: SpoolUpdate) -> Result<()>;
    async fn waiting(&self, namespace: Namespace, after: Position, most: usize) -> Result<Vec<Waiting>>;
    async fn trim(&self, namespace: Namespace, until: Position) -> Result<()>;
    /// Its size in bytes, and the number of changes that are not known to be applied.
    async fn size(&self) -> Result<(u64, u64)>;
}

/// A state directory that is opened when it is first needed: before that, it may belong to another process.
pub(crate) struct LazySpool {
    open: Box<dyn Fn() -> Result<Arc<dyn SpoolLog>> + Send + Sync>,
    opened: OnceLock<Arc<dyn SpoolLog>>,
}

impl fmt::Debug for LazySpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LazySpool({})", if self.opened.get().is_some() { "open" } else { "not open" })
    }
}

impl LazySpool {
    pub(crate) fn new(open: impl Fn() -> Result<Arc<dyn SpoolLog>> + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open), opened: OnceLock::new() }
    }

    /// Opens it, unless it is open. Errors: as [`Checkpoint::open`].
    pub(crate) fn open(&self) -> Result<Arc<dyn SpoolLog>> {
        if let Some(open) = self.opened.get() {
            return Ok(open.clone());
        }
        let opened = (self.open)()?;
        Ok(self.opened.get_or_init(|| opened).clone())
    }

    /// Returns it, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<dyn SpoolLog>> {
        self.opened.get().cloned()
    }
}

/// Uses RocksDB, which waits for the disk, on a thread where that holds up nothing.
async fn on_disk<T: Send + 'static>(
    checkpoint: &Arc<Checkpoint>,
    work: impl FnOnce(&Checkpoint) -> Result<T> + Send + 'static,
) -> Result<T> {
    let checkpoint = checkpoint.clone();
    let done = tokio::task::spawn_blocking(move || work(&checkpoint)).await;
    done.map_err(|e| Error::caused(Kind::Bug, "use the state directory", e))?
}

#[async_trait]
impl SpoolLog for Arc<Checkpoint> {
    async fn reconcile(&self, identity: String) -> Result<()> {
        on_disk(self, move |checkpoint| checkpoint.reconcile(&identity)).await
    }

    async fn plan(&self, namespace: Namespace) -> Result<Option<Vec<u8>>> {
        on_disk(self, move |checkpoint| checkpoint.plan(&namespace)).await
    }

    async fn save_plan(&self, namespace: Namespace, plan: Vec<u8>) -> Result<()> {
        on_disk(self, move |checkpoint| checkpoint.save_plan(&namespace, &plan)).await
    }

    async fn state(&self) -> Result<SpoolState> {
        let state = |checkpoint: &Checkpoint| {
            Ok(SpoolState {
                life: checkpoint.life()?,
                spans: checkpoint.spans()?,
                token: checkpoint.token()?,
                fingerprint: checkpoint.fingerprint()?,
            })
        };
        on_disk(self, state).await
    }

    async fn write(&self, update: SpoolUpdate) -> Result<()> {
        let write = move |checkpoint: &Checkpoint| {
            let SpoolUpdate { names, changes, token, spans, fingerprint, life } = update;
            let named = |change: &'_ Change| names.get(change.collection.0);
            let changes: Vec<(&Namespace, &Position, &RawDocument)> = changes
                .iter()
                .filter_map(|change| Some((named(change)?, &change.position, &*change.document_key)))
                .collect();
            let spans = spans.iter().map(|(name, span)| (name, span.clone())).collect();
            let token = token.as_ref();
            checkpoint.spool(&SpoolWrite { changes: &changes, token, spans, fingerprint, life })
        };
        on_disk(self, write).await
    }

    async fn waiting(&self, namespace: Namespace, after: Position, most: usize) -> Result<Vec<Waiting>> {
        on_disk(self, move |checkpoint| checkpoint.waiting(&namespace, &after, most)).await
    }

    async fn trim(&self, namespace: Namespace, until: Position) -> Result<()> {
        on_disk(self, move |checkpoint| checkpoint.trim(&namespace, &until)).await
    }

    async fn size(&self) -> Result<(u64, u64)> {
        on_disk(self, |checkpoint| Ok((checkpoint.spool_bytes(), checkpoint.spool_entries()?))).await
    }
}
