//! The user's tables, as wholes.
//!
//! `sql` and `ddl_sql` hold the text of all SQL about them; `catalog` looks at those that are there
//! (`found`), `ddl_plan` decides what is to be done about them, `ddl` does it; `widen` lets wide columns take
//! the places of narrow ones; `locks` keeps all that from holding up others.

mod catalog;
pub mod ddl;
pub mod ddl_plan;
pub mod ddl_sql;
mod found;
pub mod locks;
pub mod sql;
pub mod widen;
