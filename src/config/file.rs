//! The configuration as it is written: the keys of the file, and what each is if it is left away.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use serde::Deserialize;

use super::{
    Config, DefaultMapping, MASK_KEY, MappingDir, OnDrop, OnHistoryLost, Order, Overrides, SOURCE, TARGET,
    check::{Check, Endpoint},
};
use crate::{
    error::{Code, Error, Result},
    mapping::MaskKey,
    schema::JsonForm,
    secret::{self, Empty, Secret},
};

/// The least room for the spool: what the stream brings while workers are handed over must fit.
const LEAST_SPOOL: ByteSize = ByteSize::mib(64);

/// The least bytes that the key of masks has.
const LEAST_MASK_KEY: usize = 16;

/// The file as written. Field names are the keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    name: Option<String>,
    source: RawSource,
    target: RawTarget,
    mapping: RawMapping,
    snapshot: RawSnapshot,
    stream: RawStream,
    state: RawState,
    serve: RawServe,
    notify: RawNotify,
    otlp: RawOtlp,
    verify: RawVerify,
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
    max_rate: Option<RawRate>,
}

/// A number stands for documents.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawRate {
    Documents(u64),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStream {
    partitions: Option<u16>,
    batch_rows: Option<usize>,
    batch_age: Option<String>,
    order: Option<String>,
    stall_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawState {
    dir: Option<PathBuf>,
    max_spool: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServe {
    pub(super) listen: Option<String>,
    pub(super) token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNotify {
    pub(super) webhook: Option<Secret>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOtlp {
    pub(super) endpoint: Option<Secret>,
    pub(super) sample: Option<String>,
    pub(super) metrics_every: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawVerify {
    pub(super) every: Option<String>,
    pub(super) sample: Option<String>,
    pub(super) max_rate: Option<f64>,
}

impl RawRate {
    fn text(self) -> String {
        match self {
            Self::Documents(documents) => documents.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl RawConfig {
    /// Checks all of it. `folder` is what its relative paths are relative to.
    pub(super) fn validate(self, file: &str, folder: &Path, flags: Overrides) -> Result<Config> {
        let Self { name, source, target, mapping, snapshot, stream, state, serve, notify, otlp, verify } =
            self;
        let RawSource { uri, password, include, exclude, full_document, on_history_lost, on_drop } = source;
        let source = Endpoint { side: "source", variable: SOURCE, flag: flags.source, uri, password };
        let RawTarget { uri, password, schema } = target;
        let target = Endpoint { side: "target", variable: TARGET, flag: flags.target, uri, password };
        let RawMapping { dir: mapping_dir, default, evolve, json, max_dead_letters } = mapping;
        let RawSnapshot { parallelism, max_rate } = snapshot;
        let RawStream { partitions, batch_rows, batch_age, order, stall_after } = stream;
        let RawState { dir: state_dir, max_spool } = state;

        let check = Check { file, folder };
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
            schema: check.schema(schema)?,
            mapping_dir: MappingDir {
                must_exist: mapping_dir.is_some(),
                path: folder.join(mapping_dir.unwrap_or_else(|| "schemas".into())),
            },
            default_mapping: check.one_of(default, "mapping.default", defaults)?,
            evolve: check.one_of(evolve, "mapping.evolve", [("add", true), ("freeze", false)])?,
            max_dead_letters: max_dead_letters.unwrap_or(1000),
            mask_key: mask_key(secret::from_environment(MASK_KEY, Empty::IsNone)?)?,
            parallelism: check.between(parallelism, "snapshot.parallelism", default_parallelism(), 64)?,
            max_rate: check.rate(max_rate.map(RawRate::text))?,
            partitions: check.partitions(partitions, order)?,
            order,
            batch_rows: check.between(batch_rows, "stream.batch_rows", 1000, 100_000)?,
            batch_age: check.duration(batch_age, "stream.batch_age", Duration::from_millis(50))?,
            stall_after: check.patience(stall_after, "stream.stall_after", Duration::from_secs(60))?,
            state_dir: flags
                .state
                .unwrap_or_else(|| folder.join(state_dir.unwrap_or_else(|| "docrow-state".into()))),
            max_spool: check.size(max_spool, "state.max_spool", ByteSize::gib(10), LEAST_SPOOL)?,
            serve: if flags.serves_nothing { None } else { check.serve(serve)? },
            notify: if flags.serves_nothing { None } else { check.notify(notify)? },
            otlp: if flags.serves_nothing { None } else { check.otlp(otlp)? },
            verify: check.verify(verify)?,
        })
    }
}

/// The key of masks is the bytes of the text as it stands. Error: it is so short that it could be guessed.
pub(super) fn mask_key(text: Option<Secret>) -> Result<Option<MaskKey>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = text.expose().as_bytes();
    if bytes.len() < LEAST_MASK_KEY {
        return Err(Error::new(
            Code::MaskKeyShort,
            format!(
                "{MASK_KEY} has {} bytes, of which {LEAST_MASK_KEY} are wanted at least, for who guesses it can try values out: \
                 openssl rand -hex 32 makes one",
                bytes.len()
            ),
        ));
    }
    Ok(Some(MaskKey::new(bytes)))
}

/// One chunk more at a time than there are processors, for each waits for a server now and then. More would only get in
/// each other's way: the servers have the larger part of the work, perhaps on the same machine.
fn default_parallelism() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| (cores.get() + 1).clamp(2, 8))
}
