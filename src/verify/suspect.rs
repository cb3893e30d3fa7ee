//! What is looked at again, and what came of it.

use mongodb::bson::RawDocumentBuf;

use super::diff::DocumentDifferences;

/// A document, or a key without one, whose rows were not as expected when they were checked.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    /// As in the key column. `None`: it can't hold the key.
    pub(super) key: Option<Box<[u8]>>,
    /// The filter to look the document up, `{_id: …}`. `None`: no document has this key.
    pub(super) document_key: Option<RawDocumentBuf>,
    /// About how many bytes its rows have.
    pub(super) bytes: usize,
}

/// A certain difference.
#[derive(Debug)]
pub(super) struct ConfirmedDifference {
    pub(super) suspect: Suspect,
    pub(super) differences: DocumentDifferences,
    /// Whether it no longer exists.
    pub(super) is_mended: bool,
}

/// The result for suspects that were not cleared.
#[derive(Debug, Default)]
pub(super) struct SettledSuspects {
    pub(super) found: Vec<ConfirmedDifference>,
    /// Those that were not settled, and why the last of them was not.
    pub(super) open: Vec<Suspect>,
    pub(super) why: Option<OpenReason>,
}

/// Why a suspect was not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenReason {
    /// They changed after the stored position, and no process runs the pipeline.
    NotApplied,
    /// The pipeline does not apply the changes, or the documents change faster than they can be rechecked.
    Behind,
    /// The oplog does not go back to the stored position.
    HistoryLost,
    /// The collection is being resynced.
    Copying,
    /// The collection is paused.
    Paused,
    /// The command was stopped.
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
