//! Looks for rows and dead letters of documents that do not exist, using the keys that the first pass read.
//!
//! A key that it did not read is a suspect: a document that was inserted behind the first pass also has rows.

use std::{collections::HashSet, sync::PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use super::{collection::SecondPass, sample::SampleChoice, scan::CollectionScan, suspect::Suspect};
use crate::{
    error::Result,
    mapping::Mapping,
    model::document_key::{self, DocumentKey, Id},
    sink::{Keys, metadata::dead_letters::DeadKey},
};

/// How many keys are fetched at a time.
const PAGE: u16 = 2_000;
/// How many keys are remembered, so that none is checked again for each of its tables: 8 bytes each (G11).
const REMEMBERED: usize = 4_000_000;

impl SecondPass<'_> {
    /// Finds rows without a document.
    pub(super) async fn sweep(&mut self, scan: &CollectionScan) -> Result<()> {
        let mapping = self.rechecker.ledger.lock().await.in_force().mapping.clone();
        let Some(root) = mapping.tables().first() else { return Ok(()) };
        let mut seen = scan.seen.lock().await;
        let mut known = HashSet::new();
        for table in mapping.tables() {
            let mut pages = match &scan.choice {
                None => seen.unseen(root, table).await?,
                Some(choice) => seen.sampled(root, table, choice.percent, choice.seed()).await?,
            };
            while !scan.shutdown.is_requested() {
                let keys = pages.next(PAGE).await?;
                if keys.is_empty() {
                    break;
                }
                if known.len() > REMEMBERED {
                    known.clear();
                }
                let mut suspects = suspects(&mapping, &keys);
                suspects.retain(|suspect| suspect.key.as_ref().is_none_or(|key| known.insert(xxh3_64(key))));
                if scan.choice.is_some() && table == root {
                    without_document(&mut suspects, scan).await?;
                }
                meet(&suspects, scan)?;
                self.recheck_all(suspects).await?;
            }
        }
        drop(seen);
        self.sweep_dead_letters(scan).await
    }

    async fn sweep_dead_letters(&mut self, scan: &CollectionScan) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.rechecker.ledger.lock().await.dead_documents(after).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            let mut suspects = Vec::new();
            for (_, document_key) in page {
                let is_met = || scan.met.lock().unwrap_or_else(PoisonError::into_inner);
                let identity = DocumentKey::of(Id::of(&document_key)?);
                let is_chosen =
                    scan.choice.as_ref().is_none_or(|choice: &SampleChoice| choice.takes(&identity));
                if is_chosen && !is_met().contains(&scan.name, &document_key::id_text(&document_key)?) {
                    suspects.push(Suspect { key: None, document_key: Some(document_key), bytes: 0 });
                }
            }
            if scan.shutdown.is_requested() {
                return Ok(());
            }
            self.recheck_all(suspects).await?;
        }
    }
}

/// Keeps those that have no document.
async fn without_document(suspects: &mut Vec<Suspect>, scan: &CollectionScan) -> Result<()> {
    let after = scan.source.operation_time().await?;
    let keys = suspects.iter().filter_map(|suspect| suspect.document_key.as_deref());
    let mut lookup = scan.source.lookup(&scan.info.namespace, keys, after).await?;
    let mut there = HashSet::new();
    while let Some(documents) = lookup.next().await? {
        for document in documents.iter()? {
            there.insert(DocumentKey::of(Id::of(document?)?));
        }
    }
    suspects.retain(|suspect| {
        let identity = suspect.document_key.as_ref().and_then(|key| Some(DocumentKey::of(Id::of(key).ok()?)));
        identity.is_none_or(|identity| !there.contains(&identity))
    });
    Ok(())
}

/// Marks those that have a dead letter: it is checked together with their rows, and not again by itself.
fn meet(suspects: &[Suspect], scan: &CollectionScan) -> Result<()> {
    let mut met = scan.met.lock().unwrap_or_else(PoisonError::into_inner);
    for document_key in suspects.iter().filter_map(|suspect| suspect.document_key.as_ref()) {
        let key = document_key::id_text(document_key)?;
        if scan.dead.contains(&scan.name, &key) {
            met.insert(DeadKey { collection: scan.name.clone(), key });
        }
    }
    Ok(())
}

fn suspects(mapping: &Mapping, keys: &Keys) -> Vec<Suspect> {
    let suspect =
        |key: &[u8]| Suspect { key: Some(key.into()), document_key: mapping.id_of_key(key), bytes: 0 };
    keys.iter().map(suspect).collect()
}
