//! Access control.
//!
//! With a token: a client that sends it as `Authorization: Bearer`, or, for a browser, once as `/?token=`. A
//! browser then gets a cookie that is derived from the token but is not the token. Comparisons take constant
//! time: both sides are hashed, and a constant-time function compares the hashes.
//!
//! Without a token: only this machine, because the address is local. A page of another origin in a browser on
//! this machine can't read responses either, even if its host's name resolves to this machine: such a request
//! names that host.

use std::net::IpAddr;

use axum::{
    extract::Query,
    http::{HeaderMap, HeaderValue, Uri, header, uri::Authority},
};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::config::ServeConfig;

/// The response to a request.
pub(super) enum AccessDecision {
    /// The requested resource.
    Granted,
    /// This cookie.
    Introduced(HeaderValue),
    /// An error: a token is needed.
    Refused,
    /// An error: the request must come from this machine.
    Foreign,
}

/// Decides about access.
pub(super) struct AccessControl(Option<TokenKey>);

struct TokenKey {
    token: Vec<u8>,
    /// The cookie of a browser that sent the token.
    cookie: String,
    /// Its name. All ports of a host share cookies.
    cookie_name: String,
}

#[derive(Deserialize)]
struct TokenQuery {
    token: String,
}

impl AccessControl {
    pub(super) fn new(serve: &ServeConfig) -> Self {
        Self(serve.token.as_ref().map(|token| {
            let token = token.expose().as_bytes();
            let cookie = mac(token, b"the cookie of docrow's page").finalize().into_bytes();
            TokenKey {
                token: token.to_owned(),
                cookie: cookie.iter().map(|byte| format!("{byte:02x}")).collect(),
                cookie_name: format!("docrow_{}", serve.address.port()),
            }
        }))
    }

    pub(super) fn admit(&self, uri: &Uri, headers: &HeaderMap) -> AccessDecision {
        match &self.0 {
            None if is_local(headers) => AccessDecision::Granted,
            None => AccessDecision::Foreign,
            Some(key) if key.opens(headers) => AccessDecision::Granted,
            Some(key) => key.introduce(uri),
        }
    }
}

impl TokenKey {
    fn opens(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let bearer = text(header::AUTHORIZATION)
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if bearer.is_some_and(|(_, token)| are_same(token.trim().as_bytes(), &self.token)) {
            return true;
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|c| c.trim().split_once('='));
        cookies.any(|(name, value)| {
            name == self.cookie_name && are_same(value.as_bytes(), self.cookie.as_bytes())
        })
    }

    fn introduce(&self, uri: &Uri) -> AccessDecision {
        let known = Query::<TokenQuery>::try_from_uri(uri)
            .is_ok_and(|introduction| are_same(introduction.token.as_bytes(), &self.token));
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Lax", self.cookie_name, self.cookie);
        match HeaderValue::from_str(&cookie) {
            Ok(cookie) if known && uri.path() == "/" => AccessDecision::Introduced(cookie),
            _ => AccessDecision::Refused,
        }
    }
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length").chain_update(text)
}

/// In constant time, except for hashing inputs of different lengths.
fn are_same(given: &[u8], secret: &[u8]) -> bool {
    let key = b"docrow compares";
    mac(key, given).verify(&mac(key, secret).finalize().into_bytes()).is_ok()
}

/// Whether the request names this machine. A request without a host does not come from a browser.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_name = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    is_name || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const TOKEN: &str = "an+odd=token&with%25";

    fn access(token: Option<&str>) -> AccessControl {
        let token = token.map(Secret::from);
        AccessControl::new(&ServeConfig { address: ([127, 0, 0, 1], 8745).into(), is_default: false, token })
    }

    fn admit(access: &AccessControl, uri: &str, headers: &[(header::HeaderName, &str)]) -> AccessDecision {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        access.admit(&uri.parse().unwrap(), &headers.collect())
    }

    fn granted(access: &AccessControl, header: (header::HeaderName, &str)) -> bool {
        matches!(admit(access, "/status", &[header]), AccessDecision::Granted)
    }

    /// Contract: the token as `Authorization: Bearer`, and once as `?token=` for a cookie.
    #[test]
    fn the_token_opens() {
        let access = access(Some(TOKEN));
        assert!(granted(&access, (header::AUTHORIZATION, &format!("Bearer {TOKEN}"))));
        assert!(granted(&access, (header::AUTHORIZATION, &format!("bearer  {TOKEN}"))));
        for wrong in ["", "Bearer", "Bearer ", "Bearer an+odd", &format!("Basic {TOKEN}"), TOKEN] {
            assert!(!granted(&access, (header::AUTHORIZATION, wrong)), "{wrong}");
        }
        let encoded = "/?token=an%2Bodd%3Dtoken%26with%2525";
        let AccessDecision::Introduced(cookie) = admit(&access, encoded, &[]) else { panic!("no cookie") };
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax") && !cookie.contains(TOKEN), "{cookie}");
        let (pair, _) = cookie.split_once(';').unwrap();
        assert!(granted(&access, (header::COOKIE, &format!("other=1; {pair}"))));
        assert!(!granted(&access, (header::COOKIE, &pair.replace('=', "=0"))));
        assert!(!granted(&access, (header::COOKIE, &format!("docrow_8745={TOKEN}"))));
        for wrong in ["/?token=an", "/", "/status?token=an%2Bodd%3Dtoken%26with%2525"] {
            assert!(matches!(admit(&access, wrong, &[]), AccessDecision::Refused), "{wrong}");
        }
    }

    #[test]
    fn without_a_token_only_this_machine_is_asked_for() {
        let access = access(None);
        for local in ["localhost", "LOCALHOST:8745", "127.0.0.1:1", "[::1]:8745", "docrow.localhost"] {
            assert!(
                matches!(admit(&access, "/", &[(header::HOST, local)]), AccessDecision::Granted),
                "{local}"
            );
        }
        assert!(matches!(admit(&access, "/", &[]), AccessDecision::Granted));
        for foreign in
            ["evil.example:8745", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "a b"]
        {
            assert!(
                matches!(admit(&access, "/", &[(header::HOST, foreign)]), AccessDecision::Foreign),
                "{foreign}"
            );
        }
    }
}
