//! The environment variables, each once: manual pages are made from [`VARIABLES`], and README's table by
//! `make golden`. Other variables are those that `${NAME}` in the configuration names.

/// One that docrow looks at.
#[derive(Clone, Copy, Debug)]
pub struct EnvironmentVariable {
    /// As it is set.
    pub name: &'static str,
    /// Whether it may be given by a file, which the variable of that name with `_FILE` names:
    /// [`crate::secret::from_environment`].
    pub has_file: bool,
    /// What it is, in Markdown.
    pub doc: &'static str,
}

/// Those that may be given by a file, then the others.
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
        /// All of them.
        pub const VARIABLES: &[EnvironmentVariable] = &[
            $(EnvironmentVariable { name: $secret, has_file: true, doc: $secret_doc },)+
            $(EnvironmentVariable { name: $plain, has_file: false, doc: $plain_doc },)+
        ];
    };
}

variables! {
    secret {
        DOCROW_SOURCE: "MongoDB's connection string, as by `--source`";
        DOCROW_SOURCE_PASSWORD: "the password for it";
        DOCROW_TARGET: "PostgreSQL's connection string, as by `--target`";
        DOCROW_TARGET_PASSWORD: "the password for it";
        DOCROW_MASK_KEY: "the key of masked columns, at least 16 bytes";
        DOCROW_NOTIFY_KEY: "what notices are signed with, at least 16 bytes";
        OTEL_EXPORTER_OTLP_ENDPOINT: "where traces and metrics are sent, as `[otlp] endpoint`";
        OTEL_EXPORTER_OTLP_HEADERS: "the headers of that, `name=value,name=value`, a token say";
    }
    plain {
        DOCROW_CONFIG: "the configuration, as by `--config`";
        DOCROW_INCLUDE: "which collections, as by `--include`; one glob";
        DOCROW_STATE: "the state directory, as by `--state`";
        DOCROW_LOG_FORMAT: "`text` or `json`, as by `--log-format`";
        DOCROW_STANDBY: "`true`: as `docrow run --standby`";
        RUST_LOG: "which log lines are written: `warn,docrow=info` if it is not set, `docrow=debug` for more, `warn` for \
                   less; no level shows values of documents";
        NO_COLOR: "if it is set, nothing is written in colours";
        DOCROW_MONGOD: "the mongod that `docrow demo` starts";
        DOCROW_POSTGRES_BIN: "the folder that holds the PostgreSQL programs which `docrow demo` starts";
    }
}
