//! `docrow.throttles`: how fast the pipeline's snapshots may be, where somebody has said otherwise than the configuration does.

use super::{
    Session, Target, bookkeeping, failure,
    fence::{self, Runner},
};
use crate::error::Result;

/// What somebody has asked for.
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

/// What is asked for.
pub async fn asked(session: &Session, pipeline: &str) -> Result<Throttle> {
    let fail = |e| failure::of("look how fast snapshots may be", &e);
    let question = "SELECT max_rate FROM docrow.throttles WHERE pipeline = $1";
    let row = session.client.query_opt(question, &[&pipeline]).await.map_err(fail)?;
    Ok(match row {
        None => Throttle::AsConfigured,
        Some(row) => {
            row.try_get::<_, Option<String>>(0).map_err(fail)?.map_or(Throttle::Off, Throttle::AtMost)
        }
    })
}

/// What people need to ask for it.
#[derive(Debug)]
pub struct Throttles {
    session: Session,
    pipeline: String,
}

impl Throttles {
    /// Opens it; `None` where docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        let session = bookkeeping::open(target).await?;
        Ok(session.map(|session| Self { session, pipeline: target.pipeline().to_owned() }))
    }

    /// Asks for this from now on.
    pub async fn ask(&self, throttle: &Throttle) -> Result<()> {
        let fail = |e| failure::of("ask how fast snapshots may be", &e);
        let rate = match throttle {
            Throttle::AsConfigured => {
                let delete = "DELETE FROM docrow.throttles WHERE pipeline = $1";
                return self.session.client.execute(delete, &[&self.pipeline]).await.map(drop).map_err(fail);
            }
            Throttle::Off => None,
            Throttle::AtMost(rate) => Some(rate),
        };
        let insert = "INSERT INTO docrow.throttles (pipeline, max_rate) VALUES ($1, $2) \
            ON CONFLICT (pipeline) DO UPDATE SET max_rate = EXCLUDED.max_rate, asked_at = now()";
        self.session.client.execute(insert, &[&self.pipeline, &rate]).await.map(drop).map_err(fail)
    }

    /// Who runs the pipeline.
    pub async fn runner(&self) -> Result<Runner> {
        fence::runner(&self.session, &self.pipeline).await
    }
}
