//! Rows that docrow reads back but did not write: they have been edited.
//!
//! What they say is worthless; only MongoDB's content counts. So each of them costs its document a repair, as
//! if `docrow verify --repair` had found it: the repair is requested here, and in its turn the document's
//! worker looks the document up and writes it whole. Until then its rows stay as they are. Rows with a key
//! that no document can have are deleted.

use std::fmt::Display;

use indicatif::HumanCount;

use crate::{
    error::Result,
    mapping::Mapping,
    pipeline::{collection::Collection, ports::RowTarget},
    sink::metadata::repair_requests::Repairs,
};

/// How many repairs are requested together.
const TOGETHER: usize = 1000;

/// Such rows of one collection.
#[derive(Default)]
pub(super) struct Foreign {
    repairs: Repairs,
    documents: u64,
    /// What is wrong with the first of them.
    why: String,
}

impl Foreign {
    /// Records that docrow did not write the rows with this key.
    pub(super) fn note(&mut self, mapping: &Mapping, key: &[u8], why: impl Display) {
        if self.documents == 0 {
            self.why = why.to_string();
        }
        self.documents += 1;
        match mapping.id_of_key(key) {
            Some(document_key) => self.repairs.documents.push(document_key),
            None => self.repairs.keys.push(key),
        }
    }

    /// Requests repairs, if there are many.
    pub(super) async fn ask_for_many(
        &mut self,
        target: &dyn RowTarget,
        collection: &Collection,
    ) -> Result<()> {
        let count = self.repairs.documents.len() + self.repairs.keys.count;
        if count >= TOGETHER { self.ask(target, collection).await } else { Ok(()) }
    }

    /// Requests the remaining repairs, and reports what was found. Returns whether there was anything.
    pub(super) async fn finish(mut self, target: &dyn RowTarget, collection: &Collection) -> Result<bool> {
        if self.documents > 0 {
            self.ask(target, collection).await?;
            tracing::warn!(
                "{}: rows of {} documents are not as docrow writes them, the first because {}: these documents are looked \
                 up in MongoDB, and written again",
                collection.name(),
                HumanCount(self.documents),
                self.why
            );
        }
        Ok(self.documents > 0)
    }

    async fn ask(&mut self, target: &dyn RowTarget, collection: &Collection) -> Result<()> {
        let repairs = std::mem::take(&mut self.repairs);
        target.ask_for_repairs(collection.name(), &repairs).await
    }
}
