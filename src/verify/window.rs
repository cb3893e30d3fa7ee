//! Which documents changed between two times, and when: reads the change stream of one collection as far as
//! requested.
//!
//! The stream stays open, because the next request is mostly for a slightly later time. Events before the
//! positions stored by then are discarded.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use mongodb::bson::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{Kind, Result},
    model::{
        change::{Namespace, Position},
        document_key::DocumentKey,
    },
    shutdown::Shutdown,
    source::{ChangeStream, Event, Source, StreamStart},
};

/// At most this many events are kept: 32 MB (G11).
const EVENTS: usize = 2_000_000;

/// The events of a collection.
pub(super) struct EventWindow {
    source: Source,
    namespace: Namespace,
    stream: Option<OpenStream>,
}

struct OpenStream {
    stream: ChangeStream,
    /// Events up to this time are left out, or discarded.
    from: Position,
    /// Everything up to this time has arrived.
    reached: Option<Position>,
    /// Which documents changed when, by the hashes of their keys.
    events: VecDeque<(Timestamp, u64)>,
    /// When an event last affected the collection as a whole.
    whole: Option<Timestamp>,
}

/// How far it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowReach {
    /// Up to and including the requested time.
    There,
    /// Not that far: there is too much of it, or too little time.
    TooFar,
    /// The oplog does not reach back that far.
    Lost,
}

impl EventWindow {
    pub(super) fn new(source: &Source, namespace: &Namespace) -> Self {
        Self { source: source.clone(), namespace: namespace.clone(), stream: None }
    }

    /// Reads everything after `from`, up to and including `until`, if that takes no longer than `patience`.
    ///
    /// While nothing is written, the end of the stream has the time of the newest operation, and advances
    /// only with the next one, which an idle server makes every ten seconds (seen on 6.0.5). So two replies
    /// in a row that reach `until` and have no event are the end, too: the server had reached the end of what
    /// a majority has, and the second reply was requested after `until`.
    pub(super) async fn read(
        &mut self,
        from: &Position,
        until: Timestamp,
        patience: Duration,
        shutdown: &Shutdown,
    ) -> Result<WindowReach> {
        // Positions move back when a collection is resynced.
        let mut open = match self.stream.take() {
            Some(open) if open.from <= *from => open,
            _ if from.is_past(until) => return Ok(WindowReach::There),
            _ => OpenStream::new(&self.source, &self.namespace, from),
        };
        open.forget(from);
        let deadline = Instant::now() + patience;
        let is_past =
            |open: &OpenStream| open.reached.iter().chain([from]).any(|reached| reached.is_past(until));
        let mut ends = 0;
        while !is_past(&open) && ends < 2 {
            let next = tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(WindowReach::TooFar),
                next = timeout_at(deadline, open.stream.next()) => next,
            };
            let batch = match next {
                Err(_) => {
                    self.stream = Some(open);
                    return Ok(WindowReach::TooFar);
                }
                Ok(Err(error)) if error.kind() == Kind::HistoryLost => return Ok(WindowReach::Lost),
                Ok(batch) => batch?,
            };
            batch.events.iter().for_each(|event| open.note(event));
            let is_end = batch.at_end && batch.position.cluster_time() >= until;
            ends = if is_end { ends + 1 } else { 0 };
            open.reached = Some(batch.position);
            if open.events.len() > EVENTS {
                return Ok(WindowReach::TooFar);
            }
        }
        self.stream = Some(open);
        Ok(WindowReach::There)
    }

    /// When these documents changed after the time that was last read from; those that did not change are
    /// left out.
    pub(super) fn changes(&self, keys: impl Iterator<Item = DocumentKey>) -> WindowChanges {
        let mut changes = WindowChanges { whole: false, times: HashMap::new() };
        let Some(open) = &self.stream else { return changes };
        changes.whole = open.whole.is_some();
        let wanted: HashSet<u64> = keys.map(|key| key.hash64()).collect();
        for (time, hash) in open.events.iter().filter(|(_, hash)| wanted.contains(hash)) {
            changes.times.entry(*hash).or_default().push(*time);
        }
        changes
    }
}

/// The events of some documents.
pub(super) struct WindowChanges {
    whole: bool,
    times: HashMap<u64, Vec<Timestamp>>,
}

impl WindowChanges {
    /// When a document changed, in order. `None`: it did not.
    pub(super) fn times(&self, key: &DocumentKey) -> Option<&[Timestamp]> {
        match self.times.get(&key.hash64()) {
            Some(times) => Some(times),
            None if self.whole => Some(&[]),
            None => None,
        }
    }
}

impl OpenStream {
    fn new(source: &Source, namespace: &Namespace, from: &Position) -> Self {
        // The server finds a position only in a stream of the same kind.
        let start = StreamStart::At(from.cluster_time());
        Self {
            stream: source.change_stream(std::slice::from_ref(namespace), start),
            from: from.clone(),
            reached: None,
            events: VecDeque::new(),
            whole: None,
        }
    }

    /// Discards events before `from`. For events at exactly that time, it is unknown on which side they are.
    fn forget(&mut self, from: &Position) {
        let start = from.cluster_time();
        let before = self.events.partition_point(|(time, _)| *time < start);
        self.events.drain(..before);
        self.whole = self.whole.filter(|time| *time >= start);
        self.from = from.clone();
    }

    fn note(&mut self, event: &Event) {
        if *event.position() <= self.from {
            return;
        }
        let time = event.position().cluster_time();
        match event {
            Event::Change(change) => self.events.push_back((time, change.key.hash64())),
            Event::Dropped { .. }
            | Event::Renamed { .. }
            | Event::DatabaseDropped { .. }
            | Event::Invalidated { .. } => self.whole = Some(time),
        }
    }
}
