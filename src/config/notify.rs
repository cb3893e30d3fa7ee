//! `[notify]`: who is told what happens.

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

/// Whom notices are sent to, and what they are signed with.
#[derive(Clone, PartialEq)]
pub struct NotifyConfig {
    /// Where they are posted to. It may be a secret: of it only the host is ever shown.
    pub webhook: Uri,
    /// At least 16 bytes. None: it is not set, and nothing can be sent.
    pub key: Option<Secret>,
}

impl std::fmt::Debug for NotifyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NotifyConfig({:?})", self.webhook.host())
    }
}

impl ValueCheck<'_> {
    /// `None`: nobody is told.
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
            return Err(self.error(keys::notify::webhook, "is no URL: write https://host/path"));
        };
        let key = secret::from_environment(DOCROW_NOTIFY_KEY, EmptySecret::IsNone)?;
        if key.as_ref().is_some_and(|key| key.expose().len() < LEAST_KEY) {
            let advice = "openssl rand -hex 32 makes one";
            let short = format!(
                "{DOCROW_NOTIFY_KEY} has less than {LEAST_KEY} bytes, which could be guessed: {advice}"
            );
            return Err(self.error(keys::notify::webhook, short));
        }
        Ok(Some(NotifyConfig { webhook, key }))
    }
}
