//! One writer (G9): which process holds a pipeline, and how it passes to another one.
//!
//! # Why a process that lost the pipeline can't commit
//!
//! Each time a process takes a pipeline, it raises the `epoch` in `docrow.pipelines`, and writes with that
//! number. A transaction that writes begins with `docrow.enter`, which takes the *writers' lock*, shared,
//! until the transaction ends, and only then reads the epoch: if it is another one, the transaction fails. A
//! process that raises the epoch holds the writers' lock exclusively, from before it is raised until that is
//! committed. So for a transaction of an earlier epoch there are two cases. Either it got the lock first:
//! then it had ended, and its effects were visible, before the epoch was raised. Or it gets the lock
//! afterwards: then it sees the new epoch, and fails. None of this depends on a clock, on detecting that a
//! connection is gone, or on what a process believes about itself. A crash of PostgreSQL, or a failover to a
//! server that lags, can undo the last raise, but only together with everything that was written with it,
//! which came later.
//!
//! [`Session::enter`](crate::sink::Session) is the one way to such a transaction; statements that are sent
//! together with it do nothing unless the pipeline was entered
//! ([`ENTERED`](crate::sink::connection::fence_entry::ENTERED)).
//!
//! # Which process may take it
//!
//! This decides only for how long nobody writes, and keeps two processes from taking the pipeline from each
//! other in turns. The holder has the *holder's lock*, for the life of its session, on a connection that does
//! nothing else but ask for the epoch about every second. If the process dies, the server frees the lock. If
//! it is stopped, or its machine or network is gone, its connection stays; then `pg_stat_activity` shows that
//! it is asked for nothing, and after [`SILENCE`](super::runner) seconds the next one ends it. This takes no
//! heartbeat that is written, which would leave a dead row each second for `docrow.enter` to read past, and
//! there is no moment at which the lock is new and its heartbeat old: who gets the lock asks for it. A server
//! that is slow leaves the connection *active*, which is not silence. A server whose clock jumps makes
//! everybody silent, so whoever wants the pipeline watches the silence for a while by its own.
//!
//! A process whose own connection broke recognizes the old one by its name, which contains a random number,
//! and terminates it at once. Transactions that are open when the holder's lock is free get [`GRACE`] to end;
//! then they are terminated, too.

use std::{fs, time::Duration};

use futures_util::join;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_postgres::{Error as PgError, error::SqlState};

use super::{
    runner::{HolderSighting, IS_LOCK, lock_of_holder, look},
    schema,
};
use crate::{
    error::{Code, Disposition, Error, Kind, Result},
    sink::{
        Session, Target,
        connection::{
            fence_entry::lock_of_writers,
            pulse::SilenceListener,
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
            transaction::WriteTransaction,
        },
    },
};

/// How long to wait for a living holder, unless in standby: a server under load takes a moment to notice that
/// a process was killed.
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// How often a standby checks whether the pipeline is free.
const STANDBY_POLL: Duration = Duration::from_millis(500);
/// How often a standby tries to reach a server that is down, and how long it then leaves the pipeline to its
/// last holder, which may be waiting for its next retry.
const AWAY_POLL: Duration = Duration::from_secs(1);
const PRECEDENCE: Duration = Duration::from_secs(15);

/// How often the holder gives a sign of life, and how often that is stored, for people.
const BEAT: Duration = Duration::from_secs(1);
const BEATS_NOTED: u32 = 60;
/// How long a silence must be watched before it is believed.
const WATCHED: Duration = Duration::from_secs(2);

/// How long a session may take to end after the server was asked to terminate it.
const ENDING: Duration = Duration::from_secs(10);

/// How long to wait for transactions of an earlier holder each time, and how many times they are then
/// terminated.
const GRACE: &str = "3s";
const TRIES: u32 = 5;

/// A process that runs pipelines, or is about to.
#[derive(Debug)]
pub struct Holder {
    /// The name of its connection in `pg_stat_activity`.
    name: String,
    /// For people.
    words: String,
}

impl Holder {
    /// This process: one value for its whole life, so that it recognizes its own connections.
    #[expect(clippy::new_without_default, reason = "each one is unique")]
    pub fn new() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { String::new() } else { format!(" on {}", host.trim()) };
        let words = format!("process {}{host}", std::process::id());
        Self { name: format!("docrow fence {:016x}", fastrand::u64(..)), words }
    }
}

/// What to do if another process holds the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHeld {
    /// Give up.
    Refuse,
    /// Wait for it, however long it takes.
    StandBy,
}

/// A held pipeline. Dropping it frees it.
#[derive(Debug)]
pub struct Fence {
    target: Target,
    /// Ends with the reason when the pipeline is lost. It must not fall silent while the owner of the fence
    /// is busy.
    heart: JoinSet<Error>,
    listening: SilenceListener,
    answered: watch::Receiver<Instant>,
}

impl Fence {
    /// Takes the pipeline, and creates the schema `docrow` if there is none. Can be dropped at any time.
    ///
    /// Errors: [`Kind::Fenced`] if another process holds it, with the details, unless in standby; then not
    /// even a server that is down is an error.
    pub async fn acquire(target: &Target, holder: &Holder, on_held: OnHeld) -> Result<Self> {
        let mut claim = FenceClaim { target, holder, on_held, told: None, watched: None, away: false };
        loop {
            let error = match claim.attempt().await {
                Err(error) if claim.waits_out(&error) => error,
                taken => return taken,
            };
            let is_away = error.kind() != Kind::Fenced;
            if is_away && !claim.away {
                tracing::warn!(code = %error.code(), "{error}: standing by until that is over");
            }
            claim.away |= is_away;
            sleep(AWAY_POLL).await;
        }
    }

    /// The target, whose sessions can write to the pipeline until another process takes it.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// When the server last answered: it is asked about every second.
    pub fn answered(&self) -> watch::Receiver<Instant> {
        self.answered.clone()
    }

    /// Ends when the pipeline is lost, with the reason: [`Kind::Fenced`] if another process has taken it,
    /// [`Kind::TargetAway`] if the server is silent, or the connection ended, perhaps because another process
    /// took the pipeline: trying to take it again will show. Call it until it has ended once.
    pub async fn hold(&mut self) -> Error {
        let doing = format!("hold pipeline {}", self.target.pipeline());
        let joined = tokio::select! {
            biased;
            silence = self.listening.silence(&doing) => return silence,
            joined = self.heart.join_next() => joined,
        };
        match joined {
            Some(Ok(lost)) => lost,
            Some(Err(broken)) => {
                Error::caused(Kind::Bug, "hold the pipeline: its task was interrupted", broken)
            }
            None => Error::bug("hold the pipeline: it is already lost"),
        }
    }
}

/// The holder's connection.
struct HolderSession {
    session: Session,
    pipeline: String,
    epoch: i64,
    answers: watch::Sender<Instant>,
}

impl HolderSession {
    /// Gives signs of life until the pipeline is lost.
    async fn run(mut self) -> Error {
        let doing = format!("hold pipeline {}", self.pipeline);
        for beat in 1_u32.. {
            match self.beat(beat % BEATS_NOTED == 0).await {
                Ok(Some(epoch)) if epoch == self.epoch => {
                    self.answers.send_replace(Instant::now());
                }
                Ok(_) => {
                    return Error::new(
                        Code::PipelineTaken,
                        format!("{doing}: another process has taken it over"),
                    );
                }
                Err(error) => return sqlstate::error(doing, &error),
            }
            tokio::select! {
                biased;
                () = self.session.closed() => {}
                () = sleep(BEAT) => {}
            }
        }
        Error::bug(doing)
    }

    async fn beat(&self, note: bool) -> Result<Option<i64>, PgError> {
        let (client, pipeline) = (&self.session.client, &self.pipeline);
        if note {
            let seen = "UPDATE docrow.pipelines SET seen_at = now() WHERE pipeline = $1 AND epoch = $2";
            client.perform(seen, &[pipeline, &self.epoch]).await?;
        }
        let question = "SELECT epoch FROM docrow.pipelines WHERE pipeline = $1";
        client.fetch_opt(question, &[pipeline]).await?.map(|row| row.try_get(0)).transpose()
    }
}

/// An attempt to take a pipeline, perhaps over several connections.
struct FenceClaim<'a> {
    target: &'a Target,
    holder: &'a Holder,
    on_held: OnHeld,
    /// The server process of the holder that it waits for, once that has been logged.
    told: Option<i32>,
    /// The last silence seen, and when it was first seen.
    watched: Option<(String, Instant)>,
    /// Whether the server was away since the holder was last seen.
    away: bool,
}

impl FenceClaim<'_> {
    fn waits_out(&self, error: &Error) -> bool {
        let passes = error.kind() == Kind::Fenced || error.kind().disposition() == Disposition::Retry;
        self.on_held == OnHeld::StandBy && passes
    }

    async fn attempt(&mut self) -> Result<Fence> {
        let mut session = self.target.connect_as(&self.holder.name).await?;
        schema::create(&mut session, self.target.schema()).await?;
        self.wait(&session).await?;
        if self.told.is_some() {
            tracing::info!("taking pipeline {} over", self.target.pipeline());
        }
        let epoch = self.raise(&mut session).await?;
        let (answers, answered) = watch::channel(Instant::now());
        let heart = HolderSession { session, pipeline: self.target.pipeline().to_owned(), epoch, answers };
        let target = self.target.at(epoch).await;
        let mut fence = Fence { listening: target.listen(), target, heart: JoinSet::new(), answered };
        fence.heart.spawn(heart.run());
        Ok(fence)
    }

    /// Gets the holder's lock.
    async fn wait(&mut self, session: &Session) -> Result<()> {
        let lock = lock_of_holder(self.target.pipeline());
        let mut deadline = Instant::now() + PATIENCE;
        let free_at = Instant::now() + PRECEDENCE;
        let mut ended = None;
        loop {
            while self.away && Instant::now() < free_at {
                self.away = look(session, self.target.pipeline()).await?.is_none();
                sleep(STANDBY_POLL).await;
            }
            let tried = session.client.fetch_one("SELECT pg_try_advisory_lock($1)", &[&lock]).await;
            if tried.and_then(|row| row.try_get(0)).map_err(|e| self.failed(&e))? {
                return Ok(());
            }
            if let Some(sighting) = look(session, self.target.pipeline()).await? {
                let is_own = sighting.name.as_ref() == Some(&self.holder.name);
                let is_over = is_own || self.is_dead(&sighting);
                if let Some((_, since)) = ended.filter(|(pid, _)| is_over && *pid == sighting.pid) {
                    self.give_up_on(&sighting, since)?;
                } else if is_over {
                    ended = Some((sighting.pid, Instant::now()));
                    if !is_own {
                        let (pipeline, words) = (self.target.pipeline(), &sighting.words);
                        tracing::warn!("{words} is silent: taking pipeline {pipeline} from it");
                    }
                    self.end(session, lock, Some(sighting.pid)).await?;
                    deadline = Instant::now() + PATIENCE;
                } else if self.on_held == OnHeld::StandBy {
                    self.tell(&sighting);
                } else if Instant::now() > deadline {
                    return Err(self.refused(&sighting.words));
                }
            }
            sleep(if self.on_held == OnHeld::StandBy { STANDBY_POLL } else { POLL }).await;
        }
    }

    /// Whether it has been silent for too long. A silence is observed for some time before it is believed.
    fn is_dead(&mut self, sighting: &HolderSighting) -> bool {
        match (&self.watched, &sighting.silence) {
            (_, None) => self.watched = None,
            (Some((watched, since)), Some(silence)) if watched == silence => {
                return sighting.is_long && since.elapsed() >= WATCHED;
            }
            (_, Some(silence)) => self.watched = Some((silence.clone(), Instant::now())),
        }
        false
    }

    /// Does not wait forever for a session that the server was asked to terminate: its process may be frozen.
    fn give_up_on(&self, HolderSighting { pid, .. }: &HolderSighting, since: Instant) -> Result<()> {
        if since.elapsed() < ENDING {
            return Ok(());
        }
        let pipeline = self.target.pipeline();
        let what =
            format!("take pipeline {pipeline}: PostgreSQL process {pid}, which holds it, does not end");
        Err(Error::new(Code::TargetSilent, format!("{what}: it hangs or is frozen; check it on the server")))
    }

    fn tell(&mut self, HolderSighting { pid, words, .. }: &HolderSighting) {
        if self.told.replace(*pid) != Some(*pid) {
            tracing::info!("standing by: pipeline {} is run by {words}", self.target.pipeline());
        }
    }

    fn refused(&self, words: &str) -> Error {
        let advice = "stop the other process, or stand by with docrow run --standby; a second replica needs \
            another name and another [target] schema";
        Error::new(
            Code::PipelineHeld,
            format!("another docrow runs pipeline {} ({words}): {advice}", self.target.pipeline()),
        )
    }

    /// Terminates the connections that hold a lock, or one of them. Those that may not be terminated are
    /// waited for.
    async fn end(&self, session: &Session, lock: i64, pid: Option<i32>) -> Result<()> {
        let statement = format!(
            "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l \
             WHERE {IS_LOCK} AND l.pid <> pg_backend_pid() AND l.pid = coalesce($2, l.pid)"
        );
        let ended = session.client.fetch_one(&statement, &[&lock, &pid]).await;
        match ended.and_then(|row| row.try_get::<_, i64>(0)) {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                let advice = "run both as one PostgreSQL user, or GRANT pg_signal_backend to this one";
                let error = self.failed(&error);
                tracing::warn!(code = %error.code(), "{error}: the connections of the previous process can't \
                    be terminated: {advice}");
                Ok(())
            }
            ended => {
                let (pipeline, ended) = (self.target.pipeline(), ended.map_err(|e| self.failed(&e))?);
                tracing::info!(
                    "taking pipeline {pipeline}: terminated connections of the previous process: {ended}"
                );
                Ok(())
            }
        }
    }

    /// Raises the epoch, once no transaction of an earlier one is in progress.
    async fn raise(&self, session: &mut Session) -> Result<i64> {
        let lock = lock_of_writers(self.target.pipeline());
        for _ in 0..TRIES {
            match self.try_raise(session, lock).await {
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    self.end(session, lock, None).await?;
                }
                raised => return raised.map_err(|e| self.failed(&e)),
            }
        }
        let there = "transactions of another process, or a lock on docrow.pipelines, do not end";
        Err(Error::new(Kind::Fenced, format!("take pipeline {}: {there}", self.target.pipeline())))
    }

    async fn try_raise(&self, session: &mut Session, lock: i64) -> Result<i64, PgError> {
        let transaction = WriteTransaction::of(&session.client);
        let lock = format!("SET LOCAL lock_timeout = '{GRACE}'; SELECT pg_advisory_xact_lock({lock})");
        transaction.begin_with(&lock).await?;
        let raise = "INSERT INTO docrow.pipelines AS p (pipeline, state_id, epoch, holder, seen_at) \
            VALUES ($1, $2, 1, $3, now()) ON CONFLICT (pipeline) DO UPDATE SET \
            epoch = p.epoch + 1, holder = EXCLUDED.holder, seen_at = EXCLUDED.seen_at RETURNING epoch";
        let state_id = format!("{:016x}", fastrand::u64(..));
        let parameters: [&dyn Parameter; 3] = [&self.target.pipeline(), &state_id, &self.holder.words];
        // If the first fails, COMMIT rolls back.
        let (raised, committed) = join!(session.client.fetch_one(raise, &parameters), transaction.commit());
        let epoch = raised?.try_get(0)?;
        committed.map(|()| epoch)
    }

    fn failed(&self, error: &PgError) -> Error {
        sqlstate::error(format!("take pipeline {}", self.target.pipeline()), error)
    }
}
