//! From the configuration as it is written to the one that is used.

use std::path::Path;

use bytesize::ByteSize;

use super::{
    Config, DefaultMapping, MappingDir, OnDrop, OnHistoryLost, Order, Overrides,
    check::{ServerEndpoint, ValueCheck},
    environment::{
        DOCROW_MASK_KEY, DOCROW_SOURCE, DOCROW_SOURCE_PASSWORD, DOCROW_TARGET, DOCROW_TARGET_PASSWORD,
    },
    keys::{self, RawConfig, RawMapping, RawRate, RawSnapshot, RawSource, RawState, RawStream, RawTarget},
};
use crate::{
    error::{Code, Error, Result},
    mapping::MaskKey,
    schema::JsonForm,
    secret::{self, EmptySecret, Secret},
};

/// The minimum size of the spool: what the stream brings while workers are replaced must fit.
const LEAST_SPOOL: ByteSize = ByteSize::mib(64);

/// The minimum length of the mask key, in bytes.
const LEAST_MASK_KEY: usize = 16;

impl RawConfig {
    /// Checks everything. `folder` is the base of its relative paths.
    pub(super) fn validate(self, file: &str, folder: &Path, flags: Overrides) -> Result<Config> {
        let Self { name, source, target, mapping, snapshot, stream, state, serve, notify, otlp, verify } =
            self;
        let RawSource { uri, password, include, exclude, full_document, on_history_lost, on_drop } = source;
        let source = ServerEndpoint {
            side: "source",
            keys: (keys::source::uri, keys::source::password),
            variables: (DOCROW_SOURCE, DOCROW_SOURCE_PASSWORD),
            flag: flags.source,
            uri,
            password,
        };
        let RawTarget { uri, password, schema } = target;
        let target = ServerEndpoint {
            side: "target",
            keys: (keys::target::uri, keys::target::password),
            variables: (DOCROW_TARGET, DOCROW_TARGET_PASSWORD),
            flag: flags.target,
            uri,
            password,
        };
        let RawMapping { dir: mapping_dir, default, evolve, json, max_dead_letters } = mapping;
        let RawSnapshot { parallelism, max_rate } = snapshot;
        let RawStream { partitions, batch_rows, batch_age, order, stall_after } = stream;
        let RawState { dir: state_dir, max_spool } = state;

        let check = ValueCheck { file, folder };
        let (served, later) = (&["batch_lookup"], &["update_lookup", "post_image"]);
        check.only(full_document, keys::source::full_document, served, later)?;
        let history = [("stop", OnHistoryLost::Stop), ("resync", OnHistoryLost::Resync)];
        let drops = [("keep", OnDrop::Keep), ("truncate", OnDrop::Truncate), ("drop", OnDrop::Drop)];
        let forms = [("relaxed", JsonForm::Relaxed), ("canonical", JsonForm::Canonical)];
        let json = check.one_of(json, keys::mapping::json, forms)?;
        let defaults = [("auto", DefaultMapping::Auto), ("document", DefaultMapping::Document(json))];
        let orders = [("document", Order::Document), ("commit", Order::Commit)];
        let order = check.one_of(order, keys::stream::order, orders)?;
        let parallelism = parallelism.unwrap_or_else(default_parallelism);

        Ok(Config {
            name: check.identifier(&name, keys::top::name)?,
            source: check.uri(source)?,
            include: if flags.include.is_empty() {
                check.expand_all(include, keys::source::include)?
            } else {
                flags.include
            },
            exclude: check.expand_all(exclude, keys::source::exclude)?,
            on_history_lost: check.one_of(on_history_lost, keys::source::on_history_lost, history)?,
            on_drop: check.one_of(on_drop, keys::source::on_drop, drops)?,
            target: check.uri(target)?,
            schema: check.schema(&schema)?,
            mapping_dir: MappingDir {
                must_exist: mapping_dir.is_some(),
                path: folder.join(mapping_dir.unwrap_or_else(|| "schemas".into())),
            },
            default_mapping: check.one_of(default, keys::mapping::default, defaults)?,
            evolve: check.one_of(evolve, keys::mapping::evolve, [("add", true), ("freeze", false)])?,
            max_dead_letters,
            mask_key: mask_key(secret::from_environment(DOCROW_MASK_KEY, EmptySecret::IsNone)?)?,
            parallelism: check.between(parallelism, keys::snapshot::parallelism, 64)?,
            max_rate: check.rate(max_rate.map(RawRate::text))?,
            partitions: check.partitions(partitions, order)?,
            order,
            batch_rows: check.between(batch_rows, keys::stream::batch_rows, 100_000)?,
            batch_age: check.duration(&batch_age, keys::stream::batch_age)?,
            stall_after: check.patience(&stall_after, keys::stream::stall_after)?,
            state_dir: flags.state.unwrap_or_else(|| folder.join(state_dir)),
            max_spool: check.size(&max_spool, keys::state::max_spool, LEAST_SPOOL)?,
            serve: if flags.serves_nothing { None } else { check.serve(serve)? },
            notify: if flags.serves_nothing { None } else { check.notify(notify)? },
            otlp: if flags.serves_nothing { None } else { check.otlp(otlp)? },
            verify: check.verify(verify)?,
        })
    }
}

/// The mask key is the text's bytes, unchanged. Error: it is so short that it could be guessed.
pub(super) fn mask_key(text: Option<Secret>) -> Result<Option<MaskKey>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = text.expose().as_bytes();
    if bytes.len() < LEAST_MASK_KEY {
        return Err(Error::new(
            Code::MaskKeyShort,
            format!(
                "{DOCROW_MASK_KEY} has {} bytes, but must have at least {LEAST_MASK_KEY}, because with a guessed \
                 key values can be tested: create one with openssl rand -hex 32",
                bytes.len()
            ),
        ));
    }
    Ok(Some(MaskKey::new(bytes)))
}

/// One chunk more at a time than there are processors, because each sometimes waits for a server. More would
/// only compete: the servers have the larger part of the work, perhaps on the same machine.
fn default_parallelism() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| (cores.get() + 1).clamp(2, 8))
}
