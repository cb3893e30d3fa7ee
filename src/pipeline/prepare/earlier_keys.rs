//! Keys that an earlier docrow wrote in another form.
//!
//! An `_id` has one key, whatever its bytes. Where an earlier docrow had several for equal ones, rows would be left behind
//! under a key that nothing leads to any more. So a collection that has such rows is copied anew, in place, once: rows of
//! keys that no document has are swept away then. Dead letters get their names anew; and as a document may have been
//! another partition's, all partitions begin at the least position.

use crate::{
    error::Result,
    model::{resync_reason::Reason, table::Scalar},
    pipeline::{context::Pipeline, stream::repartition},
    schema::MappingSpec,
    sink::{
        Session,
        metadata::{dead_letters, mapping_versions, positions, resync_requests},
        tables::ddl,
    },
};

impl Pipeline {
    /// Sees to what is left of an earlier form.
    pub(super) async fn renew_keys(&self, session: &mut Session) -> Result<()> {
        let pipeline = self.target.pipeline();
        let earlier = mapping_versions::with_earlier_keys(session, pipeline).await?;
        if earlier.is_empty() {
            return Ok(());
        }
        let stored = positions::load(session, pipeline).await?;
        let spread = repartition::spread(&stored, self.config.partitions);
        positions::reset(session, pipeline, &spread).await?;
        for stored in mapping_versions::load(session, pipeline).await? {
            let name = stored.collection;
            if !earlier.contains(&name) {
                continue;
            }
            let mapping = self.config.compile(&MappingSpec::parse(&stored.text, "docrow.schemas")?)?;
            if let Some(root) = mapping.tables().first()
                && mapping.key_type().scalar == Scalar::Text
                && ddl::has_earlier_keys(session, self.target.schema(), root).await?
            {
                tracing::info!("{name}: an earlier docrow wrote the keys of its rows in another form");
                resync_requests::ask(session, pipeline, &[&name], Reason::Asked).await?;
            }
            dead_letters::rename(session, pipeline, &name).await?;
            mapping_versions::set_keys_renewed(session, pipeline, &name).await?;
        }
        Ok(())
    }
}
