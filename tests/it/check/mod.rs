//! `docrow check`, and the roles of docs/roles.md.

mod findings;
mod privileges;
mod roles;
mod statements;

use serde_json::Value;

use crate::support::Home;

/// The output of `docrow check --json`, which must end with `code`.
async fn check(home: &Home, code: i32) -> Value {
    let ended = home.finish(&["check", "--json"]).await.with_code(code).quiet();
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["problems"] == 0, code == 0, "{report:#}");
    report
}

/// The findings of a severity.
fn of<'a>(report: &'a Value, severity: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == severity).collect()
}

/// The only finding of a severity.
#[track_caller]
fn only<'a>(report: &'a Value, severity: &str) -> &'a Value {
    let found = of(report, severity);
    assert_eq!(found.len(), 1, "{report:#}");
    found[0]
}

/// The finding about a subject that says `what`.
#[track_caller]
fn about<'a>(report: &'a Value, severity: &str, subject: &str, what: &str) -> &'a Value {
    let mut found = of(report, severity).into_iter();
    let says = |finding: &&Value| {
        finding["subject"] == subject && finding["what"].as_str().is_some_and(|text| text.contains(what))
    };
    found.find(says).unwrap_or_else(|| panic!("no {severity} of {subject} says {what}: {report:#}"))
}
