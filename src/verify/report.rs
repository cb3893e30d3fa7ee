//! What was found: the nouns that people and scripts get to see. Knows nothing of how it was found.

use std::{fmt, time::Duration};

use super::RandomSample;
use crate::model::change::Namespace;

/// What the comparison found.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// The pipeline's name.
    pub pipeline: String,
    /// The collections, in the order of their names.
    pub collections: Vec<ComparedCollection>,
    /// Of what it was a sample, if it was one.
    pub sample: Option<RandomSample>,
    /// Whether differences were to be mended.
    pub repaired: bool,
    /// Whether documents that are dead letters are accepted.
    pub allows_dead_letters: bool,
    /// Whether it was told to stop before the end.
    pub stopped: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl VerifyReport {
    /// Whether PostgreSQL is proven to have every document, and every row to be as its document says: by now, where
    /// differences were mended.
    pub fn is_equal(&self) -> bool {
        !self.stopped && self.collections.iter().all(ComparedCollection::is_equal)
    }

    /// The same, but for documents that are dead letters, if these are accepted.
    pub fn is_accepted(&self) -> bool {
        let is_accepted = |verdict| match verdict {
            Verdict::Equal => true,
            Verdict::DeadLetters => self.allows_dead_letters,
            Verdict::Different | Verdict::NotSettled | Verdict::Copying | Verdict::Incomplete => false,
        };
        !self.stopped && self.collections.iter().map(ComparedCollection::verdict).all(is_accepted)
    }

    /// Documents that PostgreSQL does not have, for they are dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.collections.iter().map(|collection| collection.dead_letters).sum()
    }

    /// All differences, mended ones too.
    pub fn different(&self) -> u64 {
        self.collections.iter().map(|collection| collection.different).sum()
    }
}

/// What the comparison of a collection found.
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
    /// Keys that were looked at again.
    pub rechecked: u64,
    /// How many differences there are, or were before they were mended.
    pub different: u64,
    /// In how many documents, or keys without one.
    pub different_documents: u64,
    /// How many of the differences are mended.
    pub mended: u64,
    /// Documents of which it could not be told.
    pub unsettled: u64,
    /// Why not, and what else there is to say.
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

    /// Whether PostgreSQL is proven to have every document, and every row to be as its document says.
    pub fn is_equal(&self) -> bool {
        self.verdict() == Verdict::Equal
    }

    /// The worst that is true of it.
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

    /// Documents compared in a second.
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

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// PostgreSQL has every document, and every row is as its document says.
    Equal,
    /// So is every row, but some documents have none: they are dead letters.
    DeadLetters,
    /// There are differences that are not mended.
    Different,
    /// Of some documents it could not be told.
    NotSettled,
    /// It is being copied, or copied anew.
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
    /// It is being copied, or copied anew.
    Copying,
    /// Tables or columns of it are missing.
    Incomplete,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The key of the document, as the table's first column shows it. `None`: it is not about a row.
    pub key: Option<String>,
    /// What tells the row from others of the document: the names of its ordinals, and their values.
    pub row: Vec<(String, String)>,
    /// What is different.
    pub what: DifferenceKind,
    /// What should be there, if values are to be told, and it is about one.
    pub expected: Option<String>,
    /// What is there.
    pub actual: Option<String>,
    /// Whether it is mended.
    pub mended: bool,
}

/// What can be different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The document should have a row that is not there.
    MissingRow,
    /// There is a row that the document should not have.
    ExtraRow,
    /// There are rows, or a dead letter, of a document that does not exist.
    NoDocument,
    /// A row has another value in this column.
    Column(String),
    /// The document can't have rows, and has no dead letter.
    NoDeadLetter,
    /// The table is not there.
    NoTable,
    /// The table has no such column.
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
            DifferenceKind::MissingRow => f.write_str(": a row is missing"),
            DifferenceKind::ExtraRow => f.write_str(": a row too many"),
            DifferenceKind::NoDocument => f.write_str(": no such document"),
            DifferenceKind::Column(column) => write!(f, ": column {column} differs"),
            DifferenceKind::NoDeadLetter => f.write_str(": can't have rows, and is no dead letter"),
            DifferenceKind::NoTable => f.write_str(": the table is not there"),
            DifferenceKind::NoColumn(column) => write!(f, ": column {column} is not there"),
        }?;
        if self.expected.is_some() || self.actual.is_some() {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".to_owned());
            write!(f, ": {}, not {}", shown(&self.actual), shown(&self.expected))?;
        }
        if self.mended { f.write_str(" (mended)") } else { Ok(()) }
    }
}
