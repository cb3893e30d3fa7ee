//! What a check found, by what it belongs to.

use crate::error::Result;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// In the order in which a run would encounter them.
    pub findings: Vec<Finding>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// The part that it belongs to.
    pub part: FindingPart,
    /// What was checked.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// What to do, in words.
    pub advice: Option<String>,
    /// What to do: a statement for mongosh or psql, to be run by a privileged user.
    pub statement: Option<String>,
    /// For sampled documents: the values that would not be in a column.
    pub misfits: Vec<PathMisfits>,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No problem.
    Ok,
    /// A run would work, but the user may want to know.
    Note,
    /// A run would fail, or would leave documents out.
    Problem,
}

/// The part that a finding belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingPart {
    /// MongoDB.
    Source,
    /// PostgreSQL.
    Target,
    /// Mapping files, tables, and sampled documents.
    Mapping,
    /// What the copy needs: time, oplog, disk.
    Snapshot,
}

/// Values at one path that would not be in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMisfits {
    /// The path, dotted; the elements of an array have `lines[]`.
    pub path: String,
    /// Their BSON type, if it is the cause.
    pub ty: Option<&'static str>,
    /// How many there are in the sampled documents.
    pub count: u64,
    /// What would happen to them.
    pub fate: String,
}

impl FindingPart {
    /// All of them, in display order.
    pub const ALL: [Self; 4] = [Self::Source, Self::Target, Self::Mapping, Self::Snapshot];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Mapping => "mapping",
            Self::Snapshot => "snapshot",
        }
    }
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

impl CheckReport {
    /// How many findings there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Adds those of a part.
    pub(super) fn extend(&mut self, findings: PartFindings) {
        self.findings.extend(findings.0.into_iter().map(|finding| Finding { part: findings.1, ..finding }));
    }
}

/// The findings of a part.
#[derive(Debug)]
pub(super) struct PartFindings(pub(super) Vec<Finding>, FindingPart);

impl PartFindings {
    pub(super) fn new(part: FindingPart) -> Self {
        Self(Vec::new(), part)
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        subject: impl Into<String>,
        what: impl Into<String>,
    ) -> &mut Finding {
        self.0.push(Finding {
            severity,
            part: self.1,
            subject: subject.into(),
            what: what.into(),
            advice: None,
            statement: None,
            misfits: Vec::new(),
        });
        self.0.last_mut().expect("it was just added")
    }

    pub(super) fn ok(&mut self, subject: impl Into<String>, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Ok, subject, what)
    }

    pub(super) fn note(&mut self, subject: impl Into<String>, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Note, subject, what)
    }

    pub(super) fn problem(&mut self, subject: impl Into<String>, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Problem, subject, what)
    }

    /// The value, or its error as a problem: errors say what to do.
    pub(super) fn unless<T>(&mut self, subject: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(subject, error.to_string());
                None
            }
        }
    }
}

impl Finding {
    pub(super) fn advise(&mut self, advice: impl Into<String>) -> &mut Self {
        self.advice = Some(advice.into());
        self
    }

    pub(super) fn run(&mut self, statement: impl Into<String>) -> &mut Self {
        self.statement = Some(statement.into());
        self
    }
}
