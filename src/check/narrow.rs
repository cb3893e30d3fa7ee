//! Columns that lack values, as the process that runs the pipeline last counted them.

use indicatif::HumanCount;

use super::report::{FindingPart, PartFindings};
use crate::{
    error::Result,
    pipeline,
    schema::MappingSpec,
    shown,
    sink::{
        Session, Target,
        metadata::{
            mapping_versions,
            misfits::{self, Misfits},
        },
    },
};

/// A note for each, with how to fix it.
pub(super) async fn check(target: &Target, session: &Session) -> PartFindings {
    let mut findings = PartFindings::new(FindingPart::Mapping);
    let told = tell(&mut findings, target, session).await;
    findings.unless("columns", told);
    findings
}

async fn tell(findings: &mut PartFindings, target: &Target, session: &Session) -> Result<()> {
    let counts = misfits::load(session, target.pipeline()).await?;
    if counts.is_empty() {
        return Ok(());
    }
    for mapping in mapping_versions::load(session, target.pipeline()).await? {
        let Some(count) = counts.get(&mapping.collection) else { continue };
        let spec = MappingSpec::parse(&mapping.text, "docrow.schemas")?;
        for (misfits, _) in &count.found {
            let Misfits { table, column, values, .. } = misfits;
            let own = spec.tables().find(|own| own.table == *table);
            let own = own.and_then(|table| table.columns.iter().find(|own| own.name == *column));
            let ty = own.map_or_else(String::new, |column| column.ty.sql());
            let (name, values) = (shown::name(&format!("{table}.{column}")), HumanCount(*values));
            let what =
                format!("{name} ({ty}) lacks {values} values, which did not fit and are in _extra alone");
            findings
                .note(mapping.collection.as_str(), what)
                .advise(misfits.remedy(&ty, pipeline::is_automatic(&mapping.text)));
        }
    }
    Ok(())
}
