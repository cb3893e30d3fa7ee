//! `[notify] webhook`: reports events that an operator should know about to an HTTP server: the pipeline is
//! live, it stopped, there is an error, history is about to be lost, the first dead letters, a mapping that
//! grew, a column that lacks values.
//!
//! What happened is found in the [status document](crate::status), looked at every other second: so a notice
//! never says anything else than status and page do ([`events`], pure). It runs beside the pipeline, and the
//! pipeline waits for none of it: a [`NoticeCourier`] of its own delivers, one notice after the other, and
//! tries again for a while; what there is no more room for is dropped, which is said and counted.
//!
//! A notification names pipeline, phase, event, code and collection, and has a text for people. It contains
//! no document's values and no password (G12).

mod courier;
mod events;

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::mpsc::{self, Sender, error::TrySendError},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    courier::{Notice, NoticeCourier},
    events::{EventKind, NotifyEvent, StatusObserver},
};
use crate::{
    config::Config,
    error::Result,
    metrics,
    moment::Moment,
    process_status::{Stage, Vitals},
    shutdown::Shutdown,
    sink::Target,
    status::StatusGatherer,
};

/// How often to check for events.
const LOOKING: Duration = Duration::from_secs(2);
/// The maximum number of notifications that wait to be delivered.
const WAITING: usize = 256;
/// How long the end of the process waits for the last ones.
const FAREWELL: Duration = Duration::from_secs(5);

/// Does the work, and meanwhile sends notifications as configured.
///
/// Errors: those of the work; and a webhook that can't be used as configured.
pub async fn beside<T>(
    config: &Config,
    vitals: &Arc<Vitals>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(notify) = &config.notify else { return work.await };
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let (sender, notices) = mpsc::channel(WAITING);
    let (end, mut running) = (Shutdown::default(), JoinSet::new());
    running.spawn(NoticeCourier::new(notify)?.run(notices));
    let observing = StatusWatch {
        pipeline: config.name.clone(),
        vitals: vitals.clone(),
        gatherer: StatusGatherer::within(&target, &config.source, vitals.clone()),
        observer: StatusObserver::default(),
        sender,
    };
    let (ended, watched) = (Arc::new(std::sync::OnceLock::new()), end.clone());
    running.spawn(observing.run(watched, ended.clone()));
    let finished = work.await;
    let _ = ended.set(finished.as_ref().err().map(|error| (error.code().to_string(), error.to_string())));
    end.request();
    let done = async { while running.join_next().await.is_some() {} };
    if timeout(FAREWELL, done).await.is_err() {
        tracing::warn!("the last notifications are not delivered: the webhook does not accept them");
    }
    finished
}

/// How the work ended: the error's code and text, if there was one.
type WorkEnd = Arc<std::sync::OnceLock<Option<(String, String)>>>;

/// Checks for events.
struct StatusWatch {
    pipeline: String,
    vitals: Arc<Vitals>,
    gatherer: StatusGatherer,
    observer: StatusObserver,
    sender: Sender<Notice>,
}

impl StatusWatch {
    async fn run(mut self, end: Shutdown, ended: WorkEnd) {
        let mut stood_by = false;
        loop {
            tokio::select! {
                biased;
                () = end.requested() => break,
                () = sleep(LOOKING) => {}
            }
            let stage = self.vitals.stage().0;
            stood_by = stage == Stage::StandingBy;
            // Only the process that holds the pipeline reports for it.
            if !stood_by {
                let status = self.gatherer.gather_anyway().await;
                let events = self.observer.see(status);
                events.into_iter().for_each(|event| self.tell(&event));
            }
        }
        if stood_by {
            return;
        }
        let event = match ended.get().and_then(Option::as_ref) {
            Some((code, why)) => NotifyEvent {
                kind: EventKind::Error,
                code: Some(code.clone()),
                collection: None,
                text: format!("stopped by an error: {why}"),
            },
            None => NotifyEvent {
                kind: EventKind::Stopped,
                code: None,
                collection: None,
                text: "stopped on request".to_owned(),
            },
        };
        self.vitals.enter(Stage::Ended, ended.get().and_then(Option::as_ref).map(|(_, why)| why.clone()));
        self.tell(&event);
    }

    fn tell(&self, event: &NotifyEvent) {
        let NotifyEvent { kind, code, collection, text } = event;
        let body = json!({
            "id": format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
            "at": Moment::now(),
            "pipeline": self.pipeline,
            "event": kind.word(),
            "phase": self.vitals.stage().0,
            "code": code,
            "collection": collection,
            "text": text,
        });
        match self.sender.try_send(Notice { event: kind.word(), body: body.to_string() }) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                metrics::NOTIFICATIONS.add_to("dropped", 1);
                tracing::warn!(
                    "a notification ({}) is dropped: {WAITING} others wait for the webhook",
                    kind.word()
                );
            }
        }
    }
}
