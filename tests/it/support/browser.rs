//! A real headless Chromium, controlled by its DevTools protocol over two pipes
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use std::{path::Path, process::Stdio};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep},
};

use super::waiting::{DEADLINE, POLL};

/// The device that displays a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// In CSS pixels.
    pub(crate) width: u32,
    /// Whether the system is in dark mode.
    pub(crate) dark: bool,
    /// Whether it is a telephone.
    pub(crate) phone: bool,
}

/// A browser with one page.
pub(crate) struct Browser {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    /// Errors on the page.
    complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts the Chromium that `DOCROW_CHROMIUM` names, or the system's.
    pub(crate) async fn start() -> Self {
        let program = std::env::var("DOCROW_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        let profile = TempDir::with_prefix("docrow-browser-").unwrap();
        // The protocol's pipes are descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"]);
        command.args([
            "setpriv",
            "--pdeathsig",
            "KILL",
            &program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
        ]);
        command.args([
            "--disable-dev-shm-usage",
            "--no-first-run",
            // Its own requests to the internet only disturb, where there is none.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (session, calls, complaints) = (None, 0, Vec::new());
        let mut browser = Self { _child: child, to, from, session, calls, complaints, _profile: profile };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(attached["sessionId"].as_str().expect("chromium is installed").to_owned());
        for domain in ["Page.enable", "Log.enable", "Runtime.enable"] {
            browser.call(domain, json!({})).await;
        }
        browser
    }

    /// Opens a page.
    pub(crate) async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert_eq!(opened["errorText"], Value::Null, "{url}");
    }

    /// The value of an expression on the page.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        self.call("Runtime.evaluate", asked).await["result"]["value"].clone()
    }

    /// The text of the page.
    pub(crate) async fn text(&mut self) -> String {
        self.evaluate("document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page contains `text`.
    pub(crate) async fn until_it_says(&mut self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Waits until an expression is true on the page.
    pub(crate) async fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.evaluate(expression).await != true {
            assert!(Instant::now() < deadline, "never true: {expression}: {}", self.text().await);
            sleep(POLL).await;
        }
    }

    /// Displays the page on another device.
    pub(crate) async fn look(&mut self, Look { width, dark, phone }: Look) {
        let height = if phone { 844 } else { 900 };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Saves a picture of the whole page.
    pub(crate) async fn picture(&mut self, file: &Path) {
        let asked = json!({ "format": "png", "captureBeyondViewport": true });
        let taken = self.call("Page.captureScreenshot", asked).await;
        std::fs::write(file, STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    /// Errors of the page's script, and what its policy has blocked.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).await.unwrap();
        let answer = async {
            loop {
                let mut bytes = Vec::new();
                self.from.read_until(0, &mut bytes).await.unwrap();
                assert_eq!(bytes.pop(), Some(0), "{method}: there is no browser: is chromium installed?");
                let message: Value = serde_json::from_slice(&bytes).unwrap();
                if message["id"] == self.calls {
                    return message;
                }
                let is_complaint = message["method"] == "Runtime.exceptionThrown"
                    || message["method"] == "Log.entryAdded"
                        && message["params"]["entry"]["level"] == "error";
                if is_complaint {
                    self.complaints.push(message["params"].to_string());
                }
            }
        };
        let answer =
            tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| panic!("no answer to {method}"));
        assert_eq!(answer["error"], Value::Null, "{method}");
        answer["result"].clone()
    }
}
