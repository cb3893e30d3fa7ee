//! Delivers notices: one HTTP request each, signed, tried again with growing delays.
//!
//! The signature is HMAC-SHA-256 of the body's bytes, in hexadecimal, as `X-Docrow-Signature: sha256=…`. A notice has an id, for one
//! that is tried again may have come before.

use std::{error::Error as Cause, io, time::Duration};

use axum::{
    body::Bytes,
    http::{Request, StatusCode, Uri, header},
};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use sha2::Sha256;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, timeout},
};

use super::unusable;
use crate::{
    config::{NOTIFY_KEY, NotifyConfig},
    error::{Code, Error, Result},
    metrics,
    retry::Retry,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a notice is tried again.
const PERSISTENCE: Duration = Duration::from_secs(15 * 60);

/// What is to be told.
#[derive(Debug)]
pub(super) struct Notice {
    /// The event's word.
    pub(super) event: &'static str,
    /// JSON.
    pub(super) body: String,
}

/// Delivers them.
pub(super) struct Courier {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    key: Hmac<Sha256>,
}

/// Why a notice was not taken.
enum Refusal {
    /// It may be taken later.
    Passing(String),
    /// It never will be.
    Final(String),
}

impl Courier {
    /// Errors: there is no key, or this machine has no certificates to believe.
    pub(super) fn new(config: &NotifyConfig) -> Result<Self> {
        let Some(key) = &config.key else {
            let advice =
                format!("set {NOTIFY_KEY}, or {NOTIFY_KEY}_FILE, to a key (openssl rand -hex 32 makes one)");
            let missing = format!("notify.webhook: notices are signed, and there is no key: {advice}");
            return Err(Error::new(Code::MissingVariable, missing));
        };
        let key = Hmac::new_from_slice(key.expose().as_bytes()).map_err(unusable)?;
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|e| unusable(format!("the system's certificates can't be read: {e}")))?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri: config.webhook.clone(),
            key,
        })
    }

    /// Delivers what comes, until no more does.
    pub(super) async fn run(self, mut notices: Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            let outcome = if self.deliver(&notice).await { "delivered" } else { "dropped" };
            metrics::NOTIFICATIONS.add_to(outcome, 1);
        }
    }

    /// Whether it was taken.
    async fn deliver(&self, notice: &Notice) -> bool {
        let (mut retry, deadline) = (Retry::new(), Instant::now() + PERSISTENCE);
        loop {
            let why = match self.attempt(notice).await {
                Ok(()) => return true,
                Err(Refusal::Passing(why)) if Instant::now() < deadline => why,
                Err(Refusal::Passing(why) | Refusal::Final(why)) => {
                    let (event, host) = (notice.event, self.host());
                    tracing::warn!(
                        "a notice ({event}) is dropped: the webhook at {host} does not take it: {why}"
                    );
                    return false;
                }
            };
            let delay = retry.after_failure();
            if retry.failures() == 1 {
                tracing::warn!("the webhook at {} does not take a notice: {why}: trying again", self.host());
            }
            sleep(delay).await;
        }
    }

    async fn attempt(&self, notice: &Notice) -> Result<(), Refusal> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("docrow/", env!("CARGO_PKG_VERSION")))
            .header("x-docrow-event", notice.event)
            .header("x-docrow-signature", self.signature(&notice.body))
            .body(Full::new(Bytes::from(notice.body.clone())))
            .map_err(|e| Refusal::Final(e.to_string()))?;
        match timeout(PATIENCE, self.client.request(request)).await {
            Err(_) => Err(Refusal::Passing(format!("no answer in {} s", PATIENCE.as_secs()))),
            // Whatever it says may hold the URI, which may be a secret.
            Ok(Err(error)) if error.is_connect() => {
                let why = refused_certificate(&error);
                Err(Refusal::Passing(why.unwrap_or_else(|| "it can't be reached".to_owned())))
            }
            Ok(Err(_)) => Err(Refusal::Passing("the connection broke off".to_owned())),
            Ok(Ok(answer)) => taken(answer.status()),
        }
    }

    fn signature(&self, body: &str) -> String {
        let hash = self.key.clone().chain_update(body).finalize().into_bytes();
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256={digits}")
    }

    /// Of the URI no more than that may be told.
    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }
}

/// What is wrong with the server's certificate, if that is why it can't be reached.
fn refused_certificate(error: &dyn Cause) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            let advice = "it must be for that host, and of an authority that this system knows, or that is in the file that \
                SSL_CERT_FILE names";
            return Some(format!("its certificate is refused: {error}: {advice}"));
        }
        // The source of an I/O error is not what is in it, but that one's source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = inner.map(|inner| inner as _).or_else(|| error.source());
    }
    None
}

fn taken(status: StatusCode) -> Result<(), Refusal> {
    let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_server_error() || passes.contains(&status) => {
            Err(Refusal::Passing(format!("it answers {status}")))
        }
        status => Err(Refusal::Final(format!("it answers {status}"))),
    }
}
