//! The users workload: how its [documents](user) get into a collection.

mod documents;

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use mongodb::{Collection, bson::RawDocumentBuf, options::WriteConcern};
use tokio::task::JoinSet;

pub(super) use self::documents::UserMaker;
pub use self::documents::user;
use crate::error::{Error, Kind, Result};

/// Documents per insert: more gain nothing, and mongod accepts at most 48 MB.
const BATCH: i32 = 1000;
/// Inserts at a time.
const PARALLEL: usize = 4;

/// Inserts the users `ids` of the workload `seed`, and counts into `loaded` as they are acknowledged.
pub async fn load(
    users: &Collection<RawDocumentBuf>,
    seed: u64,
    ids: Range<i32>,
    loaded: &AtomicU64,
) -> Result<()> {
    // Without waiting for a majority, which a throwaway server reaches a moment later anyway.
    let quick = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).build();
    let mut inserts = JoinSet::new();
    let mut batches = ids
        .clone()
        .step_by(usize::try_from(BATCH).unwrap_or(1))
        .map(|start| start..ids.end.min(start + BATCH));
    loop {
        while inserts.len() < PARALLEL
            && let Some(batch) = batches.next()
        {
            let (users, quick) = (users.clone(), quick.clone());
            inserts.spawn(async move {
                let documents: Vec<_> = batch.map(|id| user(seed, id)).collect();
                users
                    .insert_many(&documents)
                    .ordered(false)
                    .write_concern(quick)
                    .await
                    .map(|_| documents.len())
            });
        }
        let Some(inserted) = inserts.join_next().await else { return Ok(()) };
        let inserted = inserted.map_err(|e| Error::caused(Kind::Bug, "make users", e))?;
        let count = inserted.map_err(|e| Error::caused(Kind::SourceAway, "insert users", e))?;
        loaded.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::RawDocument;

    use super::*;

    fn len(document: &RawDocument, path: &[&str]) -> usize {
        let (last, objects) = path.split_last().unwrap();
        let holder = objects.iter().fold(document, |holder, name| holder.get_document(*name).unwrap());
        holder.get_array(last).unwrap().into_iter().count()
    }

    fn rows(user: &RawDocument) -> usize {
        let arrays: &[&[&str]] = &[
            &["profile", "education"],
            &["profile", "experience"],
            &["preferences", "settings"],
            &["activityLog"],
            &["transactions"],
            &["messages"],
            &["socialMedia", "posts"],
            &["socialMedia", "groups"],
        ];
        let messages = user.get_array("messages").unwrap().into_iter();
        let attachments =
            messages.map(|m| len(m.unwrap().as_document().unwrap(), &["attachments"])).sum::<usize>();
        6 + arrays.iter().map(|path| len(user, path)).sum::<usize>() + attachments
    }

    #[test]
    fn are_as_large_and_as_nested_as_said() {
        let count = 2000;
        let users: Vec<_> = (0..count).map(|id| user(1, id)).collect();
        let bytes = users.iter().map(|user| user.as_bytes().len()).sum::<usize>() / users.len();
        assert!((5700..6000).contains(&bytes), "{bytes} bytes a document");
        let rows = users.iter().map(|user| rows(user)).sum::<usize>() as f64 / f64::from(count);
        assert!((38.5..39.5).contains(&rows), "{rows} rows a document");
    }

    #[test]
    fn follow_from_seed_and_id() {
        assert_eq!(user(1, 7), user(1, 7));
        assert_ne!(user(1, 7), user(2, 7));
    }
}
