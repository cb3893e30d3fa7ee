//! What is written about metrics elsewhere: documentation, alerts, dashboard.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use docrow::metrics::{ALL, MetricAbout, MetricKind, MetricUnit};
use serde_json::Value;

use super::exposition::find;
use crate::support::golden;

const RULES: &str = "docker/prometheus/docrow-rules.yml";
const RULES_TEST: &str = "docker/prometheus/docrow-rules-test.yml";
const CONFIG: &str = "docker/prometheus/prometheus.yml";
const DASHBOARD: &str = "docker/grafana/docrow-dashboard.json";

/// Labels that Prometheus adds itself, or its alerts.
const PROMETHEUS: &[&str] = &["job", "instance", "le", "alertname", "alertstate", "severity"];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// All words of a text.
fn words(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Those that look like metrics of docrow's.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let ours = |word: &&str| {
        (word.starts_with("docrow_") || word.starts_with("process_")) && *word != "docrow_token"
    };
    words(text).filter(ours).collect()
}

/// Issue 6: alerts and dashboard use only metrics that exist; a test compares the names. Every metric is used
/// by one of them.
#[test]
fn alerts_and_dashboard_use_the_metrics_that_there_are() {
    let mut used = BTreeSet::new();
    for file in [RULES, RULES_TEST, CONFIG, DASHBOARD] {
        let text = read(file);
        for name in metrics_in(&text) {
            let about = find(name).unwrap_or_else(|| panic!("{file} uses {name}, which does not exist"));
            if file == RULES || file == DASHBOARD {
                used.insert(about.name);
            }
        }
    }
    let unused: Vec<_> =
        ALL.iter().map(|metric| metric.about().name).filter(|name| !used.contains(name)).collect();
    assert!(unused.is_empty(), "neither an alert nor the dashboard shows {unused:?}");
}

/// The same for labels, and for those of their values that are known.
#[test]
fn alerts_and_dashboard_use_the_labels_that_there_are() {
    let labels: Vec<_> = ALL.iter().flat_map(|metric| metric.about().labels).collect();
    for file in [RULES, RULES_TEST, DASHBOARD] {
        let text = read(file).replace("\\\"", "\"");
        // `name="value"`, `name!="value"`, `name=~"value"`.
        for (at, _) in text.match_indices("=\"").chain(text.match_indices("=~\"")) {
            let name = words(&text[..at]).next_back().unwrap();
            let value = text[at..].split('"').nth(1).unwrap();
            let known: Vec<_> = labels.iter().filter(|label| label.name == name).collect();
            assert!(!known.is_empty() || PROMETHEUS.contains(&name), "{file}: {name}=\"{value}\"");
            for label in known.iter().filter(|label| !label.values.is_empty()) {
                assert!(label.values.contains(&value), "{file}: {name} is never \"{value}\"");
            }
        }
        for list in ["by (", "on ("].iter().flat_map(|word| text.split(word).skip(1)) {
            for name in words(list.split(')').next().unwrap()) {
                let known = labels.iter().any(|label| label.name == name);
                assert!(known || PROMETHEUS.contains(&name), "{file}: by {name}");
            }
        }
    }
}

/// Every alert says how bad it is, what is the matter, and what to do; and is played through.
#[test]
fn every_alert_is_explained_and_tested() {
    let (rules, tests) = (read(RULES), read(RULES_TEST));
    let alerts: Vec<_> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 12, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for wanted in ["severity: ", "summary: ", "description: >-"] {
            assert_eq!(alert.matches(wanted).count(), 1, "{name}: {wanted}");
        }
        let severity = alert.split("severity: ").nth(1).unwrap().lines().next().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        assert!(words(&tests).any(|word| word == name), "{name} is in no test");
    }
}

/// The dashboard is one that Grafana takes: panels have places beside each other, queries names of their own.
#[test]
fn the_dashboard_is_laid_out() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id comes twice");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{title} is too wide");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(places.insert((x, y)), "{title} lies over another panel");
            }
        }
        let queries = panel["targets"].as_array().map_or(&[][..], |targets| targets);
        assert_eq!(queries.is_empty(), panel["type"] == "row", "{title}");
        let names: BTreeSet<_> = queries.iter().map(|query| query["refId"].as_str().unwrap()).collect();
        assert_eq!(names.len(), queries.len(), "{title}");
    }
    assert!(panels.len() > 20, "{}", panels.len());
}

/// What Prometheus's own tool says: that of the system, or the one that `make setup` fetched. A test that
/// needs it fails without it.
pub(super) fn promtool(arguments: &[&str], stdin: &str) -> (bool, String) {
    use std::io::Write;
    let folder = path("docker/prometheus");
    let var = |name| std::env::var(name).unwrap_or_default();
    let cache = std::env::var("DOCROW_CACHE").unwrap_or_else(|_| format!("{}/.cache/docrow", var("HOME")));
    let started = Command::new("promtool")
        .env("PATH", format!("{}:{cache}", var("PATH")))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut tool = started.unwrap_or_else(|e| panic!("promtool: {e}: `make setup` fetches it"));
    tool.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let ended = tool.wait_with_output().unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (ended.status.success(), said)
}

#[test]
fn prometheus_takes_the_alerts_and_they_fire_when_they_should() {
    for arguments in [
        ["check", "rules", "docrow-rules.yml"].as_slice(),
        // The file with the token is there in the container only.
        ["check", "config", "--syntax-only", "prometheus.yml"].as_slice(),
        ["test", "rules", "docrow-rules-test.yml"].as_slice(),
    ] {
        let (good, said) = promtool(arguments, "");
        assert!(good, "promtool {}:\n{said}", arguments.join(" "));
    }
}

/// Every query of the dashboard is one that Prometheus understands: as if it were a recording rule.
#[test]
fn prometheus_understands_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<_> = queries.map(|query| query["expr"].as_str().unwrap()).collect();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (i, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "1m");
        rules.push_str(&format!("  - record: panel{i}\n    expr: {}\n", Value::from(query)));
    }
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    fs::write(file.path(), rules).unwrap();
    let (good, said) = promtool(&["check", "rules", file.path().to_str().unwrap()], "");
    assert!(good && queries.len() > 30, "{} queries:\n{said}", queries.len());
}

/// docs/metrics.md is the table of the code. `make golden` rewrites it.
#[test]
fn the_documentation_is_the_table() {
    const MARK: &str = "<!-- made from the code: make golden -->\n";
    let written = read("docs/metrics.md");
    let (head, _) = written.split_once(MARK).expect("docs/metrics.md has a mark");
    let mut text = format!("{head}{MARK}\n| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for MetricAbout { name, kind, unit, labels, help } in ALL.iter().map(|metric| metric.about()) {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let unit = match unit {
            MetricUnit::Count => "",
            MetricUnit::Seconds => ", s",
            MetricUnit::UnixSeconds => ", Unix time",
            MetricUnit::Bytes => ", bytes",
        };
        let labels: Vec<_> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
        text.push_str(&format!("| `{name}` | {kind}{unit} | {} | {help} |\n", labels.join(", ")));
    }
    text.push_str("\n| label | values |\n|---|---|\n");
    let mut told = BTreeSet::new();
    for label in ALL.iter().flat_map(|metric| metric.about().labels) {
        if told.insert(label.name) {
            let values: Vec<_> = label.values.iter().map(|value| format!("`{value}`")).collect();
            let values = match label.name {
                "collection" => "`database.collection`: one series for each that is replicated".to_owned(),
                "pipeline" => "the pipeline's name".to_owned(),
                "version" => "docrow's version".to_owned(),
                _ => values.join(", "),
            };
            assert!(!values.is_empty(), "{}", label.name);
            text.push_str(&format!("| `{}` | {values} |\n", label.name));
        }
    }
    golden("../docs/metrics.md", &text);
}
