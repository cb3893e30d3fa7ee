//! Prometheus's text format, as docrow writes it.

use std::collections::{BTreeMap, BTreeSet};

use docrow::metrics::{ALL, MetricAbout, MetricKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One reading of the metrics.
#[derive(Debug)]
pub(super) struct Exposition {
    pub(super) text: String,
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// Asks a process. `None`: it does not listen, or not yet.
    pub(super) async fn of(port: u16) -> Option<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(!head.contains("transfer-encoding: chunked"), "{head}");
        Some(Self::parse(body))
    }

    /// Parses it, and compares it with the table: every sample belongs to a metric that has its HELP and TYPE
    /// before it, with the table's kind, labels and values of labels.
    pub(super) fn parse(text: &str) -> Self {
        let (mut helped, mut typed, mut samples) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert_eq!(help, about(name).help, "{name}");
                assert!(helped.insert(name), "{name} comes twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let expected = match about(name).kind {
                    MetricKind::Counter => "counter",
                    MetricKind::Gauge => "gauge",
                    MetricKind::Histogram => "histogram",
                };
                assert_eq!(kind, expected, "{name}");
                typed.insert(name, kind);
            } else if !line.is_empty() {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let about = about(name);
                assert!(helped.contains(about.name) && typed.contains_key(about.name), "{line}");
                check_labels(about, labels.strip_suffix('}').unwrap(), line);
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        Self { text: text.to_owned(), samples }
    }

    /// A sample, by its name and labels; it must exist.
    #[track_caller]
    pub(super) fn get(&self, series: &str) -> f64 {
        let found = self.samples.get(series);
        *found.unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// A sample that may not exist yet.
    pub(super) fn find(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// Metrics that have no sample.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let text = &self.text;
        let names = ALL.iter().map(|metric| metric.about().name);
        names.filter(|name| !text.contains(&format!("# TYPE {name} "))).collect()
    }
}

/// The entry of the table that a sample's name belongs to.
pub(super) fn find(name: &str) -> Option<&'static MetricAbout> {
    let of = |name: &str| ALL.iter().map(|metric| metric.about()).find(|about| about.name == name);
    let histogram = || {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
        of(base).filter(|about| about.kind == MetricKind::Histogram)
    };
    of(name).or_else(histogram)
}

fn about(name: &str) -> &'static MetricAbout {
    find(name).unwrap_or_else(|| panic!("{name} is not in the table"))
}

fn check_labels(about: &MetricAbout, labels: &str, line: &str) {
    // None of these tests' names has a quote or a comma in it.
    let labels: Vec<_> = labels.split(',').filter(|label| !label.is_empty()).collect();
    let names: Vec<_> = labels.iter().map(|label| label.split('=').next().unwrap()).collect();
    let mut expected: Vec<_> = about.labels.iter().map(|label| label.name).collect();
    if names.contains(&"le") {
        assert_eq!(about.kind, MetricKind::Histogram, "{line}");
        expected.push("le");
    }
    assert_eq!(names, expected, "{line}");
    for (label, known) in labels.iter().zip(about.labels) {
        let value = label.split_once('=').unwrap().1.trim_matches('"');
        assert!(known.values.is_empty() || known.values.contains(&value), "{line}");
    }
}
