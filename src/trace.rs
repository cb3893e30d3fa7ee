//! Traces: how long a batch, a chunk or a lookup took, and its details, if `[otlp]` requests them.
//!
//! Without a request, a [`Span`] is nothing: it costs a read of a static, and no memory. Otherwise it is put
//! into a queue when it ends, from which [`otlp`](crate::otlp) sends it. Nothing waits for room in the queue:
//! if it is full, the span is dropped and counted. A trace that is not in the sample has no spans at all.
//!
//! A span contains names of collections, numbers, and the code of an error; never a value of a document or a
//! password (G12).

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    trace::v1::{Span as Message, Status, span::SpanKind, status::StatusCode},
};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::{
    error::{Error, Result},
    metrics,
};

/// How many spans may wait to be sent: a few seconds of the fastest stream, a few megabytes.
const WAITING: usize = 4096;
/// The maximum number of collection names in a span.
const NAMES: usize = 32;

/// The shared state of all spans.
#[derive(Debug)]
struct Tracer {
    /// Which share of the traces is in the sample.
    sample: f64,
    ended: Sender<Message>,
    /// Whether there was no room for one.
    is_full: AtomicBool,
}

/// `None`: spans are not requested.
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Enables spans from now on, for this share of all traces, from 0 to 1, and returns the queue that they are
/// put into. Call it once; a second queue stays empty.
pub fn start(sample: f64) -> Receiver<Message> {
    let (ended, spans) = mpsc::channel(WAITING);
    let _ = TRACER.set(Tracer { sample, ended, is_full: AtomicBool::new(false) });
    spans
}

/// Whether there was no room for a span since the last call.
pub fn was_full() -> bool {
    TRACER.get().is_some_and(|tracer| tracer.is_full.swap(false, Ordering::Relaxed))
}

/// An operation with a duration; or nothing, if it is not traced.
#[derive(Debug, Default)]
pub struct Span(Option<Box<OpenSpan>>);

/// A traced one.
#[derive(Debug)]
struct OpenSpan {
    tracer: &'static Tracer,
    began: Instant,
    message: Message,
}

impl Span {
    /// Starts a trace, if it is in the sample.
    pub fn root(name: &'static str) -> Self {
        TRACER.get().map_or_else(Self::default, |tracer| Self::sampled(name, tracer))
    }

    fn sampled(name: &'static str, tracer: &'static Tracer) -> Self {
        if fastrand::f64() >= tracer.sample {
            return Self::default();
        }
        Self(Some(OpenSpan::new(name, tracer, fastrand::u128(1..).to_be_bytes().to_vec())))
    }

    /// Starts a part of this one.
    pub fn child(&self, name: &'static str) -> Self {
        Self(self.0.as_ref().map(|open| {
            let mut child = OpenSpan::new(name, open.tracer, open.message.trace_id.clone());
            child.message.parent_span_id = open.message.span_id.clone();
            child
        }))
    }

    /// Whether it is traced; if not, its attributes need not be computed.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a name.
    pub fn name(&mut self, key: &'static str, name: &str) {
        if let Some(open) = &mut self.0 {
            open.say(key, text(name));
        }
    }

    /// Adds some names, up to the maximum.
    pub fn names<'a>(&mut self, key: &'static str, names: impl Iterator<Item = &'a str>) {
        if let Some(open) = &mut self.0 {
            let values = names.take(NAMES).map(|name| AnyValue { value: Some(text(name)) }).collect();
            open.say(key, Value::ArrayValue(ArrayValue { values }));
        }
    }

    /// Adds a number.
    pub fn count(&mut self, key: &'static str, count: impl TryInto<i64>) {
        if let Some(open) = &mut self.0 {
            open.say(key, Value::IntValue(count.try_into().unwrap_or(i64::MAX)));
        }
    }

    /// Ends it with this outcome, or with the error. A span that is dropped without this is marked as cut
    /// off.
    pub fn end<T>(mut self, result: &Result<T>, outcome: &'static str) {
        match result {
            Ok(_) => self.close(outcome, None),
            Err(error) => self.close("failed", Some(error)),
        }
    }

    fn close(&mut self, outcome: &'static str, error: Option<&Error>) {
        self.name("docrow.outcome", outcome);
        if let Some(error) = error {
            self.name("error.type", &error.code().to_string());
        }
        let Some(open) = self.0.take() else { return };
        let OpenSpan { tracer, began, mut message } = *open;
        if error.is_some() {
            message.status = Some(Status { message: String::new(), code: StatusCode::Error.into() });
        }
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        message.end_time_unix_nano = message.start_time_unix_nano.saturating_add(took);
        if tracer.ended.try_send(message).is_err() {
            metrics::SPANS_DROPPED.add(1);
            tracer.is_full.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.close("cut_off", None);
    }
}

impl OpenSpan {
    fn new(name: &str, tracer: &'static Tracer, trace_id: Vec<u8>) -> Box<Self> {
        let message = Message {
            trace_id,
            span_id: fastrand::u64(1..).to_be_bytes().to_vec(),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: unix_nanos(),
            ..Message::default()
        };
        Box::new(Self { tracer, began: Instant::now(), message })
    }

    /// An earlier value of that key is replaced.
    fn say(&mut self, key: &str, value: Value) {
        let attributes = &mut self.message.attributes;
        attributes.retain(|said| said.key != key);
        attributes.push(attribute(key, value));
    }
}

/// The current time in OTLP's form.
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A name and a value.
pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A text as a value.
pub fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn tracer(sample: f64, room: usize) -> (&'static Tracer, Receiver<Message>) {
        let (ended, spans) = mpsc::channel(room);
        (Box::leak(Box::new(Tracer { sample, ended, is_full: AtomicBool::new(false) })), spans)
    }

    fn said(message: &Message) -> Vec<(String, Value)> {
        let value = |said: &KeyValue| said.value.clone().unwrap().value.unwrap();
        message.attributes.iter().map(|said| (said.key.clone(), value(said))).collect()
    }

    /// No other test of this crate asks for spans of the whole process.
    #[test]
    fn where_nobody_asks_nothing_is_made() {
        let made = allocation_counter::measure(|| {
            let mut batch = Span::root("batch");
            batch.count("docrow.events", 7_u64);
            let mut lookup = batch.child("lookup");
            lookup.name("docrow.collection", "a.b");
            lookup.end(&Ok(()), "done");
            batch.end(&Ok(()), "committed");
        });
        assert_eq!(made.count_total, 0);
        assert!(!Span::root("batch").is_on());
    }

    #[test]
    fn the_spans_of_a_trace_belong_together_and_say_how_they_ended() {
        let (tracer, mut spans) = tracer(1.0, 8);
        let mut batch = Span::sampled("batch", tracer);
        batch.count("docrow.events", 7_u64);
        batch.count("docrow.events", 8_u64);
        batch.names("docrow.collections", ["a.b", "a.c"].into_iter());
        batch.child("lookup").end(&Ok(()), "done");
        drop(batch.child("lookup"));
        batch.end(&Err::<(), _>(Error::new(Kind::Bug, "a value")), "committed");
        let [lookup, cut_off, batch] = [(); 3].map(|()| spans.try_recv().unwrap());
        assert_eq!((lookup.name.as_str(), batch.name.as_str()), ("lookup", "batch"));
        assert_eq!((batch.trace_id.len(), batch.span_id.len(), batch.parent_span_id.len()), (16, 8, 0));
        assert_eq!((&lookup.trace_id, &lookup.parent_span_id), (&batch.trace_id, &batch.span_id));
        assert!(lookup.span_id != cut_off.span_id && lookup.span_id != batch.span_id);
        assert!(lookup.start_time_unix_nano <= lookup.end_time_unix_nano && lookup.status.is_none());
        assert_eq!(said(&cut_off), [("docrow.outcome".to_owned(), text("cut_off"))]);
        let names = ["a.b", "a.c"].map(|name| AnyValue { value: Some(text(name)) });
        let expected = [
            ("docrow.events", Value::IntValue(8)),
            ("docrow.collections", Value::ArrayValue(ArrayValue { values: names.into() })),
            ("docrow.outcome", text("failed")),
            ("error.type", text("DRW-9000")),
        ];
        assert_eq!(said(&batch), expected.map(|(key, value)| (key.to_owned(), value)));
        assert_eq!(batch.status.unwrap().code(), StatusCode::Error);
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn what_finds_no_room_is_dropped() {
        let (tracer, mut spans) = tracer(1.0, 1);
        Span::sampled("batch", tracer).end(&Ok(()), "committed");
        assert!(!tracer.is_full.load(Ordering::Relaxed));
        Span::sampled("chunk", tracer).end(&Ok(()), "committed");
        assert!(tracer.is_full.load(Ordering::Relaxed));
        assert_eq!((spans.try_recv().unwrap().name.as_str(), spans.try_recv().is_err()), ("batch", true));
    }

    #[test]
    fn a_trace_that_is_not_in_the_sample_has_no_spans() {
        let (tracer, mut spans) = tracer(0.0, 8);
        let batch = Span::sampled("batch", tracer);
        assert!(!batch.is_on() && !batch.child("lookup").is_on());
        drop(batch);
        assert!(spans.try_recv().is_err());
    }
}
