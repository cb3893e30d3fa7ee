//! The keys of the configuration file, each once: its type and default, when a change of it takes effect, and
//! its line in README's configuration.
//!
//! The structs that the file is parsed into are made from this table, so that a new key does not compile
//! before [`super::file`] checks it. `make golden` writes README's configuration from [`SECTIONS`].

use std::{fmt, path::PathBuf};

use serde::Deserialize;

use crate::secret::Secret;

/// One key of the file.
#[derive(Clone, Copy, Debug)]
pub struct ConfigKey {
    /// With its section: `stream.batch_rows`.
    pub name: &'static str,
    /// The value that README shows, as TOML: the default, unless [`Self::doc`] names another.
    pub value: &'static str,
    /// What README says of it, behind the value.
    pub doc: &'static str,
    /// How README shows it.
    pub shown: ShownAs,
    /// When a change takes effect.
    pub takes_effect: TakesEffect,
}

/// How README's configuration shows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownAs {
    /// As a line of its own.
    Line,
    /// Behind a `#`, for it has a default.
    Comment,
    /// Not at all.
    Hidden,
}

/// When a value that changes while docrow runs takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesEffect {
    /// As soon as docrow has read it.
    AtOnce,
    /// When docrow is started again.
    AtRestart,
}

impl ConfigKey {
    /// Its section, if it is in one, and the key within that.
    pub fn parts(&self) -> (Option<&'static str>, &'static str) {
        self.name.split_once('.').map_or((None, self.name), |(section, key)| (Some(section), key))
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// `snapshot.max_rate` as written: a number stands for documents.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawRate {
    Documents(u64),
    Text(String),
}

impl RawRate {
    pub(super) fn text(self) -> String {
        match self {
            Self::Documents(documents) => documents.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// One key an entry: `name: type = default; when a change takes effect; how README shows it as an example,
/// "its words"`.
macro_rules! keys {
    ($top:ident $top_keys:tt $([$section:ident] $raw:ident $keys:tt)+) => {
        keys!(@section top "", $top $top_keys $($section $raw)+);
        $(keys!(@section $section concat!(stringify!($section), "."), $raw $keys);)+

        /// All keys, by sections, in README's order.
        pub const SECTIONS: &[&[ConfigKey]] = &[top::ALL, $($section::ALL),+];
    };
    (@section $module:ident $prefix:expr, $raw:ident {$(
        $key:ident: $ty:ident $(<$of:ident>)? $(= $default:literal)?;
        $takes_effect:ident;
        $shown:ident $(as $example:tt)? $(, $doc:literal)?;
    )+} $($inner:ident $inner_raw:ident)*) => {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $raw {
            $(pub(super) $key: $ty $(<$of>)?,)+
            $(pub(super) $inner: $inner_raw,)*
        }

        impl Default for $raw {
            fn default() -> Self {
                Self {
                    $($key: keys!(@default $ty $($default)?),)+
                    $($inner: Default::default(),)*
                }
            }
        }

        // Called as in the file.
        #[allow(non_upper_case_globals)]
        pub(super) mod $module {
            use crate::config::keys::{ConfigKey, ShownAs, TakesEffect};

            $(
                pub(crate) const $key: ConfigKey = ConfigKey {
                    name: concat!($prefix, stringify!($key)),
                    value: concat!($(stringify!($default))? $(stringify!($example))?),
                    doc: concat!($($doc)?),
                    shown: ShownAs::$shown,
                    takes_effect: TakesEffect::$takes_effect,
                };
            )+
            pub(super) const ALL: &[ConfigKey] = &[$($key),+];
        }
    };
    (@default $ty:ident) => { Default::default() };
    (@default String $default:literal) => { $default.to_owned() };
    (@default PathBuf $default:literal) => { $default.into() };
    (@default $number:ident $default:literal) => { $default };
}

keys! {
    RawConfig {
        name: String = "docrow"; AtRestart; Line, "the pipeline: identifies its state in the target";
    }

    [source] RawSource {
        uri: Option<Secret>; AtRestart; Line as "${MONGODB_URI}";
        password: Option<Secret>; AtOnce; Hidden;
        include: Vec<String>; AtOnce; Line as ["shop.*", "crm.customers"];
        exclude: Vec<String>; AtOnce; Line as ["shop.tmp_*"];
        full_document: Option<String>; AtRestart; Hidden;
        on_history_lost: String = "stop"; AtRestart; Comment, "stop: an error | resync: copy again, in place";
        on_drop: String = "keep"; AtOnce;
            Comment, "when a collection is dropped, its rows: keep | truncate | drop, with the tables";
    }

    [target] RawTarget {
        uri: Option<Secret>; AtRestart; Line as "${POSTGRES_URI}", "sslmode, sslrootcert as for psql";
        password: Option<Secret>; AtOnce; Hidden;
        schema: String = "public"; AtRestart; Comment, "where the tables are created";
    }

    [mapping] RawMapping {
        dir: Option<PathBuf>; AtOnce;
            Comment as "schemas", "mapping files; default: this folder, which must exist only if `dir` is set";
        default: String = "auto"; AtOnce; Comment, "auto: typed tables | document: `_id` and `doc jsonb`";
        evolve: String = "add"; AtOnce; Comment, "add: new fields become columns and tables | freeze";
        json: String = "relaxed"; AtOnce; Comment, "relaxed | canonical Extended JSON in `doc`";
        max_dead_letters: u64 = 1000; AtOnce; Comment, "if a collection has more, it is stopped; the others go on";
    }

    [snapshot] RawSnapshot {
        parallelism: Option<usize>; AtOnce;
            Comment as 4, "chunks copied at once; default: number of cores + 1, at most 8";
        max_rate: Option<RawRate>; AtRestart;
            Comment as "20MiB", "maximum read per second, or a number of documents; default: unlimited";
    }

    [stream] RawStream {
        partitions: Option<u16>; AtRestart; Comment as 4, "workers; all changes of a document go to the same one";
        batch_rows: usize = 1000; AtOnce; Comment, "maximum documents per transaction";
        batch_age: String = "50ms"; AtOnce; Comment, "maximum time that a change waits for its batch to fill";
        order: String = "document"; AtRestart;
            Comment, "document | commit: a transaction's changes appear at once; one partition";
        stall_after: String = "60s"; AtRestart;
            Comment, "if nothing is applied for so long despite changes, docrow logs it and restarts the pipeline";
    }

    [state] RawState {
        dir: PathBuf = "docrow-state"; AtRestart; Comment;
        max_spool: String = "10GiB"; AtRestart;
            Comment, "maximum size of the spool; when it is full, changes wait in the oplog";
    }

    [serve] RawServe {
        listen: Option<String>; AtRestart;
            Comment as "127.0.0.1:8745", "dashboard, /metrics, /status, /healthz, /readyz; \"\" for none";
        token: Option<String>; AtRestart;
            Comment as "${DOCROW_TOKEN}", "required unless the address is local; default: none";
    }

    [verify] RawVerify {
        every: Option<String>; AtRestart;
            Comment as "24h", "docrow run verifies on this schedule; status shows the result; default: never";
        sample: Option<String>; AtRestart; Comment as "2%", "default: all documents";
        max_rate: Option<f64>; AtRestart;
            Comment as 2000, "maximum documents per second; default: as fast as one worker reads";
    }

    [notify] RawNotify {
        webhook: Option<Secret>; AtRestart;
            Comment as "${DOCROW_WEBHOOK}",
            "receives notifications: docs/operations.md; signed with DOCROW_NOTIFY_KEY; default: none";
    }

    [otlp] RawOtlp {
        endpoint: Option<Secret>; AtRestart;
            Comment as "http://collector:4318",
            "receives traces and metrics by OTLP: docs/metrics.md; default: none";
        sample: String = "100%"; AtRestart; Comment, "share of the traces of batches and chunks that is sent";
        metrics_every: String = "60s"; AtRestart; Comment;
    }
}
