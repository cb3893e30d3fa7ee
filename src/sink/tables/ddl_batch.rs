//! The tables of several collections together, in as many round trips as those of one.

use futures_util::{future::try_join_all, join, try_join};
use tokio_postgres::Client;

use super::{
    catalog,
    ddl_plan::{Plan, Wanted, When},
    locks,
};
use crate::{
    error::{Kind, Result},
    failpoint::{self, Failpoint},
    model::table::Table,
    sink::{
        Session, Target,
        connection::sqlstate,
        metadata::{
            mapping_versions::{self, Mapping, SchemaForm},
            schema::LOCK,
        },
    },
};

/// Which of these collections have their tables as the stored versions of their mappings want them, so that
/// [`change_tables`](super::ddl::change_tables) would change nothing. All are looked at together; nothing is
/// changed.
pub async fn as_wanted(session: &Session, target: &Target, wanted: &[(&str, &[Table])]) -> Result<Vec<bool>> {
    let fail = |e| sqlstate::error("look for the tables of all collections", &e);
    let found =
        catalog::look_all(SchemaForm::Complete, &session.client, target, wanted).await.map_err(fail)?;
    let is_wanted = |((_, tables), found): (&(&str, &[Table]), &_)| {
        let plan = Plan::of(target.schema(), Wanted { tables, foreign_keys: false }, found);
        plan.refusal().is_none() && plan.steps(When::AtOnce).next().is_none()
    };
    Ok(wanted.iter().zip(&found).map(is_wanted).collect())
}

/// Creates the tables of several new collections in one transaction, as
/// [`change_tables`](super::ddl::change_tables) does for one. `false`: something is in the way of one of
/// them, and nothing is created.
pub async fn create_tables(
    session: &mut Session,
    target: &Target,
    wanted: &[(&Mapping, &[Table])],
) -> Result<bool> {
    let doing = "create the tables of new collections";
    let fail = |e| sqlstate::error(doing, &e);
    let named: Vec<_> = wanted.iter().map(|(mapping, tables)| (&*mapping.collection, *tables)).collect();
    let lock = format!("{LOCK}; {}", locks::BRIEFLY);
    let look = async |client: &_| {
        let (locked, found) = join!(
            Client::batch_execute(client, &lock),
            catalog::look_all(SchemaForm::Complete, client, target, &named)
        );
        locked.and(found).map_err(fail)
    };
    let (transaction, found) = session.enter_along(doing, look).await?;
    if found.iter().any(|found| !found.relations.is_empty() || !found.own.is_empty()) {
        return Ok(false);
    }
    let plan = |((_, tables), found): (&(&Mapping, &[Table]), &_)| {
        Plan::of(target.schema(), Wanted { tables, foreign_keys: false }, found)
    };
    let plans: Vec<Plan> = wanted.iter().zip(&found).map(plan).collect();
    let steps: Vec<&str> =
        plans.iter().flat_map(|plan| plan.steps(When::AtOnce)).map(|step| &*step.sql).collect();
    let steps = steps.join("; ");
    let insert = |((mapping, _), plan): (&(&Mapping, &[Table]), &Plan)| {
        let names: Vec<String> = plan.tables.iter().map(|table| table.name.clone()).collect();
        let (mapping, transaction) = (Mapping::clone(mapping), &transaction);
        async move {
            let names = names.iter().map(String::as_str).collect();
            mapping_versions::insert(transaction, target.pipeline(), &mapping, names, Vec::new()).await
        }
    };
    let stored = try_join_all(wanted.iter().zip(&plans).map(insert));
    match try_join!(transaction.batch_execute(&steps), stored).map_err(fail) {
        // Which of them it is shows when each is tried alone.
        Err(error) if error.kind() == Kind::TargetRefused => return Ok(false),
        created => drop(created?),
    }
    failpoint::reach(Failpoint::TablesBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::TablesCommitted);
    Ok(true)
}
