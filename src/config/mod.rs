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

/// The default configuration file.
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
    /// Globs that are excluded from `include`.
    pub exclude: Vec<String>,
    /// What to do when the oplog no longer holds a collection's position.
    pub on_history_lost: OnHistoryLost,
    /// What happens to the rows of a dropped collection.
    pub on_drop: OnDrop,
    /// PostgreSQL's connection string.
    pub target: Secret,
    /// The schema of the tables.
    pub schema: String,
    /// The folder of mapping files.
    pub mapping_dir: MappingDir,
    /// How a collection without a mapping file is mapped.
    pub default_mapping: DefaultMapping,
    /// Whether automatic mappings get new columns and tables for new fields.
    pub evolve: bool,
    /// The maximum number of dead letters before a collection is stopped.
    pub max_dead_letters: u64,
    /// The key of columns that are masked by `sha256`.
    pub mask_key: Option<MaskKey>,
    /// How many chunks are copied at once.
    pub parallelism: usize,
    /// How fast snapshots may read, if there is a limit.
    pub max_rate: Option<Rate>,
    /// How many workers apply changes.
    pub partitions: u16,
    /// The order in which changes become visible.
    pub order: Order,
    /// The maximum number of documents in one transaction of a worker.
    pub batch_rows: usize,
    /// The maximum time that a change waits for its batch to fill.
    pub batch_age: Duration,
    /// How long nothing may be applied, although there are changes, before docrow starts over.
    pub stall_after: Duration,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The maximum size of the spool in it, in bytes.
    pub max_spool: u64,
    /// The HTTP server, if any.
    pub serve: Option<ServeConfig>,
    /// The webhook for notifications, if any.
    pub notify: Option<NotifyConfig>,
    /// The collector for traces and metrics, if any.
    pub otlp: Option<OtlpConfig>,
    /// The schedule of verifications, if any.
    pub verify: Option<VerifyConfig>,
}

/// The folder of mapping files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingDir {
    /// Its path.
    pub path: PathBuf,
    /// Whether the configuration names it, so that it must exist.
    pub must_exist: bool,
}

/// What to do when history is lost (G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHistoryLost {
    /// End with an error.
    Stop,
    /// Resync the collection in place.
    Resync,
}

/// What happens to the rows of a collection that is dropped in MongoDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDrop {
    /// They stay.
    Keep,
    /// They are deleted, the tables stay.
    Truncate,
    /// They are deleted, together with the tables that docrow has created.
    Drop,
}

/// The order in which changes become visible in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A document's changes in order; those of different documents in any order.
    Document,
    /// All changes in MongoDB's order, those of a transaction at once.
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

/// The part for commands that only read MongoDB: no target need be configured.
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
        // Any text serves as a target here, and is never shown.
        let overrides = Overrides { target: Some(Secret::default()), serves_nothing: true, ..overrides };
        let Config { source, include, exclude, mapping_dir, .. } = Config::load(overrides)?;
        Ok(Self { source, include, exclude, mapping_dir })
    }
}

/// The part for commands that only use PostgreSQL: no source need be configured.
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
        // Any text serves as a source here, and is never shown.
        let overrides = Overrides { source: Some(Secret::default()), serves_nothing: true, ..overrides };
        let Config { name, target, schema, .. } = Config::load(overrides)?;
        Ok(Self { name, target, schema })
    }
}

/// The command line's part of the configuration.
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
    /// Whether nothing is served, whatever the file says: then its token need not be known.
    pub serves_nothing: bool,
}

impl Config {
    /// The defaults, with connection strings that lead nowhere.
    #[cfg(test)]
    pub(crate) fn with_defaults() -> Self {
        let uri = |uri: &str| Some(Secret::from(uri.to_owned()));
        let (source, target) = (uri("mongodb://nowhere"), uri("postgres://nowhere"));
        Self::load(Overrides { source, target, ..Overrides::default() }).unwrap()
    }

    /// Reads the file, if there is one, and overrides it by the command line.
    pub fn load(overrides: Overrides) -> Result<Self> {
        let Some((file, text)) = read_file(&overrides)? else {
            return RawConfig::default().validate("the command line", Path::new(""), overrides);
        };
        let raw: RawConfig = toml::from_str(&text).map_err(|error| toml_error(&file, &text, &error))?;
        let folder = Path::new(&file).parent().unwrap_or(Path::new(""));
        raw.validate(&file, folder, overrides)
    }

    /// Compiles a mapping. Errors: it masks values, but there is no key.
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

    /// Checks that existing hashes, by the fingerprint of their key, and new ones use the same key: equal
    /// values must have equal hashes. Without any key, [`Self::compile`] refuses.
    pub fn check_mask_key(&self, collection: &str, masked_by: Option<&str>) -> Result<()> {
        match (&self.mask_key, masked_by) {
            (Some(key), Some(masked_by)) if key.fingerprint() != masked_by => Err(Error::new(
                Code::MaskKeyChanged,
                format!(
                    "the rows of {collection} are masked with another key than {DOCROW_MASK_KEY} has now: restore \
                     it, or, for a new key, copy again under another pipeline name and schema"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// The configuration file's name and text. The default file may be missing if the command line says enough.
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
                format!("no {DEFAULT_FILE} in this directory: pass --source and --target, or --config FILE"),
            ))
        }
        Err(error) => {
            Err(Error::caused(Code::ConfigurationUnreadable, format!("read configuration {name}"), error))
        }
    }
}
