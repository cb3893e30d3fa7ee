//! Collections that can't get their tables.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::metrics;

/// The collections that can't get their tables, by name, each with the reason: their documents are not read.
#[derive(Debug, Default)]
pub(crate) struct RefusedCollections(Mutex<BTreeMap<String, String>>);

impl RefusedCollections {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// Shows them as stopped. Returns how many there are.
    pub(crate) fn show(&self) -> usize {
        let refused = self.lock();
        refused.keys().for_each(|name| metrics::set_phase(name, "stopped"));
        refused.len()
    }

    /// Removes them from the metrics: they are about to be tried again, or are gone.
    pub(crate) fn hide(&self) {
        self.lock().keys().for_each(|name| metrics::forget(name));
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
