//! Handles, during preparation, what happened to whole collections: one is gone, one was replaced by
//! documents that its tables can't hold, one can't get its tables.
//!
//! One collection's trouble never affects another: what can't be done for a collection is logged, with what
//! to do, and the others continue.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::BytesMut;
use mongodb::bson::Timestamp;

use super::Preparation;
use crate::{
    config::OnDrop,
    error::{Code, Error, Result},
    mapping::{Encoder, Framing},
    model::{
        change::Namespace,
        document_key::{self, DocumentKey, Id},
        resync_reason::Reason,
    },
    pipeline::{collection::Collection, mappings::active::Mappings, tries::Tries},
    schema::{MappingSpec, Sample},
    sink::metadata::{dead_letters::DeadKey, mapping_versions},
    source::{CollectionInfo, SAMPLE_SIZE},
};

/// What is left in PostgreSQL of a collection that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parted {
    /// Nothing.
    Forgotten,
    /// Its tables.
    Left,
}

impl Preparation<'_> {
    /// Does what the configuration says about collections that are gone, and records which ones are no longer
    /// replicated. Returns the mappings that are left, and the collections whose tables are locked: those are
    /// handled later.
    pub(super) async fn part_from_gone(
        &mut self,
        stored: Vec<mapping_versions::Mapping>,
        found: &[CollectionInfo],
        asked: &[(String, Reason)],
    ) -> Result<(Vec<mapping_versions::Mapping>, Vec<String>)> {
        if stored.is_empty() {
            return Ok((stored, Vec::new()));
        }
        let choice = self.source.choice(&self.config.include, &self.config.exclude)?;
        let found: HashSet<_> = found.iter().map(|info| info.namespace.to_string()).collect();
        let (mut left, mut parting) = (Vec::with_capacity(stored.len()), Vec::new());
        let (mut dropped, mut excluded) = (Vec::new(), Vec::new());
        for mapping in stored {
            let name = mapping.collection.clone();
            let is_included = choice.matches(&name);
            if found.contains(&name) || !is_included {
                excluded.extend((!is_included).then_some(name));
                left.push(mapping);
                continue;
            }
            let is_known = asked.iter().any(|(asked, reason)| *asked == name && *reason == Reason::Recreated);
            if !is_known || self.config.on_drop == OnDrop::Drop {
                match self.part_from(&name).await {
                    Err(error) if error.code() == Code::TargetLocked => {
                        tracing::warn!(code = %error.code(), "{name} is gone from MongoDB, but its tables are locked: {error}");
                        parting.push(name.clone());
                    }
                    Ok(Parted::Forgotten) => continue,
                    parted => drop(parted?),
                }
            }
            dropped.push(name);
            left.push(mapping);
        }
        for name in self.session.set_absent(&dropped, &excluded).await? {
            tracing::info!(
                "{name} is no longer followed, because it is not included: its rows stay as they are until docrow forget \
                 '{name}' --drop removes them"
            );
        }
        Ok((left, parting))
    }

    /// Does this for one collection. Errors: [`Code::TargetLocked`] if another session has a lock on one of
    /// its tables.
    pub(crate) async fn part_from(&mut self, name: &str) -> Result<Parted> {
        match self.config.on_drop {
            OnDrop::Drop => match self.session.drop_tables(name).await {
                // The view's owner knows nothing of the other collections: they continue.
                Err(error) if error.code() == Code::TableInUse => {
                    tracing::warn!(code = %error.code(), "{name} is gone from MongoDB, and its tables stay for now: {error}");
                }
                done => {
                    done?;
                    tracing::warn!(
                        "{name} is gone from MongoDB: its tables are dropped (on_drop = \"drop\")"
                    );
                    return Ok(Parted::Forgotten);
                }
            },
            OnDrop::Truncate => {
                self.session.empty_tables(name).await?;
                tracing::warn!(
                    "{name} is gone from MongoDB: its tables are emptied (on_drop = \"truncate\")"
                );
            }
            OnDrop::Keep => {
                tracing::warn!("{name} is gone from MongoDB: its rows are kept (on_drop = \"keep\")");
            }
        }
        // If it comes back, it is another collection of that name.
        self.session.ask_for_resync(&[name.to_owned()], Reason::Recreated).await?;
        Ok(Parted::Left)
    }

    /// Skips the collections that can't get their tables, and logs that. Error: no other is left.
    pub(super) async fn refuse(&mut self, refused: Vec<(String, Error)>, others: usize) -> Result<()> {
        let mut now = BTreeMap::new();
        for (name, error) in refused {
            if others == 0 {
                return Err(error);
            }
            let reason = error.to_string();
            if self.pipeline.monitor.refused.lock().get(&name) != Some(&reason) {
                tracing::error!(
                    code = %error.code(),
                    "{name} is stopped, other collections continue: {reason}: then start docrow again"
                );
            }
            self.session.set_stopped(&name, Some(&reason)).await?;
            now.insert(name, reason);
        }
        self.pipeline.monitor.reporter.vitals().refuse(now.clone());
        *self.pipeline.monitor.refused.lock() = now;
        Ok(())
    }

    /// Whether a collection that must be copied again can keep the keys that it is mapped with. A collection
    /// that took another's place may have entirely different keys; if it is still the same one, a few keys
    /// that do not fit are no reason to recreate its table.
    pub(super) async fn takes_its_keys(
        &self,
        mappings: &Mappings,
        spec: &MappingSpec,
        collection: &Namespace,
        reason: Reason,
    ) -> Result<bool> {
        let mut encoder = Encoder::new(Arc::new(self.config.compile(spec)?), Framing::Composite);
        let (mut sample, mut key) = (Sample::new(), BytesMut::new());
        let (mut fit, mut unfit) = (0_u64, 0_u64);
        let mut observe = |document: &_| {
            key.clear();
            *(if encoder.encode_key(document, &mut key).is_ok() { &mut fit } else { &mut unfit }) += 1;
            sample.observe(document);
        };
        self.source.sample_documents(collection, SAMPLE_SIZE, &mut observe).await?;
        let is_another = match reason {
            Reason::Replaced | Reason::Dropped | Reason::Recreated => true,
            Reason::Asked | Reason::HistoryLost => false,
        };
        if unfit == 0 || (fit > 0 && !is_another) {
            return Ok(true);
        }
        Ok(mappings.inferred(&sample, collection).key().ty == spec.key().ty)
    }

    /// Drops a collection's tables, and all that is stored about it, so that it is mapped and copied as a new
    /// one.
    pub(super) async fn begin_again(&mut self, collection: &Namespace) -> Result<()> {
        let mut tries = Tries::patient();
        while let Err(error) = self.session.drop_tables(&collection.to_string()).await {
            if !tries.outwait(&error) {
                let doing = "has keys that its tables can't hold, so they must be created again";
                return Err(error.within(format!("{collection} {doing}")));
            }
            tries.again().await;
        }
        tracing::warn!(
            "{collection} has keys that its tables can't hold: they are created again, and are empty until it is copied"
        );
        Ok(())
    }

    /// Removes the dead letters of documents that are gone at `after` or later, before a collection is copied
    /// again: no event would remove them any more. A document that comes back afterwards has one.
    pub(super) async fn forget_vanished(&mut self, collection: &Collection, after: Timestamp) -> Result<()> {
        let name = collection.name();
        let mut last = 0;
        loop {
            let letters = self.session.dead_document_keys(name, last).await?;
            let Some((number, _)) = letters.last() else { return Ok(()) };
            last = *number;
            let keys: Vec<_> = letters.iter().map(|(_, key)| &**key).collect();
            let (mut found, mut there) =
                (self.source.lookup(collection.namespace(), &keys, after).await?, HashSet::new());
            while let Some(documents) = found.next().await? {
                for document in documents.iter()? {
                    there.insert(DocumentKey::of(Id::of(document?)?));
                }
            }
            let mut vanished = Vec::new();
            for (number, key) in &letters {
                if !there.contains(&DocumentKey::of(Id::of(key)?)) {
                    vanished.push(*number);
                    collection
                        .healed(&DeadKey { collection: name.to_owned(), key: document_key::id_text(key)? });
                }
            }
            if !vanished.is_empty() {
                self.session.forget_dead_letters(&vanished).await?;
                tracing::info!(
                    "{name}: removed the dead letters of {} documents that are gone",
                    vanished.len()
                );
            }
        }
    }
}
