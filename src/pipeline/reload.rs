//! Reloads the configuration, the mapping files and the secrets while the pipeline runs.
//!
//! New settings are checked as at a start, before any of them takes effect: patterns, mapping files against
//! the stored mappings, logins. An error that would end a run at its start is logged, and the pipeline
//! continues as before. Otherwise the next turn starts with the new settings, and the present turn ends for
//! that.

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

/// When the configuration is read again, and how.
pub struct Reload(Option<(Signal, Load)>);

/// Reads the configuration.
type Load = Box<dyn Fn() -> Result<Config> + Send + Sync>;

impl Reload {
    /// Never.
    pub fn never() -> Self {
        Self(None)
    }

    /// Whenever the process gets SIGHUP, which no longer ends it.
    pub fn on_hangup(load: impl Fn() -> Result<Config> + Send + Sync + 'static) -> Result<Self> {
        let hangups = signal(SignalKind::hangup());
        let hangups = hangups.map_err(|e| Error::caused(Kind::Bug, "listen for SIGHUP", e))?;
        Ok(Self(Some((hangups, Box::new(load)))))
    }

    /// Waits until the configuration must be read again, and reads it.
    async fn asked(&mut self) -> Result<Config> {
        let Some((hangups, load)) = &mut self.0 else { return future::pending().await };
        match hangups.recv().await {
            Some(()) => load(),
            None => future::pending().await,
        }
    }
}

/// Puts changed settings into force.
pub(super) struct Reloader {
    /// Logged in to again on a reload.
    pub(super) source: Source,
    /// Logged in to again on a reload.
    pub(super) target: Target,
    pub(super) settings: watch::Sender<Arc<TurnSettings>>,
}

impl Reloader {
    /// Puts changed settings into force, whenever they must be read again.
    pub(super) async fn run(&self, mut reload: Reload) -> Infallible {
        loop {
            let wanted = reload.asked().await;
            let current = self.settings.borrow().clone();
            match self.take_up(wanted, &current).await {
                Ok(Some(new)) => drop(self.settings.send_replace(Arc::new(new))),
                Ok(None) => {}
                Err(error) => tracing::error!(
                    code = %error.code(),
                    "SIGHUP: the configuration is rejected, and docrow continues as before: {error}"
                ),
            }
        }
    }

    /// Returns the settings for the turns from now on; `None`: the same as before. Logs which it is.
    async fn take_up(&self, wanted: Result<Config>, current: &TurnSettings) -> Result<Option<TurnSettings>> {
        let ConfigChange { config, taken_up, waits } = current.config.changed_to(wanted?);
        let files = mapping_files::read(&config.mapping_dir)?;
        // Even if the URIs are the same: the certificates that they name may be new.
        self.source.log_in_again(config.source.expose()).await?;
        self.target.log_in_again(config.target.expose()).await?;
        self.look_through(&config, &files, &current.config).await?;
        let changed = changed_files(&current.files, &files);
        let mut news: Vec<_> = taken_up.iter().map(|key| (*key).to_owned()).collect();
        if !changed.is_empty() {
            news.push(format!("mapping files ({})", changed.join(", ")));
        }
        if !waits.is_empty() {
            tracing::warn!("SIGHUP: changed, but needs a restart: {}", waits.join(", "));
        }
        let read = "passwords and certificates were read again";
        if news.is_empty() {
            tracing::info!("SIGHUP: there is nothing to reload; {read}");
            return Ok(None);
        }
        tracing::info!("SIGHUP: reloaded: {}; {read}", news.join(", "));
        Ok(Some(TurnSettings { config: Arc::new(config), files }))
    }

    /// Checks new settings. Errors: those that would end a run at its start.
    async fn look_through(&self, config: &Config, files: &MappingFiles, current: &Config) -> Result<()> {
        // A running pipeline has something to replicate, or waits for it, with the previous patterns.
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

/// Returns the names of the files whose content has changed, that are new or that are gone.
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
