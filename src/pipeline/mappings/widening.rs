//! Columns become wider while their tables are read and written.
//!
//! Where a type can be changed in place, that is one short statement, and [`evolution`](super::evolution)
//! does it. But a large table can't be rewritten while everything waits; and most types read back as other
//! BSON types, so that every document must be written again. Then a column passes through three versions of
//! its collection's mapping:
//!
//! 1. `price bigint`. Values that do not fit are in `extra`.
//! 2. `price_widened_by_docrow double precision` beside `price bigint`: added, NULL, in the transaction that
//!    stores the version. From then on both are written; readers of `price` see what was always there.
//!    ([`backfill`](super::backfill) writes every document again that has a value in the narrow column alone,
//!    or in `extra`.)
//! 3. `price double precision`: one short transaction drops the narrow column, gives the wide one its name,
//!    and stores the version.
//!
//! Rows of versions 1 and 2 both yield their documents exactly in version 2 ([`schema`](crate::schema) says
//! why), so no reader and no verification waits for anything. Version 3 comes only when all rows are of
//! version 2: every writer holds the mapping in force, which is version 2 from before the first row is
//! filled, and version 2 is stored as filled only if no document was refused. The stored version contains
//! everything, so docrow continues from it after a crash anywhere: before the end of the filling with
//! filling, which finds what is left; afterwards with the third step.
//!
//! A column on which something else depends is not replaced, because that would be dropped with it
//! ([`sink::tables::widen`]). Nor is a column of a mapping that keeps the rows of deleted documents: these
//! can't be written again.
//!
//! [`sink::tables::widen`]: crate::sink::tables::widen

use std::sync::Arc;

use super::active::ActiveMapping;
use crate::{
    config::Config,
    error::{Code, Error, Kind, Result},
    mapping::{Mapping, Replacement},
    pipeline::{
        collection::Collection,
        context::Pipeline,
        ports::{TargetSession, of_postgres},
        tries::Tries,
    },
    schema::OnDelete,
    sink::{
        Session, Target,
        tables::{
            ddl,
            ddl_plan::{Plan, Wanted},
        },
    },
};

impl ActiveMapping {
    /// What to continue with where the tables can't follow: less, down to the stored version. `None`: this is
    /// that version.
    pub(crate) fn less(&self) -> Option<Self> {
        let before = self.before.as_deref()?;
        let less = before.spec.less_than(&self.spec);
        let less = less.and_then(|spec| before.next(spec, self.is_automatic).ok());
        Some(less.unwrap_or_else(|| Self { is_automatic: self.is_automatic, ..before.clone() }))
    }

    /// The columns that replace others from this version on.
    fn begun(&self) -> Vec<Replacement> {
        let before = self.before.iter().flat_map(|before| before.spec.replacements()).collect::<Vec<_>>();
        self.spec.replacements().into_iter().filter(|replacement| !before.contains(replacement)).collect()
    }
}

/// Returns the version without the columns that can't be replaced, which stay unchanged, and why they can't
/// be.
pub(crate) async fn possible(
    session: &dyn TargetSession,
    next: ActiveMapping,
) -> Result<(ActiveMapping, Option<Error>)> {
    let (begun, collection) = (next.begun(), next.spec.collection().to_string());
    let Some(before) = next.before.as_deref().filter(|_| !begun.is_empty()) else { return Ok((next, None)) };
    let (kept, why) = if next.spec.on_delete() == OnDelete::Soft {
        let why = "on_delete = \"soft\" keeps rows of deleted documents, which can't be written again";
        (begun, Error::new(Code::ColumnInUse, format!("widen columns of {collection}: {why}")))
    } else {
        match session.irreplaceable(&collection, &begun).await? {
            Some(found) => found,
            None => return Ok((next, None)),
        }
    };
    let spec = before.spec.keeping(&next.spec, &kept);
    let is_automatic = next.is_automatic;
    let less = if spec == before.spec { None } else { before.next(spec, is_automatic).ok() };
    let less = less.unwrap_or_else(|| ActiveMapping { is_automatic, ..before.clone() });
    Ok((less, Some(why)))
}

/// Plans what to do for a collection, with as much of what its mapping file adds as its tables can follow.
pub(super) async fn plan(
    config: &Config,
    target: &Target,
    session: &mut Session,
    mut wanted: ActiveMapping,
) -> Result<(ActiveMapping, Mapping, Plan)> {
    let collection = wanted.spec.collection().to_string();
    loop {
        (wanted, _) = possible(&of_postgres(session, target), wanted).await?;
        let mapping = config.compile(&wanted.spec)?;
        let tables = Wanted { tables: mapping.tables(), foreign_keys: wanted.spec.foreign_keys() };
        let plan = ddl::plan(session, target, &collection, tables).await?;
        match wanted.less().filter(|_| plan.obstacles().next().is_some()) {
            Some(less) => wanted = less,
            None => return Ok((wanted, mapping, plan)),
        }
    }
}

/// Warns that columns are not replaced.
pub(crate) fn warn(kept: Option<&Error>) {
    if let Some(error) = kept {
        tracing::warn!(code = %error.code(), "columns stay as they are: {error}");
    }
}

/// Makes columns whose rows are all written replace the narrow ones. `false`: this must wait for another
/// session's lock.
pub(super) async fn replace_columns(
    pipeline: &Pipeline,
    collection: &Collection,
    in_force: &mut ActiveMapping,
    tries: &mut Tries,
) -> Result<bool> {
    let replacements = in_force.spec.replacements();
    if replacements.is_empty() {
        return Ok(true);
    }
    let next = ActiveMapping {
        spec: in_force.spec.settled(),
        version: in_force.version.saturating_add(1),
        is_automatic: in_force.is_automatic,
        unfilled: None,
        before: None,
    };
    let mapping = Arc::new(pipeline.config.compile(&next.spec)?);
    let Some(session) = tries.unless_stopped(pipeline.ports.target.connect()).await else { return Ok(false) };
    let mut session = session?;
    let Some(mut held) = tries.grasp(collection).await else { return Ok(false) };
    let record = next.record(&mapping);
    let replaced = session.replace_columns(&record, &replacements).await;
    let name = collection.name();
    match replaced {
        Ok(()) => {}
        Err(error) if error.code() == Code::TargetLocked => {
            drop(held);
            let what = format!("{name}: wider columns");
            tries.make_way(&mut *session, &what, error, mapping.tables()).await?;
            return Ok(false);
        }
        Err(error) if error.kind() == Kind::TargetRefused => {
            warn(Some(&error));
            return Ok(true);
        }
        Err(error) => return Err(error),
    }
    tries.succeeded();
    *held = mapping;
    *in_force = next;
    for Replacement { table, narrow, ty, .. } in &replacements {
        tracing::info!("{name}: column {narrow} of {table} is now {ty}");
    }
    Ok(true)
}
