//! Verification: compares every document of every included collection with its rows, in full, while both are
//! written to.
//!
//! For each document, it computes which rows the mapping in force produces, and compares them with those in
//! the tables column by column, by the bytes that PostgreSQL sends (`jsonb` by its content). It searches
//! every table for rows that belong to no document. A document with a dead letter has no rows, which is
//! correct and yet not equal: PostgreSQL does not have it. With soft deletes, a deleted document has no rows
//! either: those that stay, marked in the root table, do not count.
//!
//! # What a difference is
//!
//! A first pass ([`scan`]) reads both sides as fast as possible, each document before its rows. Equality at
//! this point is proof: the rows show a state that the document had since the comparison began. A document
//! that is not equal is only a *suspect*: its rows may be behind the document, or ahead of it. Suspects are
//! rechecked ([`recheck`]), in this order:
//!
//! 1. the stored position `P`, the minimum over all partitions of the collection; 2. the suspects' rows; 3.
//!    the cluster's time, and then the documents, by a majority read that reports a time `T` such that
//!    nothing it saw is later than `T`; 4. the change stream after `P`, up to `T` ([`window`]).
//!
//! Everything up to `P` was in the rows when they were read, because rows and positions commit together (and
//! a commit that does not wait for the disk is visible at once). Nothing after `T` was: everything that the
//! pipeline can have written by then, it had read from a majority before. So if the stream has no event of
//! the document between `P` and `T`, the document had one state during all that time. Its rows must show this
//! state; if they don't, that is a **difference**. (It must be found twice, which covers what has no event: a
//! dead letter's retry, a mapping coming into force, a resync starting.)
//!
//! If there is an event, the suspect stays open. Its rows may also show another state that the document had
//! since it became a suspect. MongoDB 5.0 and later return these states; rows that match one of them are
//! proven like those that were equal at first, so that a document that changes all the time can be verified,
//! too. Otherwise the suspect is rechecked once the stored positions have passed `T`, a bounded number of
//! times with growing waits. Suspects that are open at the end were **not settled**: the document changed
//! faster than it could be rechecked, or it changed and the pipeline did not apply the change, because it is
//! behind, or no process runs it. That is neither a difference nor a proof: the report says so, with the
//! reason, and the exit code is 1.
//!
//! Rows without a document, and dead letters without one, are suspects by their key, which determines the
//! `_id` that a document would have; for a key that no document can have, there is no document.
//!
//! # What is compared when
//!
//! While a running process copies a collection, it is left out, and the report says so. If no process runs
//! the pipeline, everything is compared as it is. When a mapping grows, suspects are rechecked with the one
//! in force once its columns are filled.
//!
//! Memory: a batch per worker (8 MB of rows, or one document), a reply of MongoDB, the keys of suspects, and
//! two million events of 16 bytes from the stream (G11). The keys of documents that were read are in a
//! temporary table of PostgreSQL.
//!
//! [`crate::pipeline`] does the repairs; this module requests them, and rechecks the documents.

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

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
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
    source::{self, CHUNK_BYTES, CollectionInfo, Source},
    telemetry::Reporter,
};

/// Compares the included collections. Errors: a server is away or refuses; this pipeline has never copied a
/// collection, or the collection is unknown. Ends early, with what it has compared so far, when it is
/// stopped.
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
    let verification = |info| Verification {
        config,
        options,
        source: &source,
        target: &target,
        info,
        pace: &pace,
        reporter,
        shutdown,
    };
    // A worker compares a chunk at a time: small collections, which are one, are compared side by side.
    let (small, large): (Vec<_>, Vec<_>) = found.iter().partition(|info| info.bytes <= CHUNK_BYTES);
    let mut collections = Vec::with_capacity(found.len());
    // Without a running process, each repair takes the pipeline.
    let at_once = if options.repair { 1 } else { config.parallelism.max(1) };
    for (together, infos) in [(at_once, small), (1, large)] {
        let compare = async |info| {
            if shutdown.is_requested() { Ok(None) } else { verification(info).run().await.map(Some) }
        };
        let compared: Vec<_> = infos.into_iter().map(|info| compare(info).boxed()).collect();
        let compared: Vec<_> = stream::iter(compared).buffered(together).try_collect().await?;
        collections.extend(compared.into_iter().flatten());
    }
    collections.sort_by(|a, b| a.namespace.cmp(&b.namespace));
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

/// The selected collections. Errors: one of the patterns matches none.
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
