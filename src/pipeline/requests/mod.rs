//! Looks for requests while the pipeline runs: retries of dead letters, repairs, a resync, a pause, a
//! throttle; for new collections; and for a moment to handle collections that are gone, if another session
//! had their tables locked.
//!
//! This is a task of its own, because handing something to a worker takes as long as the worker is busy.

pub(super) mod dead_letter_retry;
pub(super) mod row_repair;

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use self::dead_letter_retry::Retries;
use super::{
    collection::Collection,
    context::{Pipeline, TaskOutcome},
    pausing,
    planted::{self, Bug},
    ports::TargetSession,
    prepare::Preparation,
    stored_states::{record_stopped, show_dead_letters},
    stream::channel::{WorkerMessage, Workers},
};
use crate::{
    error::{Code, Disposition, Result},
    model::change::{CollectionId, Namespace},
    process_status::Part,
    shutdown::Shutdown,
    sink::metadata::requests::Requested,
};

/// How often to look for requests.
const ASKING: Duration = Duration::from_secs(1);

/// How often to look for new collections at most, and at least. In between, it may take one part in so many
/// of the time, because thousands of databases take theirs. (In the simulation, they come by the second.)
const LISTING_MOST_OFTEN: Duration = Duration::from_secs(if cfg!(test) { 10 } else { 1 });
const LISTING_LEAST_OFTEN: Duration = Duration::from_secs(10);
const LISTING_SHARE: u32 = 20;

/// How often to count dead letters, and to look again at collections that are gone.
const REVIEWING: Duration = Duration::from_secs(10);

/// Looks for requests.
pub(super) struct RequestWatch {
    pub(super) pipeline: Pipeline,
    pub(super) collections: Arc<[Collection]>,
    pub(super) workers: Arc<Workers>,
    pub(super) retries: Retries,
    /// Collections that are gone, and have not been handled yet.
    pub(super) parting: Vec<String>,
    pub(super) stop: Shutdown,
}

impl RequestWatch {
    /// Looks until something requires a new turn. It stops only between two looks: whatever it has taken up,
    /// it hands on.
    pub(super) async fn run(mut self) -> Result<TaskOutcome> {
        let post = self.pipeline.monitor.reporter.vitals().post(Part::Requests);
        let mut session = self.pipeline.ports.target.connect().await?;
        let mut asking = interval(ASKING);
        asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut reviewed, mut list_at) = (Instant::now(), Instant::now() + LISTING_MOST_OFTEN);
        loop {
            post.rests("waits for requests");
            tokio::select! {
                biased;
                () = self.stop.requested() => return Ok(TaskOutcome::Stopped),
                _ = asking.tick() => {}
            }
            post.at("looks for requests");
            let collections = self.collections.clone();
            let waiting = incomplete(&self.pipeline, &collections);
            let requested = session.requests(&waiting).await?;
            self.pipeline.throttle.set(&requested.throttle, self.pipeline.monitor.reporter.vitals());
            self.hand_on(&mut *session, &requested, &waiting).await?;
            let (pipeline, collections) = (&self.pipeline, &*collections);
            if is_resync_asked(pipeline, &requested, collections)
                || pausing::is_pause_asked(&mut *session, &requested, collections).await?
            {
                return Ok(TaskOutcome::Asked);
            }
            if reviewed.elapsed() >= REVIEWING {
                reviewed = Instant::now();
                for name in std::mem::take(&mut self.parting) {
                    match Preparation::new(pipeline, &mut *session).part_from(&name).await {
                        Err(error) if error.code() == Code::TargetLocked => self.parting.push(name),
                        parted => drop(parted?),
                    }
                }
                show_dead_letters(pipeline, &*session, collections).await?;
            }
            let began = Instant::now();
            if began >= list_at {
                if is_anything_new(pipeline, collections).await? {
                    return Ok(TaskOutcome::Asked);
                }
                let pause = began.elapsed() * LISTING_SHARE;
                list_at = Instant::now() + pause.clamp(LISTING_MOST_OFTEN, LISTING_LEAST_OFTEN);
            }
        }
    }

    /// Hands the workers what they are requested to retry and to repair.
    async fn hand_on(
        &mut self,
        session: &mut dyn TargetSession,
        requested: &Requested,
        waiting: &[&str],
    ) -> Result<()> {
        record_stopped(&self.pipeline, session, &self.collections).await?;
        let letters = if requested.letters { session.letters_asked().await? } else { Vec::new() };
        if planted::has(Bug::RetryAnsweredEarly) {
            session.letters_answered(&letters.iter().map(|letter| letter.id).collect::<Vec<_>>()).await?;
        }
        let letters = self.retries.take(session, letters, &self.workers.router).await?;
        let repairs = if requested.repairs { session.take_repairs(waiting).await? } else { Vec::new() };
        let repairs = self.repairs(&*session, repairs).await?;
        // The worker may not have heard from the tailer yet that a collection was completed.
        let apply_state = self.pipeline.signals.apply_state.borrow().clone();
        for (partition, changes) in letters.into_iter().chain(repairs) {
            let Some(sender) = self.workers.senders.get(usize::from(partition.0)) else { continue };
            // A worker that is gone has ended with an error, which ends the turn.
            let own = changes.iter().map(|change| &change.collection);
            let ahead_until = apply_state.ahead_until(own.filter(|_| !planted::has(Bug::RepairUnbound)));
            let _ = sender.send(WorkerMessage { changes, reached: None, oldest: None, ahead_until }).await;
        }
        Ok(())
    }
}

/// Returns the collections that are not complete yet: their repairs wait.
fn incomplete<'a>(pipeline: &Pipeline, collections: &'a [Collection]) -> Vec<&'a str> {
    let ready = pipeline.signals.apply_state.borrow().ready.clone();
    let incomplete = (0..).map(CollectionId).zip(collections).filter(|(id, _)| !ready.contains_key(id));
    incomplete.map(|(_, collection)| collection.name()).collect()
}

fn is_resync_asked(pipeline: &Pipeline, requested: &Requested, collections: &[Collection]) -> bool {
    let is_known = |name: &String| {
        pipeline.monitor.refused.contains(name)
            || collections.iter().any(|collection| collection.name() == name)
    };
    requested.resyncs.iter().any(is_known)
}

async fn is_anything_new(pipeline: &Pipeline, collections: &[Collection]) -> Result<bool> {
    let names = match pipeline.ports.source.names(&pipeline.config.include, &pipeline.config.exclude).await {
        // The stream waits for the source, too; there is time to look.
        Err(error) if error.kind().disposition() == Disposition::Retry => return Ok(false),
        names => names?,
    };
    let known: HashSet<_> = collections.iter().map(Collection::namespace).collect();
    let is_known =
        |name: &Namespace| known.contains(name) || pipeline.monitor.refused.contains(&name.to_string());
    Ok(!names.iter().all(is_known))
}
