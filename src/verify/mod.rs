//! The proof: compares every document of every included collection with its rows, in full, while both are written to.
//!
//! For each document it is computed anew which rows the mapping in force makes of it; they are compared with those in
//! the tables column by column, by the bytes in which PostgreSQL sends them (`jsonb` by its content). Every table is searched
//! for rows that belong to no document. A document with a dead letter has no rows, which is as it should be and yet not equal: PostgreSQL
//! does not have it. Nor, where deletes are soft, has one rows that was deleted: those that stay, marked in the root, do not count.
//!
//! # What a difference is
//!
//! A first pass ([`scan`]) reads both sides as fast as they come, each document before its rows. What is equal then is proven: the
//! rows show a state that the document had since the comparison began. What is not equal is a *suspect*, no more: its rows may be
//! behind the document, or ahead of it. Suspects are looked at again ([`recheck`]), in this order:
//!
//! 1. the stored position `P`, the least of all partitions in the collection; 2. the suspects' rows; 3. the cluster's time, and
//!    after it the documents, by a majority read that states a time `T` which nothing it saw is later than; 4. the change stream
//!    after `P`, up to `T` ([`window`]).
//!
//! Everything up to `P` was in the rows when they were read, for rows and positions commit together (and what commits without
//! waiting for the disk is seen at once). Nothing after `T` was: what the pipeline can have written by then it had read from a
//! majority before. So if the stream has no event of the document between `P` and `T`, the document had one state in all that
//! time, its rows must show it, and if they don't, that is a **difference**. (It must be found a second time, which covers what
//! has no event: a dead letter tried again, a mapping put in force, a resync begun.)
//!
//! If there is an event, the suspect stays open. Its rows may also show another state that it had since it became one; MongoDB
//! from 5.0 on tells what these were, and if the rows are as one of them, they are proven like those that were equal at first: so a
//! document that never rests is judged, too. Otherwise it is looked at again when the stored positions have passed `T`, for a bounded number of times with growing waits. What
//! is open at the end was **not settled**: changed faster than it could be looked at, or changed and the pipeline did not get
//! there: it is behind, or nobody runs it. That is no difference, and no proof either: it is said, with the reason, and the exit
//! code is 1.
//!
//! Rows without document, and dead letters without one, are suspects by their key, from which follows the `_id` that a document
//! would have; of a key that none can have, there is no document.
//!
//! # What is compared when
//!
//! While a collection is copied by a running process, it is left out, and that is said. If nobody runs the pipeline, all is compared
//! as it stands. When a mapping evolves, suspects are judged by the one in force once its columns are filled.
//!
//! Memory: a batch per worker (8 MB of rows, or one document), a reply of MongoDB, the keys of suspects, and of the stream two
//! million events of 16 bytes (G11). The keys that were met are in a temporary table of PostgreSQL.
//!
//! Repair is others' work ([`crate::pipeline`]): here it is asked for, and looked at again.

mod batch;
mod collection;
mod diff;
mod options;
mod orphan_rows;
mod pipeline_state;
mod recheck;
mod recheck_batch;
mod repair;
mod report;
mod sample;
mod scan;
mod schedule;
mod suspect;
mod verified;
mod window;

use std::{collections::HashSet, sync::Arc};

use tokio::time::Instant;

use self::collection::Verification;
pub use self::{
    options::VerifyOptions,
    report::{ComparedCollection, ComparisonState, Difference, DifferenceKind, Verdict, VerifyReport},
    sample::RandomSample,
    schedule::beside,
    verified::{Verified, VerifiedCollection, take_out_mended},
};
use crate::{
    config::Config,
    error::Result,
    rate_limit::Pace,
    shutdown::Shutdown,
    sink::Target,
    source::{self, CollectionInfo, Source},
    telemetry::Reporter,
};

/// Compares the included collections. Errors: a server is away or refuses; a collection has never been copied by this
/// pipeline, or is not known. Ends early, with what it has compared so far, when it is told to stop.
pub async fn run(
    config: &Config,
    options: &VerifyOptions,
    reporter: &Reporter,
    shutdown: &Shutdown,
) -> Result<VerifyReport> {
    let began = Instant::now();
    let source = Source::connect(config.source.expose()).await?;
    let found = source.collections(&config.include, &config.exclude).await?;
    let found = narrowed(&options.collections, found)?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let pace = Arc::new(Pace::new(options.max_rate));
    let mut collections = Vec::with_capacity(found.len());
    for info in &found {
        let verification = Verification {
            config,
            options,
            source: &source,
            target: &target,
            info,
            pace: &pace,
            reporter,
            shutdown,
        };
        collections.push(verification.run().await?);
        if shutdown.is_requested() {
            break;
        }
    }
    Ok(VerifyReport {
        pipeline: config.name.clone(),
        collections,
        sample: options.sample,
        repaired: options.repair,
        allows_dead_letters: options.allow_dead_letters,
        stopped: shutdown.is_requested(),
        elapsed: began.elapsed(),
    })
}

/// The collections that are meant. Errors: one of the patterns means none.
fn narrowed(patterns: &[String], mut found: Vec<CollectionInfo>) -> Result<Vec<CollectionInfo>> {
    if !patterns.is_empty() {
        let names: Vec<_> = found.iter().map(|info| info.namespace.to_string()).collect();
        let chosen: HashSet<_> =
            source::chosen("verify --collection", patterns, &names, "no included collection")?
                .into_iter()
                .collect();
        found.retain(|info| chosen.contains(&info.namespace.to_string()));
    }
    Ok(found)
}
