//! Writes changed documents through one partition's session: encodes them, and finds the one that is refused.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::BytesMut;
use mongodb::bson::{RawDocument, RawDocumentBuf};

use super::{Collection, Counts, dead_letter_of};
use crate::{
    change::{CollectionId, Position},
    error::{Error, Kind, Result},
    key,
    mapping::{Encoder, Framing, Rows},
    sink::{
        Keys, Target,
        dead_letter::{self, DeadKey, DeadLetter},
        progress::{Partition, Reached},
        upsert::{Applier, Batch, CollectionBatch},
    },
};

/// What a document is to be.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) collection: CollectionId,
    /// The event's `documentKey`.
    pub(super) document_key: RawDocumentBuf,
    /// `None`: gone.
    pub(super) document: Option<RawDocumentBuf>,
}

impl Write {
    /// How many bytes of documents it holds.
    pub(super) fn byte_len(&self) -> usize {
        self.document.as_ref().map_or(0, |document| document.as_bytes().len())
    }
}

/// For which collections a position is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those that the batch changes.
    Touched,
    /// All.
    All,
}

/// Writes one partition's batches.
pub(super) struct Writer {
    applier: Applier,
    lanes: Vec<Lane>,
    /// The collections that were written to since a position was stored.
    touched: HashSet<CollectionId>,
    /// The documents that have a dead letter, which is to be removed once they can be written.
    dead: HashSet<DeadKey>,
    counts: Arc<Counts>,
}

/// One collection's encoder and buffers, reused from batch to batch.
struct Lane {
    collection: Collection,
    name: String,
    encoder: Encoder,
    rows: Rows,
    upserted: Keys,
    deleted: Keys,
    key: BytesMut,
    /// The position that is stored. After a restart it may be further on than the stream, which begins at the least of
    /// all; it is left alone until the stream has come there.
    stored: Option<Position>,
    /// Whether the transaction that is being made moves it.
    reaches: bool,
}

impl Writer {
    /// A writer with a session of its own. `stored` is how far all partitions have come.
    pub(super) async fn start(
        target: &Target,
        partition: Partition,
        collections: &[Collection],
        stored: &HashMap<(Partition, CollectionId), Position>,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let session = target.connect().await?;
        let dead = dead_letter::keys(&session, target.pipeline()).await?.into_iter().collect();
        let applier = Applier::new(session, target, partition).await?;
        let stored = |id| stored.get(&(partition, id)).cloned();
        let lanes =
            (0..).map(CollectionId).zip(collections).map(|(id, c)| Lane::new(c, stored(id))).collect();
        Ok(Self { applier, lanes, touched: HashSet::new(), dead, counts })
    }

    /// Makes `writes`, at most one per document, and the position that is reached with them durable. They come in one
    /// transaction, unless one of them is refused: then in halves, the position with the last of them, until the
    /// refused ones are alone and become dead letters. Each try of a lone document asks less of the target, so that there is a last one.
    pub(super) async fn write(
        &mut self,
        writes: &[Write],
        reached: Option<(&Position, Reach)>,
    ) -> Result<()> {
        self.touched.extend(writes.iter().map(|write| write.collection));
        let mut parts = vec![(writes, Refused::Not)];
        while let Some((part, refused)) = parts.pop() {
            let reached = reached.filter(|_| parts.is_empty());
            match self.apply(part, &refused, reached).await {
                Err(error) if error.kind() == Kind::TargetRefusedRows => match (part, refused) {
                    ([write], Refused::Not) => {
                        let name = self.name(write.collection);
                        tracing::warn!("{name}: a document becomes a dead letter: {error}");
                        parts.push((part, Refused::once(write, &error)));
                    }
                    ([_, ..], Refused::Not) => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([(second, Refused::Not), (first, Refused::Not)]);
                    }
                    ([_, ..], Refused::Rows(reason)) => parts.push((part, Refused::Removal(reason))),
                    ([], _) | (_, Refused::Removal(_)) => return Err(error),
                },
                applied => applied?,
            }
        }
        if reached.is_some() {
            self.touched.clear();
        }
        Ok(())
    }

    /// One transaction. `refused` is of the only document in `writes`.
    async fn apply(
        &mut self,
        writes: &[Write],
        refused: &Refused,
        reached: Option<(&Position, Reach)>,
    ) -> Result<()> {
        self.lanes.iter_mut().for_each(Lane::clear);
        let (mut letters, mut healed) = (Vec::new(), Vec::new());
        for write in writes {
            let Some(lane) = self.lanes.get_mut(write.collection.0) else { continue };
            let unfit = lane.add(write, refused)?;
            if unfit.is_some() || !self.dead.is_empty() {
                let key = DeadKey { collection: lane.name.clone(), key: key::id_text(&write.document_key)? };
                match unfit {
                    Some(letter) => letters.push(letter),
                    None if self.dead.contains(&key) => healed.push(key),
                    None => {}
                }
            }
        }
        for (id, lane) in self.lanes.iter_mut().enumerate() {
            lane.reaches = reached.is_some_and(|(position, reach)| {
                let concerned = reach == Reach::All || self.touched.contains(&CollectionId(id));
                concerned && lane.stored.as_ref().is_none_or(|stored| stored < position)
            });
        }
        let positions: Vec<Reached<'_>> = reached.map_or_else(Vec::new, |(position, _)| {
            let lanes = self.lanes.iter().filter(|lane| lane.reaches);
            lanes.map(|lane| Reached { collection: &lane.name, position }).collect()
        });
        let collections: Vec<_> = (0..).map(CollectionId).zip(&self.lanes).filter_map(Lane::batch).collect();
        if collections.is_empty() && letters.is_empty() && healed.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let batch = Batch { collections, dead_letters: &letters, healed: &healed, reached: &positions };
        self.applier.apply(&batch).await?;
        if let Some((position, _)) = reached {
            let moved = self.lanes.iter_mut().filter(|lane| lane.reaches);
            moved.for_each(|lane| lane.stored = Some(position.clone()));
        }
        Counts::add(&self.counts.dead_letters, u64::try_from(letters.len()).unwrap_or(0));
        self.dead.retain(|key| !healed.contains(key));
        self.dead.extend(letters.into_iter().map(|l| DeadKey { collection: l.collection, key: l.key }));
        Ok(())
    }

    fn name(&self, id: CollectionId) -> &str {
        self.lanes.get(id.0).map_or("", |lane| &lane.name)
    }
}

/// What the target has refused of a document, and why.
#[derive(Debug)]
enum Refused {
    /// Nothing.
    Not,
    /// The rows that it should have. Those it has are removed.
    Rows(String),
    /// That its rows are removed: they stay, perhaps because a foreign key of the user's own refers to them.
    Removal(String),
}

impl Refused {
    fn once(write: &Write, error: &Error) -> Self {
        match write.document {
            Some(_) => Self::Rows(error.to_string()),
            None => Self::Removal(error.to_string()),
        }
    }
}

impl Lane {
    fn new(collection: &Collection, stored: Option<Position>) -> Self {
        let (collection, name) = (collection.clone(), collection.namespace().to_string());
        let encoder = Encoder::new(collection.mapping.clone(), Framing::Composite);
        let rows = Rows::new(collection.mapping.tables().len());
        let (upserted, deleted, key) = (Keys::default(), Keys::default(), BytesMut::new());
        Self { collection, name, encoder, rows, upserted, deleted, key, stored, reaches: false }
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.upserted.clear();
        self.deleted.clear();
    }

    /// Encodes one write. A document that can't have rows loses those it has, and its dead letter is returned: what can't
    /// be brought up to date is not left standing as if it were, unless the target refuses that, too.
    fn add(&mut self, write: &Write, refused: &Refused) -> Result<Option<DeadLetter>> {
        // Of a document that is gone there is only the key left.
        let whole = write.document.as_ref().unwrap_or(&write.document_key);
        if let Refused::Removal(reason) = refused {
            return dead_letter_of(&self.name, whole, "", reason).map(Some);
        }
        self.key.clear();
        let encoded = self.encoder.encode_key(key::id_of(&write.document_key)?, &mut self.key);
        let letter = match (&write.document, refused) {
            (None, _) => None,
            (Some(document), Refused::Rows(reason)) => {
                Some(dead_letter_of(&self.name, document, "", reason)?)
            }
            (Some(document), _) => self.encode(document)?,
        };
        if encoded.is_ok() {
            let written = write.document.is_some() && letter.is_none();
            let keys = if written { &mut self.upserted } else { &mut self.deleted };
            keys.push(&self.key);
        }
        Ok(letter)
    }

    fn encode(&mut self, document: &RawDocument) -> Result<Option<DeadLetter>> {
        match self.encoder.encode(document, &mut self.rows) {
            Ok(()) => Ok(None),
            Err(unfit) => dead_letter_of(&self.name, document, &unfit.path, unfit.reason).map(Some),
        }
    }

    /// What there is to apply, if anything.
    fn batch((collection, lane): (CollectionId, &Lane)) -> Option<CollectionBatch<'_>> {
        let Lane { rows, upserted, deleted, .. } = lane;
        let tables = lane.collection.mapping.tables();
        (!upserted.is_empty() || !deleted.is_empty()).then_some(CollectionBatch {
            collection,
            tables,
            rows,
            upserted,
            deleted,
        })
    }
}
