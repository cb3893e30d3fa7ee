//! Throwaway MongoDB and PostgreSQL servers: real ones, on free ports of the loopback interface, in temporary
//! folders.
//!
//! A started server is ready: primary, accepting logins. It is gone, with its folder, when its value is
//! dropped or the process ends, even by SIGKILL (see [`super::process`]). Servers can be stopped, killed and
//! restarted on the same port and data, because docrow is tested against crashes.

mod mongod;
mod postgres;
mod tries;

pub use self::{
    mongod::{Mongod, MongodOptions},
    postgres::{Postgres, PostgresOptions},
};
