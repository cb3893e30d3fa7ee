//! Dead letters, and the requests of operators.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use mongodb::bson::RawDocumentBuf;

use super::{
    super::{
        mongo::{CollectionName, name_of, namespace},
        postgres::DatabaseContents,
        transactions::repairs_of,
        world::SimulatedWorld,
    },
    connection::SimulatedConnection,
};
use crate::{
    error::Result,
    model::resync_reason::Reason,
    pipeline::ports::RequestSession,
    sink::metadata::{
        dead_letters::{Asked, DeadKey, DeadKeys},
        pauses::PauseRequest,
        repair_requests::Repairs,
        requests::{Requested, Throttle},
    },
};

#[async_trait]
impl RequestSession for SimulatedConnection {
    async fn dead_keys(&self) -> Result<DeadKeys> {
        self.query(|_, pg| dead_keys(pg, |_, _| true)).await
    }

    async fn dead_keys_among(&self, collection: &str, keys: &[String]) -> Result<DeadKeys> {
        let name = name_of(collection);
        let is_among = |of: CollectionName, key: &String| of == name && keys.contains(key);
        self.query(|_, pg| dead_keys(pg, is_among)).await
    }

    async fn dead_document_keys(&self, collection: &str, after: i64) -> Result<Vec<(i64, RawDocumentBuf)>> {
        let name = name_of(collection);
        let keys = |pg: &DatabaseContents| {
            let letters = pg.letters.iter().filter(|((of, _), letter)| *of == name && letter.id > after);
            let mut letters: Vec<_> =
                letters.map(|(_, letter)| (letter.id, letter.document_key.clone())).collect();
            letters.sort_by_key(|(id, _)| *id);
            letters
        };
        self.query(|_, pg| keys(pg)).await
    }

    async fn dead_letter_counts(&self) -> Result<HashMap<String, u64>> {
        let counts = |pg: &DatabaseContents| {
            let mut counts = HashMap::new();
            for (name, _) in pg.letters.keys() {
                *counts.entry(namespace(*name).to_string()).or_default() += 1;
            }
            counts
        };
        self.query(|_, pg| counts(pg)).await
    }

    async fn rename_dead_letters(&mut self, _: &str) -> Result<()> {
        self.wait().await
    }

    async fn forget_dead_letters(&mut self, ids: &[i64]) -> Result<()> {
        let forget = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.letters.retain(|_, letter| !ids.contains(&letter.id));
            // Their collection is about to be copied again, and its rows are of one time only after that.
            pg.settled = false;
            Ok(())
        };
        self.change("dead letters of vanished documents are deleted", forget).await
    }

    async fn requests(&self, later: &[&str]) -> Result<Requested> {
        let later: BTreeSet<_> = later.iter().map(|collection| name_of(collection)).collect();
        let requested = |pg: &DatabaseContents| Requested {
            throttle: Throttle::AsConfigured,
            resyncs: pg.resyncs.keys().map(|name| namespace(*name).to_string()).collect(),
            paused: Vec::new(),
            unheard: Vec::new(),
            repairs: pg.repairs.keys().any(|name| !later.contains(name)),
            letters: pg.letters.values().any(|letter| letter.asked.is_some()),
        };
        self.query(|_, pg| requested(pg)).await
    }

    async fn ask_for_resync(&mut self, collections: &[String], reason: Reason) -> Result<()> {
        let ask = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.resyncs.extend(collections.iter().map(|collection| (name_of(collection), reason)));
            Ok(())
        };
        self.change(&format!("a resync of {collections:?} is requested: {reason:?}"), ask).await
    }

    async fn resyncs_asked(&self) -> Result<Vec<(String, Reason)>> {
        let asked = |pg: &DatabaseContents| {
            pg.resyncs.iter().map(|(name, reason)| (namespace(*name).to_string(), *reason)).collect()
        };
        self.query(|_, pg| asked(pg)).await
    }

    async fn letters_asked(&self) -> Result<Vec<Asked>> {
        let asked = |pg: &DatabaseContents| {
            let asked = pg.letters.iter().filter_map(|((name, _), letter)| {
                let (collection, document_key) = (namespace(*name).to_string(), letter.document_key.clone());
                Some(Asked { id: letter.id, collection, document_key, at: letter.asked? })
            });
            asked.collect()
        };
        self.query(|_, pg| asked(pg)).await
    }

    async fn letters_answered(&mut self, ids: &[i64]) -> Result<()> {
        let answered = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let of = pg.letters.values_mut().filter(|letter| ids.contains(&letter.id));
            of.for_each(|letter| letter.asked = None);
            Ok(())
        };
        self.change("requests for retries are answered", answered).await
    }

    async fn take_repairs(&mut self, later: &[&str]) -> Result<Vec<(String, Repairs)>> {
        let later: BTreeSet<_> = later.iter().map(|collection| name_of(collection)).collect();
        let take = |world: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let taken: Vec<_> = pg.repairs.extract_if(.., |name, _| !later.contains(name)).collect();
            let repairs = taken.iter().map(|(name, docs)| {
                // Operators do not request them again if a crash loses them.
                world.taken.extend(docs.iter().map(|doc| (*name, *doc)));
                (namespace(*name).to_string(), repairs_of(world, docs))
            });
            Ok(repairs.collect::<Vec<_>>())
        };
        self.change("docrow takes repairs", take).await
    }

    async fn pauses(&self) -> Result<Vec<PauseRequest>> {
        self.wait().await.map(|()| Vec::new())
    }

    async fn hold_pauses(&mut self, _: &[&str]) -> Result<()> {
        self.wait().await
    }

    async fn store_report(&mut self, _: &str, _: Option<&str>) -> Result<()> {
        self.wait().await
    }
}

fn dead_keys(pg: &DatabaseContents, wanted: impl Fn(CollectionName, &String) -> bool) -> DeadKeys {
    let mut keys = DeadKeys::default();
    for ((name, _), letter) in pg.letters.iter().filter(|((name, _), letter)| wanted(*name, &letter.key)) {
        keys.insert(DeadKey { collection: namespace(*name).to_string(), key: letter.key.clone() });
    }
    keys
}
