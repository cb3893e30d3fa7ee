//! `[otlp]`, against the test's own collector, which decodes its input: traces of batches, chunks and
//! lookups, the metrics that `/metrics` shows, and that nothing waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use docrow::{
    demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    metrics::{ALL, MetricUnit},
};
use mongodb::bson::doc;
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{HistogramDataPoint, Metric, NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

use crate::support::{Code, Docrow, Home, Place, SENTINELS, http};

/// What a collector received.
#[derive(Clone, Default)]
struct Got {
    spans: Vec<Span>,
    /// Those of the last request.
    metrics: Vec<Metric>,
    metrics_requests: usize,
    resources: Vec<Resource>,
    headers: Vec<HeaderMap>,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct Collector {
    uri: String,
    got: Arc<Mutex<Got>>,
    /// Whether it never answers.
    hangs: bool,
    _serving: Arc<JoinSet<()>>,
}

async fn take_traces(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(&*body).unwrap();
    collector.note(headers, &body, |got| {
        for of_resource in request.resource_spans {
            got.resources.extend(of_resource.resource);
            for of_scope in of_resource.scope_spans {
                assert_eq!(of_scope.scope.unwrap().name, "docrow");
                got.spans.extend(of_scope.spans);
            }
        }
    });
    collector.answer().await
}

async fn take_metrics(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportMetricsServiceRequest::decode(&*body).unwrap();
    collector.note(headers, &body, |got| {
        got.metrics_requests += 1;
        for of_resource in request.resource_metrics {
            got.resources.extend(of_resource.resource);
            got.metrics =
                of_resource.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics).collect();
        }
    });
    collector.answer().await
}

impl Collector {
    async fn start(hangs: bool) -> Self {
        Self::at("127.0.0.1:0", hangs).await
    }

    async fn at(address: &str, hangs: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self { uri, hangs, ..Self::default() };
        let router = Router::new()
            .route("/v1/traces", post(take_traces))
            .route("/v1/metrics", post(take_metrics))
            .with_state(collector.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { _serving: Arc::new(serving), ..collector }
    }

    fn note(&self, headers: HeaderMap, body: &[u8], note: impl FnOnce(&mut Got)) {
        let mut got = self.got.lock().unwrap();
        got.headers.push(headers);
        got.bytes.extend_from_slice(body);
        note(&mut got);
    }

    async fn answer(&self) -> StatusCode {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        StatusCode::OK
    }

    fn got(&self) -> Got {
        self.got.lock().unwrap().clone()
    }

    fn home(&self, place: &Place) -> Home {
        let mut home = Home::new(place);
        home.set("otlp.endpoint", self.uri.as_str());
        home.set("otlp.metrics_every", "1s");
        home
    }

    /// Waits for a span that satisfies the condition.
    async fn hears(&self, docrow: &mut Docrow, what: &str, so: impl Fn(&Span) -> bool) -> Span {
        let mut heard = None;
        docrow
            .until(what, async || {
                heard = self.got().spans.into_iter().find(&so);
                heard.is_some()
            })
            .await;
        heard.unwrap()
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|said| said.key == key)?.value.clone()?.value
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    match value(attributes, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?} in {attributes:#?}"),
    }
}

fn count(span: &Span, key: &str) -> i64 {
    match value(&span.attributes, key) {
        Some(Value::IntValue(count)) => count,
        other => panic!("{key}: {other:?} in {span:#?}"),
    }
}

fn collections(span: &Span) -> Vec<String> {
    let Some(Value::ArrayValue(names)) = value(&span.attributes, "docrow.collections") else {
        return Vec::new();
    };
    let name = |value| match value {
        Some(Value::StringValue(name)) => name,
        other => panic!("{other:?}"),
    };
    names.values.into_iter().map(|value| name(value.value)).collect()
}

fn keys(span: &Span) -> Vec<&str> {
    span.attributes.iter().map(|said| said.key.as_str()).collect()
}

/// `orders`: pushes into `lines` must be looked up.
async fn fill(place: &Place) {
    place.add_sentinels().await;
    let order = |id| doc! { "_id": id, "note": "s3cr3t-value", "lines": [{ "item": "s3cr3t-value" }] };
    place.collection("orders").insert_many((0..500).map(order)).await.unwrap();
}

async fn push(place: &Place) {
    let push = doc! { "$push": { "lines": { "item": "s3cr3t-value" } } };
    place.collection("orders").update_many(doc! { "_id": { "$lt": 40 } }, push).await.unwrap();
}

/// Issue: traces of batches, chunks and lookups, with their details and no value of a document.
#[tokio::test]
async fn batches_chunks_and_lookups_are_traced() {
    let place = Place::shared("otlp_traces").await;
    fill(&place).await;
    let collector = Collector::start(false).await;
    let mut home = collector.home(&place);
    home.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cr3t-token,x-tenant=7");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    push(&place).await;
    place.collection("orders").delete_many(doc! { "_id": { "$gte": 490 } }).await.unwrap();
    place.settle(&mut docrow).await;
    let orders = format!("{}.orders", place.name);
    let of_orders = |span: &Span| {
        value(&span.attributes, "docrow.collection") == Some(Value::StringValue(orders.clone()))
    };

    collector.hears(&mut docrow, "a chunk", |span| span.name == "chunk" && of_orders(span)).await;
    let lookup =
        collector.hears(&mut docrow, "a lookup", |span| span.name == "lookup" && of_orders(span)).await;
    let batch = collector.hears(&mut docrow, "its batch", |span| span.span_id == lookup.parent_span_id).await;
    assert_eq!((batch.name.as_str(), &batch.trace_id), ("batch", &lookup.trace_id));
    assert!(batch.parent_span_id.is_empty() && collections(&batch).contains(&orders), "{batch:#?}");
    assert!(lookup.start_time_unix_nano >= batch.start_time_unix_nano, "{lookup:#?} {batch:#?}");
    docrow.stop().await.quiet();

    let got = collector.got();
    let named = |name: &'static str| got.spans.iter().filter(move |span| span.name == name);
    for span in &got.spans {
        let outcome = text(&span.attributes, "docrow.outcome");
        assert_eq!(outcome, if span.name == "lookup" { "done" } else { "committed" }, "{span:#?}");
        assert!(span.status.is_none() && span.end_time_unix_nano >= span.start_time_unix_nano, "{span:#?}");
    }
    let chunks: Vec<_> = named("chunk").filter(|span| of_orders(span)).collect();
    let sum = |key: &str| chunks.iter().map(|span| count(span, key)).sum::<i64>();
    assert_eq!((sum("docrow.documents"), sum("docrow.rows")), (500, 1000));
    assert!(sum("docrow.bytes") > 500 * 50);
    // Every change is in a batch: 40 pushed, 10 deleted, and the sentinels twice.
    assert_eq!(named("batch").map(|span| count(span, "docrow.events")).sum::<i64>(), 50 + 2 * SENTINELS);
    let lookups: Vec<_> = named("lookup").filter(|span| of_orders(span)).collect();
    assert!(lookups.iter().map(|span| count(span, "docrow.documents")).sum::<i64>() >= 40);
    assert!(lookups.iter().all(|span| count(span, "docrow.missing") == 0));
    let all = ["docrow.partition", "docrow.events", "docrow.collections", "docrow.documents", "docrow.bytes"];
    assert_eq!(keys(&batch), [&all[..], &["docrow.rows", "docrow.outcome"]].concat());
    let ids: BTreeSet<_> = got.spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), got.spans.len());

    for Resource { attributes, .. } in &got.resources {
        let said = ["service.name", "docrow.pipeline", "service.version"].map(|key| text(attributes, key));
        assert_eq!(said, ["docrow", "docrow", env!("CARGO_PKG_VERSION")]);
        assert_eq!(
            value(attributes, "service.instance.id"),
            value(&got.resources[0].attributes, "service.instance.id")
        );
    }
    for headers in &got.headers {
        assert_eq!(headers["authorization"], "Bearer s3cr3t-token");
        assert_eq!(headers["x-tenant"], "7");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    assert!(!String::from_utf8_lossy(&got.bytes).contains("s3cr3t"), "G12");
    place.assert_same(&home).await;
}

/// The content of `/metrics`, by series.
fn shown(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let series = lines.map(|line| line.rsplit_once(' ').unwrap());
    series.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

/// The same from a collector's data, in Prometheus's form.
fn as_shown(metrics: &[Metric]) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for Metric { name, data, .. } in metrics {
        match data.as_ref().unwrap() {
            Data::Gauge(gauge) => all.extend(gauge.data_points.iter().map(|point| number(name, point))),
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{name}");
                all.extend(sum.data_points.iter().map(|point| number(name, point)));
            }
            Data::Histogram(histogram) => {
                histogram.data_points.iter().for_each(|point| all.extend(buckets(name, point)))
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    all
}

fn number(name: &str, point: &NumberDataPoint) -> (String, f64) {
    let labels = point
        .attributes
        .iter()
        .map(|label| format!("{}=\"{}\"", label.key, text(&point.attributes, &label.key)));
    let labels = labels.collect::<Vec<_>>().join(",");
    let value = match point.value.unwrap() {
        number_data_point::Value::AsDouble(value) => value,
        number_data_point::Value::AsInt(value) => value as f64,
    };
    assert!(point.start_time_unix_nano <= point.time_unix_nano && point.start_time_unix_nano > 0, "{name}");
    (if labels.is_empty() { name.to_owned() } else { format!("{name}{{{labels}}}") }, value)
}

fn buckets(name: &str, point: &HistogramDataPoint) -> Vec<(String, f64)> {
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
    let mut sum = 0;
    let limits = point.explicit_bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    let bucket = |(limit, count): (String, &u64)| {
        sum += count;
        (format!("{name}_bucket{{le=\"{limit}\"}}"), sum as f64)
    };
    let mut all: Vec<_> = limits.zip(&point.bucket_counts).map(bucket).collect();
    all.push((format!("{name}_sum"), point.sum.unwrap()));
    all.push((format!("{name}_count"), point.count as f64));
    all
}

/// Issue: the metrics. Names, units and help come from the table, series from `/metrics`, and so do the
/// values: each that is the same before and after is the same.
#[tokio::test]
async fn the_metrics_are_those_that_are_shown() {
    let place = Place::shared("otlp_metrics").await;
    fill(&place).await;
    let collector = Collector::start(false).await;
    let mut home = collector.home(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    place.settle(&mut docrow).await;
    push(&place).await;
    place.settle(&mut docrow).await;
    let before = shown(&http::get(&address, "/metrics").await.body);
    let requests = collector.got().metrics_requests;
    docrow.until("metrics come twice", async || collector.got().metrics_requests >= requests + 2).await;
    let got = collector.got().metrics;
    let after = shown(&http::get(&address, "/metrics").await.body);

    for about in ALL.iter().map(|metric| metric.about()) {
        let metric = got.iter().find(|metric| metric.name == about.name);
        let metric = metric.unwrap_or_else(|| panic!("{} did not come", about.name));
        let unit = match about.unit {
            MetricUnit::Count => "",
            MetricUnit::Seconds | MetricUnit::UnixSeconds => "s",
            MetricUnit::Bytes => "By",
        };
        assert_eq!((metric.unit.as_str(), metric.description.as_str()), (unit, about.help), "{}", about.name);
    }
    let got = as_shown(&got);
    assert_eq!(got.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    let mut compared = 0;
    for (series, value) in before.iter().filter(|(series, value)| same(**value, after[*series])) {
        assert!(same(got[series], *value), "{series}: {} came, {value} is shown", got[series]);
        compared += 1;
    }
    assert!(compared > 100, "{compared} of {}", before.len());
    assert_eq!(got["docrow_events_applied_total"], (40 + 2 * SENTINELS) as f64);
    docrow.stop().await.quiet();
}

/// Waits until this many more spans than `before` were dropped, and returns their number.
async fn dropped(docrow: &mut Docrow, address: &str, before: f64) -> f64 {
    let mut dropped = 0.0;
    docrow
        .until("spans are dropped", async || {
            dropped = shown(&http::get(address, "/metrics").await.body)["docrow_spans_dropped_total"];
            dropped > before
        })
        .await;
    dropped
}

/// Issue: it never holds up replication. A collector that accepts requests and never answers costs spans,
/// which are counted, and logged once; and two seconds at the end.
#[tokio::test]
async fn a_collector_that_never_answers_holds_up_nothing() {
    const SAID: &str = "does not accept all traces: no answer in 10 s";
    let place = Place::shared("otlp_hangs").await;
    fill(&place).await;
    let collector = Collector::start(true).await;
    let mut home = collector.home(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    place.settle(&mut docrow).await;
    docrow.until("it is asked", async || !collector.got().spans.is_empty()).await;
    let began = Instant::now();
    for _ in 0..3 {
        push(&place).await;
        place.settle(&mut docrow).await;
    }
    // No response has been given up yet, so nothing waited for one.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    let first = dropped(&mut docrow, &address, 0.0).await;
    docrow.logs(SAID).await;
    dropped(&mut docrow, &address, first).await;
    let began = Instant::now();
    let ended = docrow.stop().await.quiet_but(&["does not accept"]);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(ended.log.matches(SAID).count(), 1, "{}", ended.log);
    assert!(ended.log.contains("the last traces and metrics are not delivered"), "{}", ended.log);
    place.assert_same(&home).await;
}

/// The same for one that is down; once it is back, it receives later events.
#[tokio::test]
async fn a_collector_that_is_away_is_sent_nothing_until_it_is_back() {
    let place = Place::shared("otlp_away").await;
    fill(&place).await;
    let gone = Collector::start(false).await;
    let mut home = gone.home(&place);
    home.serve();
    let address = gone.uri.trim_start_matches("http://").to_owned();
    drop(gone);
    let mut docrow = home.run();
    let served = docrow.address().await;
    place.settle(&mut docrow).await;
    let first = dropped(&mut docrow, &served, 0.0).await;
    push(&place).await;
    place.settle(&mut docrow).await;
    dropped(&mut docrow, &served, first).await;
    docrow.logs("does not accept all metrics: it can't be reached").await;
    let collector = Collector::at(&address, false).await;
    push(&place).await;
    place.settle(&mut docrow).await;
    collector.hears(&mut docrow, "a batch", |span| span.name == "batch").await;
    // Nothing was copied since it is back; a chunk of a resync counts, too.
    assert!(collector.got().spans.iter().all(|span| span.name != "chunk"));
    home.finish(&["resync", &format!("{}.orders", place.name)]).await.with_code(0);
    let chunk = collector.hears(&mut docrow, "a chunk", |span| span.name == "chunk").await;
    assert_eq!(count(&chunk, "docrow.documents"), 500);
    let ended = docrow.stop().await.quiet_but(&["does not accept all"]);
    for what in ["traces", "metrics"] {
        assert_eq!(ended.log.matches(&format!("does not accept all {what}")).count(), 1, "{}", ended.log);
    }
    place.assert_same(&home).await;
}

/// The ports that a process has connections to.
fn peers(docrow: &Docrow) -> BTreeSet<u16> {
    let process = format!("/proc/{}", docrow.pid());
    let links = fs::read_dir(format!("{process}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let sockets: BTreeSet<_> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("{process}/net/tcp")).unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let own = rows.filter(|row| sockets.contains(row[9]));
    own.map(|row| u16::from_str_radix(row[2].split(':').nth(1).unwrap(), 16).unwrap()).collect()
}

/// Off unless requested: there are connections only to the two servers.
#[tokio::test]
async fn nothing_is_sent_unless_it_is_asked_for() {
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let place = Place::on(&mongod.uri(), &postgres.uri("postgres"), "otlp_off").await;
    fill(&place).await;
    let mut home = Home::new(&place);
    home.set("otlp.sample", "100%");
    home.set("otlp.metrics_every", "1s");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    push(&place).await;
    place.settle(&mut docrow).await;
    let port = |uri: &str| -> u16 {
        let host = uri.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap();
        host.rsplit_once(':').unwrap().1.parse().unwrap()
    };
    assert_eq!(peers(&docrow), BTreeSet::from([port(&place.mongodb_uri), port(&place.postgres_uri)]));
    docrow.stop().await.quiet();
}

/// A wrong configuration is reported before anything is done, without anything that may be a secret. The
/// environment overrides the file; headers may be in a file; and remaining data is sent at the end.
#[tokio::test]
async fn endpoint_and_headers_are_checked_and_may_come_from_the_environment() {
    let place = Place::shared("otlp_config").await;
    fill(&place).await;
    let collector = Collector::start(false).await;
    let mut home = Home::new(&place);
    home.set("otlp.endpoint", "collector:4318/s3cr3t");
    let ended = home.run().ended().await.with_code(2).coded(Code::BadValue);
    assert!(
        ended.error().contains("otlp.endpoint: is no URL") && !ended.log.contains("s3cr3t"),
        "{}",
        ended.log
    );
    home.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.uri);
    home.env("OTEL_EXPORTER_OTLP_HEADERS", "s3cr3t");
    let ended = home.run().ended().await.with_code(2).coded(Code::BadValue);
    assert!(ended.error().contains("OTEL_EXPORTER_OTLP_HEADERS: is no list of headers"), "{}", ended.log);
    assert!(!ended.log.contains("s3cr3t") && collector.got().headers.is_empty(), "{}", ended.log);
    home.env_remove("OTEL_EXPORTER_OTLP_HEADERS");
    home.env("OTEL_EXPORTER_OTLP_HEADERS_FILE", "headers");
    fs::write(home.path().join("headers"), "x-token=s3cr3t\n").unwrap();
    home.set("otlp.sample", "0%");
    home.backfill().await;
    let got = collector.got();
    assert!(got.spans.is_empty());
    assert_eq!(got.metrics_requests, 1);
    assert_eq!(got.headers[0]["x-token"], "s3cr3t");
    let copied = format!("docrow_documents_copied_total{{collection=\"{}.orders\"}}", place.name);
    assert_eq!(as_shown(&got.metrics)[&copied], 500.0);
}
