//! What is looked at again, and what came of it.

use mongodb::bson::RawDocumentBuf;

use super::diff::DocumentDifferences;

/// A document, or a key without one, whose rows were not as they should be when they were looked at.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    /// As the key column holds it. `None`: it can't hold it.
    pub(super) key: Option<Box<[u8]>>,
    /// What the document is looked up by, `{_id: …}`. `None`: no document has this key.
    pub(super) document_key: Option<RawDocumentBuf>,
    /// About how many bytes its rows have.
    pub(super) bytes: usize,
}

/// A difference, for certain.
#[derive(Debug)]
pub(super) struct ConfirmedDifference {
    pub(super) suspect: Suspect,
    pub(super) differences: DocumentDifferences,
    /// Whether it is one no more.
    pub(super) is_mended: bool,
}

/// What came of suspects that were not cleared.
#[derive(Debug, Default)]
pub(super) struct SettledSuspects {
    pub(super) found: Vec<ConfirmedDifference>,
    /// Those of which it could not be told, and why of the last of them.
    pub(super) open: Vec<Suspect>,
    pub(super) why: Option<OpenReason>,
}

/// Why it could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenReason {
    /// They changed after the stored position, and nobody runs the pipeline.
    NotApplied,
    /// The pipeline does not get there, or they change faster than they can be looked at.
    Behind,
    /// The oplog does not go back to the stored position.
    HistoryLost,
    /// The collection is being copied anew.
    Copying,
    /// The collection is paused.
    Paused,
    /// It was told to stop.
    Stopped,
}

impl SettledSuspects {
    /// Notes suspects that nothing is certain of.
    pub(super) fn leave(&mut self, open: impl Iterator<Item = Suspect>, why: OpenReason) {
        let before = self.open.len();
        self.open.extend(open);
        if self.open.len() > before {
            self.why = Some(why);
        }
    }
}
