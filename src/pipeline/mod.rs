//! Connects the stages. The decisions are in the pure files beside this one; this one has none but the order of things.
//!
//! # From nothing to live
//!
//! One [`attempt`](Pipeline::attempt) does everything, always from what PostgreSQL says, so a first start, a start
//! after a crash and a reconnection are the same code:
//!
//! 1. Take the pipeline for this process (G9).
//! 2. For every collection that is new: take the start position of the change stream, prove that the server accepts it,
//!    and store it together with the chunk plan, before the first page is read. ([`prepare`])
//! 3. Copy the chunks that are not marked as copied; a chunk's rows and its mark commit together (G5). ([`snapshot`])
//! 4. Build the primary keys that are missing.
//! 5. Follow the change stream from the least position that any partition has stored for any collection. ([`follow`])
//!
//! # Why nothing is lost (G1, G2, G3)
//!
//! A chunk is read at some time after the start position, so whatever changes after it was read has an event after the
//! start position, and whatever changed before is in the chunk. The stream is applied from the start position on; an
//! event that is older than what the chunk holds is not applied as it stands but looked up ([`ahead`]), so that
//! replaying it is harmless. The same argument holds for a replay after a crash: every change is at or before a stored
//! position, and then its rows are committed, or after it, and then it is read again.
//!
//! An error that may pass ([`Disposition::Retry`]) ends the attempt, and after a while there is another one.

mod ahead;
mod batch;
mod follow;
mod mappings;
mod phase;
mod positions;
mod prepare;
mod router;
mod snapshot;
mod watermark;
mod worker;
mod write;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::HumanCount;
use mongodb::bson::RawDocument;

use crate::{
    change::Namespace,
    checkpoint::Checkpoint,
    config::Config,
    error::{Disposition, Error, Kind, Result},
    key,
    mapping::Mapping,
    retry::Retry,
    shutdown::Shutdown,
    sink::{self, Session, Target, dead_letter::DeadLetter, fence::Fence},
    source::{CollectionInfo, Source},
    telemetry::Reporter,
};

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it is told to stop.
    Stopped,
    /// When everything that was written before the end of the snapshot is in the target.
    CaughtUp,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Documents copied by the snapshot.
    pub documents: u64,
    /// Rows they became.
    pub rows: u64,
    /// Events of the change stream that were applied.
    pub changes: u64,
    /// Documents that became dead letters.
    pub dead_letters: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { documents, rows, changes, dead_letters, elapsed } = *self;
        write!(
            f,
            "{} documents copied as {} rows, {} changes applied, in {:.1}s",
            HumanCount(documents),
            HumanCount(rows),
            HumanCount(changes),
            elapsed.as_secs_f64()
        )?;
        if dead_letters > 0 {
            write!(
                f,
                "; {} documents could not be written: see docrow.dead_letters",
                HumanCount(dead_letters)
            )?;
        }
        Ok(())
    }
}

/// The same, while it is being counted.
#[derive(Debug, Default)]
struct Counts {
    documents: AtomicU64,
    rows: AtomicU64,
    changes: AtomicU64,
    dead_letters: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn summary(&self, elapsed: Duration) -> Summary {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            documents: read(&self.documents),
            rows: read(&self.rows),
            changes: read(&self.changes),
            dead_letters: read(&self.dead_letters),
            elapsed,
        }
    }
}

/// A collection with its mapping. Its place in the list is its [`CollectionId`](crate::change::CollectionId).
#[derive(Clone, Debug)]
struct Collection {
    info: CollectionInfo,
    mapping: Arc<Mapping>,
}

impl Collection {
    fn namespace(&self) -> &Namespace {
        &self.info.namespace
    }
}

/// What all stages of a run share.
struct Pipeline<'a> {
    config: &'a Config,
    source: Source,
    target: Target,
    checkpoint: Arc<Checkpoint>,
    counts: Arc<Counts>,
    reporter: Reporter,
    shutdown: Shutdown,
}

/// Replicates until `until`, or until `shutdown` is requested; then what was taken up is committed.
///
/// Errors: as [`Kind`](crate::error::Kind) says. What can't be right at the start (a host, a password, a privilege) is
/// an error at once, before anything is written; later on, what may pass is tried again.
pub async fn run(config: &Config, until: Until, reporter: Reporter, shutdown: Shutdown) -> Result<Summary> {
    let started = Instant::now();
    let source = Source::connect(config.source.expose()).await?;
    let found = source.collections(&config.include, &config.exclude).await?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    sink::preflight(&target.connect().await?, target.schema()).await?;
    let checkpoint = Arc::new(Checkpoint::open(&config.state_dir, &config.name)?);
    let counts = Arc::new(Counts::default());
    let pipeline = Pipeline { config, source, target, checkpoint, counts, reporter, shutdown };
    pipeline.until_done(found, until).await?;
    Ok(pipeline.counts.summary(started.elapsed()))
}

impl Pipeline<'_> {
    /// Attempts until one succeeds, or fails for good.
    async fn until_done(&self, found: Vec<CollectionInfo>, until: Until) -> Result<()> {
        let mut retry = Retry::new();
        let mut held = false;
        loop {
            let began = Instant::now();
            let attempted = self.attempt(&found, until, &mut held).await;
            self.reporter.clear();
            let error = match attempted {
                Err(error) if error.kind().disposition() == Disposition::Retry => error,
                // The lock was this process's: the server may not have noticed yet that the connection ended which held
                // it. Or a standby has taken over; then this is the standby now.
                Err(error) if held && error.kind() == Kind::Fenced => error,
                finished => return finished,
            };
            if began.elapsed() > Duration::from_secs(60) {
                retry.succeeded();
            }
            let delay = retry.after_failure();
            tracing::warn!("{error}: trying again in {:.1}s", delay.as_secs_f64());
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Everything, from what PostgreSQL says to the end. `held`: whether the pipeline has been this process's.
    async fn attempt(&self, found: &[CollectionInfo], until: Until, held: &mut bool) -> Result<()> {
        let mut fence = Fence::acquire(&self.target).await?;
        *held = true;
        tokio::select! {
            biased;
            () = fence.lost() => Err(Error::new(Kind::TargetAway, "hold the pipeline's lock: the connection ended")),
            finished = self.work(found, until) => finished,
        }
    }

    async fn work(&self, found: &[CollectionInfo], until: Until) -> Result<()> {
        let mut session = self.target.connect().await?;
        let collections = tokio::select! {
            biased;
            // What this cuts off is rolled back, and done again by the next run.
            () = self.shutdown.requested() => return Ok(()),
            ready = self.make_ready(&mut session, found) => ready?,
        };
        self.follow(&mut session, collections, until).await
    }

    /// Everything up to the point where changes can be applied.
    async fn make_ready(&self, session: &mut Session, found: &[CollectionInfo]) -> Result<Arc<[Collection]>> {
        sink::ddl::create_bookkeeping(session, self.target.schema()).await?;
        let life = format!("{:016x}", fastrand::u64(..));
        let life = sink::progress::register(session, self.target.pipeline(), &life).await?;
        self.checkpoint.reconcile(&life)?;
        let collections = self.prepare(session, found).await?;
        self.copy(session, &collections).await?;
        self.build_keys(session, &collections).await?;
        Ok(collections)
    }
}

fn dead_letter_of(collection: &str, document: &RawDocument, path: &str, reason: &str) -> Result<DeadLetter> {
    Ok(DeadLetter {
        collection: collection.to_owned(),
        key: key::id_text(document)?,
        path: (!path.is_empty()).then(|| path.replace('\0', "")),
        reason: reason.replace('\0', ""),
        document: document.as_bytes().to_vec(),
    })
}
