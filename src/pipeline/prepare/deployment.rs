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

use std::collections::HashSet;

use futures_util::try_join;

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
    /// Registers the pipeline, and compares the deployment with the stored one. Errors: it is another one,
    /// and the configuration demands to stop then.
    pub(super) async fn recognise(&mut self) -> Result<Recognised> {
        let (session, new) = (&*self.session, new_life());
        let (life, deployment, earlier_keys) =
            try_join!(session.register(&new), session.deployment(), session.with_earlier_keys())?;
        failpoint::reach(Failpoint::PipelineRegistered);
        let mut known = Recognised { life, deployment, earlier_keys };
        self.compare(&mut known).await?;
        Ok(known)
    }

    async fn compare(&mut self, known: &mut Recognised) -> Result<()> {
        let Some(stored) = &known.deployment else { return Ok(()) };
        let before = Deployment::parse(stored)?;
        let (now, asked, mut positions) = try_join!(
            self.source.deployment(&self.config.include, &self.config.exclude),
            self.session.resyncs_asked(),
            self.session.positions()
        )?;
        // If a collection must be copied again, its past does not matter.
        let choice = self.source.choice(&self.config.include, &self.config.exclude)?;
        let names = positions.iter().map(|stored| stored.collection.clone());
        let counts: HashSet<_> = names
            .filter(|name| choice.matches(name) && !asked.iter().any(|(asked, _)| asked == name))
            .collect();
        positions.retain(|stored| counts.contains(&stored.collection));
        match self.is_same(&before, &now, &counts, &positions).await {
            Ok(true) => {
                let now = now.as_before(&before).to_text()?;
                if now != *stored {
                    self.session.store_deployment(&now).await?;
                }
                known.deployment = Some(now);
                Ok(())
            }
            Ok(false) if positions.is_empty() => self.part(&now, known).await,
            Ok(false) => self.part_for(&now, known, self.another(&before)).await,
            Err(error) if error.kind() == Kind::HistoryLost => self.part_for(&now, known, error).await,
            Err(error) => Err(error),
        }
    }

    /// Stores what identifies the deployment, unless it is what is stored.
    pub(super) async fn note_deployment(&mut self, stored: Option<String>) -> Result<()> {
        let mut now = self.source.deployment(&self.config.include, &self.config.exclude).await?;
        if let Some(stored) = &stored {
            now = now.as_before(&Deployment::parse(stored)?);
        }
        let now = now.to_text()?;
        if stored.as_ref() == Some(&now) { Ok(()) } else { self.session.store_deployment(&now).await }
    }

    async fn is_same(
        &self,
        before: &Deployment,
        now: &Deployment,
        counts: &HashSet<String>,
        positions: &[StoredPosition],
    ) -> Result<bool> {
        let names = match before.compare(now, |name| counts.contains(name)) {
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
    async fn part_for(&mut self, now: &Deployment, known: &mut Recognised, error: Error) -> Result<()> {
        if self.config.on_history_lost != OnHistoryLost::Resync {
            return Err(error);
        }
        tracing::warn!(code = %error.code(), "{error}: all collections are copied again, in place (on_history_lost = \"resync\")");
        self.part(now, known).await
    }

    async fn part(&mut self, now: &Deployment, known: &mut Recognised) -> Result<()> {
        let stored = self.session.mappings().await?;
        let collections: Vec<String> = stored.into_iter().map(|mapping| mapping.collection).collect();
        let (now, life) = (now.to_text()?, new_life());
        self.session.replace_deployment(&now, &life, &collections).await?;
        (known.life, known.deployment) = (life, Some(now));
        Ok(())
    }
}

/// What is stored about the pipeline and its deployment.
pub(super) struct Recognised {
    /// The id of the state directory.
    pub(super) life: String,
    /// What identifies the deployment. `None`: nothing is stored yet.
    pub(super) deployment: Option<String>,
    /// The collections whose keys may be in an earlier form.
    pub(super) earlier_keys: HashSet<String>,
}

/// Returns a new id for a state directory.
fn new_life() -> String {
    format!("{:016x}", fastrand::u64(..))
}
