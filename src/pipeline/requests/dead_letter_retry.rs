//! Retries of dead letters.
//!
//! A letter is retried by giving its document to its worker as if it had just been updated: the worker looks
//! up its current state, as for any update, and writes that, or its dead letter again. So a retry can't take
//! a row backwards (G3).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use mongodb::bson::RawDocumentBuf;

use crate::{
    error::Result,
    failpoint::{self, Failpoint},
    model::{
        change::{Change, CollectionId, Op, Position},
        document_key::{DocumentKey, Id},
        partition::Partition,
    },
    pipeline::{collection::Collection, ports::TargetSession, stream::partitioner::Router},
    sink::metadata::dead_letters::Asked,
};

/// Hands dead letters to the workers.
pub(crate) struct Retries {
    ids: HashMap<String, CollectionId>,
    /// The collections that are paused: their letters wait.
    paused: HashSet<CollectionId>,
    /// Letters that a worker has, by their ids and the time of the request, which stays until the retry is
    /// done.
    given: HashSet<(i64, SystemTime)>,
    /// Where each partition stood at the start: a letter has no position of its own.
    stored: Arc<HashMap<(Partition, CollectionId), Position>>,
}

impl Retries {
    pub(crate) fn new(
        collections: &[Collection],
        stored: Arc<HashMap<(Partition, CollectionId), Position>>,
    ) -> Self {
        let ids = (0..).map(CollectionId).zip(collections).map(|(id, c)| (c.name().to_owned(), id)).collect();
        let paused = (0..).map(CollectionId).zip(collections).filter(|(_, c)| c.is_paused());
        let paused = paused.map(|(id, _)| id).collect();
        Self { ids, paused, given: HashSet::new(), stored }
    }

    /// Returns the requested letters that are not in progress yet, by partition.
    pub(super) async fn take(
        &mut self,
        session: &mut dyn TargetSession,
        asked: Vec<Asked>,
        router: &Router,
    ) -> Result<BTreeMap<Partition, Vec<Change>>> {
        let times: HashSet<_> = asked.iter().map(|letter| (letter.id, letter.at)).collect();
        self.given.retain(|given| times.contains(given));
        let mut unknown = Vec::new();
        let mut changes: BTreeMap<Partition, Vec<Change>> = BTreeMap::new();
        for letter in asked {
            let Some(&collection) = self.ids.get(&letter.collection) else {
                unknown.push(letter.id);
                continue;
            };
            if self.paused.contains(&collection) || !self.given.insert((letter.id, letter.at)) {
                continue;
            }
            if let Some((partition, change)) = self.update(collection, letter.document_key, router)? {
                changes.entry(partition).or_default().push(change);
            }
        }
        // Letters of a collection that is no longer included stay dead, and do not hold up the others.
        if !unknown.is_empty() {
            session.letters_answered(&unknown).await?;
            failpoint::reach(Failpoint::LettersAnswered);
        }
        Ok(changes)
    }

    /// Returns the number of a collection.
    pub(super) fn collection(&self, name: &str) -> Option<CollectionId> {
        self.ids.get(name).copied()
    }

    /// Returns a change that says that a document was just updated, and the partition that it belongs to.
    pub(super) fn update(
        &self,
        collection: CollectionId,
        document_key: RawDocumentBuf,
        router: &Router,
    ) -> Result<Option<(Partition, Change)>> {
        let key = DocumentKey::of(Id::of(&document_key)?);
        let partition = router.partition(&key);
        let position = self.stored.get(&(partition, collection)).cloned();
        let change = |position| Change { collection, key, document_key, op: Op::Update, position };
        Ok(position.map(|position| (partition, change(position))))
    }
}
