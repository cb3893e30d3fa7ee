//! All metrics. Their names are only here; tests compare the documentation, alerts and the dashboard with it.

use super::{Counter, Gauge, Histogram, Metric, MetricLabel, MetricUnit, RegisteredMetric};

/// Bucket bounds of histograms in seconds: from a few milliseconds, a change's normal latency, to hours,
/// after an outage.
pub(super) const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    7200.0,
];

/// Bucket bounds for counts.
pub(super) const COUNTS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 25_000.0];

/// `database.collection`: one value per replicated collection.
pub const COLLECTION: MetricLabel = MetricLabel { name: "collection", values: &[] };
/// The phase of a collection.
pub const PHASE: MetricLabel = MetricLabel {
    name: "phase",
    values: &["new", "copying", "indexing", "sweeping", "live", "paused", "stopped"],
};
/// Why docrow retried.
pub const CAUSE: MetricLabel = MetricLabel {
    name: "cause",
    values: &["source_away", "target_away", "rows_refused", "state_full", "state_rebuilt", "fenced", "other"],
};
/// Why a collection is resynced.
pub const REASON: MetricLabel =
    MetricLabel { name: "reason", values: &["asked", "history_lost", "replaced", "dropped", "recreated"] };
/// Which part of docrow reads from MongoDB.
pub const FROM: MetricLabel = MetricLabel { name: "from", values: &["stream", "snapshot", "lookup"] };
/// How rows are written.
pub const METHOD: MetricLabel = MetricLabel { name: "method", values: &["copy", "upsert"] };
/// What happened to a notification.
pub const OUTCOME: MetricLabel = MetricLabel { name: "outcome", values: &["delivered", "dropped"] };
/// The pipeline's name.
pub const PIPELINE: MetricLabel = MetricLabel { name: "pipeline", values: &[] };
/// docrow's version.
pub const VERSION: MetricLabel = MetricLabel { name: "version", values: &[] };

/// One metric per entry: its name in the code, kind, name, unit, labels, and its help, which operators read.
macro_rules! table {
    ($($id:ident: $kind:ident = $name:literal, $unit:ident, [$($label:ident),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: $kind = Metric::new($name, MetricUnit::$unit, &[$($label),*], $help);
        )*

        /// All metrics.
        pub static ALL: &[&dyn RegisteredMetric] = &[$(&$id),*];
    };
}

table! {
    LAG: Gauge = "docrow_lag_seconds", Seconds, [COLLECTION],
        "How far a collection's tables are behind MongoDB: for how long MongoDB has had a change that is \
         not committed in PostgreSQL, in whole seconds. 0 or 1 when nothing is written. Until a collection \
         is live, the time since its copy began. NaN: unknown, at the start, or because MongoDB has not \
         answered for 5 seconds.";
    END_TO_END: Histogram = "docrow_end_to_end_latency_seconds", Seconds, [],
        "From the write in MongoDB to its commit in PostgreSQL, by the cluster's clock: one observation per \
         batch, of its oldest change, so that no change took longer. In whole seconds if MongoDB is older \
         than 6.0, and for spooled changes.";
    LAST_COMMIT: Gauge = "docrow_last_commit_timestamp_seconds", UnixSeconds, [],
        "When changes or positions were last committed in PostgreSQL. NaN: not yet.";

    EVENTS_READ: Counter = "docrow_events_read_total", Count, [],
        "Events read from the change stream, including events read again.";
    EVENTS_PASSED_OVER: Counter = "docrow_events_passed_over_total", Count, [],
        "Events of types that do not affect rows, such as new indexes.";
    EVENTS_SPOOLED: Counter = "docrow_events_spooled_total", Count, [],
        "Events put into the spool, because a collection is not live yet, or PostgreSQL is away or slow.";
    EVENTS_APPLIED: Counter = "docrow_events_applied_total", Count, [],
        "Events committed in PostgreSQL, including those superseded within their batch.";
    LAST_REPLY: Gauge = "docrow_stream_last_reply_timestamp_seconds", UnixSeconds, [],
        "When the change stream last answered, which it does several times a second even if nothing is \
         written. NaN: not yet.";
    READ_BYTES: Counter = "docrow_source_read_bytes_total", Bytes, [FROM],
        "Bytes of BSON read from MongoDB by the change stream, by snapshots, and by lookups.";
    LOOKUPS: Counter = "docrow_lookups_total", Count, [],
        "Documents looked up in MongoDB, because their event does not contain their complete current state.";
    LOOKUPS_MISSING: Counter = "docrow_lookups_missing_total", Count, [],
        "Documents looked up that no longer exist. Their rows are deleted.";
    LOOKUP_DURATION: Histogram = "docrow_lookup_duration_seconds", Seconds, [],
        "How long MongoDB took for a batch's lookups in one collection.";

    BATCH_EVENTS: Histogram = "docrow_batch_events", Count, [],
        "Number of events per batch. A batch is written in one transaction.";
    BATCH_DURATION: Histogram = "docrow_batch_duration_seconds", Seconds, [],
        "Time from a complete batch to its commit, including lookups.";
    DOCUMENTS_WRITTEN: Counter = "docrow_documents_written_total", Count, [COLLECTION],
        "Documents written or deleted in PostgreSQL because they changed, or because of a resync.";
    DOCUMENTS_COPIED: Counter = "docrow_documents_copied_total", Count, [COLLECTION],
        "Documents copied by this process's snapshots.";
    ROWS_WRITTEN: Counter = "docrow_rows_written_total", Count, [METHOD],
        "Rows inserted or updated: copied by a snapshot, or upserted, as PostgreSQL counts them. Rows that \
         are already correct are not written.";
    ROWS_DELETED: Counter = "docrow_rows_deleted_total", Count, [],
        "Rows deleted, or marked as deleted, with their document or because an array in it became empty. \
         Rows of arrays that only became shorter are not counted.";
    WRITTEN_BYTES: Counter = "docrow_target_written_bytes_total", Bytes, [METHOD],
        "Bytes of encoded rows sent to PostgreSQL and committed.";

    DEAD_LETTERS: Counter = "docrow_dead_letters_total", Count, [COLLECTION],
        "Documents that could not be written and became dead letters, including repeated failures.";
    DEAD_LETTERS_STORED: Gauge = "docrow_dead_letters_stored", Count, [COLLECTION],
        "Stored dead letters: documents of MongoDB that have no rows. See docrow dead-letters list.";
    MISFITS: Counter = "docrow_misfits_total", Count, [COLLECTION],
        "Values that did not fit their column or table and went to the column for misfits (_extra), counted \
         at each write.";
    MAPPING_CHANGES: Counter = "docrow_mapping_changes_total", Count, [COLLECTION],
        "Number of times a collection got new columns or tables because of unknown fields.";
    RETRIES: Counter = "docrow_retries_total", Count, [CAUSE],
        "Number of retries: because MongoDB or PostgreSQL was away, PostgreSQL refused some rows, the state \
         directory's disk was full or its content lost, or another process held the pipeline.";
    RESYNCS: Counter = "docrow_resyncs_total", Count, [REASON],
        "Number of resyncs started by the process.";

    STALLS: Counter = "docrow_stalls_total", Count, [],
        "Number of stalls: nothing was applied although MongoDB had changes and PostgreSQL answered, and \
         docrow started over.";

    POSITION_AGE: Gauge = "docrow_position_age_seconds", Seconds, [],
        "How far back in MongoDB's oplog a restart would have to read, by the cluster's clock. If it \
         exceeds docrow_oplog_window_seconds, history is lost. Spooled changes need not be read again.";
    OPLOG_WINDOW: Gauge = "docrow_oplog_window_seconds", Seconds, [],
        "How far back MongoDB's oplog reaches. NaN: unknown (a sharded cluster, or no role that reads the \
         database local).";
    SPOOL_BYTES: Gauge = "docrow_spool_bytes", Bytes, [],
        "Size of the state directory on disk. A few megabytes are normal even if nothing is spooled.";
    SPOOL_LIMIT: Gauge = "docrow_spool_limit_bytes", Bytes, [],
        "Maximum size of the spool (state.max_spool). When it is full, the stream waits in the oplog.";
    SPOOL_ENTRIES: Gauge = "docrow_spool_entries", Count, [],
        "Events in the spool that are not known to be on PostgreSQL's disk.";
    STATE_FULL: Gauge = "docrow_state_disk_full", Count, [],
        "1 while the state directory's disk is full and docrow therefore does not read the stream, else 0.";

    SNAPSHOT_DONE: Gauge = "docrow_snapshot_documents_done", Count, [COLLECTION],
        "Documents copied, also by earlier processes, and those already written of chunks in progress.";
    SNAPSHOT_ESTIMATED: Gauge = "docrow_snapshot_documents_estimated", Count, [COLLECTION],
        "Documents to copy, by MongoDB's estimate when the snapshot began.";
    COLLECTION_PHASE: Gauge = "docrow_collection_phase", Count, [COLLECTION, PHASE],
        "1 for the phase that a collection is in, else 0: new (not planned yet), copying, indexing \
         (building primary keys), sweeping (a resync removes rows of documents that no longer exist), live, \
         paused (by docrow pause), stopped (by too many documents that can't be written, by its mapping, \
         because the oplog no longer holds its changes, or by an object that blocks its tables).";
    LEADER: Gauge = "docrow_leader", Count, [PIPELINE],
        "1 if this process holds the pipeline in PostgreSQL and therefore writes; 0 while it waits or can't \
         reach PostgreSQL.";

    VERIFY_DIFFERENCES: Gauge = "docrow_verify_differences", Count, [],
        "Differences that the last scheduled verification ([verify] every) found. NaN: there was none.";
    VERIFY_LAST: Gauge = "docrow_verify_last_timestamp_seconds", UnixSeconds, [],
        "When the last scheduled verification was done. NaN: there was none.";

    NOTIFICATIONS: Counter = "docrow_notifications_total", Count, [OUTCOME],
        "Notifications that the webhook ([notify]) accepted, and those dropped, because it did not accept \
         them for a quarter of an hour, or refused them permanently.";
    LOG_LINES_DROPPED: Counter = "docrow_log_lines_dropped_total", Count, [],
        "Log lines dropped because standard error was not read; replication does not wait for that.";

    SPANS_DROPPED: Counter = "docrow_spans_dropped_total", Count, [],
        "Spans of traces dropped because the collector ([otlp]) did not accept them, or not fast enough; \
         replication does not wait for that.";

    BUILD_INFO: Gauge = "docrow_build_info", Count, [VERSION],
        "Always 1: the label is docrow's version.";
    PROCESS_START: Gauge = "process_start_time_seconds", UnixSeconds, [],
        "When the process started; another value means that it was restarted.";
    PROCESS_MEMORY: Gauge = "process_resident_memory_bytes", Bytes, [],
        "Resident memory of the process, in bytes.";
}
