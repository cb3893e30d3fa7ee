//! How far a replica set's secondaries are behind its primary, so that heavy reads can pause for them.

use std::{collections::HashSet, time::Duration};

use mongodb::bson::{Bson, DateTime, Document, doc};

use super::{error, server::Source};
use crate::error::Result;

/// A member that is neither primary (1) nor secondary (2) does not replicate.
const PRIMARY: i64 = 1;
const SECONDARY: i64 = 2;

impl Source {
    /// How far the secondary that is furthest behind is behind the primary. If the user may not see the
    /// members (`replSetGetStatus`), how far the majority is. Members that are down, or delayed on purpose
    /// (`secondaryDelaySecs`), do not count. `None`: unknown, or a sharded cluster, which has many sets.
    /// Errors: the source is away.
    pub async fn secondaries_lag(&self) -> Result<Option<Duration>> {
        if self.is_sharded() {
            return Ok(None);
        }
        let request = self.request("ask how far the secondaries are", None);
        let status = match self.command(&request, "admin", doc! { "replSetGetStatus": 1 }).await {
            Err(error) if error::is_withheld(&error) => {
                let hello = self.command(&request, "admin", doc! { "hello": 1 }).await;
                return Ok(majority_lag(&hello.map_err(|e| request.failed(&e))?));
            }
            status => status.map_err(|e| request.failed(&e))?,
        };
        let config = self.command(&request, "admin", doc! { "replSetGetConfig": 1 }).await;
        let delayed = config.map(|config| delayed(&config)).unwrap_or_default();
        Ok(members_lag(&status, &delayed))
    }
}

fn documents<'a>(reply: &'a Document, name: &str) -> impl Iterator<Item = &'a Document> {
    reply.get_array(name).into_iter().flatten().filter_map(Bson::as_document)
}

fn number(document: &Document, name: &str) -> Option<i64> {
    match document.get(name)? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        // Saturating is intended.
        #[allow(clippy::cast_possible_truncation)]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

/// The ids of the members that are delayed on purpose.
fn delayed(config: &Document) -> HashSet<i64> {
    let Ok(config) = config.get_document("config") else { return HashSet::new() };
    let is_delayed = |member: &&Document| {
        ["secondaryDelaySecs", "slaveDelay"].iter().any(|name| number(member, name).is_some_and(|n| n > 0))
    };
    documents(config, "members").filter(is_delayed).filter_map(|member| number(member, "_id")).collect()
}

fn members_lag(status: &Document, delayed: &HashSet<i64>) -> Option<Duration> {
    let is_up = |member: &&Document| number(member, "health") == Some(1);
    let dates = |state: i64| {
        let members = documents(status, "members").filter(is_up);
        let members = members.filter(move |member| number(member, "state") == Some(state));
        members.filter(|member| number(member, "_id").is_none_or(|id| !delayed.contains(&id)))
    };
    let date = |member: &Document| member.get_datetime("optimeDate").ok().copied();
    let newest = dates(PRIMARY).filter_map(date).max()?;
    let oldest = dates(SECONDARY).filter_map(date).min()?;
    Some(between(oldest, newest))
}

fn majority_lag(hello: &Document) -> Option<Duration> {
    let last = hello.get_document("lastWrite").ok()?;
    let date = |name: &str| last.get_datetime(name).ok().copied();
    Some(between(date("majorityWriteDate")?, date("lastWriteDate")?))
}

fn between(earlier: DateTime, later: DateTime) -> Duration {
    let millis = later.timestamp_millis().saturating_sub(earlier.timestamp_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime {
        DateTime::from_millis(seconds * 1000)
    }

    fn member(id: i32, (state, health): (i32, f64), seconds: i64) -> Document {
        doc! { "_id": id, "state": state, "health": health, "optimeDate": at(seconds) }
    }

    #[test]
    fn members_that_are_up_and_not_delayed_count() {
        let members = vec![
            member(0, (1, 1.0), 100),
            member(1, (2, 1.0), 85),
            member(2, (2, 0.0), 1),
            member(3, (7, 1.0), 0),
            member(4, (2, 1.0), 10),
        ];
        let status = doc! { "members": members };
        let config = doc! { "config": { "members": [
            { "_id": 1, "secondaryDelaySecs": 0_i64 }, { "_id": 4, "secondaryDelaySecs": 90_i64 },
        ] } };
        assert_eq!(members_lag(&status, &delayed(&config)), Some(Duration::from_secs(15)));
        assert_eq!(members_lag(&doc! { "members": [member(0, (1, 1.0), 9)] }, &HashSet::new()), None);
    }

    #[test]
    fn the_majority_counts_where_members_are_not_told() {
        let hello = doc! { "lastWrite": { "lastWriteDate": at(30), "majorityWriteDate": at(12) } };
        assert_eq!(majority_lag(&hello), Some(Duration::from_secs(18)));
        assert_eq!(majority_lag(&doc! {}), None);
    }
}
