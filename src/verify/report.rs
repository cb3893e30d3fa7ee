//! The report: the terms that people and scripts see. It does not know how the results were found.

use std::{fmt, time::Duration};

use super::RandomSample;
use crate::model::change::Namespace;

/// The result of the comparison.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// The pipeline's name.
    pub pipeline: String,
    /// The collections, in the order of their names.
    pub collections: Vec<ComparedCollection>,
    /// The sample, if it was one.
    pub sample: Option<RandomSample>,
    /// Whether differences were to be repaired.
    pub repaired: bool,
    /// Whether dead letters are accepted.
    pub allows_dead_letters: bool,
    /// Whether it was stopped early.
    pub stopped: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl VerifyReport {
    /// Whether PostgreSQL is proven to have every document, and every row to match its document: after the
    /// repair, if differences were repaired.
    pub fn is_equal(&self) -> bool {
        !self.stopped && self.collections.iter().all(ComparedCollection::is_equal)
    }

    /// The same, but accepting dead letters if they are allowed.
    pub fn is_accepted(&self) -> bool {
        let is_accepted = |verdict| match verdict {
            Verdict::Equal => true,
            Verdict::DeadLetters => self.allows_dead_letters,
            Verdict::Different | Verdict::NotSettled | Verdict::Copying | Verdict::Incomplete => false,
        };
        !self.stopped && self.collections.iter().map(ComparedCollection::verdict).all(is_accepted)
    }

    /// Documents that PostgreSQL does not have, because they are dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.collections.iter().map(|collection| collection.dead_letters).sum()
    }

    /// All differences, including repaired ones.
    pub fn different(&self) -> u64 {
        self.collections.iter().map(|collection| collection.different).sum()
    }
}

/// The result for a collection.
#[derive(Clone, Debug)]
pub struct ComparedCollection {
    /// The collection.
    pub namespace: Namespace,
    /// Whether it could be compared.
    pub standing: ComparisonState,
    /// Documents read.
    pub documents: u64,
    /// Rows found, in all tables.
    pub rows: u64,
    /// Documents that are dead letters.
    pub dead_letters: u64,
    /// Keys that were rechecked.
    pub rechecked: u64,
    /// How many differences there are, or were before the repair.
    pub different: u64,
    /// In how many documents, or keys without one.
    pub different_documents: u64,
    /// How many of the differences are repaired.
    pub mended: u64,
    /// Documents that were not settled.
    pub unsettled: u64,
    /// Why not, and other remarks.
    pub remarks: Vec<String>,
    /// The first of the differences, by table and key.
    pub differences: Vec<Difference>,
    /// How long it took.
    pub elapsed: Duration,
}

impl ComparedCollection {
    pub(super) fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            standing: ComparisonState::Compared,
            documents: 0,
            rows: 0,
            dead_letters: 0,
            rechecked: 0,
            different: 0,
            different_documents: 0,
            mended: 0,
            unsettled: 0,
            remarks: Vec::new(),
            differences: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// Whether PostgreSQL is proven to have every document, and every row to match its document.
    pub fn is_equal(&self) -> bool {
        self.verdict() == Verdict::Equal
    }

    /// The worst finding.
    pub fn verdict(&self) -> Verdict {
        match self.standing {
            ComparisonState::Copying => Verdict::Copying,
            ComparisonState::Incomplete => Verdict::Incomplete,
            ComparisonState::Compared if self.different > self.mended => Verdict::Different,
            ComparisonState::Compared if self.unsettled > 0 => Verdict::NotSettled,
            ComparisonState::Compared if self.dead_letters > 0 => Verdict::DeadLetters,
            ComparisonState::Compared => Verdict::Equal,
        }
    }

    /// Documents compared per second.
    pub fn rate(&self) -> f64 {
        // More than 2^53 documents are not read in one run.
        #[allow(clippy::cast_precision_loss)]
        let documents = self.documents as f64;
        documents / self.elapsed.as_secs_f64().max(0.001)
    }

    pub(super) fn remark(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }
}

/// The overall result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// PostgreSQL has every document, and every row matches its document.
    Equal,
    /// Every row is correct, but some documents have none: they are dead letters.
    DeadLetters,
    /// There are differences that are not repaired.
    Different,
    /// Some documents were not settled.
    NotSettled,
    /// It is being copied, or resynced.
    Copying,
    /// Tables or columns of it are missing.
    Incomplete,
}

impl Verdict {
    /// A word for it, for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::DeadLetters => "dead_letters",
            Self::Different => "different",
            Self::NotSettled => "not_settled",
            Self::Copying => "copying",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Whether a collection could be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonState {
    /// It was.
    Compared,
    /// It is being copied, or resynced.
    Copying,
    /// Tables or columns of it are missing.
    Incomplete,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The key of the document, as in the table's first column. `None`: the difference is not about a row.
    pub key: Option<String>,
    /// What distinguishes the row from others of the document: the names of its ordinals, and their values.
    pub row: Vec<(String, String)>,
    /// The kind of difference.
    pub what: DifferenceKind,
    /// The expected value, if values are shown, and the difference is about one.
    pub expected: Option<String>,
    /// The actual value.
    pub actual: Option<String>,
    /// Whether it is repaired.
    pub mended: bool,
}

/// The kinds of differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// A row that the document should have is missing.
    MissingRow,
    /// There is a row that the document should not have.
    ExtraRow,
    /// There are rows, or a dead letter, of a document that does not exist.
    NoDocument,
    /// A row has another value in this column.
    Column(String),
    /// The document can't have rows, and has no dead letter.
    NoDeadLetter,
    /// The table is missing.
    NoTable,
    /// The column is missing.
    NoColumn(String),
}

impl DifferenceKind {
    /// A word for it, for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MissingRow => "missing_row",
            Self::ExtraRow => "extra_row",
            Self::NoDocument => "no_document",
            Self::Column(_) => "column",
            Self::NoDeadLetter => "no_dead_letter",
            Self::NoTable => "no_table",
            Self::NoColumn(_) => "no_column",
        }
    }

    /// The column that it is about.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Column(column) | Self::NoColumn(column) => Some(column),
            _ => None,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table)?;
        if let Some(key) = &self.key {
            write!(f, ", key {key}")?;
        }
        for (name, value) in &self.row {
            write!(f, ", {name} {value}")?;
        }
        match &self.what {
            DifferenceKind::MissingRow => f.write_str(": missing row"),
            DifferenceKind::ExtraRow => f.write_str(": unexpected row"),
            DifferenceKind::NoDocument => f.write_str(": no such document"),
            DifferenceKind::Column(column) => write!(f, ": column {column} differs"),
            DifferenceKind::NoDeadLetter => f.write_str(": can't have rows, but is not a dead letter"),
            DifferenceKind::NoTable => f.write_str(": the table is missing"),
            DifferenceKind::NoColumn(column) => write!(f, ": column {column} is missing"),
        }?;
        if self.expected.is_some() || self.actual.is_some() {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".to_owned());
            write!(f, ": {}, not {}", shown(&self.actual), shown(&self.expected))?;
        }
        if self.mended { f.write_str(" (repaired)") } else { Ok(()) }
    }
}
