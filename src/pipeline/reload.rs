//! Taking up what has changed in the configuration, the mapping files and the secrets, while the pipeline runs.
//!
//! What is read is looked at as at a start, before anything of it counts: patterns, mapping files against the stored mappings,
//! logins. What would end a run at its start is said, and all goes on as it was. What is right is what the next turn
//! begins with, and the present one ends for that.

use std::{convert::Infallible, future, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    context::TurnSettings,
    mappings::active::{Mappings, require_collections},
};
use crate::{
    config::{Config, ConfigChange},
    error::{Error, Kind, Result},
    mapping_files::{self, MappingFiles},
    sink::{Target, metadata::mapping_versions},
    source::Source,
};

/// When the configuration is to be read again, and how.
pub struct Reload(Option<(Signal, Load)>);

/// Reads the configuration.
type Load = Box<dyn Fn() -> Result<Config> + Send + Sync>;

impl Reload {
    /// Not at all.
    pub fn never() -> Self {
        Self(None)
    }

    /// Whenever the process gets SIGHUP, which ends it no longer.
    pub fn on_hangup(load: impl Fn() -> Result<Config> + Send + Sync + 'static) -> Result<Self> {
        let hangups = signal(SignalKind::hangup());
        let hangups = hangups.map_err(|e| Error::caused(Kind::Bug, "listen for SIGHUP", e))?;
        Ok(Self(Some((hangups, Box::new(load)))))
    }

    /// The configuration, the next time that it is to be read.
    async fn asked(&mut self) -> Result<Config> {
        let Some((hangups, load)) = &mut self.0 else { return future::pending().await };
        match hangups.recv().await {
            Some(()) => load(),
            None => future::pending().await,
        }
    }
}

/// Takes up what has changed.
pub(super) struct Reloader {
    /// Logged in to again.
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) settings: watch::Sender<Arc<TurnSettings>>,
}

impl Reloader {
    /// Takes up what has changed, whenever it is to be read.
    pub(super) async fn run(&self, mut reload: Reload) -> Infallible {
        loop {
            let wanted = reload.asked().await;
            let current = self.settings.borrow().clone();
            match self.take_up(wanted, &current).await {
                Ok(Some(new)) => drop(self.settings.send_replace(Arc::new(new))),
                Ok(None) => {}
                Err(error) => tracing::error!(
                    code = %error.code(),
                    "SIGHUP: the configuration is not taken up, and all goes on as it was: {error}"
                ),
            }
        }
    }

    /// What a turn is to go by from now on; `None`: by the same as before. Says so.
    async fn take_up(&self, wanted: Result<Config>, current: &TurnSettings) -> Result<Option<TurnSettings>> {
        let ConfigChange { config, taken_up, waits } = current.config.changed_to(wanted?);
        let files = mapping_files::read(&config.mapping_dir)?;
        // Also where the URIs are the same: the certificates that they name may be new.
        self.source.log_in_again(config.source.expose()).await?;
        self.target.log_in_again(config.target.expose()).await?;
        self.look_through(&config, &files, &current.config).await?;
        let changed = changed_files(&current.files, &files);
        let mut news: Vec<_> = taken_up.iter().map(|key| (*key).to_owned()).collect();
        if !changed.is_empty() {
            news.push(format!("mapping files ({})", changed.join(", ")));
        }
        if !waits.is_empty() {
            tracing::warn!(
                "SIGHUP: changed, but in force only when docrow is started again: {}",
                waits.join(", ")
            );
        }
        let read = "passwords and certificates are read again";
        if news.is_empty() {
            tracing::info!("SIGHUP: there is nothing new to take up; {read}");
            return Ok(None);
        }
        tracing::info!("SIGHUP: taken up: {}; {read}", news.join(", "));
        Ok(Some(TurnSettings { config: Arc::new(config), files }))
    }

    /// Errors: those with which a run would end at its start.
    async fn look_through(&self, config: &Config, files: &MappingFiles, current: &Config) -> Result<()> {
        // Who runs has something to replicate, or waits for it by what was there before.
        if (&config.include, &config.exclude) != (&current.include, &current.exclude) {
            self.source.collections(&config.include, &config.exclude).await?;
        }
        let session = self.target.connect().await?;
        let stored = mapping_versions::load(&session, self.target.pipeline()).await?;
        require_collections(config, files, &self.source, &stored).await?;
        files.values().try_for_each(|file| config.compile(&file.spec).map(drop))?;
        Mappings::load(&stored, config, files).map(drop)
    }
}

/// The names of the files that say something else than before, are new or are gone.
fn changed_files(before: &MappingFiles, now: &MappingFiles) -> Vec<String> {
    let differs = |one: &MappingFiles, other: &MappingFiles| {
        let files = one.iter().filter(|(name, file)| other.get(*name) != Some(file));
        files.map(|(_, file)| file.path.display().to_string()).collect::<Vec<_>>()
    };
    let mut changed = [differs(before, now), differs(now, before)].concat();
    changed.sort();
    changed.dedup();
    changed
}
