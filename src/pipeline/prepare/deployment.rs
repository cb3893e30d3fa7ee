//! Whether MongoDB is still the deployment that the stored positions belong to.
//!
//! A position is little more than a time, so another deployment behind the same URI would silently continue
//! from it, and the rows of both would be mixed. So what identifies the deployment is stored, and compared
//! before anything else is done, above all before missing collections are taken for dropped. Another
//! deployment means lost history (G8).
//!
//! The identity is stored after the deployment was recognised, and again when the collections are planned:
//! otherwise a collection that was replaced in between would look foreign the next time, and no event would
//! explain that.

use super::Preparation;
use crate::{
    config::OnHistoryLost,
    error::{Code, Error, Kind, Result},
    failpoint::{self, Failpoint},
    sink::metadata::positions::StoredPosition,
    source::{ANEW, Deployment, Kinship},
};

/// How many names an error shows.
const SHOWN: usize = 3;

impl Preparation<'_> {
    /// Compares the deployment with the stored one. Errors: it is another one, and the configuration demands
    /// to stop then.
    pub(crate) async fn recognise(&mut self) -> Result<()> {
        let Some(stored) = self.session.deployment().await? else { return Ok(()) };
        let before = Deployment::parse(&stored)?;
        let now = self.source.deployment(&self.config.include, &self.config.exclude).await?;
        let asked = self.session.resyncs_asked().await?;
        let mut positions = self.session.positions().await?;
        // If a collection must be copied again, its past does not matter.
        positions.retain(|stored| {
            let name = &stored.collection;
            let is_included = self.source.includes(&self.config.include, &self.config.exclude, name);
            is_included.unwrap_or(false) && !asked.iter().any(|(asked, _)| asked == name)
        });
        match self.is_same(&before, &now, &positions).await {
            Ok(true) => self.session.store_deployment(&now.as_before(&before).to_text()?).await,
            Ok(false) if positions.is_empty() => self.part(&now).await,
            Ok(false) => self.part_for(&now, self.another(&before)).await,
            Err(error) if error.kind() == Kind::HistoryLost => self.part_for(&now, error).await,
            Err(error) => Err(error),
        }
    }

    /// Registers this pipeline, and returns the id of its state directory.
    pub(super) async fn register(&mut self) -> Result<String> {
        let life = self.session.register(&life()).await?;
        failpoint::reach(Failpoint::PipelineRegistered);
        Ok(life)
    }

    /// Stores what identifies the deployment.
    pub(crate) async fn note_deployment(&mut self) -> Result<()> {
        let mut now = self.source.deployment(&self.config.include, &self.config.exclude).await?;
        if let Some(stored) = self.session.deployment().await? {
            now = now.as_before(&Deployment::parse(&stored)?);
        }
        self.session.store_deployment(&now.to_text()?).await
    }

    async fn is_same(
        &self,
        before: &Deployment,
        now: &Deployment,
        positions: &[StoredPosition],
    ) -> Result<bool> {
        let counts = |name: &str| positions.iter().any(|stored| stored.collection == name);
        let names = match before.compare(now, counts) {
            Kinship::Same => return Ok(true),
            Kinship::Other => return Ok(false),
            Kinship::Unless(names) => names,
        };
        let own = positions.iter().filter(|stored| names.contains(&stored.collection));
        match own.map(|stored| stored.position.cluster_time()).min() {
            Some(since) => self.source.says_what_became_of(&names, since).await,
            None => Ok(true),
        }
    }

    fn another(&self, before: &Deployment) -> Error {
        let names: Vec<&str> = before.collections().take(SHOWN).collect();
        let text = format!(
            "MongoDB at {} is not the deployment that was copied, although it may have collections of the same names \
             ({}): check that the source URI leads to the right one; if it does, {ANEW}",
            self.source.hosts(),
            names.join(", ")
        );
        Error::new(Code::HistoryUnknown, text)
    }

    /// Returns `error`, or requests that everything that was copied is copied again, as configured.
    async fn part_for(&mut self, now: &Deployment, error: Error) -> Result<()> {
        if self.config.on_history_lost != OnHistoryLost::Resync {
            return Err(error);
        }
        tracing::warn!(code = %error.code(), "{error}: all collections are copied again, in place (on_history_lost = \"resync\")");
        self.part(now).await
    }

    async fn part(&mut self, now: &Deployment) -> Result<()> {
        let stored = self.session.mappings().await?;
        let collections: Vec<String> = stored.into_iter().map(|mapping| mapping.collection).collect();
        self.session.replace_deployment(&now.to_text()?, &life(), &collections).await
    }
}

/// Returns a new id for a state directory.
fn life() -> String {
    format!("{:016x}", fastrand::u64(..))
}
