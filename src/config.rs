//! The configuration: as written ([`RawConfig`]) and as it is used ([`Config`], which cannot be wrong).
//!
//! Every key of the file is known here. A key that this version does not serve is refused with "not supported yet",
//! never ignored. Flags of the command line win over the file, and the environment too. Where a [`Secret`] may come from
//! is said in docs/security.md.

mod listen;

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use serde::Deserialize;

pub use self::listen::{DEFAULT_PORT, ServeConfig};
use crate::{
    error::{Code, Error, Result},
    mapping::{Mapping, MaskKey},
    schema::{JsonForm, MappingSpec, toml_error},
    secret::{self, Secret},
};

/// Where the configuration is looked for when `--config` is not given.
pub const DEFAULT_FILE: &str = "docrow.toml";

/// The environment variable that holds MongoDB's connection string. It may be given by a file, as all of these may:
/// [`secret::from_environment`].
pub const SOURCE: &str = "DOCROW_SOURCE";

/// The environment variable that holds PostgreSQL's connection string.
pub const TARGET: &str = "DOCROW_TARGET";

/// The environment variable that holds the key of masks.
pub const MASK_KEY: &str = "DOCROW_MASK_KEY";

/// The least room for the spool: what the stream brings while workers are handed over must fit.
const LEAST_SPOOL: ByteSize = ByteSize::mib(64);

/// The longest a change may be made to wait.
const LONGEST: Duration = Duration::from_secs(60);

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
    /// Where mapping files are looked for; it need not exist.
    pub mapping_dir: PathBuf,
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
    /// How many workers apply changes.
    pub partitions: u16,
    /// In which order changes show.
    pub order: Order,
    /// The most documents that one transaction of a worker changes.
    pub batch_rows: usize,
    /// The longest a change waits for its batch to fill.
    pub batch_age: Duration,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The most bytes that the spool in it takes.
    pub max_spool: u64,
    /// What is served over HTTP, if anything.
    pub serve: Option<ServeConfig>,
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
    pub mapping_dir: PathBuf,
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

/// The file as written. Field names are the keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    name: Option<String>,
    source: RawSource,
    target: RawTarget,
    mapping: RawMapping,
    snapshot: RawSnapshot,
    stream: RawStream,
    state: RawState,
    serve: RawServe,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSource {
    uri: Option<Secret>,
    password: Option<Secret>,
    include: Vec<String>,
    exclude: Vec<String>,
    full_document: Option<String>,
    on_history_lost: Option<String>,
    on_drop: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawTarget {
    uri: Option<Secret>,
    password: Option<Secret>,
    schema: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawMapping {
    dir: Option<PathBuf>,
    default: Option<String>,
    evolve: Option<String>,
    json: Option<String>,
    max_dead_letters: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSnapshot {
    parallelism: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStream {
    partitions: Option<u16>,
    batch_rows: Option<usize>,
    batch_age: Option<String>,
    order: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawState {
    dir: Option<PathBuf>,
    max_spool: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawServe {
    listen: Option<String>,
    token: Option<String>,
}

impl Config {
    /// Reads the file, if there is one, and lays the command line over it.
    pub fn load(overrides: Overrides) -> Result<Self> {
        let Some((file, text)) = read_file(&overrides)? else {
            return RawConfig::default().validate("the command line", overrides);
        };
        let raw: RawConfig = toml::from_str(&text).map_err(|error| toml_error(&file, &text, &error))?;
        raw.validate(&file, overrides)
    }

    /// Compiles a mapping. Errors: it masks values, and there is no key to do it with.
    pub fn compile(&self, spec: &MappingSpec) -> Result<Mapping> {
        let mapping = Mapping::compile(spec);
        match &self.mask_key {
            Some(key) => Ok(mapping.with_mask_key(key.clone())),
            None if mapping.needs_mask_key() => Err(Error::new(
                Code::MissingMaskKey,
                format!(
                    "the mapping of {} masks values by sha256: set the environment variable {MASK_KEY} to a secret key",
                    spec.collection()
                ),
            )),
            None => Ok(mapping),
        }
    }

    /// Checks that hashes which are there, by the fingerprint of their key, and those to come are of one key: equal values
    /// are to have equal hashes. Without any key, [`Self::compile`] refuses.
    pub fn check_mask_key(&self, collection: &str, masked_by: Option<&str>) -> Result<()> {
        match (&self.mask_key, masked_by) {
            (Some(key), Some(masked_by)) if key.fingerprint() != masked_by => Err(Error::new(
                Code::MaskKeyChanged,
                format!(
                    "the rows of {collection} are masked by another key than {MASK_KEY} holds now: set it back, or, for a \
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
            if given(&overrides.source, SOURCE) && given(&overrides.target, TARGET) {
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

impl RawConfig {
    fn validate(self, file: &str, flags: Overrides) -> Result<Config> {
        let Self { name, source, target, mapping, snapshot, stream, state, serve } = self;
        let RawSource { uri, password, include, exclude, full_document, on_history_lost, on_drop } = source;
        let source = Endpoint { side: "source", variable: SOURCE, flag: flags.source, uri, password };
        let RawTarget { uri, password, schema } = target;
        let target = Endpoint { side: "target", variable: TARGET, flag: flags.target, uri, password };
        let RawMapping { dir: mapping_dir, default, evolve, json, max_dead_letters } = mapping;
        let RawSnapshot { parallelism } = snapshot;
        let RawStream { partitions, batch_rows, batch_age, order } = stream;
        let RawState { dir: state_dir, max_spool } = state;

        let check = Check { file };
        check.only(
            full_document,
            "source.full_document",
            &["batch_lookup"],
            &["update_lookup", "post_image"],
        )?;
        let history = [("stop", OnHistoryLost::Stop), ("resync", OnHistoryLost::Resync)];
        let drops = [("keep", OnDrop::Keep), ("truncate", OnDrop::Truncate), ("drop", OnDrop::Drop)];
        let json = check.one_of(
            json,
            "mapping.json",
            [("relaxed", JsonForm::Relaxed), ("canonical", JsonForm::Canonical)],
        )?;
        let defaults = [("auto", DefaultMapping::Auto), ("document", DefaultMapping::Document(json))];
        let order = check.one_of(
            order,
            "stream.order",
            [("document", Order::Document), ("commit", Order::Commit)],
        )?;

        Ok(Config {
            name: check.identifier(name, "name", "docrow")?,
            source: check.uri(source)?,
            include: if flags.include.is_empty() {
                check.expand_all(include, "source.include")?
            } else {
                flags.include
            },
            exclude: check.expand_all(exclude, "source.exclude")?,
            on_history_lost: check.one_of(on_history_lost, "source.on_history_lost", history)?,
            on_drop: check.one_of(on_drop, "source.on_drop", drops)?,
            target: check.uri(target)?,
            schema: check.identifier(schema, "target.schema", "public")?,
            mapping_dir: mapping_dir.unwrap_or_else(|| "schemas".into()),
            default_mapping: check.one_of(default, "mapping.default", defaults)?,
            evolve: check.one_of(evolve, "mapping.evolve", [("add", true), ("freeze", false)])?,
            max_dead_letters: max_dead_letters.unwrap_or(1000),
            mask_key: secret::from_environment(MASK_KEY)?.map(|key| MaskKey::new(key.expose().as_bytes())),
            parallelism: check.between(parallelism, "snapshot.parallelism", default_parallelism(), 64)?,
            partitions: check.partitions(partitions, order)?,
            order,
            batch_rows: check.between(batch_rows, "stream.batch_rows", 1000, 100_000)?,
            batch_age: check.duration(batch_age, "stream.batch_age", Duration::from_millis(50))?,
            state_dir: flags.state.or(state_dir).unwrap_or_else(|| "docrow-state".into()),
            max_spool: check.size(max_spool, "state.max_spool", ByteSize::gib(10), LEAST_SPOOL)?,
            serve: if flags.serves_nothing { None } else { check.serve(serve)? },
        })
    }
}

/// How one of the two servers is named.
struct Endpoint {
    side: &'static str,
    /// The environment variable for the URI.
    variable: &'static str,
    /// What the command line says, or that environment variable. Empty: nobody asks for this side.
    flag: Option<Secret>,
    uri: Option<Secret>,
    password: Option<Secret>,
}

/// Checks of single values; every error names the file, the key and the constraint.
struct Check<'a> {
    file: &'a str,
}

impl Check<'_> {
    fn error(&self, key: &str, constraint: impl fmt::Display) -> Error {
        Error::new(Code::BadValue, format!("{}: {key}: {constraint}", self.file))
    }

    /// One of `served`; those of `later` are known, and said to be.
    fn only(&self, value: Option<String>, key: &str, served: &[&str], later: &[&str]) -> Result<()> {
        match value.as_deref() {
            None => Ok(()),
            Some(value) if served.contains(&value) => Ok(()),
            Some(value) if later.contains(&value) => Err(self
                .error(key, format!("\"{value}\" is not supported yet"))
                .with_code(Code::NotSupportedYet)),
            Some(value) => {
                let known: Vec<_> = served.iter().chain(later).map(|known| format!("\"{known}\"")).collect();
                Err(self.error(key, format!("\"{value}\" is none of {}", known.join(", "))))
            }
        }
    }

    /// One of `known`, of which the first is the default.
    fn one_of<T: Copy, const N: usize>(
        &self,
        value: Option<String>,
        key: &str,
        known: [(&str, T); N],
    ) -> Result<T> {
        let found = match &value {
            None => known.first(),
            Some(value) => known.iter().find(|(name, _)| name == value),
        };
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.error(key, format!("\"{}\" is none of {}", value.unwrap_or_default(), known.join(", ")))
        })
    }

    /// The connection string of one side, with its password.
    fn uri(&self, endpoint: Endpoint) -> Result<Secret> {
        let Endpoint { side, variable, flag, uri, password } = endpoint;
        if flag.as_ref().is_some_and(|flag| flag.expose().is_empty()) {
            return Ok(Secret::default());
        }
        let (key, password_key) = (format!("{side}.uri"), format!("{side}.password"));
        let from_environment = secret::from_environment(&format!("{variable}_PASSWORD"))?;
        let (uri, password) = match (flag, secret::from_environment(variable)?, uri) {
            (Some(flag), ..) => (self.expand(flag.expose(), &key)?.into(), None),
            (None, Some(filed), _) => (filed, None),
            (None, None, Some(uri)) => {
                self.warn_of_secrets_in_file(&uri, password.as_ref());
                let password = password.map(|text| self.expand(text.expose(), &password_key)).transpose()?;
                (self.expand(uri.expose(), &key)?.into(), password.map(Secret::from))
            }
            (None, None, None) => {
                let missing = format!("missing: write it there, set {variable}, or give --{side} URI");
                return Err(self.error(&key, missing).with_code(Code::MissingUri));
            }
        };
        match from_environment.or(password) {
            Some(password) => uri.with_password(&password).map_err(|wrong| self.error(&password_key, wrong)),
            None => Ok(uri),
        }
    }

    /// The file is as secret as what is written out in it.
    fn warn_of_secrets_in_file(&self, uri: &Secret, password: Option<&Secret>) {
        let written = |text: &Secret| !text.expose().contains("${");
        if password.is_some_and(written) || uri.has_password() && written(uri) {
            secret::warn_if_open(Path::new(self.file));
        }
    }

    fn identifier(&self, value: Option<String>, key: &str, default: &str) -> Result<String> {
        let text = value.map_or_else(|| Ok(default.to_owned()), |text| self.expand(&text, key))?;
        if text.is_empty() || text.len() > 63 || text.contains('\0') {
            return Err(self.error(key, "must have 1 to 63 bytes"));
        }
        Ok(text)
    }

    fn between<N>(&self, value: Option<N>, key: &str, default: N, most: N) -> Result<N>
    where
        N: Copy + PartialOrd + From<u8> + fmt::Display,
    {
        match value.unwrap_or(default) {
            value if (N::from(1)..=most).contains(&value) => Ok(value),
            value => Err(self.error(key, format!("{value} is not between 1 and {most}"))),
        }
    }

    /// In the order of commits there is one.
    fn partitions(&self, value: Option<u16>, order: Order) -> Result<u16> {
        let key = "stream.partitions";
        match (order, value) {
            (Order::Document, value) => self.between(value, key, 4, 64),
            (Order::Commit, None | Some(1)) => Ok(1),
            (Order::Commit, Some(other)) => {
                let advice = "leave it away, or write 1";
                Err(self.error(
                    key,
                    format!("{other} is too many for stream.order = \"commit\", which has one: {advice}"),
                ))
            }
        }
    }

    fn size(&self, value: Option<String>, key: &str, default: ByteSize, least: ByteSize) -> Result<u64> {
        let Some(text) = value else { return Ok(default.as_u64()) };
        match text.parse::<ByteSize>() {
            Ok(size) if size >= least => Ok(size.as_u64()),
            Ok(_) => Err(self.error(key, format!("\"{text}\" is less than {}", least.display().iec()))),
            Err(_) => Err(self.error(key, format!("\"{text}\" is no size: write for example \"10GiB\""))),
        }
    }

    fn duration(&self, value: Option<String>, key: &str, default: Duration) -> Result<Duration> {
        let Some(text) = value else { return Ok(default) };
        match humantime::parse_duration(&text) {
            Ok(duration) if duration <= LONGEST => Ok(duration),
            Ok(_) => Err(self.error(key, format!("\"{text}\" is more than a minute"))),
            Err(_) => {
                let example = "write for example \"50ms\" or \"2s\"";
                Err(self.error(key, format!("\"{text}\" is no duration: {example}")))
            }
        }
    }

    fn expand_all(&self, values: Vec<String>, key: &str) -> Result<Vec<String>> {
        values.iter().map(|value| self.expand(value, key)).collect()
    }

    /// Replaces every `${NAME}` by the environment variable of that name, and every `${file:PATH}` by what is in that file.
    fn expand(&self, text: &str, key: &str) -> Result<String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, tail) =
                after.split_once('}').ok_or_else(|| self.error(key, "\"${\" is not closed by \"}\""))?;
            expanded.push_str(before);
            match name.strip_prefix("file:") {
                Some(path) => {
                    let read = secret::read(Path::new(path));
                    let content = read.map_err(|e| e.within(format!("{}: {key}", self.file)))?;
                    expanded.push_str(content.expose());
                }
                None => {
                    let value = env::var(name).map_err(|_| {
                        self.error(key, format!("environment variable {name} is not set"))
                            .with_code(Code::MissingVariable)
                    })?;
                    expanded.push_str(&value);
                }
            }
            rest = tail;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

/// One chunk more at a time than there are processors, for each waits for a server now and then. More would only get in
/// each other's way: the servers have the larger part of the work, perhaps on the same machine.
fn default_parallelism() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| (cores.get() + 1).clamp(2, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docrow.toml");
        fs::write(&file, text).unwrap();
        Config::load(Overrides { file: Some(file), ..Overrides::default() })
    }

    fn refused(text: &str) -> String {
        load(text).unwrap_err().to_string()
    }

    const URIS: &str = "source.uri = 'mongodb://a'\ntarget.uri = 'postgres://b'\n";

    #[test]
    fn has_a_default_for_everything_but_the_uris() {
        let config = load(URIS).unwrap();
        assert_eq!((config.name.as_str(), config.schema.as_str()), ("docrow", "public"));
        assert_eq!((config.partitions, config.batch_rows), (4, 1000));
        assert!(refused("name = 'x'").contains("source.uri: missing"));
    }

    #[test]
    fn refuses_unknown_keys_with_the_nearest_known_one() {
        let error = refused(&format!("{URIS}stream.batch_row = 7"));
        assert!(
            error.contains("docrow.toml") && error.contains("batch_row") && error.contains("batch_rows"),
            "{error}"
        );
    }

    #[test]
    fn refuses_what_it_does_not_serve_yet() {
        let error = refused(&format!("{URIS}source.full_document = 'post_image'"));
        assert!(error.contains("not supported yet"), "{error}");
    }

    #[test]
    fn names_file_key_and_constraint() {
        let error = refused(&format!("{URIS}stream.partitions = 0"));
        assert!(error.ends_with("docrow.toml: stream.partitions: 0 is not between 1 and 64"), "{error}");
        assert!(
            refused(&format!("{URIS}stream.batch_age = 'soon'"))
                .contains("stream.batch_age: \"soon\" is no duration")
        );
        assert!(refused(&format!("{URIS}stream.batch_age = '2h'")).contains("more than a minute"));
        assert!(refused(&format!("{URIS}stream.order = 'x'")).contains("none of \"document\", \"commit\""));
        assert!(refused(&format!("{URIS}mapping.evolve = 'x'")).contains("none of \"add\", \"freeze\""));
    }

    #[test]
    fn reads_what_to_do_in_which_case() {
        let config = load(URIS).unwrap();
        assert_eq!((config.on_history_lost, config.on_drop), (OnHistoryLost::Stop, OnDrop::Keep));
        assert_eq!((config.order, config.max_spool), (Order::Document, 10 << 30));
        let config = load(&format!(
            "{URIS}source.on_history_lost = 'resync'\nsource.on_drop = 'truncate'\nstate.max_spool = '1.5 GiB'"
        ));
        let config = config.unwrap();
        assert_eq!((config.on_history_lost, config.on_drop), (OnHistoryLost::Resync, OnDrop::Truncate));
        assert_eq!(config.max_spool, 3 << 29);
        assert_eq!(load(&format!("{URIS}state.max_spool = '64MiB'")).unwrap().max_spool, 64 << 20);
        assert!(refused(&format!("{URIS}source.on_drop = 'x'")).contains("\"keep\", \"truncate\", \"drop\""));
        assert!(refused(&format!("{URIS}state.max_spool = '1MB'")).contains("\"1MB\" is less than 64.0 MiB"));
        for size in ["", "much", "-1GB", "10 XB"] {
            assert!(
                refused(&format!("{URIS}state.max_spool = '{size}'"))
                    .contains("is no size: write for example")
            );
        }
    }

    #[test]
    fn the_order_of_commits_has_one_partition() {
        let config = load(&format!("{URIS}stream.order = 'commit'")).unwrap();
        assert_eq!((config.order, config.partitions), (Order::Commit, 1));
        let commit =
            |partitions| load(&format!("{URIS}stream = {{ order = 'commit', partitions = {partitions} }}"));
        assert_eq!(commit(1).unwrap().partitions, 1);
        let error = commit(4).unwrap_err().to_string();
        assert!(error.contains("stream.partitions: 4 is too many for stream.order = \"commit\""), "{error}");
    }

    #[test]
    fn takes_values_from_the_environment() {
        let config = load(&format!("{URIS}name = 'at-${{CARGO_PKG_NAME}}'")).unwrap();
        assert_eq!(config.name, "at-docrow");
        assert!(
            refused(&format!("{URIS}name = '${{DOCROW_NO_SUCH}}'")).contains("DOCROW_NO_SUCH is not set")
        );
    }

    #[test]
    fn only_reading_takes_no_target() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docrow.toml");
        fs::write(&file, "source.uri = 'mongodb://a'\ntarget.uri = '${DOCROW_NO_SUCH}'\nmapping.dir = 'm'")
            .unwrap();
        let config = SourceConfig::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap();
        assert_eq!((config.source.expose(), config.mapping_dir), ("mongodb://a", "m".into()));
        let flags = Overrides { source: Some("mongodb://b".into()), ..Overrides::default() };
        assert_eq!(SourceConfig::load(flags).unwrap().source.expose(), "mongodb://b");
    }

    #[test]
    fn only_the_target_takes_no_source() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docrow.toml");
        fs::write(&file, "name = 'n'\nsource.uri = '${DOCROW_NO_SUCH}'\ntarget.uri = 'postgres://b'")
            .unwrap();
        let config = TargetConfig::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap();
        assert_eq!((config.name.as_str(), config.target.expose()), ("n", "postgres://b"));
        let flags = Overrides { target: Some("postgres://c".into()), ..Overrides::default() };
        assert_eq!(TargetConfig::load(flags).unwrap().target.expose(), "postgres://c");
    }

    /// A password needs no percent-encoding where it has a key of its own, and may be in a file.
    #[test]
    fn takes_secrets_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("password"), "p@ss/w${rd\n").unwrap();
        fs::write(path("uri"), "postgres://u:x@b\n").unwrap();
        let text = |password: &str| {
            let (source, uri) = ("source = { uri = 'mongodb://u@a/x'", path("uri"));
            format!("{source}, password = '{password}' }}\ntarget.uri = '${{file:{uri}}}'")
        };
        let config = load(&text(&format!("${{file:{}}}", path("password")))).unwrap();
        assert_eq!(config.source.expose(), "mongodb://u:p%40ss%2Fw%24%7Brd@a/x");
        assert_eq!(config.target.expose(), "postgres://u:x@b");
        assert_eq!(load(&text("a:b")).unwrap().source.expose(), "mongodb://u:a%3Ab@a/x");
        let error = refused(&text(&format!("${{file:{}}}", path("absent"))));
        assert!(
            error.contains("docrow.toml: source.password: read ") && error.contains("No such file"),
            "{error}"
        );
        let error = refused(&format!("{URIS}source.password = 'hunter2'"));
        assert!(error.contains("docrow.toml: source.password: the URI names no user"), "{error}");
        let error = refused(
            "source.uri = 'mongodb://a'\ntarget = { uri = 'postgres://u:p@b', password = 'hunter2' }",
        );
        assert!(
            error.contains("target.password: the URI has a password") && !error.contains("hunter2"),
            "{error}"
        );
        // A URI of the command line is another server's, perhaps.
        let file = dir.path().join("docrow.toml");
        fs::write(&file, text("hunter2")).unwrap();
        let flags =
            Overrides { file: Some(file), source: Some("mongodb://c".into()), ..Overrides::default() };
        assert_eq!(Config::load(flags).unwrap().source.expose(), "mongodb://c");
    }

    /// G12: a URI may carry a password.
    #[test]
    fn never_shows_a_uri() {
        let config =
            load("source.uri = 'mongodb://u:hunter2@a'\ntarget.uri = 'postgres://u:hunter2@b'").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
