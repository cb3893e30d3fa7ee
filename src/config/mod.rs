//! The configuration as it is used ([`Config`], which cannot be wrong). [`keys`] has what can be written, and
//! the defaults; [`environment`] the variables; [`file`] makes the one of the other.
//!
//! Every key of the file is known. A key that this version does not serve is refused with "not supported
//! yet", never ignored. Flags of the command line win over the file, and the environment too. Relative paths
//! in the file are relative to the file's folder; those of the command line and the environment, to the
//! working directory. Where a [`Secret`] may come from is said in docs/security.md.

mod amount;
mod check;
pub mod environment;
mod file;
pub mod keys;
mod listen;
mod notify;
mod otlp;
mod rate;
mod reload;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use self::{
    environment::{DOCROW_MASK_KEY, DOCROW_SOURCE, DOCROW_TARGET},
    keys::RawConfig,
};
pub use self::{
    listen::{DEFAULT_PORT, ServeConfig},
    notify::NotifyConfig,
    otlp::OtlpConfig,
    rate::Rate,
    reload::ConfigChange,
    verify::{SampleSize, VerifyConfig},
};
use crate::{
    error::{Code, Error, Result},
    mapping::{Mapping, MaskKey},
    schema::{JsonForm, MappingSpec, toml_error},
    secret::{self, Secret},
};

/// Where the configuration is looked for when `--config` is not given.
pub const DEFAULT_FILE: &str = "docrow.toml";

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pipeline's name: identifies its state in the target. At most 63 bytes.
    pub name: String,
    /// MongoDB's connection string.
    pub source: Secret,
    /// Globs over `database.collection`. Empty: every collection of the URI's database, or of all of them.
    pub include: Vec<String>,
    /// Globs that take away from `include`.
    pub exclude: Vec<String>,
    /// What to do when the oplog no longer holds what a collection would go on from.
    pub on_history_lost: OnHistoryLost,
    /// What becomes of the rows of a collection that is dropped.
    pub on_drop: OnDrop,
    /// PostgreSQL's connection string.
    pub target: Secret,
    /// The schema that the tables live in.
    pub schema: String,
    /// Where mapping files are.
    pub mapping_dir: MappingDir,
    /// How a collection without a mapping file is mapped.
    pub default_mapping: DefaultMapping,
    /// Whether automatic mappings get new columns and tables for new fields.
    pub evolve: bool,
    /// A collection with more dead letters than these is stopped.
    pub max_dead_letters: u64,
    /// The key of columns that are masked by `sha256`.
    pub mask_key: Option<MaskKey>,
    /// How many chunks are copied at once.
    pub parallelism: usize,
    /// How fast snapshots may read, if there is a limit.
    pub max_rate: Option<Rate>,
    /// How many workers apply changes.
    pub partitions: u16,
    /// In which order changes show.
    pub order: Order,
    /// The most documents that one transaction of a worker changes.
    pub batch_rows: usize,
    /// The longest a change waits for its batch to fill.
    pub batch_age: Duration,
    /// How long nothing may be applied, though there is something to apply, before all begins anew.
    pub stall_after: Duration,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The most bytes that the spool in it takes.
    pub max_spool: u64,
    /// What is served over HTTP, if anything.
    pub serve: Option<ServeConfig>,
    /// Who is told what happens, if anybody.
    pub notify: Option<NotifyConfig>,
    /// Where traces and metrics are sent, if anywhere.
    pub otlp: Option<OtlpConfig>,
    /// When a run verifies by itself, if it does.
    pub verify: Option<VerifyConfig>,
}

/// The folder of mapping files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the configuration names it, so that it is an error if it is not there.
    pub must_exist: bool,
}

/// What to do when history is lost (G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHistoryLost {
    /// End with an error.
    Stop,
    /// Copy the collection anew, in place.
    Resync,
}

/// What becomes of the rows of a collection that is dropped in MongoDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDrop {
    /// They stay.
    Keep,
    /// They go, the tables stay.
    Truncate,
    /// They go, with the tables that docrow has made.
    Drop,
}

/// In which order changes show in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those of a document in order; those of different documents as they come.
    Document,
    /// All of them in MongoDB's order, a transaction's at once.
    Commit,
}

/// How a collection without a mapping file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultMapping {
    /// To typed tables, by a sample of its documents.
    Auto,
    /// To one table with the whole document as `jsonb`.
    Document(JsonForm),
}

/// The part of it that commands need which only read MongoDB: no target needs to be named for it.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    /// As [`Config::source`].
    pub source: Secret,
    /// As [`Config::include`].
    pub include: Vec<String>,
    /// As [`Config::exclude`].
    pub exclude: Vec<String>,
    /// As [`Config::mapping_dir`].
    pub mapping_dir: MappingDir,
}

impl SourceConfig {
    /// As [`Config::load`].
    pub fn load(overrides: Overrides) -> Result<Self> {
        // Any text passes for a target here, and nobody gets to see it.
        let overrides = Overrides { target: Some(Secret::default()), serves_nothing: true, ..overrides };
        let Config { source, include, exclude, mapping_dir, .. } = Config::load(overrides)?;
        Ok(Self { source, include, exclude, mapping_dir })
    }
}

/// The part of it that commands need which only use PostgreSQL: no source needs to be named for it.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetConfig {
    /// As [`Config::name`].
    pub name: String,
    /// As [`Config::target`].
    pub target: Secret,
    /// As [`Config::schema`].
    pub schema: String,
}

impl TargetConfig {
    /// As [`Config::load`].
    pub fn load(overrides: Overrides) -> Result<Self> {
        // Any text passes for a source here, and nobody gets to see it.
        let overrides = Overrides { source: Some(Secret::default()), serves_nothing: true, ..overrides };
        let Config { name, target, schema, .. } = Config::load(overrides)?;
        Ok(Self { name, target, schema })
    }
}

/// What the command line says of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--source`
    pub source: Option<Secret>,
    /// `--target`
    pub target: Option<Secret>,
    /// `--include`
    pub include: Vec<String>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// Whether nothing is served, whatever the file says: its token need not be known then.
    pub serves_nothing: bool,
}

impl Config {
    /// Reads the file, if there is one, and lays the command line over it.
    pub fn load(overrides: Overrides) -> Result<Self> {
        let Some((file, text)) = read_file(&overrides)? else {
            return RawConfig::default().validate("the command line", Path::new(""), overrides);
        };
        let raw: RawConfig = toml::from_str(&text).map_err(|error| toml_error(&file, &text, &error))?;
        let folder = Path::new(&file).parent().unwrap_or(Path::new(""));
        raw.validate(&file, folder, overrides)
    }

    /// Compiles a mapping. Errors: it masks values, and there is no key to do it with.
    pub fn compile(&self, spec: &MappingSpec) -> Result<Mapping> {
        let mapping = Mapping::compile(spec);
        match &self.mask_key {
            Some(key) => Ok(mapping.with_mask_key(key.clone())),
            None if mapping.needs_mask_key() => Err(Error::new(
                Code::MissingMaskKey,
                format!(
                    "the mapping of {} masks values by sha256: set the environment variable {DOCROW_MASK_KEY} to a secret key",
                    spec.collection()
                ),
            )),
            None => Ok(mapping),
        }
    }

    /// Checks that hashes which are there, by the fingerprint of their key, and those to come are of one key:
    /// equal values are to have equal hashes. Without any key, [`Self::compile`] refuses.
    pub fn check_mask_key(&self, collection: &str, masked_by: Option<&str>) -> Result<()> {
        match (&self.mask_key, masked_by) {
            (Some(key), Some(masked_by)) if key.fingerprint() != masked_by => Err(Error::new(
                Code::MaskKeyChanged,
                format!(
                    "the rows of {collection} are masked by another key than {DOCROW_MASK_KEY} holds now: set it back, or, for a \
                     new key, copy anew under another pipeline name and schema"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// The configuration file's name and text. The default file may be absent when the command line says enough.
fn read_file(overrides: &Overrides) -> Result<Option<(String, String)>> {
    let path = overrides.file.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let name = path.display().to_string();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some((name, text))),
        Err(error) if overrides.file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            let given = |flag: &Option<Secret>, name| flag.is_some() || secret::is_filed(name);
            if given(&overrides.source, DOCROW_SOURCE) && given(&overrides.target, DOCROW_TARGET) {
                return Ok(None);
            }
            Err(Error::new(
                Code::NoConfiguration,
                format!("no {DEFAULT_FILE} in this directory: give --source and --target, or --config FILE"),
            ))
        }
        Err(error) => {
            Err(Error::caused(Code::ConfigurationUnreadable, format!("read configuration {name}"), error))
        }
    }
}
