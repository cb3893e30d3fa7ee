//! What docrow takes from the environment and from files, as the manual's pages say it.

/// The variables, each with what it is. Those of [`crate::secret::from_environment`] may be given by a file, too.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    (
        "DOCROW_SOURCE",
        "MongoDB's connection string, as by --source. DOCROW_SOURCE_FILE names a file that holds it.",
    ),
    (
        "DOCROW_SOURCE_PASSWORD",
        "The password for it. DOCROW_SOURCE_PASSWORD_FILE names a file that holds it.",
    ),
    (
        "DOCROW_TARGET",
        "PostgreSQL's connection string, as by --target. DOCROW_TARGET_FILE names a file that holds it.",
    ),
    (
        "DOCROW_TARGET_PASSWORD",
        "The password for it. DOCROW_TARGET_PASSWORD_FILE names a file that holds it.",
    ),
    (
        "DOCROW_MASK_KEY",
        "The key of masked columns, at least 16 bytes. DOCROW_MASK_KEY_FILE names a file that holds it.",
    ),
    (
        "DOCROW_NOTIFY_KEY",
        "What notices are signed with, at least 16 bytes. DOCROW_NOTIFY_KEY_FILE names a file that holds it.",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Where traces and metrics are sent, as [otlp] endpoint. OTEL_EXPORTER_OTLP_ENDPOINT_FILE names a file that holds it.",
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "The headers of that, name=value,name=value, a token say. OTEL_EXPORTER_OTLP_HEADERS_FILE names a file that holds \
         them.",
    ),
    ("DOCROW_CONFIG", "The configuration, as by --config."),
    ("DOCROW_INCLUDE", "Which collections, as by --include; one glob."),
    ("DOCROW_STATE", "The state directory, as by --state."),
    ("DOCROW_LOG_FORMAT", "text or json, as by --log-format."),
    ("DOCROW_STANDBY", "true: as docrow run --standby."),
    (
        "RUST_LOG",
        "Which log lines are written: \"warn,docrow=info\" if it is not set, \"docrow=debug\" for more, \"warn\" for less. \
         No level shows values of documents.",
    ),
    ("NO_COLOR", "If it is set, nothing is written in colours."),
    ("DOCROW_MONGOD", "The mongod that `docrow demo` starts."),
    ("DOCROW_POSTGRES_BIN", "The folder that holds the PostgreSQL programs which `docrow demo` starts."),
];

/// The files, each with what it is.
pub(super) const FILES: &[(&str, &str)] = &[
    ("docrow.toml", "The configuration, in the working directory, unless --config names another one."),
    ("schemas/*.toml", "Mapping files, one for each collection, unless [mapping] dir names another folder."),
    (
        "docrow-state/",
        "The state directory, unless --state or [state] dir names another one. It is expendable.",
    ),
];
