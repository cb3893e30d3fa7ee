//! Delivers notifications: one signed HTTP request each, retried with growing delays.
//!
//! The signature is HMAC-SHA-256 of the body's bytes, in hexadecimal, as `X-Docrow-Signature: sha256=…`. A
//! notification has an id, because a retried one may have arrived before.

use std::{fmt, time::Duration};

use axum::http::{Request, Uri, header};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep},
};

use crate::{
    config::{NotifyConfig, environment::DOCROW_NOTIFY_KEY},
    error::{Code, Error, Result},
    http::{HttpClient, HttpRefusal},
    metrics,
    retry::Retry,
};

/// How long a notification is retried.
const PERSISTENCE: Duration = Duration::from_secs(15 * 60);

/// A notification.
#[derive(Debug)]
pub(super) struct Notice {
    /// The event's name.
    pub(super) event: &'static str,
    /// JSON.
    pub(super) body: String,
}

/// Delivers notifications.
pub(super) struct NoticeCourier {
    client: HttpClient,
    uri: Uri,
    key: Hmac<Sha256>,
}

impl NoticeCourier {
    /// Errors: there is no key, or this machine has no trusted certificate authorities.
    pub(super) fn new(config: &NotifyConfig) -> Result<Self> {
        let Some(key) = &config.key else {
            let advice = format!(
                "set {DOCROW_NOTIFY_KEY}, or {DOCROW_NOTIFY_KEY}_FILE, to a key (openssl rand -hex 32 makes one)"
            );
            let missing = format!("notify.webhook: notifications are signed, but there is no key: {advice}");
            return Err(Error::new(Code::MissingVariable, missing));
        };
        let key = Hmac::new_from_slice(key.expose().as_bytes()).map_err(unusable)?;
        Ok(Self { client: HttpClient::new().map_err(unusable)?, uri: config.webhook.clone(), key })
    }

    /// Delivers what arrives, until the channel is closed.
    pub(super) async fn run(self, mut notices: Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            let outcome = if self.deliver(&notice).await { "delivered" } else { "dropped" };
            metrics::NOTIFICATIONS.add_to(outcome, 1);
        }
    }

    /// Returns whether it was accepted.
    async fn deliver(&self, notice: &Notice) -> bool {
        let (mut retry, deadline) = (Retry::new(), Instant::now() + PERSISTENCE);
        loop {
            let why = match self.attempt(notice).await {
                Ok(()) => return true,
                Err(HttpRefusal::Passing(why)) if Instant::now() < deadline => why,
                Err(HttpRefusal::Passing(why) | HttpRefusal::Final(why)) => {
                    let (event, host) = (notice.event, self.host());
                    tracing::warn!(
                        "a notification ({event}) is dropped: the webhook at {host} does not accept it: {why}"
                    );
                    return false;
                }
            };
            let delay = retry.after_failure();
            if retry.failures() == 1 {
                tracing::warn!(
                    "the webhook at {} does not accept a notification: {why}: trying again",
                    self.host()
                );
            }
            sleep(delay).await;
        }
    }

    async fn attempt(&self, notice: &Notice) -> Result<(), HttpRefusal> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-docrow-event", notice.event)
            .header("x-docrow-signature", self.signature(&notice.body));
        self.client.send(request, notice.body.clone()).await
    }

    fn signature(&self, body: &str) -> String {
        let hash = self.key.clone().chain_update(body).finalize().into_bytes();
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256={digits}")
    }

    /// The only part of the URI that may be shown.
    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }
}

/// A wrong configuration of the webhook.
fn unusable(why: impl fmt::Display) -> Error {
    Error::new(Code::BadValue, format!("notify.webhook: {why}"))
}
