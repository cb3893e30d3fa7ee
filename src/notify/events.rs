//! The events between two versions of a status document. Pure.
//!
//! A lasting state is reported once. `live` and `error` alternate, and after an error all must be well for a
//! while before `live` is reported: a server that comes and goes is one problem, not many.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    moment::Moment,
    process_status::{Message, Stage},
    status::{CollectionStatus, HealthLevel, Status},
};

/// How long all must be well after an error.
const WELL: Duration = Duration::from_secs(30);

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    /// All collections are complete, and changes are applied.
    Live,
    /// It was stopped by a signal, and has ended.
    Stopped,
    /// A problem that needs operator action: of one collection, or of all.
    Error,
    /// The oplog is about to lose the position to resume from.
    HistoryAtRisk,
    /// The first document of a collection that could not be written.
    DeadLetters,
    /// A collection's mapping has a new version.
    MappingGrew,
    /// A column lacks values that do not fit it.
    ColumnMisfits,
}

impl EventKind {
    /// Its name in notifications.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::HistoryAtRisk => "history_at_risk",
            Self::DeadLetters => "dead_letters",
            Self::MappingGrew => "mapping_grew",
            Self::ColumnMisfits => "column_misfits",
        }
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotifyEvent {
    pub(super) kind: EventKind,
    /// The error's code, `DRW-1305`, if it has one.
    pub(super) code: Option<String>,
    /// The collection that it is about, if any.
    pub(super) collection: Option<String>,
    /// The text for people.
    pub(super) text: String,
}

/// The last reported state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastTold {
    #[default]
    Untold,
    Live,
    /// A problem, with the time when it was last seen.
    Trouble(Moment),
}

/// Finds the events.
#[derive(Debug, Default)]
pub(super) struct StatusObserver {
    before: Option<Status>,
    standing: LastTold,
    is_at_risk: bool,
}

impl StatusObserver {
    /// The events since the previous document.
    pub(super) fn see(&mut self, now: Status) -> Vec<NotifyEvent> {
        let mut events = Vec::new();
        if let Some(before) = &self.before {
            for (then, now) in pairs(before, &now) {
                of_collection(then, now, &mut events);
            }
        }
        let stopped = self.stopped(&now);
        self.whole(&now, &stopped, &mut events);
        events.extend(stopped);
        let is_at_risk = now.is_history_at_risk();
        if is_at_risk && !std::mem::replace(&mut self.is_at_risk, is_at_risk) {
            let words = now.health.problems.iter().map(|problem| &problem.words);
            let words = words.clone().find(|words| words.contains("about to be lost"));
            let text = words.cloned().unwrap_or_else(|| "history is about to be lost".to_owned());
            events.push(NotifyEvent { kind: EventKind::HistoryAtRisk, code: None, collection: None, text });
        }
        self.is_at_risk = is_at_risk;
        self.before = Some(now);
        events
    }

    /// The collections that have been stopped since.
    fn stopped(&self, now: &Status) -> Vec<NotifyEvent> {
        let Some(before) = &self.before else { return Vec::new() };
        let is_new = |(then, now): &(Option<&CollectionStatus>, &CollectionStatus)| {
            now.stopped.is_some() && now.absent.is_none() && then.is_none_or(|then| then.stopped.is_none())
        };
        let all = now.collections.iter().map(|c| (before.collections.iter().find(|b| b.name == c.name), c));
        let event = |(_, c): (Option<&CollectionStatus>, &CollectionStatus)| NotifyEvent {
            kind: EventKind::Error,
            code: code(&now.messages, &c.name),
            collection: Some(c.name.clone()),
            text: format!("{} is stopped: {}", c.name, c.stopped.as_deref().unwrap_or_default()),
        };
        all.filter(is_new).map(event).collect()
    }

    /// The overall state. `stopped`: collections whose stop is reported separately.
    fn whole(&mut self, now: &Status, stopped: &[NotifyEvent], events: &mut Vec<NotifyEvent>) {
        let is_live = now.process.stage == Some(Stage::Live);
        match (now.health.level, self.standing) {
            (HealthLevel::Error, before) => {
                self.standing = LastTold::Trouble(now.at);
                if !matches!(before, LastTold::Trouble(_)) && stopped.is_empty() {
                    let (code, text) = (code(&now.messages, ""), now.health.words.clone());
                    events.push(NotifyEvent { kind: EventKind::Error, code, collection: None, text });
                }
            }
            (_, LastTold::Live) => {}
            (_, LastTold::Trouble(last)) if now.at.since(last) < WELL => {}
            (_, LastTold::Untold | LastTold::Trouble(_)) if is_live => {
                self.standing = LastTold::Live;
                let text = now.health.words.clone();
                events.push(NotifyEvent { kind: EventKind::Live, code: None, collection: None, text });
            }
            (_, LastTold::Untold | LastTold::Trouble(_)) => {}
        }
    }
}

/// The collections that existed before, too.
fn pairs<'a>(
    before: &'a Status,
    now: &'a Status,
) -> impl Iterator<Item = (&'a CollectionStatus, &'a CollectionStatus)> {
    let then = |c: &'a CollectionStatus| before.collections.iter().find(|b| b.name == c.name);
    now.collections.iter().filter_map(move |c| Some((then(c)?, c)))
}

fn of_collection(then: &CollectionStatus, now: &CollectionStatus, events: &mut Vec<NotifyEvent>) {
    let mut event = |kind, text| {
        events.push(NotifyEvent { kind, code: None, collection: Some(now.name.clone()), text });
    };
    if then.dead_letters == 0 && now.dead_letters > 0 {
        let text =
            format!("{}: the first documents could not be written: see docrow dead-letters list", now.name);
        event(EventKind::DeadLetters, text);
    }
    if then.mapping.version > 0 && now.mapping.version > then.mapping.version {
        let text = format!("{}: the mapping has changed, version {}", now.name, now.mapping.version);
        event(EventKind::MappingGrew, text);
    }
    let columns = |c: &CollectionStatus| -> BTreeSet<(String, String)> {
        let columns = c.misfits.iter().flat_map(|misfits| &misfits.columns);
        columns.map(|column| (column.table.clone(), column.column.clone())).collect()
    };
    for (table, column) in columns(now).difference(&columns(then)) {
        let text = format!("{table}.{column} lacks values that did not fit: they are in _extra alone");
        event(EventKind::ColumnMisfits, text);
    }
}

/// The code of the latest message that has one and is about this.
fn code(messages: &[Message], about: &str) -> Option<String> {
    let told = messages.iter().rev().filter(|message| message.text.contains(about));
    let code = |message: &Message| Some(message.text.strip_prefix('[')?.split_once(']')?.0.to_owned());
    told.filter_map(code).find(|code| code.starts_with("DRW-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::{NOW, at, live};

    fn words(events: &[NotifyEvent]) -> Vec<(&str, Option<&str>)> {
        events.iter().map(|event| (event.kind.word(), event.collection.as_deref())).collect()
    }

    /// A document, this many seconds later.
    fn later(seconds: u64, mut status: Status) -> Status {
        status.at = at(NOW + seconds).into();
        status
    }

    fn in_trouble() -> Status {
        live(|_, report| report.source.problem = Some("no answer".to_owned()))
    }

    #[test]
    fn live_is_told_once() {
        let mut observer = StatusObserver::default();
        let starting = live(|_, report| report.stage = Stage::Copying);
        assert_eq!(words(&observer.see(starting)), []);
        assert_eq!(words(&observer.see(live(|_, _| {}))), [("live", None)]);
        assert_eq!(words(&observer.see(live(|_, _| {}))), []);
    }

    /// A server that comes and goes is one problem.
    #[test]
    fn what_comes_and_goes_is_told_once() {
        let mut observer = StatusObserver::default();
        assert_eq!(words(&observer.see(live(|_, _| {}))), [("live", None)]);
        assert_eq!(words(&observer.see(later(2, in_trouble()))), [("error", None)]);
        assert_eq!(words(&observer.see(later(4, live(|_, _| {})))), []);
        assert_eq!(words(&observer.see(later(6, in_trouble()))), []);
        assert_eq!(words(&observer.see(later(35, live(|_, _| {})))), []);
        assert_eq!(words(&observer.see(later(36, live(|_, _| {})))), [("live", None)]);
        assert_eq!(words(&observer.see(later(38, in_trouble()))), [("error", None)]);
    }

    #[test]
    fn a_collection_that_stops_is_told_with_its_code() {
        let mut observer = StatusObserver::default();
        observer.see(live(|_, _| {}));
        let mut stopped = live(|survey, _| survey.collections[0].stopped = Some("why".to_owned()));
        stopped.messages = vec![Message {
            at: stopped.at,
            level: crate::process_status::MessageLevel::Error,
            text: "[DRW-1305] shop.orders is stopped, other collections continue: why".to_owned(),
            count: 1,
        }];
        let events = observer.see(stopped.clone());
        assert_eq!(words(&events), [("error", Some("shop.orders"))]);
        assert_eq!(events[0].code.as_deref(), Some("DRW-1305"));
        assert_eq!(words(&observer.see(later(2, stopped))), [], "once");
    }

    #[test]
    fn what_begins_is_told_of_its_collection() {
        let mut observer = StatusObserver::default();
        observer.see(live(|_, _| {}));
        let grown = live(|survey, _| {
            (survey.collections[0].version, survey.collections[1].dead_letters) = (2, 7);
        });
        let expected = [("mapping_grew", Some("shop.orders")), ("dead_letters", Some("shop.users"))];
        assert_eq!(words(&observer.see(grown.clone())), expected);
        assert_eq!(words(&observer.see(grown)), []);
    }

    #[test]
    fn history_at_risk_is_told_once() {
        let mut observer = StatusObserver::default();
        observer.see(live(|_, _| {}));
        let at_risk = || live(|_, report| report.resumes_from = Some(at(NOW - 86_300).into()));
        let events = observer.see(at_risk());
        assert_eq!(words(&events), [("history_at_risk", None)]);
        assert!(events[0].text.contains("about to be lost"), "{events:?}");
        assert_eq!(words(&observer.see(at_risk())), []);
        observer.see(live(|_, _| {}));
        assert_eq!(words(&observer.see(at_risk())), [("history_at_risk", None)]);
    }
}
