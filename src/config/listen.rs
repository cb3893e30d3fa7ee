//! `[serve]`: where the dashboard, the status and the metrics are served, and who has access.
//!
//! Names of collections and error texts are not public: an address that other machines can reach requires a
//! token.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    check::ValueCheck,
    keys::{self, RawServe},
};
use crate::{error::Result, secret::Secret};

/// The default address.
pub const DEFAULT_PORT: u16 = 8745;

/// A shorter one could be guessed.
const LEAST_TOKEN: usize = 16;

/// The HTTP server's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// The address.
    pub address: SocketAddr,
    /// Whether the address is the default: then it is no error if it is in use.
    pub is_default: bool,
    /// The token that requests must contain. It exists if other machines can reach the address.
    pub token: Option<Secret>,
}

impl ValueCheck<'_> {
    /// `None`: nothing is served.
    pub(super) fn serve(&self, RawServe { listen, token }: RawServe) -> Result<Option<ServeConfig>> {
        let is_default = listen.is_none();
        let address = match listen.map(|text| self.expand(&text, keys::serve::listen)).transpose()? {
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            Some(text) if text.is_empty() => return Ok(None),
            Some(text) => text.replacen("localhost:", "127.0.0.1:", 1).parse().map_err(|_| {
                let form =
                    "use an IP address with a port, for example \"127.0.0.1:8745\", or \"\" to serve nothing";
                self.error(keys::serve::listen, format!("\"{text}\" is no address: {form}"))
            })?,
        };
        let token = token.map(|text| self.expand(&text, keys::serve::token)).transpose()?;
        let token = match token {
            None if !address.ip().to_canonical().is_loopback() => {
                let advice = format!(
                    "set token = \"${{DOCROW_TOKEN}}\" and that variable to a secret of at least \
                     {LEAST_TOKEN} characters (create one with openssl rand -hex 32), or listen on 127.0.0.1"
                );
                let why = format!("missing: other machines can reach {address}");
                return Err(self.error(keys::serve::token, format!("{why}: {advice}")));
            }
            Some(token) if token.len() < LEAST_TOKEN || token.contains(|c: char| !c.is_ascii_graphic()) => {
                let advice = format!("must have at least {LEAST_TOKEN} ASCII characters, without spaces");
                return Err(self.error(keys::serve::token, advice));
            }
            token => token.map(Secret::from),
        };
        Ok(Some(ServeConfig { address, is_default, token }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn serve(listen: Option<&str>, token: Option<&str>) -> Result<Option<ServeConfig>, String> {
        let [listen, token] = [listen, token].map(|text| text.map(str::to_owned));
        ValueCheck { file: "docrow.toml", folder: Path::new("") }
            .serve(RawServe { listen, token })
            .map_err(|e| e.to_string())
    }

    #[test]
    fn is_local_unless_asked_for() {
        let default = serve(None, None).unwrap().unwrap();
        assert_eq!((default.address.to_string().as_str(), default.is_default), ("127.0.0.1:8745", true));
        assert_eq!(serve(Some(""), None), Ok(None));
        for local in ["127.0.0.1:1", "localhost:80", "[::1]:9000", "127.1.2.3:5", "[::ffff:127.0.0.1]:1"] {
            let serve = serve(Some(local), None).unwrap().unwrap();
            assert!(!serve.is_default && serve.token.is_none(), "{local}");
        }
        for wrong in ["8745", "127.0.0.1", "host:1", "127.0.0.1:70000"] {
            let error = serve(Some(wrong), None).unwrap_err();
            assert!(error.contains("serve.listen") && error.contains("is no address"), "{error}");
        }
    }

    /// Contract: `[serve] token` is required on any address but a local one.
    #[test]
    fn others_need_a_token() {
        for open in ["0.0.0.0:8745", "[::]:8745", "192.168.1.7:80"] {
            let error = serve(Some(open), None).unwrap_err();
            assert!(error.contains("serve.token: missing") && error.contains("DOCROW_TOKEN"), "{error}");
            assert!(serve(Some(open), Some("0123456789abcdef")).unwrap().unwrap().token.is_some());
        }
        for weak in ["", "short", "0123456789 abcdef", "0123456789abcdéf"] {
            let error = serve(None, Some(weak)).unwrap_err();
            assert!(error.contains("serve.token: must have at least 16"), "{error}");
            assert!(weak.is_empty() || !error.contains(weak), "{error}");
        }
    }
}
