//! Shows what a run would do to the tables of the included collections, and does just that if asked.

use std::sync::Arc;

use super::{
    active::{Mappings, require_collections},
    widening,
};
use crate::{
    config::Config,
    error::Result,
    mapping::Mapping,
    mapping_files::{self, MappingFiles},
    model::change::Namespace,
    sink::{
        self, Session, Target,
        metadata::{
            fence::{Fence, Holder, OnHeld},
            mapping_versions,
        },
        tables::{ddl, ddl_plan::Plan},
    },
    source::{CollectionInfo, Source},
};

/// The plan of every included collection. With `apply`, the plans are carried out, and the mappings are
/// stored, if none of them meets an obstacle; a run continues from there. Without it, nothing is written.
///
/// Errors: those of [`pipeline::run`](crate::pipeline::run()) before it copies anything.
pub async fn plan(config: &Config, apply: bool) -> Result<Vec<(Namespace, Plan)>> {
    let source = Source::connect(config.source.expose()).await?;
    let found = source.collections(&config.include, &config.exclude).await?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let (mut session, other) = target.connect_twice().await?;
    let intent = if apply { sink::Intent::Write } else { sink::Intent::Look };
    sink::preflight(&session, other, &target, intent).await?;
    let files = mapping_files::read(&config.mapping_dir)?;
    require_collections(config, &files, &source, &mapping_versions::load(&session, target.pipeline()).await?)
        .await?;
    let sides = Sides { config, files: &files, source: &source };
    let Looked { mut plans, mappings, .. } = look(&sides, &found, &target, &mut session, None).await?;
    let is_free =
        |plans: &[(Namespace, Plan)]| plans.iter().all(|(_, plan)| plan.obstacles().next().is_none());
    if apply && is_free(&plans) {
        // A process that runs the pipeline changes its tables itself.
        let fence = Fence::acquire(&target, &Holder::new(), OnHeld::Refuse).await?;
        let mut session = fence.target().connect().await?;
        let again = look(&sides, &found, fence.target(), &mut session, Some(mappings)).await?;
        plans = again.plans;
        if is_free(&plans) {
            for (record, mapping) in &again.changes {
                ddl::change_tables(&mut session, fence.target(), record, mapping.tables()).await?;
            }
        }
    }
    Ok(plans)
}

/// The sides between which a plan is made.
struct Sides<'a> {
    config: &'a Config,
    files: &'a MappingFiles,
    source: &'a Source,
}

/// What was found.
struct Looked {
    plans: Vec<(Namespace, Plan)>,
    /// What to store when the plans are carried out.
    changes: Vec<(mapping_versions::Mapping, Mapping)>,
    /// The mappings, with what was sampled for them.
    mappings: Mappings,
}

/// Makes the plans. Collections that were sampled `earlier` are not sampled again.
async fn look(
    Sides { config, files, source }: &Sides<'_>,
    found: &[CollectionInfo],
    target: &Target,
    session: &mut Session,
    earlier: Option<Mappings>,
) -> Result<Looked> {
    let stored = mapping_versions::load(session, target.pipeline()).await?;
    let mut mappings = Mappings::load(&stored, config, files)?;
    if let Some(earlier) = earlier {
        mappings.take_samples(earlier);
    }
    let (mut plans, mut changes) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for info in found {
        let in_force = mappings.mapping_for(*source, &info.namespace).await?;
        let (in_force, mapping, plan) = widening::plan(config, target, session, in_force).await?;
        plans.push((info.namespace.clone(), plan));
        changes.push((in_force.record(&mapping), mapping));
    }
    Ok(Looked { plans, changes, mappings })
}

/// What a run would do with a collection.
#[derive(Debug)]
pub struct Preview {
    /// The mapping that it would have.
    pub mapping: Arc<Mapping>,
    /// Whether docrow would make it, or has made it.
    pub is_automatic: bool,
    /// What would be done to its tables. `None`: the target was not asked.
    pub plan: Option<Result<Plan>>,
}

/// What a run would do with each of these collections; without a target, as if none had a mapping in force
/// yet. Writes nothing, and a problem with one collection does not hide the others.
///
/// Errors: the mappings can't be read at all, or contradict each other.
pub async fn preview(
    config: &Config,
    files: &MappingFiles,
    source: &Source,
    found: &[CollectionInfo],
    mut target: Option<(&Target, &mut Session)>,
) -> Result<Vec<Result<Preview>>> {
    let stored = match &target {
        Some((target, session)) => mapping_versions::load(session, target.pipeline()).await?,
        None => Vec::new(),
    };
    let mut mappings = Mappings::load(&stored, config, files)?;
    let mut previews = Vec::with_capacity(found.len());
    for info in found {
        let preview = async {
            let in_force = mappings.mapping_for(source, &info.namespace).await?;
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
