//! Keys that an earlier docrow wrote in another form.
//!
//! An `_id` has one key, whatever its bytes. If an earlier docrow had several keys for equal `_id`s, rows
//! would be left behind under a key that nothing leads to any more. So a collection that has such rows is
//! copied again, in place, once: that sweeps the rows whose keys no document has. Dead letters are
//! renamed; and as a document may have belonged to another partition, all partitions start at the least
//! position.

use std::collections::HashSet;

use super::Preparation;
use crate::{
    error::Result,
    model::{resync_reason::Reason, table::Scalar},
    pipeline::stream::repartition,
    schema::MappingSpec,
};

impl Preparation<'_> {
    /// Replaces what is left of an earlier form in these collections.
    pub(super) async fn renew_keys(&mut self, earlier: HashSet<String>) -> Result<()> {
        if earlier.is_empty() {
            return Ok(());
        }
        let stored = self.session.positions().await?;
        let spread = repartition::spread(&stored, self.config.partitions);
        self.session.reset_positions(&spread).await?;
        for stored in self.session.mappings().await? {
            let name = stored.collection;
            if !earlier.contains(&name) {
                continue;
            }
            let mapping = self.config.compile(&MappingSpec::parse(&stored.text, "docrow.schemas")?)?;
            if let Some(root) = mapping.tables().first()
                && mapping.key_type().scalar == Scalar::Text
                && self.session.has_earlier_keys(root).await?
            {
                tracing::info!("{name}: an earlier docrow wrote the keys of its rows in another form");
                self.session.ask_for_resync(std::slice::from_ref(&name), Reason::Asked).await?;
            }
            self.session.rename_dead_letters(&name).await?;
            self.session.set_keys_renewed(&name).await?;
        }
        Ok(())
    }
}
