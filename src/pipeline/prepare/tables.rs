//! Makes the tables of a collection match its mapping.

use std::collections::{HashMap, HashSet};

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
    process_status::Post,
    sink::metadata::mapping_versions,
    source::CollectionInfo,
};

/// How many collections get their tables in one transaction, which needs a lock on the server for each.
const TOGETHER: usize = 50;

/// The mappings that a collection's tables were made for.
pub(super) struct PreparedTables {
    /// The stored mapping.
    pub(super) in_force: ActiveMapping,
    pub(super) mapping: Mapping,
    /// What its file adds, if another session's lock delays that.
    pub(super) later: Option<ActiveMapping>,
}

impl Preparation<'_> {
    /// Returns the collections, by their names, whose mappings and tables are as they are stored: there is
    /// nothing to change, which is found out for all of them together.
    pub(super) async fn unchanged(
        &self,
        mappings: &Mappings,
        stored: &[mapping_versions::Mapping],
        found: &[CollectionInfo],
        asked: &[(String, Reason)],
    ) -> Result<HashMap<String, PreparedTables>> {
        let found: HashSet<String> = found.iter().map(|info| info.namespace.to_string()).collect();
        let mut made = Vec::new();
        for stored in stored.iter().filter(|stored| found.contains(&stored.collection)) {
            let name = &stored.collection;
            let Some(in_force) =
                mappings.unchanged(name).filter(|_| super::reason_for(name, asked).is_none())
            else {
                continue;
            };
            let mapping = self.config.compile(&in_force.spec)?;
            // Otherwise it is still to be noted.
            if stored.masked_by.is_some() || mapping.masked_by().is_none() {
                let made_before = PreparedTables { in_force: in_force.clone(), mapping, later: None };
                made.push((name.clone(), made_before));
            }
        }
        let wanted: Vec<_> = made.iter().map(|(name, made)| (&**name, made.mapping.tables())).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let as_wanted = self.session.as_wanted(&wanted).await?;
        Ok(made.into_iter().zip(as_wanted).filter(|(_, is)| *is).map(|(made, _)| made).collect())
    }

    /// Makes the tables of new collections, many at once, and returns these collections by their names. What
    /// is in the way of some of them is left to be found when each is tried alone.
    pub(super) async fn create_tables(
        &mut self,
        mappings: &mut Mappings,
        found: &[CollectionInfo],
        asked: &[(String, Reason)],
        post: &Post,
    ) -> Result<HashMap<String, PreparedTables>> {
        let is_new = |name: &str| mappings.is_new(name) && super::reason_for(name, asked).is_none();
        let new = found.iter().map(|info| &info.namespace).filter(|new| is_new(&new.to_string()));
        let new: Vec<_> = new.cloned().collect();
        let mut prepared = HashMap::new();
        for (done, together) in (0..).step_by(TOGETHER).zip(new.chunks(TOGETHER)) {
            post.at(format!("samples new collections, and creates their tables: {done} of {}", new.len()));
            mappings.sample_all(self.source, together).await?;
            let mut made = Vec::with_capacity(together.len());
            for namespace in together {
                let in_force = mappings.mapping_for(self.source, namespace).await?;
                let mapping = self.config.compile(&in_force.spec)?;
                let record = in_force.record(&mapping);
                made.push((record, PreparedTables { in_force, mapping, later: None }));
            }
            let wanted: Vec<_> = made.iter().map(|(record, made)| (record, made.mapping.tables())).collect();
            if self.session.create_tables(&wanted).await? {
                prepared.extend(made.into_iter().map(|(record, made)| (record.collection, made)));
            }
        }
        Ok(prepared)
    }

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
