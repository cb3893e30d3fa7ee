//! A configuration that changes while docrow runs: which keys are reloaded, and which need a restart.
//!
//! [`keys`] says it of each key. Reloaded is what every turn of the pipeline looks up again, and how docrow
//! logs in to its servers. What names the pipeline or its servers, and what is set up once (the spool, the
//! partitions, the address of the dashboard), is not.

use super::{
    Config, ServeConfig,
    keys::{self, ConfigKey, TakesEffect},
};
use crate::{mapping::MaskKey, secret::Secret};

/// The result of reloading a configuration.
#[derive(Debug)]
pub struct ConfigChange {
    /// The configuration in force from now on.
    pub config: Config,
    /// The reloaded keys.
    pub taken_up: Vec<&'static str>,
    /// The keys that have changed, but stay as they were until docrow is restarted.
    pub waits: Vec<&'static str>,
}

impl Config {
    /// The result for this configuration, if `wanted` is the one in the file now.
    pub fn changed_to(&self, wanted: Self) -> ConfigChange {
        // Every field is listed, so that a new key must be decided here.
        let Self {
            name,
            source,
            include,
            exclude,
            on_history_lost,
            on_drop,
            target,
            schema,
            mapping_dir,
            default_mapping,
            evolve,
            max_dead_letters,
            mask_key,
            parallelism,
            partitions,
            order,
            batch_rows,
            batch_age,
            stall_after,
            state_dir,
            max_spool,
            serve,
            max_rate,
            notify,
            otlp,
            verify,
        } = wanted;
        let mut change = ConfigChange { config: self.clone(), taken_up: Vec::new(), waits: Vec::new() };
        let now = &mut change.config;
        let mut keys = KeyChanges { taken_up: &mut change.taken_up, waits: &mut change.waits };
        keys.take(keys::source::include, &mut now.include, include);
        keys.take(keys::source::exclude, &mut now.exclude, exclude);
        keys.take(keys::source::on_drop, &mut now.on_drop, on_drop);
        keys.take(keys::mapping::dir, &mut now.mapping_dir, mapping_dir);
        keys.take(keys::mapping::default, &mut now.default_mapping, default_mapping);
        keys.take(keys::mapping::evolve, &mut now.evolve, evolve);
        keys.take(keys::mapping::max_dead_letters, &mut now.max_dead_letters, max_dead_letters);
        keys.take(keys::snapshot::parallelism, &mut now.parallelism, parallelism);
        keys.take(keys::stream::batch_rows, &mut now.batch_rows, batch_rows);
        keys.take(keys::stream::batch_age, &mut now.batch_age, batch_age);
        keys.take_login("the login to MongoDB", &mut now.source, &source);
        keys.take_login("the login to PostgreSQL", &mut now.target, &target);
        keys.take(keys::top::name, &mut now.name, name);
        keys.take(keys::source::uri, &mut now.source, source);
        keys.take(keys::source::on_history_lost, &mut now.on_history_lost, on_history_lost);
        keys.take(keys::target::uri, &mut now.target, target);
        keys.take(keys::target::schema, &mut now.schema, schema);
        let fingerprint = |key: &Option<MaskKey>| key.as_ref().map(MaskKey::fingerprint);
        if fingerprint(&now.mask_key) != fingerprint(&mask_key) {
            keys.waits.push("the mask key");
        }
        keys.take(keys::stream::partitions, &mut now.partitions, partitions);
        keys.take(keys::stream::order, &mut now.order, order);
        keys.take(keys::stream::stall_after, &mut now.stall_after, stall_after);
        keys.take(keys::state::dir, &mut now.state_dir, state_dir);
        keys.take(keys::state::max_spool, &mut now.max_spool, max_spool);
        let address = |serve: &Option<ServeConfig>| serve.as_ref().map(|serve| serve.address);
        let token = |serve: &Option<ServeConfig>| serve.as_ref().and_then(|serve| serve.token.clone());
        let is_elsewhere = keys.takes_up(keys::serve::listen, address(&now.serve) != address(&serve));
        let has_other_token = keys.takes_up(keys::serve::token, token(&now.serve) != token(&serve));
        if is_elsewhere || has_other_token {
            now.serve = serve;
        }
        keys.take(keys::snapshot::max_rate, &mut now.max_rate, max_rate);
        keys.take_section(keys::verify::every, &mut now.verify, verify);
        keys.take_section(keys::notify::webhook, &mut now.notify, notify);
        keys.take_section(keys::otlp::endpoint, &mut now.otlp, otlp);
        change
    }
}

/// What has changed, by its names.
struct KeyChanges<'a> {
    taken_up: &'a mut Vec<&'static str>,
    waits: &'a mut Vec<&'static str>,
}

impl KeyChanges<'_> {
    /// Takes the value up, or leaves it for a restart, as the key has it.
    fn take<T: PartialEq>(&mut self, key: ConfigKey, now: &mut T, wanted: T) {
        if self.takes_up(key, *now != wanted) {
            *now = wanted;
        }
    }

    /// Of all keys in the section of `key`, which are one setting.
    fn take_section<T: PartialEq>(&mut self, key: ConfigKey, now: &mut T, wanted: T) {
        let section = ConfigKey { name: key.parts().0.unwrap_or(key.name), ..key };
        self.take(section, now, wanted);
    }

    /// For a URI that has changed in nothing else.
    fn take_login(&mut self, name: &'static str, now: &mut Secret, wanted: &Secret) {
        if *now != *wanted && now.without_login() == wanted.without_login() {
            self.taken_up.push(name);
            *now = wanted.clone();
        }
    }

    /// Notes what has changed; returns whether that is reloaded.
    fn takes_up(&mut self, key: ConfigKey, has_changed: bool) -> bool {
        let at_once = key.takes_effect == TakesEffect::AtOnce;
        if has_changed {
            let names = if at_once { &mut *self.taken_up } else { &mut *self.waits };
            names.push(key.name);
        }
        has_changed && at_once
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Overrides;

    const URIS: &str = "source.uri = 'mongodb://u:p@a/x'\ntarget.uri = 'postgres://u:p@b/y'\n";

    fn load(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("docrow.toml");
        // Otherwise the folders would differ.
        let text = format!("{text}\nstate.dir = '/s'\nmapping.dir = '/m'");
        fs::write(&file, text).unwrap();
        Config::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap()
    }

    #[track_caller]
    fn assert_change(text: &str, taken_up: &[&str], waits: &[&str]) -> Config {
        let change = load(URIS).changed_to(load(text));
        assert_eq!((&*change.taken_up, &*change.waits), (taken_up, waits), "{text}");
        change.config
    }

    #[test]
    fn what_is_taken_up_and_what_waits_is_told() {
        assert_change(URIS, &[], &[]);
        let config = assert_change(
            &format!("{URIS}source.include = ['x.*']\nstream = {{ batch_rows = 7, partitions = 9 }}"),
            &["source.include", "stream.batch_rows"],
            &["stream.partitions"],
        );
        assert_eq!((config.include.len(), config.batch_rows, config.partitions), (1, 7, 4));
        let config = assert_change(
            &format!(
                "{URIS}name = 'other'\nserve = {{ listen = '127.0.0.1:1', token = '0123456789abcdef' }}\n\
                 otlp.endpoint = 'http://a:4318'"
            ),
            &[],
            &["name", "serve.listen", "serve.token", "otlp"],
        );
        assert_eq!(config.name, "docrow");
    }

    #[test]
    fn a_login_is_taken_up_and_another_server_is_not() {
        let config = assert_change(
            "source.uri = 'mongodb://u:new@a/x'\ntarget.uri = 'postgres://v:new@b/y'",
            &["the login to MongoDB", "the login to PostgreSQL"],
            &[],
        );
        assert_eq!(config.source.expose(), "mongodb://u:new@a/x");
        let config = assert_change(
            "source.uri = 'mongodb://u:p@elsewhere/x'\ntarget.uri = 'postgres://u:p@b/elsewhere'",
            &[],
            &["source.uri", "target.uri"],
        );
        assert_eq!(config.target.expose(), "postgres://u:p@b/y");
    }
}
