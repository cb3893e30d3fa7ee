//! `docrow.throttles`: how fast the pipeline's snapshots may read, if an operator has overridden the
//! configuration.

use super::requests::Requests;
pub use super::requests::Throttle;
use crate::{
    error::Result,
    sink::connection::{round_trip::OneRoundTrip, sqlstate},
};

impl Requests {
    /// Sets how fast snapshots may read from now on.
    pub async fn throttle(&self, throttle: &Throttle) -> Result<()> {
        let fail = |e| sqlstate::error("set how fast snapshots may read", &e);
        let rate = match throttle {
            Throttle::AsConfigured => {
                let delete = "DELETE FROM docrow.throttles WHERE pipeline = $1";
                return self.session.client.perform(delete, &[&self.pipeline]).await.map(drop).map_err(fail);
            }
            Throttle::Off => None,
            Throttle::AtMost(rate) => Some(rate),
        };
        let insert = "INSERT INTO docrow.throttles (pipeline, max_rate) VALUES ($1, $2) \
            ON CONFLICT (pipeline) DO UPDATE SET max_rate = EXCLUDED.max_rate, asked_at = now()";
        self.session.client.perform(insert, &[&self.pipeline, &rate]).await.map(drop).map_err(fail)
    }
}
