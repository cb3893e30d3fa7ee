//! What people ask of a pipeline: resyncs, pauses, throttles, repairs, another try of dead letters. Each kind has a table, and a
//! file that knows what its rows mean.
//!
//! Here is what they share: the session that people ask over, and the one statement by which the process that runs the
//! pipeline sees, each second, whether anybody asks for anything.

use tokio_postgres::types::{ToSql, Type};

use super::{
    runner::{self, PipelineRunner},
    schema,
};
use crate::{
    error::Result,
    sink::{Session, Target, connection::sqlstate},
};

/// What people need to ask.
#[derive(Debug)]
pub struct Requests {
    pub(super) session: Session,
    pub(super) pipeline: String,
}

impl Requests {
    /// Opens it; `None` where docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        let session = schema::open(target).await?;
        Ok(session.map(|session| Self { session, pipeline: target.pipeline().to_owned() }))
    }

    /// Who runs the pipeline.
    pub async fn runner(&self) -> Result<PipelineRunner> {
        runner::runner(&self.session, &self.pipeline).await
    }
}

/// What somebody has asked for of the speed of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Throttle {
    /// Nothing: the configuration says it.
    #[default]
    AsConfigured,
    /// No limit.
    Off,
    /// A limit, as it was written.
    AtMost(String),
}

impl Throttle {
    /// What a row means.
    fn asked(max_rate: Option<String>) -> Self {
        max_rate.map_or(Self::Off, Self::AtMost)
    }
}

/// What is asked for at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// How fast snapshots may be.
    pub throttle: Throttle,
    /// The collections that are to be copied anew.
    pub resyncs: Vec<String>,
    /// The collections that are paused.
    pub paused: Vec<String>,
    /// Those of them of which nobody has noted yet that nothing more is written to them.
    pub unheard: Vec<String>,
    /// Whether there are repairs to [take](super::repair_requests::take).
    pub repairs: bool,
    /// Whether there are dead letters [to be tried again](super::dead_letters::asked).
    pub letters: bool,
}

/// Looks what is asked for, in one round trip. Repairs of `later`, collections, do not count.
pub async fn look(session: &Session, pipeline: &str, later: &[&str]) -> Result<Requested> {
    let fail = |e| sqlstate::error("look for requests", &e);
    let question = "SELECT t.pipeline IS NOT NULL, t.max_rate, \
        ARRAY(SELECT collection FROM docrow.resyncs WHERE pipeline = $1), \
        ARRAY(SELECT collection FROM docrow.pauses WHERE pipeline = $1), \
        ARRAY(SELECT collection FROM docrow.pauses WHERE pipeline = $1 AND held_at IS NULL), \
        EXISTS (SELECT FROM docrow.repairs WHERE pipeline = $1 AND collection <> ALL ($2)), \
        EXISTS (SELECT FROM docrow.dead_letters WHERE pipeline = $1 AND retry_at IS NOT NULL) \
        FROM (VALUES (1)) AS one LEFT JOIN docrow.throttles t ON t.pipeline = $1";
    // With its types it need not be prepared, which would be a round trip of its own.
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&pipeline, Type::TEXT), (&later, Type::TEXT_ARRAY)];
    let row = session.client.query_typed_one(question, &parameters).await.map_err(fail)?;
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
