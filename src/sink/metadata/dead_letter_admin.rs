//! Operators' commands on dead letters: list, retry, discard. Only the process that runs the pipeline writes
//! documents.

use tokio_postgres::Row;

use super::{requests::Requests, runner::PipelineRunner};
use crate::{
    error::Result,
    sink::{
        Target,
        connection::{round_trip::OneRoundTrip, sqlstate},
    },
};

/// The maximum number of groups.
const GROUPS: i64 = 100;

/// A dead letter without its document.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredLetter {
    /// Its number.
    pub id: i64,
    /// The collection, `database.collection`.
    pub collection: String,
    /// The document's `_id` in canonical Extended JSON.
    pub key: String,
    /// The path in the document, if it is known.
    pub path: Option<String>,
    /// The reason.
    pub reason: String,
    /// When it was written, or last replaced, in ISO 8601.
    pub at: String,
    /// When a retry was requested, if it has not been made yet.
    pub retry_at: Option<String>,
}

/// Letters of one collection with one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct LetterGroup {
    /// The collection, `database.collection`.
    pub collection: String,
    /// The reason.
    pub reason: String,
    /// Their number.
    pub count: i64,
}

/// A selection of letters.
#[derive(Clone, Debug)]
pub enum LetterChoice {
    /// Those with these numbers.
    Ids(Vec<i64>),
    /// Those of a collection.
    Collection(String),
    /// All of the pipeline.
    All,
}

impl LetterChoice {
    /// As parameters of [`CONDITION`].
    fn parameters(&self) -> (Option<&[i64]>, Option<&str>) {
        match self {
            Self::Ids(ids) => (Some(ids), None),
            Self::Collection(collection) => (None, Some(collection)),
            Self::All => (None, None),
        }
    }
}

/// `$1`: the pipeline; `$2`: numbers; `$3`: a collection.
const CONDITION: &str =
    "pipeline = $1 AND ($2::bigint[] IS NULL OR id = ANY($2)) AND ($3::text IS NULL OR collection = $3)";

/// A [`StoredLetter`]'s columns.
const LETTER: &str = "id, collection, key, path, reason, \
    to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
    to_char(retry_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";

/// How many letters wait for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingLetters {
    /// Those that a running docrow retries next.
    pub live: i64,
    /// Those of collections that are stopped or paused; they are retried once the collections resume.
    pub stopped: i64,
}

/// The dead letters of a pipeline.
#[derive(Debug)]
pub struct DeadLetterAdmin(Requests);

impl DeadLetterAdmin {
    /// Opens it; `None` if docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        Ok(Requests::open(target).await?.map(Self))
    }

    /// The latest letters, of one collection or of all.
    pub async fn list(&self, which: &LetterChoice, limit: u32) -> Result<Vec<StoredLetter>> {
        let fail = |e| sqlstate::error("list dead letters", &e);
        let question = format!(
            "SELECT {LETTER} FROM docrow.dead_letters WHERE {CONDITION} ORDER BY at DESC, id DESC LIMIT $4"
        );
        let (ids, collection) = which.parameters();
        let limit = i64::from(limit);
        let rows =
            self.0.session.client.fetch(&question, &[&self.0.pipeline, &ids, &collection, &limit]).await;
        let rows = rows.map_err(fail)?;
        rows.iter().map(letter).collect::<Result<_, _>>().map_err(fail)
    }

    /// The counts by collection and reason, the largest first: up to a hundred groups; and the total.
    pub async fn groups(&self, which: &LetterChoice) -> Result<(Vec<LetterGroup>, i64)> {
        let fail = |e| sqlstate::error("count dead letters", &e);
        let question = format!(
            "SELECT collection, reason, count(*), (sum(count(*)) OVER ())::bigint FROM docrow.dead_letters \
             WHERE {CONDITION} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {GROUPS}"
        );
        let (ids, collection) = which.parameters();
        let rows = self.0.session.client.fetch(&question, &[&self.0.pipeline, &ids, &collection]).await;
        let (mut groups, mut total) = (Vec::new(), 0);
        for row in &rows.map_err(fail)? {
            let get = |column| row.try_get(column).map_err(fail);
            groups.push(LetterGroup {
                collection: get(0)?,
                reason: get(1)?,
                count: row.try_get(2).map_err(fail)?,
            });
            total = row.try_get(3).map_err(fail)?;
        }
        Ok((groups, total))
    }

    /// One letter with its document as raw BSON, which may not have been stored.
    pub async fn find(&self, id: i64) -> Result<Option<(StoredLetter, Option<Vec<u8>>)>> {
        let fail = |e| sqlstate::error(format!("read dead letter {id}"), &e);
        let question =
            format!("SELECT {LETTER}, document FROM docrow.dead_letters WHERE pipeline = $1 AND id = $2");
        let row = self.0.session.client.fetch_opt(&question, &[&self.0.pipeline, &id]).await.map_err(fail)?;
        row.map(|row| Ok((letter(&row)?, row.try_get(7)?))).transpose().map_err(fail)
    }

    /// Requests a retry of letters. Returns their numbers.
    pub async fn ask(&self, which: &LetterChoice) -> Result<Vec<i64>> {
        let fail = |e| sqlstate::error("request a retry of dead letters", &e);
        let statement =
            format!("UPDATE docrow.dead_letters SET retry_at = now() WHERE {CONDITION} RETURNING id");
        let (ids, collection) = which.parameters();
        let rows = self.0.session.client.fetch(&statement, &[&self.0.pipeline, &ids, &collection]).await;
        rows.map_err(fail)?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
    }

    /// How many letters still wait for the requested retry.
    pub async fn waiting(&self, which: &LetterChoice) -> Result<WaitingLetters> {
        let fail = |e| sqlstate::error("count the dead letters that are left", &e);
        let question = format!(
            "SELECT count(*) FILTER (WHERE NOT stopped), count(*) FILTER (WHERE stopped) FROM (SELECT EXISTS ( \
                SELECT FROM docrow.schemas s \
                WHERE (s.pipeline, s.collection) = (l.pipeline, l.collection) AND s.stopped IS NOT NULL) \
                OR EXISTS (SELECT FROM docrow.pauses p \
                WHERE (p.pipeline, p.collection) = (l.pipeline, l.collection)) AS stopped \
             FROM docrow.dead_letters l WHERE {CONDITION} AND retry_at IS NOT NULL) AS waiting"
        );
        let (ids, collection) = which.parameters();
        let row = self.0.session.client.fetch_one(&question, &[&self.0.pipeline, &ids, &collection]).await;
        let row = row.map_err(fail)?;
        Ok(WaitingLetters { live: row.try_get(0).map_err(fail)?, stopped: row.try_get(1).map_err(fail)? })
    }

    /// Which of these numbers belong to letters.
    pub async fn existing(&self, ids: &[i64]) -> Result<Vec<i64>> {
        let fail = |e| sqlstate::error("look for dead letters", &e);
        let question = "SELECT id FROM docrow.dead_letters WHERE pipeline = $1 AND id = ANY($2)";
        let rows = self.0.session.client.fetch(question, &[&self.0.pipeline, &ids]).await.map_err(fail)?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
    }

    /// Removes letters. Returns their number.
    pub async fn discard(&self, which: &LetterChoice) -> Result<u64> {
        let fail = |e| sqlstate::error("discard dead letters", &e);
        let (ids, collection) = which.parameters();
        let statement = format!("DELETE FROM docrow.dead_letters WHERE {CONDITION}");
        self.0.session.client.perform(&statement, &[&self.0.pipeline, &ids, &collection]).await.map_err(fail)
    }

    /// The process that runs the pipeline.
    pub async fn runner(&self) -> Result<PipelineRunner> {
        self.0.runner().await
    }
}

fn letter(row: &Row) -> Result<StoredLetter, tokio_postgres::Error> {
    Ok(StoredLetter {
        id: row.try_get(0)?,
        collection: row.try_get(1)?,
        key: row.try_get(2)?,
        path: row.try_get(3)?,
        reason: row.try_get(4)?,
        at: row.try_get(5)?,
        retry_at: row.try_get(6)?,
    })
}
