//! `[notify]`: the webhook for notifications.

use axum::http::Uri;

use super::{
    check::ValueCheck,
    environment::DOCROW_NOTIFY_KEY,
    keys::{self, RawNotify},
};
use crate::{
    error::Result,
    secret::{self, EmptySecret, Secret},
};

/// A shorter key could be guessed.
const LEAST_KEY: usize = 16;

/// Where notifications are sent, and the key that signs them.
#[derive(Clone, PartialEq)]
pub struct NotifyConfig {
    /// Where they are posted. It may be a secret: only its host is ever shown.
    pub webhook: Uri,
    /// At least 16 bytes. None: not set, and nothing can be sent.
    pub key: Option<Secret>,
}

impl std::fmt::Debug for NotifyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NotifyConfig({:?})", self.webhook.host())
    }
}

impl ValueCheck<'_> {
    /// `None`: nothing is sent.
    pub(super) fn notify(&self, RawNotify { webhook }: RawNotify) -> Result<Option<NotifyConfig>> {
        let Some(webhook) = webhook else { return Ok(None) };
        let text = self.expand(webhook.expose(), keys::notify::webhook)?;
        if text.is_empty() {
            return Ok(None);
        }
        let webhook: Option<Uri> = text.parse().ok();
        let is_served =
            |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        let Some(webhook) = webhook.filter(is_served) else {
            return Err(self.error(keys::notify::webhook, "is no URL: use https://host/path"));
        };
        let key = secret::from_environment(DOCROW_NOTIFY_KEY, EmptySecret::IsNone)?;
        if key.as_ref().is_some_and(|key| key.expose().len() < LEAST_KEY) {
            let advice = "create one with openssl rand -hex 32";
            let short = format!(
                "{DOCROW_NOTIFY_KEY} has less than {LEAST_KEY} bytes, which could be guessed: {advice}"
            );
            return Err(self.error(keys::notify::webhook, short));
        }
        Ok(Some(NotifyConfig { webhook, key }))
    }
}
