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
//! Meanwhile mappings may evolve ([`evolve`]): a collection's tables change between two transactions of docrow, never
//! during one.
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
mod collection;
mod evolve;
mod fill;
mod follow;
mod mappings;
mod phase;
mod plan;
mod positions;
mod prepare;
mod retries;
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

pub use self::plan::plan;
use self::{collection::Collection, evolve::Evolution, prepare::Prepared};
use crate::{
    checkpoint::Checkpoint,
    config::Config,
    error::{Disposition, Error, Kind, Result},
    failpoint::{self, Failpoint},
    key,
    mapping::Mapping,
    retry::Retry,
    shutdown::Shutdown,
    sink::{self, Session, Target, dead_letter::DeadLetter, fence::Fence, schemas},
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
    /// Collections that were stopped because too much of them can't be written.
    pub stopped: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { documents, rows, changes, dead_letters, stopped, elapsed } = *self;
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
                "; {} documents could not be written: see docrow dead-letters list",
                HumanCount(dead_letters)
            )?;
        }
        if stopped > 0 {
            write!(f, "; {} collections are stopped", HumanCount(stopped))?;
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
    stopped: AtomicU64,
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
            stopped: read(&self.stopped),
            elapsed,
        }
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
        failpoint::reach(Failpoint::FenceTaken);
        tokio::select! {
            biased;
            () = fence.lost() => Err(Error::new(Kind::TargetAway, "hold the pipeline's lock: the connection ended")),
            finished = self.work(found, until) => finished,
        }
    }

    async fn work(&self, found: &[CollectionInfo], until: Until) -> Result<()> {
        let mut session = self.target.connect().await?;
        let Prepared { collections, in_force, tables, wake } = tokio::select! {
            biased;
            // What this cuts off is rolled back, and done again by the next run.
            () = self.shutdown.requested() => return Ok(()),
            prepared = self.make_ready(&mut session, found) => prepared?,
        };
        let evolution = Evolution::new(self, collections.clone(), in_force, tables, wake);
        tokio::select! {
            biased;
            failed = evolution.run() => failed.map(|never| match never {}),
            finished = self.replicate(&mut session, &evolution, until) => finished,
        }?;
        self.record_stopped(&session, &collections).await
    }

    /// Everything up to the point where documents can be copied.
    async fn make_ready(&self, session: &mut Session, found: &[CollectionInfo]) -> Result<Prepared> {
        sink::ddl::create_bookkeeping(session, self.target.schema()).await?;
        failpoint::reach(Failpoint::BookkeepingCreated);
        let life = format!("{:016x}", fastrand::u64(..));
        let life = sink::progress::register(session, self.target.pipeline(), &life).await?;
        failpoint::reach(Failpoint::PipelineRegistered);
        self.checkpoint.reconcile(&life)?;
        failpoint::reach(Failpoint::StateReconciled);
        self.prepare(session, found).await
    }

    async fn replicate(&self, session: &mut Session, evolution: &Evolution<'_>, until: Until) -> Result<()> {
        tokio::select! {
            biased;
            // As above.
            () = self.shutdown.requested() => return Ok(()),
            complete = self.complete(session, evolution) => complete?,
        }
        self.follow(session, evolution.collections(), until).await?;
        if until == Until::CaughtUp {
            evolution.turn().await?;
        }
        Ok(())
    }

    /// Everything up to the point where changes can be applied.
    async fn complete(&self, session: &mut Session, evolution: &Evolution<'_>) -> Result<()> {
        let collections = evolution.collections();
        self.copy(session, collections).await?;
        evolution.turn().await?;
        let paused = evolution.pause().await;
        self.build_keys(session, collections).await?;
        evolution.live(paused).await?;
        self.record_stopped(session, collections).await
    }

    /// Stores why collections are stopped, and counts them.
    async fn record_stopped(&self, session: &Session, collections: &[Collection]) -> Result<()> {
        let mut stopped = 0;
        for collection in collections {
            if let Some(reason) = collection.stopped() {
                stopped += 1;
                let reason = Some(reason);
                schemas::set_stopped(session, self.target.pipeline(), collection.name(), reason).await?;
                failpoint::reach(Failpoint::StopNoted);
            }
        }
        self.counts.stopped.store(stopped, Ordering::Relaxed);
        if stopped > 0 && stopped == u64::try_from(collections.len()).unwrap_or(0) {
            return Err(Error::usage("every collection is stopped: there is nothing left to do"));
        }
        Ok(())
    }
}

/// The dead letter of a document that `mapping` hides parts of, if it says so.
fn dead_letter_of(
    collection: &Collection,
    mapping: &Mapping,
    document: &RawDocument,
    (path, reason): (&str, &str),
) -> Result<DeadLetter> {
    Ok(DeadLetter {
        collection: collection.name().to_owned(),
        key: key::id_text(document)?,
        document_key: key::Id::of(document)?.document()?.into_bytes(),
        path: (!path.is_empty()).then(|| path.replace('\0', "")),
        reason: reason.replace('\0', ""),
        document: mapping.censored(document),
    })
}
