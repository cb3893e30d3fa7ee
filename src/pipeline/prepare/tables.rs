//! Makes the tables of a collection match its mapping.

use super::Preparation;
use crate::{
    error::{Kind, Result},
    mapping::Mapping,
    model::resync_reason::Reason,
    pipeline::{
        mappings::{
            active::{ActiveMapping, Mappings},
            widening,
        },
        tries::Tries,
    },
    source::CollectionInfo,
};

/// The mappings that a collection's tables were made for.
pub(super) struct PreparedTables {
    /// The stored mapping.
    pub(super) in_force: ActiveMapping,
    pub(super) mapping: Mapping,
    /// What its file adds, if another session's lock delays that.
    pub(super) later: Option<ActiveMapping>,
}

impl Preparation<'_> {
    /// Determines the mapping of a collection, and makes its tables.
    pub(super) async fn map_collection(
        &mut self,
        mappings: &mut Mappings,
        info: &CollectionInfo,
        reason: Option<Reason>,
    ) -> Result<PreparedTables> {
        let mut wanted = mappings.mapping_for(self.source, &info.namespace).await?;
        if let Some(reason) = reason.filter(|_| wanted.is_automatic)
            && !self.takes_its_keys(mappings, &wanted.spec, &info.namespace, reason).await?
        {
            self.begin_again(&info.namespace).await?;
            mappings.forget(&info.namespace);
            wanted = mappings.mapping_for(self.source, &info.namespace).await?;
        }
        let stored = mappings.stored(&info.namespace.to_string());
        let made = self.make_tables(wanted, stored).await?;
        let record = made.in_force.record(&made.mapping);
        self.session.note_mask_key(&record).await?;
        Ok(made)
    }

    /// Makes or changes the tables of a collection, as far as they can follow what its mapping file adds to
    /// the `stored` mapping, and stores the mapping.
    async fn make_tables(
        &mut self,
        mut wanted: ActiveMapping,
        stored: Option<&ActiveMapping>,
    ) -> Result<PreparedTables> {
        loop {
            let kept;
            (wanted, kept) = widening::possible(self.session, wanted).await?;
            let mapping = self.config.compile(&wanted.spec)?;
            match self.change_tables(&wanted, &mapping, stored).await {
                Err(error) if error.kind() == Kind::TargetRefused => match wanted.less() {
                    Some(less) => wanted = less,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
                Ok(made) => {
                    widening::warn(kept.as_ref());
                    let Some(stored) = stored.filter(|_| !made) else {
                        let in_force = ActiveMapping { before: None, ..wanted };
                        return Ok(PreparedTables { in_force, mapping, later: None });
                    };
                    let mapping = self.config.compile(&stored.spec)?;
                    let later = Some(wanted).filter(|wanted| wanted.version > stored.version);
                    return Ok(PreparedTables { in_force: stored.clone(), mapping, later });
                }
            }
        }
    }

    /// Makes a collection's tables match its mapping. If another session's lock prevents that, the stored
    /// mapping stays in force, which requires no change: false. If there is none, waits for the lock for some
    /// seconds.
    async fn change_tables(
        &mut self,
        wanted: &ActiveMapping,
        mapping: &Mapping,
        stored: Option<&ActiveMapping>,
    ) -> Result<bool> {
        let (record, tables) = (wanted.record(mapping), mapping.tables());
        let mut tries = Tries::patient();
        loop {
            match self.session.change_tables(&record, tables).await {
                Err(error) if tries.outwait(&error) => {
                    let what = format!("{}: changes to its tables", record.collection);
                    tries.make_way(self.session, &what, error, tables).await?;
                    if stored.is_some() {
                        return Ok(false);
                    }
                    tries.again().await;
                }
                changed => return changed.map(|_| true),
            }
        }
    }
}
