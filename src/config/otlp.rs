//! `[otlp]`: where traces and metrics are sent. docrow reads two of OpenTelemetry's environment variables;
//! like its own, they override the file.

use std::{fmt, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{
    check::ValueCheck,
    environment::{OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS},
    keys::{self, ConfigKey, RawOtlp},
};
use crate::{
    error::{Code, Error, Result},
    secret::{self, EmptySecret, Secret},
};

/// The OpenTelemetry collector, and what to send.
#[derive(Clone, PartialEq)]
pub struct OtlpConfig {
    /// Where traces are posted. It may be a secret: only its host is ever shown.
    pub traces: Uri,
    /// The same for metrics.
    pub metrics: Uri,
    /// The headers of each request, for example a token.
    pub headers: HeaderMap,
    /// The share of the traces that is sent, from 0 to 1.
    pub sample: f64,
    /// How often metrics are sent.
    pub metrics_every: Duration,
}

impl fmt::Debug for OtlpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OtlpConfig({:?}, {}, {:?})", self.traces.host(), self.sample, self.metrics_every)
    }
}

impl ValueCheck<'_> {
    /// `None`: nothing is sent.
    pub(super) fn otlp(&self, raw: RawOtlp) -> Result<Option<OtlpConfig>> {
        let RawOtlp { endpoint, sample, metrics_every } = raw;
        let sample = self.share(&sample, keys::otlp::sample)?;
        let metrics_every = self.patience(&metrics_every, keys::otlp::metrics_every)?;
        let key = keys::otlp::endpoint;
        let (key, endpoint) =
            match (secret::from_environment(OTEL_EXPORTER_OTLP_ENDPOINT, EmptySecret::IsNone)?, endpoint) {
                (Some(endpoint), _) => (OTEL_EXPORTER_OTLP_ENDPOINT, endpoint.expose().to_owned()),
                (None, Some(endpoint)) => (key.name, self.expand(endpoint.expose(), key)?),
                (None, None) => return Ok(None),
            };
        if endpoint.is_empty() {
            return Ok(None);
        }
        let form =
            "is no URL of OTLP over HTTP: use http://host:4318, or https://host, without user and query";
        let base = endpoint.trim_end_matches('/');
        let uri = |path: &str| {
            let uri: Uri = format!("{base}{path}").parse().ok()?;
            let is_served = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
            (is_served && !base.contains(['@', '?', '#'])).then_some(uri)
        };
        let (Some(traces), Some(metrics)) = (uri("/v1/traces"), uri("/v1/metrics")) else {
            return Err(self.error(key, form));
        };
        let headers =
            secret::from_environment(OTEL_EXPORTER_OTLP_HEADERS, EmptySecret::IsNone)?.unwrap_or_default();
        let headers = headers_of(&headers).ok_or_else(|| {
            let form = "is no list of headers: use name=value,name=value, with values percent-encoded";
            Error::new(Code::BadValue, format!("environment variable {OTEL_EXPORTER_OTLP_HEADERS}: {form}"))
        })?;
        Ok(Some(OtlpConfig { traces, metrics, headers, sample, metrics_every }))
    }

    /// A percentage, as a number from 0 to 1.
    fn share(&self, text: &str, key: ConfigKey) -> Result<f64> {
        let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
        percent.filter(|percent| (0.0..=100.0).contains(percent)).map(|percent| percent / 100.0).ok_or_else(
            || {
                self.error(
                    key,
                    format!("\"{text}\" is no percentage from 0% to 100%: use for example \"10%\""),
                )
            },
        )
    }
}

/// `name=value,name=value`, values percent-encoded, in OpenTelemetry's format.
fn headers_of(text: &Secret) -> Option<HeaderMap> {
    let pairs = text.expose().split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name.trim()).ok()?, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn otlp(endpoint: &str, sample: &str, every: &str) -> Result<Option<OtlpConfig>, String> {
        let raw = RawOtlp {
            endpoint: Some(endpoint.into()),
            sample: sample.to_owned(),
            metrics_every: every.to_owned(),
        };
        ValueCheck { file: "docrow.toml", folder: Path::new("") }.otlp(raw).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_sent_unless_it_says_where_to() {
        let check = ValueCheck { file: "docrow.toml", folder: Path::new("") };
        assert_eq!(check.otlp(RawOtlp::default()).unwrap(), None);
        assert_eq!(otlp("", "100%", "60s"), Ok(None));
    }

    #[test]
    fn the_endpoint_is_what_the_paths_of_otlp_are_added_to() {
        for (endpoint, traces) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://example.org/", "https://example.org/v1/traces"),
            ("https://example.org/otlp/s3cr3t", "https://example.org/otlp/s3cr3t/v1/traces"),
        ] {
            let otlp = otlp(endpoint, "12.5%", "5s").unwrap().unwrap();
            assert_eq!(otlp.traces, traces);
            assert_eq!((otlp.sample, otlp.metrics_every), (0.125, Duration::from_secs(5)));
            assert!(!format!("{otlp:?}").contains("s3cr3t"));
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_no_secret_is() {
        let wrong = ["collector:4318", "ftp://h", "http://", "https://u:s3cr3t@h", "https://h/?key=s3cr3t"];
        for endpoint in wrong {
            let error = otlp(endpoint, "100%", "60s").unwrap_err();
            assert!(
                error.starts_with("docrow.toml: otlp.endpoint: is no URL") && !error.contains("s3cr3t"),
                "{error}"
            );
        }
        for sample in ["", "10", "-1%", "101%", "NaN%", "%"] {
            let error = otlp("http://h", sample, "60s").unwrap_err();
            assert!(error.contains("otlp.sample") && error.contains("is no percentage"), "{error}");
        }
        for every in ["soon", "10ms", "2h"] {
            assert!(otlp("http://h", "1%", every).unwrap_err().contains("otlp.metrics_every"), "{every}");
        }
    }

    #[test]
    fn headers_are_percent_encoded_pairs() {
        let headers = |text: &str| headers_of(&text.into());
        let taken = headers("authorization=Bearer%20s3cr3t%3D, X-Tenant = 7 ,").unwrap();
        assert_eq!((taken.len(), taken["authorization"].to_str().unwrap()), (2, "Bearer s3cr3t="));
        assert_eq!(taken["x-tenant"], "7");
        assert!(!format!("{taken:?}").contains("s3cr3t"));
        assert_eq!(headers("").unwrap().len(), 0);
        for wrong in ["authorization", "a b=c", "a=%0a", "=x"] {
            assert!(headers(wrong).is_none(), "{wrong}");
        }
    }
}
