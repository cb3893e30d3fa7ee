//! The stored result of a scheduled verification: counts by collection, no keys, no values (G12); and how it
//! is updated when a later verification finds differences repaired.

use serde::{Deserialize, Serialize};

use super::{ComparedCollection, Verdict, VerifyReport};
use crate::{
    config::{Config, SampleSize},
    error::{Error, Kind, Result},
    sink::{Target, metadata::verifications},
};

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether every compared row matches its document.
    pub equal: bool,
    /// How many differences there are.
    pub differences: u64,
    /// Documents that were not settled.
    pub unsettled: u64,
    /// Documents that were read.
    pub documents: u64,
    /// How long it took, in whole seconds.
    pub seconds: u64,
    /// The sample, as in the configuration; `null`: all documents.
    pub sample: Option<String>,
    /// The collections that are not equal, by name.
    pub collections: Vec<VerifiedCollection>,
}

/// A collection that is not equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedCollection {
    /// `database.collection`.
    pub name: String,
    /// How many differences it has.
    pub differences: u64,
    /// Its documents that were not settled.
    pub unsettled: u64,
    /// Why, and other remarks.
    pub remarks: Vec<String>,
}

impl Verified {
    pub(super) fn from_report(report: &VerifyReport) -> Self {
        let sum = |count: fn(&ComparedCollection) -> u64| report.collections.iter().map(count).sum();
        let sample = report.sample.map(|sample| match sample.size {
            SampleSize::Documents(documents) => documents.to_string(),
            SampleSize::Percent(percent) => format!("{percent}%"),
        });
        let unequal = report.collections.iter().filter(|collection| !collection.is_equal());
        Self {
            equal: report.is_equal(),
            differences: report.different(),
            unsettled: sum(|collection| collection.unsettled),
            documents: sum(|collection| collection.documents),
            seconds: report.elapsed.as_secs(),
            sample,
            collections: unequal.map(VerifiedCollection::from_compared).collect(),
        }
    }

    /// The result without what `report`, a comparison of all documents, has found correct: the rows of some
    /// collections are proven to be right by now.
    fn after(&self, report: &VerifyReport) -> Self {
        let left = self.collections.iter().filter_map(|own| {
            let now = report.collections.iter().find(|now| now.namespace.to_string() == own.name);
            match now.map(|now| (now, now.verdict())) {
                Some((_, Verdict::Equal)) => None,
                Some((now, Verdict::DeadLetters)) => Some(VerifiedCollection::from_compared(now)),
                _ => Some(own.clone()),
            }
        });
        let collections: Vec<_> = left.collect();
        let sum = |count: fn(&VerifiedCollection) -> u64| collections.iter().map(count).sum();
        Self {
            equal: collections.is_empty(),
            differences: sum(|collection| collection.differences),
            unsettled: sum(|collection| collection.unsettled),
            collections,
            ..self.clone()
        }
    }

    /// The stored form.
    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::caused(Kind::Bug, "write the result of a verification", e))
    }
}

impl VerifiedCollection {
    /// What is repaired no longer differs.
    fn from_compared(compared: &ComparedCollection) -> Self {
        Self {
            name: compared.namespace.to_string(),
            differences: compared.different.saturating_sub(compared.mended),
            unsettled: compared.unsettled,
            remarks: compared.remarks.clone(),
        }
    }
}

/// Removes from the result of the last scheduled verification what `report` proves to be right by now, so
/// that it is no longer warned of. A sample proves nothing.
pub async fn take_out_mended(config: &Config, report: &VerifyReport) -> Result<()> {
    if report.stopped || report.sample.is_some() {
        return Ok(());
    }
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let session = target.connect().await?;
    let Some(stored) = verifications::last(&session, target.pipeline()).await? else { return Ok(()) };
    // A result that can't be read comes from a later docrow.
    let Ok(verified) = serde_json::from_str::<Verified>(&stored.result) else { return Ok(()) };
    let left = verified.after(report);
    if left == verified {
        return Ok(());
    }
    verifications::amend(&session, target.pipeline(), &stored, &left.to_json()?).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::change::Namespace;

    fn compared(name: &str, different: u64, mended: u64) -> ComparedCollection {
        ComparedCollection { different, mended, ..ComparedCollection::new(Namespace::parse(name).unwrap()) }
    }

    fn report(collections: Vec<ComparedCollection>) -> VerifyReport {
        VerifyReport {
            pipeline: "p".to_owned(),
            collections,
            sample: None,
            repaired: true,
            allows_dead_letters: false,
            stopped: false,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn what_is_mended_is_taken_out_and_nothing_else() {
        let found = Verified::from_report(&report(vec![
            compared("a.b", 3, 0),
            compared("a.c", 2, 0),
            compared("a.d", 0, 0),
        ]));
        assert_eq!((found.equal, found.differences, found.collections.len()), (false, 5, 2));
        let dead = ComparedCollection { dead_letters: 1, ..compared("a.c", 2, 2) };
        let left = found.after(&report(vec![compared("a.b", 3, 2), dead]));
        let names: Vec<_> = left.collections.iter().map(|c| (&*c.name, c.differences)).collect();
        assert_eq!((left.equal, left.differences, names), (false, 3, vec![("a.b", 3), ("a.c", 0)]));
        let left = left.after(&report(vec![compared("a.b", 3, 3)]));
        assert_eq!((left.equal, left.differences, left.collections.len()), (false, 0, 1));
        assert!(left.after(&report(vec![compared("a.c", 0, 0)])).equal);
        assert_eq!(found.after(&report(vec![])), found);
    }
}
