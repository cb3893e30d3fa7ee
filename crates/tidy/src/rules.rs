//! What is allowed, as data.

/// What each module of `src/` may import of the others. `source` does not know `sink`, nor `sink` `source`;
/// what connects them is `pipeline`, and nothing below it knows it. A new module is entered here, on
/// purpose.
pub(super) const MAY_IMPORT: &[(&str, &str)] = &[
    ("error", ""),
    ("failpoint", ""),
    ("metrics", "error"),
    ("model", "error"),
    ("retry", "error"),
    ("rate_limit", "shutdown"),
    ("shutdown", "error"),
    ("moment", ""),
    ("http", ""),
    ("trace", "error metrics"),
    ("otlp", "config error http metrics shutdown trace"),
    ("roles", ""),
    ("shown", ""),
    ("process_status", "moment"),
    ("telemetry", "error metrics process_status"),
    ("schema", "error mapping model shown"),
    ("mapping", "error model schema shown"),
    ("secret", "error"),
    ("config", "error mapping schema secret"),
    ("mapping_files", "config error schema"),
    ("source", "error metrics model retry roles secret shown"),
    ("sink", "error failpoint mapping metrics model roles secret shown"),
    ("checkpoint", "error failpoint model"),
    (
        "pipeline",
        "checkpoint config error failpoint mapping mapping_files metrics model moment rate_limit retry schema shown shutdown sink source telemetry trace process_status",
    ),
    ("profile", "error pipeline"),
    (
        "verify",
        "config error mapping metrics model rate_limit pipeline schema shutdown sink source telemetry process_status",
    ),
    ("status", "config error model moment pipeline schema secret shown sink source verify process_status"),
    ("serve", "config error metrics secret shutdown sink status process_status"),
    ("notify", "config error http metrics moment retry shutdown sink status process_status"),
    ("check", "config error mapping mapping_files model pipeline schema shown sink source status"),
    ("demo", "error"),
    (
        "cli",
        "check config demo error mapping mapping_files model notify otlp pipeline profile schema secret serve shown shutdown sink source status telemetry verify process_status",
    ),
    ("lib", ""),
    ("main", ""),
];

/// Text that a module's code must not contain, and why.
pub(super) const BANNED: &[(&str, &[&str], &str)] = &[
    ("schema mapping model", &["tokio", "async ", ".await", "std::fs", "std::net", "std::time"], "is pure"),
    ("sink", &["mongodb::Client", "mongodb::{", "mongodb::options"], "does not know MongoDB, only BSON"),
    ("source", &["tokio_postgres"], "does not know PostgreSQL"),
];

/// The rooms of a module, from the top down: each may import those below it. Several on one line don't import
/// each other. A file that stands beside the rooms is one, too. What the module's own file holds is
/// everybody's.
pub(super) const ROOMS: &[(&str, &[&str])] = &[
    (
        "sink",
        &[
            "forget preflight",
            "rows",
            "tables",
            "metadata",
            "connection",
            "composite_array objections",
            "identifiers",
        ],
    ),
    (
        "pipeline",
        &[
            "simulation",
            "run",
            "supervisor",
            "requests snapshot",
            "prepare",
            "reload startup",
            "mappings",
            "pausing stored_states table_keys",
            "context",
            "observe",
            "apply",
            "stream",
            "gauges",
            "refused_collections throttle tries watermark",
            "counts planted",
            "collection ports",
            "misfits_due",
        ],
    ),
];

/// What is not tidy yet: how the fault begins, and a part of what it says. A line that excuses nothing any
/// more is a fault itself.
pub(super) const NOT_YET: &[(&str, &str)] = &[];
