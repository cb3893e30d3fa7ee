//! What there is to replicate, for a user who asks in advance: like [`Source::collections`], but an error
//! with one database or collection does not hide the others, and what is left out is reported.

use std::pin::pin;

use futures_util::{StreamExt, stream};

use super::{
    collections::{AT_ONCE, CollectionInfo, CollectionKind, ListingScope},
    server::{Source, Version},
};
use crate::{
    error::{Error, Result},
    model::change::Namespace,
};

/// From this version on, the server logs in the oplog what it removes from a capped collection (SERVER-56344;
/// observed on 6.0.5).
const CAPPED_DELETES_TOLD: Version = (5, 0, 0);

/// The result.
#[derive(Debug, Default)]
pub struct SourceSurvey {
    /// The databases that have replicated collections, or could not be read.
    pub databases: Vec<String>,
    /// What would be replicated, sorted by name.
    pub collections: Vec<CollectionInfo>,
    /// Of these, the ones from which the server silently removes the oldest documents.
    pub capped: Vec<Namespace>,
    /// What is included but can't be replicated.
    pub excluded: Vec<Excluded>,
    /// The patterns of `include` that match nothing that can be replicated.
    pub idle: Vec<String>,
    /// The names of existing collections that are not included.
    pub others: Vec<String>,
    /// What could not be read.
    pub failures: Vec<Error>,
}

/// Something that can't be replicated.
#[derive(Debug)]
pub struct Excluded {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind, in words: `view`.
    pub kind: String,
    /// Whether it is included by its exact name, which a run refuses.
    pub is_named: bool,
}

impl Source {
    /// What `include` and `exclude` select. Errors: a pattern is malformed, or the source is away.
    pub async fn survey(&self, include: &[String], exclude: &[String]) -> Result<SourceSurvey> {
        let choice = self.choice(include, exclude)?;
        let mut survey = SourceSurvey::default();
        let mut listed = Vec::new();
        for database in self.databases(&choice).await? {
            if !choice.may_match_in(&database) {
                survey.others.push(format!("{database}.*"));
                continue;
            }
            match self.listed(&database, ListingScope::Whole).await {
                Ok(mut found) => listed.append(&mut found),
                Err(error) => {
                    survey.failures.push(error);
                    survey.databases.push(database);
                }
            }
        }
        let (chosen, others): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|listed| choice.matches(&listed.namespace.to_string()));
        survey.others.extend(others.into_iter().map(|listed| listed.namespace.to_string()));
        survey.idle = choice.idle(&chosen).map(str::to_owned).collect();
        let mut stored = Vec::new();
        for listed in chosen {
            let namespace = listed.namespace.clone();
            if let CollectionKind::Other(kind) = listed.kind {
                let is_named = choice.names(&namespace);
                survey.excluded.push(Excluded { namespace, kind, is_named });
                continue;
            }
            survey.databases.push(namespace.database.clone());
            if listed.capped && self.version < CAPPED_DELETES_TOLD {
                survey.capped.push(namespace);
            }
            stored.push(listed.unmeasured());
        }
        let measured = stream::iter(stored.into_iter().map(|listed| self.measure(listed)));
        let mut measured = pin!(measured.buffer_unordered(AT_ONCE));
        while let Some(measured) = measured.next().await {
            match measured {
                Ok(measured) => survey.collections.extend(measured),
                Err(error) => survey.failures.push(error),
            }
        }
        survey.databases.sort();
        survey.databases.dedup();
        survey.collections.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        Ok(survey)
    }
}
