//! All metrics. This is the only place where their names are; documentation, alerts and the dashboard are compared with it.

use super::{Counter, Gauge, Histogram, Metric, MetricLabel, MetricUnit, RegisteredMetric};

/// The limits of buckets of histograms in seconds: from a few milliseconds, which is what a change takes to be seen, to
/// hours, after an outage.
pub(super) const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    7200.0,
];

/// The same for numbers of things.
pub(super) const COUNTS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 25_000.0];

/// `database.collection`: as many as are replicated.
pub const COLLECTION: MetricLabel = MetricLabel { name: "collection", values: &[] };
/// Where a collection stands.
pub const PHASE: MetricLabel = MetricLabel {
    name: "phase",
    values: &["new", "copying", "indexing", "sweeping", "live", "paused", "stopped"],
};
/// Why something was tried again.
pub const CAUSE: MetricLabel = MetricLabel {
    name: "cause",
    values: &["source_away", "target_away", "rows_refused", "state_full", "state_rebuilt", "fenced", "other"],
};
/// Why a collection is copied anew.
pub const REASON: MetricLabel =
    MetricLabel { name: "reason", values: &["asked", "history_lost", "replaced", "dropped", "recreated"] };
/// What is read from MongoDB.
pub const FROM: MetricLabel = MetricLabel { name: "from", values: &["stream", "snapshot", "lookup"] };
/// How rows are written.
pub const METHOD: MetricLabel = MetricLabel { name: "method", values: &["copy", "upsert"] };
/// What became of a notice.
pub const OUTCOME: MetricLabel = MetricLabel { name: "outcome", values: &["delivered", "dropped"] };
/// The pipeline's name.
pub const PIPELINE: MetricLabel = MetricLabel { name: "pipeline", values: &[] };
/// docrow's version.
pub const VERSION: MetricLabel = MetricLabel { name: "version", values: &[] };

/// One metric an entry: what it is called in the code, its kind, its name, its unit, its labels, and its help, which is
/// what people on call read.
macro_rules! table {
    ($($id:ident: $kind:ident = $name:literal, $unit:ident, [$($label:ident),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: $kind = Metric::new($name, MetricUnit::$unit, &[$($label),*], $help);
        )*

        /// All of them.
        pub static ALL: &[&dyn RegisteredMetric] = &[$(&$id),*];
    };
}

table! {
    LAG: Gauge = "docrow_lag_seconds", Seconds, [COLLECTION],
        "How far the tables of a collection are behind MongoDB: for how long MongoDB has had something that is not committed in \
         PostgreSQL, to the second. 0 or 1 when nothing is written. Until a collection is live, the time since its copy began. \
         NaN: not known, because nothing is known yet, or because MongoDB has not answered for 5 seconds.";
    END_TO_END: Histogram = "docrow_end_to_end_latency_seconds", Seconds, [],
        "From the write in MongoDB to its commit in PostgreSQL, by the cluster's clock: one observation a batch, of its \
         oldest change, so that no change took longer. To the second where MongoDB is older than 6.0, and for what had \
         waited in the spool.";
    LAST_COMMIT: Gauge = "docrow_last_commit_timestamp_seconds", UnixSeconds, [],
        "When changes or positions were last committed in PostgreSQL. NaN: not yet.";

    EVENTS_READ: Counter = "docrow_events_read_total", Count, [],
        "Events that were read from the change stream, those that were read again included.";
    EVENTS_PASSED_OVER: Counter = "docrow_events_passed_over_total", Count, [],
        "Events of types that do not matter for rows, such as new indexes.";
    EVENTS_SPOOLED: Counter = "docrow_events_spooled_total", Count, [],
        "Events that were put into the spool, because a collection is not live yet, or PostgreSQL is away or slow.";
    EVENTS_APPLIED: Counter = "docrow_events_applied_total", Count, [],
        "Events that are committed in PostgreSQL, those that were superseded within their batch included.";
    LAST_REPLY: Gauge = "docrow_stream_last_reply_timestamp_seconds", UnixSeconds, [],
        "When the change stream last answered, which it does several times a second even if nothing is written. NaN: not \
         yet.";
    READ_BYTES: Counter = "docrow_source_read_bytes_total", Bytes, [FROM],
        "Bytes of BSON that were read from MongoDB: by the change stream, by the snapshot, and by looking documents up.";
    LOOKUPS: Counter = "docrow_lookups_total", Count, [],
        "Documents that were looked up in MongoDB, because their event does not say all of what they are now.";
    LOOKUPS_MISSING: Counter = "docrow_lookups_missing_total", Count, [],
        "Documents that were looked up and are gone. Their rows are deleted.";
    LOOKUP_DURATION: Histogram = "docrow_lookup_duration_seconds", Seconds, [],
        "How long MongoDB took for the lookups of a batch, of one collection each.";

    BATCH_EVENTS: Histogram = "docrow_batch_events", Count, [],
        "How many events a batch has. A batch is written in one transaction.";
    BATCH_DURATION: Histogram = "docrow_batch_duration_seconds", Seconds, [],
        "How long a batch took from when it was complete to its commit, lookups included.";
    DOCUMENTS_WRITTEN: Counter = "docrow_documents_written_total", Count, [COLLECTION],
        "Documents that were written or deleted in PostgreSQL because they had changed, or to be copied anew.";
    DOCUMENTS_COPIED: Counter = "docrow_documents_copied_total", Count, [COLLECTION],
        "Documents that snapshots of this process copied.";
    ROWS_WRITTEN: Counter = "docrow_rows_written_total", Count, [METHOD],
        "Rows that were inserted or updated: copied by a snapshot, or upserted, as PostgreSQL counts them. A row that is \
         as it should be already is not written.";
    ROWS_DELETED: Counter = "docrow_rows_deleted_total", Count, [],
        "Rows that were deleted, or marked as deleted, with their document or because a list in it became empty.";
    WRITTEN_BYTES: Counter = "docrow_target_written_bytes_total", Bytes, [METHOD],
        "Bytes of encoded rows that were sent to PostgreSQL and committed.";

    DEAD_LETTERS: Counter = "docrow_dead_letters_total", Count, [COLLECTION],
        "Documents that could not be written and became dead letters, or became so once more.";
    DEAD_LETTERS_STORED: Gauge = "docrow_dead_letters_stored", Count, [COLLECTION],
        "Dead letters that are stored: documents of MongoDB that have no rows. See docrow dead-letters list.";
    MISFITS: Counter = "docrow_misfits_total", Count, [COLLECTION],
        "Values that did not fit their column or table, and were kept in the column for what does not fit (_extra), each \
         time that they were written.";
    MAPPING_CHANGES: Counter = "docrow_mapping_changes_total", Count, [COLLECTION],
        "How often a collection got new columns or tables, because of fields that were not known.";
    RETRIES: Counter = "docrow_retries_total", Count, [CAUSE],
        "How often something was tried again: because MongoDB or PostgreSQL was away, PostgreSQL refused some of the rows, \
         the state directory's disk was full or its content lost, or another process had the pipeline.";
    RESYNCS: Counter = "docrow_resyncs_total", Count, [REASON],
        "How often a collection was begun to be copied anew, in place.";

    STALLS: Counter = "docrow_stalls_total", Count, [],
        "How often all had come to a standstill, though MongoDB had changes and PostgreSQL answered, and was begun anew.";

    POSITION_AGE: Gauge = "docrow_position_age_seconds", Seconds, [],
        "How far back in MongoDB's oplog a restart would have to read, by the cluster's clock. If it exceeds \
         docrow_oplog_window_seconds, history is lost. What is in the spool need not be read again.";
    OPLOG_WINDOW: Gauge = "docrow_oplog_window_seconds", Seconds, [],
        "How far back MongoDB's oplog reaches. NaN: it can't be told (a sharded cluster, or no role that reads the database \
         local).";
    SPOOL_BYTES: Gauge = "docrow_spool_bytes", Bytes, [],
        "What the state directory takes on disk. Some megabytes are normal even if nothing waits.";
    SPOOL_LIMIT: Gauge = "docrow_spool_limit_bytes", Bytes, [],
        "How large the spool may become (state.max_spool). A full one is not filled further: then the stream waits in the \
         oplog.";
    SPOOL_ENTRIES: Gauge = "docrow_spool_entries", Count, [],
        "Events in the spool that are not known to be on PostgreSQL's disk.";
    STATE_FULL: Gauge = "docrow_state_disk_full", Count, [],
        "1 while the disk of the state directory has no space, and the stream is not read on for that, else 0.";

    SNAPSHOT_DONE: Gauge = "docrow_snapshot_documents_done", Count, [COLLECTION],
        "Documents that are copied, by earlier processes, too, and those that are written of chunks under way.";
    SNAPSHOT_ESTIMATED: Gauge = "docrow_snapshot_documents_estimated", Count, [COLLECTION],
        "Documents that there are to copy, by MongoDB's estimate when it began.";
    COLLECTION_PHASE: Gauge = "docrow_collection_phase", Count, [COLLECTION, PHASE],
        "1 for the phase that a collection is in, else 0: new (not planned yet), copying, indexing (primary keys are \
         built), sweeping (copied anew, rows of documents that are gone are removed), live, paused (by docrow pause), stopped (by too many documents \
         that can't be written, by its mapping, because the oplog no longer holds its changes, or by what is in the way of its \
         tables).";
    LEADER: Gauge = "docrow_leader", Count, [PIPELINE],
        "1 if this process holds the pipeline in PostgreSQL, and so is the one that writes; 0 while it waits or can't reach \
         it.";

    VERIFY_DIFFERENCES: Gauge = "docrow_verify_differences", Count, [],
        "Differences that the last verification on schedule ([verify] every) found. NaN: there was none.";
    VERIFY_LAST: Gauge = "docrow_verify_last_timestamp_seconds", UnixSeconds, [],
        "When the last verification on schedule was done. NaN: there was none.";

    NOTIFICATIONS: Counter = "docrow_notifications_total", Count, [OUTCOME],
        "Notices for the webhook ([notify]) that it took, and those that were dropped, because it did not for a quarter of an \
         hour, or said that it never will.";
    LOG_LINES_DROPPED: Counter = "docrow_log_lines_dropped_total", Count, [],
        "Log lines that were dropped, because nobody read standard error, and replication does not wait for that.";

    SPANS_DROPPED: Counter = "docrow_spans_dropped_total", Count, [],
        "Spans of traces that were dropped, because the collector ([otlp]) did not take them, or not fast enough, and \
         replication does not wait for that.";

    BUILD_INFO: Gauge = "docrow_build_info", Count, [VERSION],
        "Always 1: the label says which version of docrow this is.";
    PROCESS_START: Gauge = "process_start_time_seconds", UnixSeconds, [],
        "When the process began; another value means that it was started again.";
    PROCESS_MEMORY: Gauge = "process_resident_memory_bytes", Bytes, [],
        "Memory that the process has in use.";
}
