//! HTTP: the dashboard, the status as JSON, the metrics, and the probes for a supervisor of the process.
//!
//! It runs beside the pipeline, on the runtime's other threads, and only reads: no request changes anything,
//! and the pipeline waits for none. [`access`] decides who may look; the probes are open to everyone, and
//! reveal only whether the process is well and its stage.

mod access;
mod page;

use std::{
    future::{Future, IntoFuture},
    io,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{Mutex, Notify},
    task::JoinSet,
    time::{Instant, timeout},
};

use self::access::{AccessControl, AccessDecision};
use crate::{
    config::{Config, ServeConfig},
    error::{Code, Error, Kind, Result},
    metrics,
    process_status::{ChartPoint, Stage, Vitals},
    shutdown::Shutdown,
    sink::Target,
    status::{Status, StatusGatherer},
};

/// How long a document stays fresh, however many clients ask for it.
const FRESH: Duration = Duration::from_millis(900);
/// A client that asked for a document within this time has a page open.
const WATCHED: Duration = Duration::from_secs(5);
/// How long an ending process waits for open pages to ask once more, so that they can show that it has ended,
/// and why.
const FAREWELL: Duration = Duration::from_millis(2500);
/// How long responses in progress delay the end.
const DRAINED: Duration = Duration::from_secs(1);
/// The pipeline's task gives a sign of life every second. It may open a large state directory meanwhile.
const WEDGED: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";
/// Prometheus's text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Does the work, and meanwhile serves what the configuration says.
///
/// Errors: those of the work; and a configured address that is not available. The default address was not
/// requested: if it is in use, for example by a second pipeline on the same machine, replication continues
/// without it.
pub async fn beside<T>(
    config: &Config,
    target: &Target,
    vitals: &Arc<Vitals>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(serve) = &config.serve else { return work.await };
    let Some(listener) = bind(serve).await? else { return work.await };
    let hub = Arc::new(ServeState {
        vitals: vitals.clone(),
        access: AccessControl::new(serve),
        cache: Mutex::new(StatusCache {
            gatherer: StatusGatherer::within(target, &config.source, vitals.clone()),
            last: None,
        }),
        asked: StdMutex::new(None),
        told: Notify::new(),
    });
    let end = Shutdown::default();
    let mut serving = JoinSet::new();
    let asked_to_end = end.clone();
    let server = axum::serve(listener, router(hub.clone()))
        .with_graceful_shutdown(async move { asked_to_end.requested().await });
    serving.spawn(server.into_future());
    let finished = work.await;
    vitals.enter(Stage::Ended, finished.as_ref().err().map(Error::coded));
    hub.take_leave().await;
    end.request();
    // A client that sends its request too slowly is cut off.
    let _ = timeout(DRAINED, serving.join_next()).await;
    finished
}

/// `None`: the default address is in use.
async fn bind(serve: &ServeConfig) -> Result<Option<TcpListener>> {
    let address = serve.address;
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let bound = listener.local_addr().unwrap_or(address);
            tracing::info!("dashboard: http://{bound}/");
            Ok(Some(listener))
        }
        Err(error) if serve.is_default => {
            let advice = "set serve.listen to another address, or to \"\"";
            tracing::warn!("no dashboard, no metrics: docrow can't listen on {address}: {error}: {advice}");
            Ok(None)
        }
        Err(error) => Err(unbound(serve, error)),
    }
}

fn unbound(serve: &ServeConfig, error: io::Error) -> Error {
    let advice = "choose another address, or \"\" to serve nothing";
    Error::caused(
        Code::ListenAddress,
        format!("serve.listen: docrow can't listen on {}, {advice}", serve.address),
        error,
    )
}

/// State that all responses share.
struct ServeState {
    vitals: Arc<Vitals>,
    access: AccessControl,
    cache: Mutex<StatusCache>,
    /// When the status was last requested.
    asked: StdMutex<Option<Instant>>,
    /// Whether a client has been sent the final status.
    told: Notify,
}

struct StatusCache {
    gatherer: StatusGatherer,
    last: Option<(Instant, Arc<str>)>,
}

impl ServeState {
    /// The status as JSON.
    async fn status(&self) -> Result<Arc<str>> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let has_ended = self.vitals.stage().0 == Stage::Ended;
        let mut cache = self.cache.lock().await;
        let fresh = cache.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH && !has_ended);
        if let Some((_, document)) = fresh {
            return Ok(document.clone());
        }
        let status: Status = cache.gatherer.gather_anyway().await;
        let document: Arc<str> = json(&status)?.into();
        cache.last = Some((Instant::now(), document.clone()));
        if has_ended {
            self.told.notify_one();
        }
        Ok(document)
    }

    /// Waits until an open page has asked once more.
    async fn take_leave(&self) {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|at| at.elapsed() < WATCHED) {
            // If it does not ask, it does not learn of the end.
            let _ = timeout(FAREWELL, self.told.notified()).await;
        }
    }
}

fn router(hub: Arc<ServeState>) -> Router {
    let guarded = Router::new()
        .route("/", get(page::page))
        .route("/status", get(status))
        .route("/history", get(history))
        .route("/metrics", get(render))
        .route_layer(from_fn_with_state(hub.clone(), guard));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "there are /, /status, /history, /metrics, /healthz and /readyz\n")
        })
        .layer(map_response(with_care))
        .with_state(hub)
}

/// Checks access.
async fn guard(State(hub): State<Arc<ServeState>>, request: Request, next: Next) -> Response {
    match hub.access.admit(request.uri(), request.headers()) {
        AccessDecision::Granted => next.run(request).await,
        AccessDecision::Introduced(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        AccessDecision::Refused => (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer")],
            "the token is missing or wrong ([serve] token): send it as \"Authorization: Bearer …\", or open /?token=… in a browser\n",
        )
            .into_response(),
        AccessDecision::Foreign => (
            StatusCode::FORBIDDEN,
            "without a token ([serve] token) only this machine has access: request it as localhost\n",
        )
            .into_response(),
    }
}

/// Responses are valid for this moment, and for this client only.
async fn with_care(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn status(State(hub): State<Arc<ServeState>>) -> Response {
    match hub.status().await {
        Ok(document) => ([(header::CONTENT_TYPE, JSON)], document.to_string()).into_response(),
        Err(error) => broken(&error),
    }
}

/// The charts' data.
#[derive(Serialize)]
struct ChartHistory {
    points: Vec<ChartPoint>,
}

/// The client already knows older points.
#[derive(Deserialize)]
struct SinceQuery {
    #[serde(default)]
    since: u64,
}

async fn history(
    State(hub): State<Arc<ServeState>>,
    Query(SinceQuery { since }): Query<SinceQuery>,
) -> Response {
    let points = hub.vitals.points().into_iter().filter(|point| point.at > since).collect();
    match json(&ChartHistory { points }) {
        Ok(document) => ([(header::CONTENT_TYPE, JSON)], document).into_response(),
        Err(error) => broken(&error),
    }
}

async fn render() -> Response {
    ([(header::CONTENT_TYPE, EXPOSITION)], metrics::render()).into_response()
}

/// Whether the process is alive, that is, whether the pipeline's task makes progress.
async fn healthz(State(hub): State<Arc<ServeState>>) -> (StatusCode, String) {
    pulse(hub.vitals.stage().0, hub.vitals.silence())
}

fn pulse(stage: Stage, silence: Duration) -> (StatusCode, String) {
    let is_beating = !matches!(stage, Stage::Starting | Stage::Ended);
    if is_beating && silence > WEDGED {
        let words = format!("the pipeline has made no progress for {} s\n", silence.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, words);
    }
    (StatusCode::OK, "alive\n".to_owned())
}

/// Whether it is ready, as defined by [`Vitals::unready`].
async fn readyz(State(hub): State<Arc<ServeState>>) -> (StatusCode, String) {
    match hub.vitals.unready() {
        None => (StatusCode::OK, "live\n".to_owned()),
        Some(words) => (StatusCode::SERVICE_UNAVAILABLE, format!("{words}\n")),
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::caused(Kind::Bug, "write a JSON document", e))
}

fn broken(error: &Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_that_does_not_move_is_not_alive() {
        let alive = |stage, seconds| pulse(stage, Duration::from_secs(seconds)).0.is_success();
        assert!(alive(Stage::Live, 59) && !alive(Stage::Live, 61) && !alive(Stage::Retrying, 600));
        assert!(alive(Stage::Starting, 600), "it has not started yet");
    }
}
