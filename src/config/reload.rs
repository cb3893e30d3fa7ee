//! A configuration that has changed while docrow runs: what of it is taken up, and what waits for a restart.
//!
//! Taken up is what every turn of the pipeline looks up anew, and how docrow logs in to its servers. What names the pipeline or its
//! servers, and what is set up once (the spool, the partitions, the address of the dashboard), is not.

use super::{Config, ServeConfig};
use crate::{mapping::MaskKey, secret::Secret};

/// What a changed configuration comes to.
#[derive(Debug)]
pub struct Change {
    /// What is in force from now on.
    pub config: Config,
    /// The keys that are taken up.
    pub taken_up: Vec<&'static str>,
    /// The keys that have changed and stay as they were until docrow is started again.
    pub waits: Vec<&'static str>,
}

impl Config {
    /// What becomes of this one, if `wanted` is what is written now.
    pub fn changed_to(&self, wanted: Self) -> Change {
        // In full, so that of a new key it must be said.
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
        let mut change = Change { config: self.clone(), taken_up: Vec::new(), waits: Vec::new() };
        let now = &mut change.config;
        let mut taken = Changes(&mut change.taken_up);
        taken.take("source.include", &mut now.include, include);
        taken.take("source.exclude", &mut now.exclude, exclude);
        taken.take("source.on_drop", &mut now.on_drop, on_drop);
        taken.take("mapping.dir", &mut now.mapping_dir, mapping_dir);
        taken.take("mapping.default", &mut now.default_mapping, default_mapping);
        taken.take("mapping.evolve", &mut now.evolve, evolve);
        taken.take("mapping.max_dead_letters", &mut now.max_dead_letters, max_dead_letters);
        taken.take("snapshot.parallelism", &mut now.parallelism, parallelism);
        taken.take("stream.batch_rows", &mut now.batch_rows, batch_rows);
        taken.take("stream.batch_age", &mut now.batch_age, batch_age);
        taken.take_login("the login to MongoDB", &mut now.source, &source);
        taken.take_login("the login to PostgreSQL", &mut now.target, &target);
        let mut waits = Changes(&mut change.waits);
        waits.note("name", now.name != name);
        waits.note("source.uri", now.source != source);
        waits.note("source.on_history_lost", now.on_history_lost != on_history_lost);
        waits.note("target.uri", now.target != target);
        waits.note("target.schema", now.schema != schema);
        let fingerprint = |key: &Option<MaskKey>| key.as_ref().map(MaskKey::fingerprint);
        waits.note("the key of masks", fingerprint(&now.mask_key) != fingerprint(&mask_key));
        waits.note("stream.partitions", now.partitions != partitions);
        waits.note("stream.order", now.order != order);
        waits.note("stream.stall_after", now.stall_after != stall_after);
        waits.note("state.dir", now.state_dir != state_dir);
        waits.note("state.max_spool", now.max_spool != max_spool);
        let address = |serve: &Option<ServeConfig>| serve.as_ref().map(|serve| serve.address);
        waits.note("serve.listen", address(&now.serve) != address(&serve));
        let token = |serve: Option<ServeConfig>| serve.and_then(|serve| serve.token);
        waits.note("snapshot.max_rate", now.max_rate != max_rate);
        waits.note("verify", now.verify != verify);
        waits.note("notify", now.notify != notify);
        waits.note("otlp", now.otlp != otlp);
        waits.note("serve.token", token(now.serve.clone()) != token(serve));
        change
    }
}

/// The keys that something is true of.
struct Changes<'a>(&'a mut Vec<&'static str>);

impl Changes<'_> {
    fn take<T: PartialEq>(&mut self, key: &'static str, now: &mut T, wanted: T) {
        self.note(key, *now != wanted);
        *now = wanted;
    }

    /// Of a URI that has changed in nothing else.
    fn take_login(&mut self, key: &'static str, now: &mut Secret, wanted: &Secret) {
        if now.without_login() == wanted.without_login() {
            self.take(key, now, wanted.clone());
        }
    }

    fn note(&mut self, key: &'static str, is_so: bool) {
        if is_so {
            self.0.push(key);
        }
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
        // Else the folders would differ.
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
            &["name", "serve.listen", "otlp", "serve.token"],
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
