//! What a run would do to the tables of the included collections, and doing just that.

use super::mappings::Mappings;
use crate::{
    change::Namespace,
    config::Config,
    error::Result,
    sink::{
        self, Target, ddl,
        fence::Fence,
        plan::{Plan, Wanted},
        schemas,
    },
    source::Source,
};

/// The plan of every included collection. With `apply` it is carried out, and the mappings are stored, if nothing stands
/// in the way of any of them; a run goes on from there. Without it nothing is written.
///
/// Errors: those of [`super::run`] before it copies anything.
pub async fn plan(config: &Config, apply: bool) -> Result<Vec<(Namespace, Plan)>> {
    let source = Source::connect(config.source.expose()).await?;
    let found = source.collections(&config.include, &config.exclude).await?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let mut session = target.connect().await?;
    sink::preflight(&session, target.schema()).await?;
    // A process that runs the pipeline changes its tables itself.
    let _fence = if apply { Some(Fence::acquire(&target).await?) } else { None };
    let stored = schemas::load(&session, target.pipeline()).await?;
    let mut mappings = Mappings::load(&stored, config)?;
    let (mut plans, mut changes) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for info in found {
        let in_force = mappings.of(&source, &info.namespace).await?;
        let mapping = config.compile(&in_force.spec)?;
        let wanted = Wanted { tables: mapping.tables(), foreign_keys: in_force.spec.foreign_keys() };
        let record = in_force.record();
        plans.push((info.namespace, ddl::plan(&mut session, &target, &record.collection, wanted).await?));
        changes.push((record, mapping));
    }
    if apply && plans.iter().all(|(_, plan)| plan.obstacles().next().is_none()) {
        ddl::create_bookkeeping(&mut session, target.schema()).await?;
        for (record, mapping) in &changes {
            ddl::change_tables(&mut session, &target, record, mapping.tables()).await?;
        }
    }
    Ok(plans)
}
