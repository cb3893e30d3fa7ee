//! What only the running process knows: its stage, its speed, the size of the spool, its last warnings. For
//! people and probes; replication does not depend on it.
//!
//! The pipeline writes it, about once a second and where a stage begins; `serve` shows it, and the pipeline
//! copies it into PostgreSQL ([`ProcessReport`], [`Details`]), so that `docrow status` works from elsewhere.
//! It holds names, numbers and log lines, and like those no document's values (G12).

mod messages;
mod places;
mod readiness;
mod report;
mod vitals;

pub use self::{
    messages::{Message, MessageLevel},
    places::{Part, PartPlaces, Place, Post},
    readiness::ANSWERS_WITHIN,
    report::{
        Applied, ChartPoint, Clock, CopyPace, Details, Hindrance, Lag, ProcessReport, Reading, Spool, Stage,
        Totals, WorkRates,
    },
    vitals::Vitals,
};
