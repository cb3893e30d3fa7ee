//! The preflight: everything that a run would meet, said beforehand, each with what to do about it.
//!
//! Each part looks for itself, so that one failure does not hide the others: a target that is away keeps nobody from
//! hearing what is wrong with the source. Nothing is written on either side, nor in the state directory.
//!
//! Wherever it can, it asks in the way in which a run would: the same connection, the same listing, a change stream that is
//! opened for real, the same plan of tables. What it says about privileges it reads from what the servers say of them,
//! so that a statement can be given that grants just what is missing.
//!
//! No finding holds a document's value (G12): of documents it tells paths, types and counts.

mod capacity;
mod documents;
mod format;
mod history;
mod narrow;
mod source;
mod state;
mod target;

use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

use self::documents::Known;
use crate::{config::Config, error::Result, pipeline, sink::metadata::mapping_versions};

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which a run would come to them.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it belongs to.
    pub part: Part,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// What to do, in words.
    pub advice: Option<String>,
    /// What to do: a statement, for mongosh or psql, for somebody who may.
    pub statement: Option<String>,
    /// Of documents that were tried: what would not be in a column.
    pub misfits: Vec<Misfit>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// A run works, but somebody may want to know.
    Note,
    /// A run would fail, or would leave documents out.
    Problem,
}

/// What a finding belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// MongoDB.
    Source,
    /// PostgreSQL.
    Target,
    /// Mapping files, tables, and documents that were tried.
    Mapping,
    /// What the copy takes: time, oplog, disk.
    Snapshot,
}

/// Values at one path that would not be in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The path, dotted; the elements of an array have `lines[]`.
    pub path: String,
    /// Their BSON type, where that is what matters.
    pub ty: Option<&'static str>,
    /// How many there are among the documents tried.
    pub count: u64,
    /// What would become of them.
    pub fate: String,
}

impl Part {
    /// All of them, in the order in which they are told.
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

impl Report {
    /// How many findings there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn extend(&mut self, findings: Findings) {
        self.findings.extend(findings.0.into_iter().map(|finding| Finding { part: findings.1, ..finding }));
    }
}

/// Checks all that `config` says, trying `size` documents of each collection.
pub async fn run(config: &Config, size: u32) -> Report {
    let mut report = Report::default();
    let ((of_source, source), (of_target, mut target)) =
        tokio::join!(source::check(config), target::check(config));
    report.extend(of_source);
    report.extend(of_target);
    let stored = match &target {
        // What can't be read is a finding when the mappings are looked at.
        Some((target, session)) => {
            mapping_versions::load(session, target.pipeline()).await.unwrap_or_default()
        }
        None => Vec::new(),
    };
    let known = source.as_ref().filter(|found| found.allowed).map(|found| Known {
        included: &found.collections,
        others: &found.others,
        stored: stored.into_iter().map(|mapping| mapping.collection).collect(),
    });
    let (of_files, files) = documents::files(config, known);
    report.extend(of_files);
    let mut rate = None;
    if let (Some(found), Some(files)) = (&source, &files) {
        let asked = target.as_mut().map(|(target, session)| (&*target, session));
        let previewed = pipeline::preview((config, files), &found.source, &found.collections, asked);
        // What a run would log, the findings say.
        let previewed = previewed.with_subscriber(NoSubscriber::new()).await;
        let (of_documents, measured) = documents::check(config, found, previewed, size).await;
        report.extend(of_documents);
        rate = measured;
        if let Some((target, session)) = &target {
            report.extend(narrow::check(target, session).await);
        }
    }
    report.extend(history::check(config).await);
    report.extend(state::check(config));
    if let Some(found) = &source {
        report.extend(capacity::check(config, found, rate));
        found.source.close().await;
    }
    report.findings.sort_by_key(|finding| Part::ALL.iter().position(|part| *part == finding.part));
    report
}

/// The findings of a part.
#[derive(Debug)]
struct Findings(Vec<Finding>, Part);

impl Findings {
    fn of(part: Part) -> Self {
        Self(Vec::new(), part)
    }

    fn add(
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

    fn ok(&mut self, subject: impl Into<String>, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Ok, subject, what)
    }

    fn note(&mut self, subject: impl Into<String>, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Note, subject, what)
    }

    fn problem(&mut self, subject: impl Into<String>, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Problem, subject, what)
    }

    /// The value, or its error as a problem: errors say what to do.
    fn unless<T>(&mut self, subject: &str, outcome: Result<T>) -> Option<T> {
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
    fn advise(&mut self, advice: impl Into<String>) -> &mut Self {
        self.advice = Some(advice.into());
        self
    }

    fn run(&mut self, statement: impl Into<String>) -> &mut Self {
        self.statement = Some(statement.into());
        self
    }
}
