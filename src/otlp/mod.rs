//! `[otlp]`: sends traces and metrics to an OpenTelemetry collector, by OTLP over HTTP with protobuf.
//!
//! It runs beside the pipeline, which never waits for it. Spans come from [`trace`] through a queue; metrics
//! are those that `/metrics` shows at that moment ([`figures`]). Each is sent once: spans that are not
//! accepted are dropped and counted, which is logged once per outage; the next request contains all metrics
//! again. Of the collector's URL only the host is ever shown.
//!
//! The messages are those of `opentelemetry-proto`. OpenTelemetry's SDK is not suitable: it exports only
//! metrics that it has counted itself, and its queue of spans reports what it drops only at the end.

mod figures;

use std::{future::Future, time::Duration};

use axum::http::{HeaderMap, Request, Uri, header};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::InstrumentationScope,
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use tokio::{
    sync::mpsc::Receiver,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    config::Config,
    error::{Code, Error, Result},
    http::{HttpClient, HttpRefusal},
    metrics,
    shutdown::Shutdown,
    trace::{self, attribute, text, unix_nanos},
};

/// How many spans are sent together.
const TOGETHER: usize = 512;
/// How long a span waits for others.
const GATHERING: Duration = Duration::from_secs(1);
/// For how long everything must be accepted before the next failure counts as a new outage.
const WELL: Duration = Duration::from_secs(60);
/// How long the end of the process waits for the last ones.
const FAREWELL: Duration = Duration::from_secs(2);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Does the work, and meanwhile sends what is configured.
///
/// Errors: those of the work; and that this machine has no trusted certificate authorities.
pub async fn beside<T>(config: &Config, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(otlp) = &config.otlp else { return work.await };
    let client =
        HttpClient::new().map_err(|why| Error::new(Code::BadValue, format!("otlp.endpoint: {why}")))?;
    let exporter = |uri: &Uri, what| OtlpExporter {
        client: client.clone(),
        uri: uri.clone(),
        headers: otlp.headers.clone(),
        what,
        trouble: None,
    };
    let (resource, end) = (resource(&config.name), Shutdown::default());
    let mut running = JoinSet::new();
    let spans = trace::start(otlp.sample);
    running.spawn(send_spans(exporter(&otlp.traces, "traces"), spans, resource.clone(), end.clone()));
    running.spawn(send_metrics(
        exporter(&otlp.metrics, "metrics"),
        otlp.metrics_every,
        resource,
        end.clone(),
    ));
    let finished = work.await;
    end.request();
    let done = async { while running.join_next().await.is_some() {} };
    if timeout(FAREWELL, done).await.is_err() {
        tracing::warn!("the last traces and metrics are not delivered: the collector does not accept them");
    }
    finished
}

/// The common attributes.
fn resource(pipeline: &str) -> Resource {
    let instance = format!("{:032x}", fastrand::u128(..));
    let attributes = [
        ("service.name", "docrow"),
        ("service.version", VERSION),
        ("service.instance.id", &instance),
        ("docrow.pipeline", pipeline),
    ];
    let attributes = attributes.map(|(key, value)| attribute(key, text(value))).into();
    Resource { attributes, ..Resource::default() }
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = ("docrow".to_owned(), VERSION.to_owned());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}

/// Sends spans, until the end is requested and none is left.
async fn send_spans(
    mut exporter: OtlpExporter,
    mut ended: Receiver<Span>,
    resource: Resource,
    end: Shutdown,
) {
    let mut spans = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = end.requested(), if !ended.is_closed() => {
                ended.close();
                continue;
            }
            count = ended.recv_many(&mut spans, TOGETHER) => if count == 0 {
                return;
            },
        }
        if spans.len() < TOGETHER {
            tokio::select! {
                biased;
                () = end.requested() => {}
                () = sleep(GATHERING) => {}
            }
            while let Some(span) = ended.try_recv().ok().filter(|_| spans.len() < TOGETHER) {
                spans.push(span);
            }
        }
        let count = u64::try_from(spans.len()).unwrap_or(0);
        let scope_spans =
            vec![ScopeSpans { scope: scope(), spans: std::mem::take(&mut spans), ..ScopeSpans::default() }];
        let resource = Some(resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        if !exporter.send(&ExportTraceServiceRequest { resource_spans }).await {
            metrics::SPANS_DROPPED.add(count);
        } else if trace::was_full() {
            exporter.complain("more arrive than it accepts");
        }
    }
}

/// Sends metrics periodically, and at the end.
async fn send_metrics(mut exporter: OtlpExporter, every: Duration, resource: Resource, end: Shutdown) {
    let began = unix_nanos();
    loop {
        let is_last = tokio::select! {
            biased;
            () = end.requested() => true,
            () = sleep(every) => false,
        };
        let metrics = figures::metrics(&metrics::render(), began, unix_nanos());
        let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
        let resource = Some(resource.clone());
        let resource_metrics =
            vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
        exporter.send(&ExportMetricsServiceRequest { resource_metrics }).await;
        if is_last {
            return;
        }
    }
}

/// Sends one of the two.
struct OtlpExporter {
    client: HttpClient,
    uri: Uri,
    headers: HeaderMap,
    what: &'static str,
    /// When something was last not accepted, if that was logged.
    trouble: Option<Instant>,
}

impl OtlpExporter {
    /// Returns whether it was accepted.
    async fn send(&mut self, message: &impl Message) -> bool {
        let mut request =
            Request::post(self.uri.clone()).header(header::CONTENT_TYPE, "application/x-protobuf");
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
        }
        match self.client.send(request, message.encode_to_vec()).await {
            Ok(()) if self.trouble.is_some_and(|last| last.elapsed() >= WELL) => {
                self.trouble = None;
                tracing::info!("the collector at {} accepts {} again", self.host(), self.what);
            }
            Ok(()) => {}
            Err(HttpRefusal::Passing(why) | HttpRefusal::Final(why)) => {
                self.complain(&why);
                return false;
            }
        }
        true
    }

    /// Logs what is wrong, unless it was logged before.
    fn complain(&mut self, why: &str) {
        if self.trouble.replace(Instant::now()).is_none() {
            let (host, what) = (self.host(), self.what);
            tracing::warn!("the collector at {host} does not accept all {what}: {why}: the rest is dropped");
        }
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }
}
