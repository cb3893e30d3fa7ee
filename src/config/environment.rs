//! The environment variables, each once: manual pages are made from [`VARIABLES`], and README's table by
//! `make golden`. Other variables are those that `${NAME}` in the configuration names.

/// A variable that docrow reads.
#[derive(Clone, Copy, Debug)]
pub struct EnvironmentVariable {
    /// Its name.
    pub name: &'static str,
    /// Whether a file may hold its value, named by the variable of that name with `_FILE`:
    /// [`crate::secret::from_environment`].
    pub has_file: bool,
    /// Its meaning, in Markdown.
    pub doc: &'static str,
}

/// Those whose value a file may hold, then the others.
macro_rules! variables {
    (secret { $($secret:ident: $secret_doc:literal;)+ } plain { $($plain:ident: $plain_doc:literal;)+ }) => {
        $(
            #[doc = $secret_doc]
            pub const $secret: &str = stringify!($secret);
        )+
        $(
            #[doc = $plain_doc]
            pub const $plain: &str = stringify!($plain);
        )+
        /// All variables.
        pub const VARIABLES: &[EnvironmentVariable] = &[
            $(EnvironmentVariable { name: $secret, has_file: true, doc: $secret_doc },)+
            $(EnvironmentVariable { name: $plain, has_file: false, doc: $plain_doc },)+
        ];
    };
}

variables! {
    secret {
        DOCROW_SOURCE: "MongoDB's connection string, like `--source`";
        DOCROW_SOURCE_PASSWORD: "its password";
        DOCROW_TARGET: "PostgreSQL's connection string, like `--target`";
        DOCROW_TARGET_PASSWORD: "its password";
        DOCROW_MASK_KEY: "the key of masked columns, at least 16 bytes";
        DOCROW_NOTIFY_KEY: "the key that signs notifications, at least 16 bytes";
        OTEL_EXPORTER_OTLP_ENDPOINT: "where traces and metrics are sent, like `[otlp] endpoint`";
        OTEL_EXPORTER_OTLP_HEADERS: "the headers to send with them, `name=value,name=value`, for example a token";
    }
    plain {
        DOCROW_CONFIG: "the configuration file, like `--config`";
        DOCROW_INCLUDE: "the collections, like `--include`; one glob";
        DOCROW_STATE: "the state directory, like `--state`";
        DOCROW_LOG_FORMAT: "`text` or `json`, like `--log-format`";
        DOCROW_STANDBY: "`true`: like `docrow run --standby`";
        DOCROW_WAIT: "like `--wait` of `docrow run` and `docrow backfill`";
        RUST_LOG: "which log lines are written: `warn,docrow=info` by default, `docrow=debug` for more, `warn` for \
                   less; values of documents are never logged at any level";
        NO_COLOR: "if set, output has no colours";
        DOCROW_MONGOD: "the mongod that `docrow demo` starts";
        DOCROW_POSTGRES_BIN: "the folder of the PostgreSQL programs that `docrow demo` starts";
    }
}
