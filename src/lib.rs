//! docrow ("documents to rows") replicates MongoDB into PostgreSQL: a snapshot by parallel binary `COPY`,
//! then the change stream, applied in batches by workers partitioned by document, with the position in the
//! rows' transaction.
//!
//! ```text
//!            find(min, max, hint _id)           binary COPY, one chunk = one transaction
//!  MongoDB ─┬─ snapshot chunks ─────► encode ─────────────────────────────► PostgreSQL
//!           │                           ▲                                     ▲  rows + positions,
//!           └─ change stream ─► tailer ─┴─► partition workers ─► batch ─► upsert  one transaction
//!                                │ ▲                │
//!                                ▼ │                └─► lookup of the current documents of a batch
//!                        spool (RocksDB): while a snapshot runs, or PostgreSQL is away or slow
//! ```
//!
//! Data flows one way, `source → model → mapping → sink`, and only `pipeline` connects them: `source` does
//! not know that PostgreSQL exists, `sink` does not know MongoDB. `model`, `mapping` and `schema` do no I/O:
//! they are a crate of their own, `docrow-mapping`, with [`error`] and [`shown`]. `crates/tidy` holds the
//! imports to it.
//!
//! # Reading order
//!
//! 1. [`model`]: the nouns. A [`Change`](model::change::Change) happened to the document with a
//!    [`DocumentKey`](model::document_key::DocumentKey), at a [`Position`](model::change::Position) in the
//!    stream; an update's [`Patch`](model::partial_update::Patch) says which fields it changed.
//! 2. [`pipeline`]: how everything works together, and the arguments for why nothing is lost: `run` starts
//!    attempts; in each, `prepare` brings the collections to where they can be copied, and the `supervisor`
//!    starts the tasks, which share a `context`. Rooms: `snapshot`, [`stream`](pipeline::stream),
//!    [`apply`](pipeline::apply), `mappings` (which change while all that runs), operators' `requests`,
//!    `observe`. Its pure parts decide: `stream::route` (straight to the workers, or through the spool),
//!    `phase` (a collection's phase), [`partitioner`](pipeline::stream::partitioner) (which worker),
//!    [`batch`](pipeline::apply::batch) (folding), `staleness` (when an event may be applied as it is),
//!    `watermark` (how far everything is applied). Through `ports` the pipeline reaches the servers and the
//!    spool; `simulation` runs all of it behind them, with thousands of crashes.
//! 3. [`source`]: reads MongoDB: chunks, change stream, lookups.
//! 4. [`schema`] and [`mapping`]: mapping files, inference and growth; the compiled mapping, which walks a
//!    raw document once and encodes its rows in PostgreSQL's binary format, and the way back from rows to the
//!    document.
//! 5. [`sink`]: writes PostgreSQL: tables, chunks, batches, positions; and keeps a second writer out.
//! 6. [`checkpoint`]: the state directory, with the spool. [`mapping_files`]: the folder of mapping files.
//!    [`verify`]: compares documents with rows. [`process_status`]: what only the running process knows;
//!    [`status`]: the state of a pipeline, as one document; [`notify`]: notifications. [`trace`]: durations
//!    of operations; [`otlp`]: sends those, and the metrics, to a collector. [`http`]: how both send.
//!    [`serve`]: the dashboard, the status document and the probes over HTTP. [`moment`]: times in that
//!    document; [`shown`]: names from data. [`check`]: the preflight; [`roles`]: the statements that grant
//!    missing privileges. [`config`], [`secret`], [`error`], [`retry`], [`shutdown`], [`telemetry`]: what
//!    every program has. [`rate_limit`]: rate limits. [`metrics`]: the counters and gauges. [`cli`]: the
//!    commands. [`profile`]: where the CPU time of a run went. [`demo`]: throwaway servers and sample data.
//!    [`failpoint`]: points where tests end the process.
//!
//! # Invariants
//!
//! - A batch's rows and the position they reach commit in one PostgreSQL transaction; so do a chunk's rows
//!   and its marker. Nothing else is trusted about what was written.
//! - Every transaction that writes checks, in the server, that this process still holds the pipeline.
//! - Changes from the stream are durably in the spool before anything records that they have been read; only
//!   PostgreSQL says what is applied.
//! - The start position is proven and stored before the first page of a snapshot is read.
//! - All changes of a document pass through one partition, in order. An event is applied as it is only if it
//!   is newer than anything its row may show; otherwise the document's current state is looked up.
//! - Every value lands in its column, or exactly in `_extra`, so that the document can be rebuilt from its
//!   rows; a document that can't have rows becomes a dead letter.
//! - The rows of a transaction belong to one mapping, and a mapping only ever grows.
//! - No log line and no error contains a document's values or a password.
//!
//! # Deliberately absent
//!
//! No ORM, no query builder, no SQL text with values in it, no intermediate document structs on the hot path,
//! no cache of documents, no second place that decides whether an error is worth a retry.

pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod demo;
pub mod failpoint;
pub mod http;
pub mod mapping_files;
pub mod metrics;
pub mod moment;
pub mod notify;
pub mod otlp;
pub mod pipeline;
pub mod process_status;
pub mod profile;
pub mod rate_limit;
pub mod retry;
pub mod roles;
pub mod secret;
pub mod serve;
pub mod shutdown;
pub mod sink;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod trace;
pub mod verify;

pub use docrow_mapping::{error, mapping, model, schema, shown};
