//! Operators' requests to a pipeline: resyncs, pauses, throttles, repairs, retries of dead letters. Each kind
//! has a table, and a file that defines what its rows mean.
//!
//! This file has what they share: the session for making requests, and the one statement with which the
//! process that runs the pipeline checks, each second, whether there are any.

use super::{
    runner::{self, PipelineRunner},
    schema,
};
use crate::{
    error::Result,
    sink::{
        Session, Target,
        connection::{round_trip::OneRoundTrip, sqlstate},
    },
};

/// A session to make requests.
#[derive(Debug)]
pub struct Requests {
    pub(super) session: Session,
    pub(super) pipeline: String,
}

impl Requests {
    /// Opens it; `None` if docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        let session = schema::open(target).await?;
        Ok(session.map(|session| Self { session, pipeline: target.pipeline().to_owned() }))
    }

    /// The process that runs the pipeline.
    pub async fn runner(&self) -> Result<PipelineRunner> {
        runner::runner(&self.session, &self.pipeline).await
    }
}

/// The limit of the speed of snapshots that an operator has requested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Throttle {
    /// None: the configuration applies.
    #[default]
    AsConfigured,
    /// No limit.
    Off,
    /// A limit, as written.
    AtMost(String),
}

impl Throttle {
    /// The meaning of a row.
    fn asked(max_rate: Option<String>) -> Self {
        max_rate.map_or(Self::Off, Self::AtMost)
    }
}

/// The current requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// How fast snapshots may read.
    pub throttle: Throttle,
    /// The collections to resync.
    pub resyncs: Vec<String>,
    /// The collections that are paused.
    pub paused: Vec<String>,
    /// Those for which it is not recorded yet that nothing more is written to them.
    pub unheard: Vec<String>,
    /// Whether there are repairs to [take](super::repair_requests::take).
    pub repairs: bool,
    /// Whether there are dead letters [to retry](super::dead_letters::asked).
    pub letters: bool,
}

/// Reads the current requests, in one round trip. Repairs of the collections `later` do not count.
pub async fn look(session: &Session, pipeline: &str, later: &[&str]) -> Result<Requested> {
    let fail = |e| sqlstate::error("look for requests", &e);
    let question = "SELECT t.pipeline IS NOT NULL, t.max_rate, \
        ARRAY(SELECT collection FROM docrow.resyncs WHERE pipeline = $1), \
        ARRAY(SELECT collection FROM docrow.pauses WHERE pipeline = $1), \
        ARRAY(SELECT collection FROM docrow.pauses WHERE pipeline = $1 AND held_at IS NULL), \
        EXISTS (SELECT FROM docrow.repairs WHERE pipeline = $1 AND collection <> ALL ($2)), \
        EXISTS (SELECT FROM docrow.dead_letters WHERE pipeline = $1 AND retry_at IS NOT NULL) \
        FROM (VALUES (1)) AS one LEFT JOIN docrow.throttles t ON t.pipeline = $1";
    let row = session.client.fetch_one(question, &[&pipeline, &later]).await.map_err(fail)?;
    let names = |column| row.try_get(column).map_err(fail);
    let throttle = if row.try_get(0).map_err(fail)? {
        Throttle::asked(row.try_get(1).map_err(fail)?)
    } else {
        Throttle::AsConfigured
    };
    Ok(Requested {
        throttle,
        resyncs: names(2)?,
        paused: names(3)?,
        unheard: names(4)?,
        repairs: row.try_get(5).map_err(fail)?,
        letters: row.try_get(6).map_err(fail)?,
    })
}
