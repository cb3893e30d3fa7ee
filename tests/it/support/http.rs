//! Requests to docrow over HTTP, byte by byte as a browser or Prometheus would send them.

use std::fmt::Write as _;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Docrow;

/// docrow's log line when it serves.
const SERVES: &str = "dashboard: http://";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) code: u16,
    /// The headers, one a line, names in lower case.
    pub(crate) headers: String,
    /// The body.
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Docrow {
    /// `host:port` of what it serves, once it does.
    pub(crate) async fn address(&mut self) -> String {
        self.logs(SERVES).await;
        let log = self.log();
        let (_, rest) = log.split_once(SERVES).unwrap();
        rest.split('/').next().unwrap().to_owned()
    }
}

/// Asks for `path` with these headers besides the usual ones. `None`: there is no answer.
pub(crate) async fn ask(address: &str, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        write!(request, "Host: {address}\r\n").unwrap();
    }
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (status, headers) = head.split_once("\r\n")?;
    let code = status.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { code, headers: headers.replace('\r', ""), body: body.to_owned() })
}

/// Asks without more headers; there must be an answer.
pub(crate) async fn get(address: &str, path: &str) -> Answer {
    ask(address, path, &[]).await.unwrap_or_else(|| panic!("no answer to {path}"))
}
