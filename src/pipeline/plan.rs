//! What a run would do to the tables of the included collections, and doing just that.

use std::sync::Arc;

use super::{mappings::Mappings, widening};
use crate::{
    change::Namespace,
    config::Config,
    error::Result,
    mapping::Mapping,
    sink::{
        self, Session, Target, ddl,
        fence::{Fence, Holder, Manner},
        plan::Plan,
        schemas,
    },
    source::{CollectionInfo, Source},
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
    sink::preflight(&session, &target).await?;
    let look = async |session: &mut Session| look(config, &source, &found, &target, session).await;
    let (mut plans, _) = look(&mut session).await?;
    let is_free =
        |plans: &[(Namespace, Plan)]| plans.iter().all(|(_, plan)| plan.obstacles().next().is_none());
    if apply && is_free(&plans) {
        // A process that runs the pipeline changes its tables itself.
        let fence = Fence::acquire(&target, &Holder::new(), Manner::Refuse).await?;
        let mut session = fence.target().connect().await?;
        let changes;
        (plans, changes) = look(&mut session).await?;
        if is_free(&plans) {
            for (record, mapping) in &changes {
                ddl::change_tables(&mut session, &target, record, mapping.tables()).await?;
            }
        }
    }
    Ok(plans)
}

/// The plans, and what is to be stored when they are carried out.
async fn look(
    config: &Config,
    source: &Source,
    found: &[CollectionInfo],
    target: &Target,
    session: &mut Session,
) -> Result<(Vec<(Namespace, Plan)>, Vec<(schemas::Mapping, Mapping)>)> {
    let stored = schemas::load(session, target.pipeline()).await?;
    let mut mappings = Mappings::load(&stored, config)?;
    let (mut plans, mut changes) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for info in found {
        let in_force = mappings.of(source, &info.namespace).await?;
        let (in_force, mapping, plan) = widening::plan(config, target, session, in_force).await?;
        plans.push((info.namespace.clone(), plan));
        changes.push((in_force.record(&mapping), mapping));
    }
    Ok((plans, changes))
}

/// What a run would make of a collection.
#[derive(Debug)]
pub struct Preview {
    /// The mapping that it would have.
    pub mapping: Arc<Mapping>,
    /// Whether docrow would make it, or has made it.
    pub is_automatic: bool,
    /// What would be done to its tables. `None`: the target was not asked.
    pub plan: Option<Result<Plan>>,
}

/// What a run would make of each of these collections; without a target, of those that have none in force yet. Writes
/// nothing, and what is wrong with one collection does not hide the others.
///
/// Errors: mappings can't be read at all, or contradict each other.
pub async fn preview(
    config: &Config,
    source: &Source,
    found: &[CollectionInfo],
    mut target: Option<(&Target, &mut Session)>,
) -> Result<Vec<Result<Preview>>> {
    let stored = match &target {
        Some((target, session)) => schemas::load(session, target.pipeline()).await?,
        None => Vec::new(),
    };
    let mut mappings = Mappings::load(&stored, config)?;
    let mut previews = Vec::with_capacity(found.len());
    for info in found {
        let preview = async {
            let in_force = mappings.of(source, &info.namespace).await?;
            let (mapping, is_automatic) = (config.compile(&in_force.spec)?, in_force.is_automatic);
            let (mapping, plan) = match &mut target {
                Some((target, session)) => match widening::plan(config, target, session, in_force).await {
                    Ok((_, mapping, plan)) => (mapping, Some(Ok(plan))),
                    Err(error) => (mapping, Some(Err(error))),
                },
                None => (mapping, None),
            };
            Ok(Preview { mapping: Arc::new(mapping), is_automatic, plan })
        };
        previews.push(preview.await);
    }
    Ok(previews)
}
