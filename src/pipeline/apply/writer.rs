//! Writes changed documents through one partition's session: encodes them, and finds those that are refused.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use mongodb::bson::Timestamp;

use super::{
    batch::Positions,
    collection_encoder::{CollectionEncoder, Refusal},
    document_write::DocumentWrite,
};
use crate::{
    error::{Kind, Result},
    failpoint::{self, Failpoint},
    metrics,
    model::{
        change::{CollectionId, Position},
        partition::Partition,
    },
    pipeline::{
        collection::{Collection, Held},
        counts::Counts,
        planted::{self, Bug},
        ports::{RowApplier, RowTarget},
    },
    sink::{
        metadata::{
            dead_letters::{DeadKey, DeadLetter},
            positions::Reached,
        },
        rows::upsert::Batch,
    },
};

/// The result of a write.
#[derive(Debug)]
pub(crate) enum Written {
    /// The writes are durable, and these positions are stored.
    All(Vec<(CollectionId, Position)>),
    /// Nothing is written: these writes have only some fields of their documents, which must be written
    /// whole.
    WholeOnly(Vec<usize>),
}

/// The collections for which a position is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionScope {
    /// Those that the batch changes.
    Touched,
    /// All.
    All,
    /// All; they, and everything written before, must be on PostgreSQL's disk afterwards.
    Lasting,
}

/// Writes one partition's batches.
pub(crate) struct BatchWriter {
    applier: Box<dyn RowApplier>,
    encoders: Vec<CollectionEncoder>,
    /// The collections written to since a position was last stored.
    touched: BTreeSet<CollectionId>,
    counts: Arc<Counts>,
    is_forgettable: bool,
    /// Up to when rows may show states, as stored without a position.
    noted: Timestamp,
    /// The number of rows written.
    written: u64,
}

/// What is written of documents besides their rows.
#[derive(Default)]
struct Letters {
    new: Vec<DeadLetter>,
    healed: Vec<DeadKey>,
}

impl BatchWriter {
    /// A writer with a session of its own. `stored` says how far all partitions have come; `fingerprint` is
    /// that of the stream to which further positions belong.
    pub(crate) async fn start(
        target: &dyn RowTarget,
        partition: Partition,
        collections: &Arc<[Collection]>,
        fingerprint: i64,
        stored: &HashMap<(Partition, CollectionId), Position>,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let applier = target.applier(partition, fingerprint).await?;
        let mut encoders = Vec::with_capacity(collections.len());
        for id in (0..collections.len()).map(CollectionId) {
            encoders
                .push(CollectionEncoder::new(collections, id, stored.get(&(partition, id)).cloned()).await);
        }
        Ok(Self {
            applier,
            encoders,
            touched: BTreeSet::new(),
            counts,
            is_forgettable: false,
            noted: Timestamp { time: 0, increment: 0 },
            written: 0,
        })
    }

    /// Stores that rows are about to show states as of `time`, ahead of the positions.
    pub(super) async fn note_ahead(&mut self, time: Timestamp) -> Result<()> {
        self.applier.note_ahead(time).await
    }

    /// Whether a crash of the server may undo the last write.
    pub(super) fn is_forgettable(&self) -> bool {
        self.is_forgettable
    }

    /// Returns the number of rows written since the last call.
    pub(crate) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Makes `writes`, at most one per document, and the positions that are reached with them durable. This
    /// takes one transaction, unless a document is refused: then the writes are halved until the refused
    /// documents are alone and become dead letters; the last part stores the position. Each try of a lone
    /// document asks less of the target, so there is a last one. If some writes have only some fields of
    /// their documents, this is tried first, and nothing else.
    ///
    /// `shown`: up to when rows show states afterwards; `None` in the order of commits.
    pub(crate) async fn write(
        &mut self,
        writes: &[DocumentWrite],
        reached: Option<(&Positions, PositionScope)>,
        shown: Option<Timestamp>,
    ) -> Result<Written> {
        let concerned: BTreeSet<_> = writes.iter().map(|write| write.collection).collect();
        let _held = self.hold(&concerned).await;
        self.touched.extend(concerned);
        let in_parts = writes.iter().any(|write| write.fields.is_some());
        let mut stored = Written::All(Vec::new());
        let mut parts = vec![(writes, Refusal::Not)];
        while let Some((part, refused)) = parts.pop() {
            let reached = reached.filter(|_| parts.is_empty());
            match self.apply(part, &refused, reached, shown).await {
                Err(error) if error.kind() == Kind::TargetRefusedRows && in_parts => {
                    tracing::debug!("documents are written whole: {error}");
                    let with_fields = writes.iter().enumerate().filter(|(_, write)| write.fields.is_some());
                    return Ok(Written::WholeOnly(with_fields.map(|(number, _)| number).collect()));
                }
                Err(error) if error.kind() == Kind::TargetRefusedRows => {
                    metrics::retried(error.kind());
                    match (part, refused) {
                        ([write], Refusal::Not) => {
                            let name = self
                                .encoders
                                .get(write.collection.0)
                                .map_or("", |encoder| encoder.collection().name());
                            tracing::warn!(code = %error.code(), "{name}: a document becomes a dead letter: {error}");
                            failpoint::reach(Failpoint::DocumentRefused);
                            parts.push((part, Refusal::once(write, &error)));
                        }
                        ([_, ..], Refusal::Not) => {
                            let (first, second) = part.split_at(part.len() / 2);
                            parts.extend([(second, Refusal::Not), (first, Refusal::Not)]);
                        }
                        ([_, ..], Refusal::Rows(reason)) => parts.push((part, Refusal::Removal(reason))),
                        ([], _) | (_, Refusal::Removal(_)) => return Err(error),
                    }
                }
                applied => stored = applied?,
            }
        }
        if let (Some(_), Written::All(_)) = (reached, &stored) {
            self.touched.clear();
        }
        Ok(stored)
    }

    /// Holds these collections' mappings, and brings their encoders up to date with them. This is done in the
    /// order of the collections, so that two workers can't wait for each other.
    async fn hold(&mut self, concerned: &BTreeSet<CollectionId>) -> Vec<Held> {
        let mut held = Vec::with_capacity(concerned.len());
        for id in concerned {
            if let Some(encoder) = self.encoders.get_mut(id.0) {
                let mapping = encoder.collection().hold().await;
                encoder.follow(&mapping);
                held.push(mapping);
            }
        }
        held
    }

    /// Runs one transaction. `refused` belongs to the only document in `writes`.
    async fn apply(
        &mut self,
        writes: &[DocumentWrite],
        refused: &Refusal,
        reached: Option<(&Positions, PositionScope)>,
        shown: Option<Timestamp>,
    ) -> Result<Written> {
        self.encoders.iter_mut().for_each(CollectionEncoder::clear);
        let (letters, whole_only) = self.encode(writes, refused)?;
        if !whole_only.is_empty() {
            return Ok(Written::WholeOnly(whole_only));
        }
        let is_durable = matches!(reached, Some((_, PositionScope::Lasting)));
        // Storing a position again makes this a transaction, which brings everything before it to the disk.
        let again = is_durable && self.is_forgettable;
        let moved: Vec<(CollectionId, Position)> = reached.map_or_else(Vec::new, |(positions, reach)| {
            let concerned = |id| reach != PositionScope::Touched || self.touched.contains(&id);
            let moves = |(id, position): &(CollectionId, &Position)| {
                let encoder = self.encoders.get(id.0).filter(|_| concerned(*id));
                encoder.is_some_and(|encoder| encoder.may_reach(position) || again && encoder.is_at(position))
            };
            let positions = positions.iter().map(|(id, position)| (*id, position));
            positions.filter(moves).map(|(id, position)| (id, position.clone())).collect()
        });
        let told = |id| moved.iter().any(|(moved, _)| *moved == id);
        if let Some(at) = writes.iter().filter(|write| !told(write.collection)).map(|write| write.at).max() {
            self.note(shown, at).await?;
        }
        let name =
            |id: &CollectionId| self.encoders.get(id.0).map_or("", |encoder| encoder.collection().name());
        let positions: Vec<Reached<'_>> =
            moved.iter().map(|(id, position)| Reached { collection: name(id), position }).collect();
        let collections: Vec<_> = self.encoders.iter().filter_map(CollectionEncoder::batch).collect();
        let parts: Vec<_> =
            self.encoders.iter().flat_map(|encoder| encoder.parts.batches(encoder.id)).collect();
        let Letters { new, healed } = &letters;
        if collections.is_empty()
            && parts.is_empty()
            && new.is_empty()
            && healed.is_empty()
            && positions.is_empty()
        {
            return Ok(Written::All(moved));
        }
        let batch =
            Batch { collections, parts, dead_letters: new, healed, reached: &positions, shown, is_durable };
        self.written += self.applier.apply(&batch).await?.written;
        self.is_forgettable = !is_durable;
        if !new.is_empty() {
            failpoint::reach(Failpoint::LetterCommitted);
        }
        for (id, position) in &moved {
            if let Some(encoder) = self.encoders.get_mut(id.0) {
                encoder.stored = Some(position.clone());
            }
        }
        self.encoders.iter_mut().for_each(CollectionEncoder::count);
        self.count(&letters);
        Ok(Written::All(moved))
    }

    /// Stores how far rows are about to be ahead of their positions. In the order of commits that is `at`,
    /// since when their documents have not changed.
    async fn note(&mut self, shown: Option<Timestamp>, at: Timestamp) -> Result<()> {
        let until = shown.unwrap_or(at);
        if until <= self.noted || planted::has(Bug::PartNotNoted) {
            return Ok(());
        }
        match shown {
            Some(shown) => self.applier.note_shown(shown).await?,
            None => self.applier.note_ahead(at).await?,
        }
        self.noted = until;
        Ok(())
    }

    /// Encodes the writes into their encoders, and returns which can't be written unless they are whole.
    /// Writes to a collection that is stopped, or that this stops, are left out.
    fn encode(&mut self, writes: &[DocumentWrite], refused: &Refusal) -> Result<(Letters, Vec<usize>)> {
        let (mut letters, mut whole_only) = (Letters::default(), Vec::new());
        for (number, write) in writes.iter().enumerate() {
            let Some(encoder) = self.encoders.get_mut(write.collection.0) else { continue };
            if encoder.collection().stopped().is_some() {
                continue;
            }
            if let (Some(fields), Some(document)) = (&write.fields, &write.document) {
                if !encoder.add_part(&write.document_key, fields, document)? {
                    whole_only.push(number);
                }
                continue;
            }
            match encoder.add(write, refused)? {
                Some(letter) => letters.new.push(letter),
                None => letters.healed.extend(encoder.collection().dead_key(&write.document_key)?),
            }
        }
        for encoder in &mut self.encoders {
            if encoder.collection().stopped().is_some() {
                encoder.clear();
                letters.new.retain(|letter| letter.collection != encoder.collection().name());
                letters.healed.retain(|key| key.collection != encoder.collection().name());
            }
        }
        Ok((letters, whole_only))
    }

    /// Records the changes of dead letters that were written. Too many letters stop their collection.
    fn count(&self, Letters { new, healed }: &Letters) {
        Counts::add(&self.counts.dead_letters, u64::try_from(new.len()).unwrap_or(0));
        let of =
            |name: &str| self.encoders.iter().map(CollectionEncoder::collection).find(|c| c.name() == name);
        for key in healed {
            of(&key.collection).into_iter().for_each(|collection| collection.healed(key));
        }
        for letter in new {
            of(&letter.collection)
                .into_iter()
                .for_each(|collection| collection.record_dead_letters([letter]));
        }
    }
}
