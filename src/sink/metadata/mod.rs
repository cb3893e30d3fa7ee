//! docrow's metadata in PostgreSQL: the schema `docrow`.
//!
//! `schema` creates it. What is written belongs to `positions`, `chunks`, `mapping_versions`, `dead_letters`
//! and `deployment`; `fence` keeps a second process out, `runner` tells which is the first. What people ask
//! for waits in tables that `requests` looks at: `resync_requests`, `repair_requests`, `pauses`, `throttles`.
//! `process_reports`, `verifications` and `misfits` say how it goes, and `overview` reads what a status is
//! made of. `dead_letter_admin` is what people do with dead letters.

pub mod chunks;
pub mod dead_letter_admin;
pub mod dead_letters;
pub mod deployment;
pub mod fence;
pub mod mapping_versions;
pub mod misfits;
pub mod overview;
pub mod pauses;
pub mod positions;
pub mod process_reports;
pub mod repair_requests;
pub mod requests;
pub mod resync_requests;
pub mod runner;
pub mod schema;
pub mod throttles;
pub mod verifications;
