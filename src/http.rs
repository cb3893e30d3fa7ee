//! Sends POST requests to servers that docrow reports to, over HTTP, or over TLS with the system's
//! certificate authorities.
//!
//! Error texts contain nothing of the URL: it may be a secret.

use std::{error::Error, io, time::Duration};

use axum::{
    body::Bytes,
    http::{StatusCode, header, request::Builder},
};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends requests. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Why a request was not accepted.
#[derive(Debug)]
pub enum HttpRefusal {
    /// It may be accepted later.
    Passing(String),
    /// It never will be.
    Final(String),
}

impl HttpClient {
    /// Error: this machine has no trusted certificate authorities.
    pub fn new() -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|e| format!("the system's certificates can't be read: {e}"))?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// Sends a request. Any 2xx response accepts it.
    pub async fn send(&self, request: Builder, body: impl Into<Bytes>) -> Result<(), HttpRefusal> {
        let request = request
            .header(header::USER_AGENT, concat!("docrow/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body.into()))
            .map_err(|e| HttpRefusal::Final(e.to_string()))?;
        match timeout(PATIENCE, self.0.request(request)).await {
            Err(_) => Err(HttpRefusal::Passing(format!("no answer in {} s", PATIENCE.as_secs()))),
            // The error's text may contain the URI, which may be a secret.
            Ok(Err(error)) if error.is_connect() => {
                let why = refused_certificate(&error);
                Err(HttpRefusal::Passing(why.unwrap_or_else(|| "it can't be reached".to_owned())))
            }
            Ok(Err(_)) => Err(HttpRefusal::Passing("the connection was lost".to_owned())),
            Ok(Ok(answer)) => taken(answer.status()),
        }
    }
}

/// What is wrong with the server's certificate, if that is why it can't be reached.
fn refused_certificate(error: &dyn Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            let advice = "it must be for that host, and from an authority that this system trusts, or that \
                is in the file that SSL_CERT_FILE names";
            return Some(format!("its certificate is refused: {error}: {advice}"));
        }
        // The source of an I/O error is not its inner error, but the source of that.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = inner.map(|inner| inner as _).or_else(|| error.source());
    }
    None
}

fn taken(status: StatusCode) -> Result<(), HttpRefusal> {
    let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_server_error() || passes.contains(&status) => {
            Err(HttpRefusal::Passing(format!("it answers {status}")))
        }
        status => Err(HttpRefusal::Final(format!("it answers {status}"))),
    }
}
