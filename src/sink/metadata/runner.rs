//! Who runs a pipeline: what the server shows of the one that holds it, and what the last one reported.

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::Result,
    sink::{
        Session,
        connection::{round_trip::OneRoundTrip, sqlstate},
    },
};

/// The silence after which a holder is taken for dead, in seconds of the server's clock.
const SILENCE: u32 = 10;

/// A process whose last report is not older than this many seconds exists, unless it was killed since.
const REPORTED: u32 = 3;

/// The holder's lock.
pub(super) fn lock_of_holder(pipeline: &str) -> i64 {
    xxh3_64(format!("docrow pipeline {pipeline}").as_bytes()).cast_signed()
}

/// Of `pg_locks l`: the advisory lock `$1` of this database, granted.
pub(super) const IS_LOCK: &str = "l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
    AND (l.classid::bigint << 32 | l.objid::bigint) = $1 \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The holder of a pipeline, as far as the server shows it.
pub(super) struct HolderSighting {
    /// The server's process.
    pub(super) pid: i32,
    /// The name of its connection.
    pub(super) name: Option<String>,
    /// Identifies a silence: which process, since when. `None`: it is not silent.
    pub(super) silence: Option<String>,
    /// Whether that is longer than a living holder's, by the server's clock.
    pub(super) is_long: bool,
    /// For people.
    pub(super) words: String,
}

/// Which process runs a pipeline, as far as PostgreSQL can tell. The words are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipelineRunner {
    /// This process.
    Process(String),
    /// None: the last process reported its end, or there never was one.
    Nobody,
    /// No process holds the pipeline, and the last one never reported its end: it was killed, or can't reach
    /// PostgreSQL.
    Unheard(String),
}

/// Finds out which process runs a pipeline. A process that retries does not hold it meanwhile, but says so in
/// its reports, which only the last holder can store. (It does so every other second, and a moment after it
/// has released the pipeline.)
pub async fn runner(session: &Session, pipeline: &str) -> Result<PipelineRunner> {
    if let Some(sighting) = look(session, pipeline).await? {
        return Ok(PipelineRunner::Process(sighting.words));
    }
    let question = format!(
        "SELECT 'docrow ' || holder, report->>'stage' = 'retrying', reported_at::timestamptz(0)::text, reported_at > \
             clock_timestamp() - make_interval(secs => CASE report->>'stage' WHEN 'retrying' THEN {SILENCE} ELSE {REPORTED} END) \
         FROM docrow.reports JOIN docrow.pipelines USING (pipeline) \
         WHERE pipeline = $1 AND report->>'stage' IS DISTINCT FROM 'ended'"
    );
    let fail = |e| sqlstate::error(format!("ask who runs pipeline {pipeline}"), &e);
    let Some(row) = session.client.fetch_opt(&question, &[&pipeline]).await.map_err(fail)? else {
        return Ok(PipelineRunner::Nobody);
    };
    let holder: Option<String> = row.try_get(0).map_err(fail)?;
    let holder = holder.unwrap_or_else(|| "docrow".to_owned());
    let (retries, at, is_recent): (Option<bool>, String, bool) =
        (row.try_get(1).map_err(fail)?, row.try_get(2).map_err(fail)?, row.try_get(3).map_err(fail)?);
    Ok(match is_recent {
        true if retries == Some(true) => PipelineRunner::Process(format!("{holder}, between two attempts")),
        true => PipelineRunner::Process(holder),
        false => PipelineRunner::Unheard(format!("{holder}, last heard of at {at}")),
    })
}

/// The process that is known to run a pipeline; `None`: none that could write now.
pub async fn holder(session: &Session, pipeline: &str) -> Result<Option<String>> {
    Ok(match runner(session, pipeline).await? {
        PipelineRunner::Process(words) => Some(words),
        PipelineRunner::Nobody | PipelineRunner::Unheard(_) => None,
    })
}

/// Who holds a pipeline; `None`: nobody.
pub(super) async fn look(session: &Session, pipeline: &str) -> Result<Option<HolderSighting>> {
    let fail = |e| sqlstate::error(format!("ask who runs pipeline {pipeline}"), &e);
    // Of another user's connection, everyone sees only its process id and its name: silence can't be
    // detected.
    let question = format!(
        "SELECT l.pid, a.application_name, \
            CASE WHEN a.application_name LIKE 'docrow fence %' AND a.state LIKE 'idle%' \
                THEN concat(l.pid, ' ', a.state_change) END, \
            coalesce(a.state_change < clock_timestamp() - make_interval(secs => {SILENCE}), false), \
            concat_ws(', ', (SELECT 'docrow ' || holder FROM docrow.pipelines WHERE pipeline = $2), \
                'PostgreSQL process ' || l.pid, \
                'client ' || coalesce(host(a.client_addr), CASE WHEN a.backend_start IS NOT NULL THEN 'on a local socket' END), \
                'since ' || a.backend_start::timestamptz(0)) \
        FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) WHERE {IS_LOCK}"
    );
    let lock = lock_of_holder(pipeline);
    let Some(row) = session.client.fetch_opt(&question, &[&lock, &pipeline]).await.map_err(fail)? else {
        return Ok(None);
    };
    let get = |column| row.try_get(column).map_err(fail);
    Ok(Some(HolderSighting {
        pid: row.try_get(0).map_err(fail)?,
        name: get(1)?,
        silence: get(2)?,
        is_long: row.try_get(3).map_err(fail)?,
        words: row.try_get(4).map_err(fail)?,
    }))
}
