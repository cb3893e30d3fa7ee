//! The user's tables, as wholes.
//!
//! `sql` and `ddl_sql` hold the text of all SQL about them; `catalog` looks at those that are there
//! (`found`), `ddl_plan` decides what must be done about them, `ddl` does it, and `ddl_batch` for several
//! collections at once; `widen` lets wide columns take the places of narrow ones; `locks` keeps all that from
//! holding up others.

mod catalog;
pub mod ddl;
pub mod ddl_batch;
pub mod ddl_plan;
pub mod ddl_sql;
mod found;
pub mod locks;
pub mod sql;
pub mod widen;
