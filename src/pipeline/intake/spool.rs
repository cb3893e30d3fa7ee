//! Putting changes into the spool, trimming it, and watching how full it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use indicatif::BinaryBytes;
use tokio::time::{Instant, sleep};

use super::Intake;
use crate::{
    change::{Change, CollectionId, Namespace, Position},
    checkpoint::{Checkpoint, Span, SpoolWrite},
    error::{Code, Error, Kind, Result},
    failpoint::{self, Failpoint},
    metrics,
    pipeline::flow::{Saved, Trim},
};

/// How often the spool is trimmed and looked at, and its token moves if nothing is written to it.
pub(super) const TENDING: Duration = Duration::from_secs(1);
/// How long to wait for space on the state directory's disk.
const FULL: Duration = Duration::from_secs(2);

/// What is known of the spool.
pub(super) struct Spool {
    /// Which one it is: should it be lost without a word here, nothing is written to the next one as if it were this.
    pub(super) life: Option<i64>,
    /// How full it is; ten is too much.
    pub(super) tenths: u64,
    pub(super) written: Instant,
    /// The collection that was taken from last.
    pub(super) last: CollectionId,
    /// How much was taken out of it, by collection.
    pub(super) taken: BTreeMap<CollectionId, u64>,
}

impl Intake {
    /// Puts changes into the spool. If there are none, the token moves now and then.
    pub(super) async fn put(&mut self, changes: Vec<Change>, position: &Position) -> Result<()> {
        let is_due = self.flow.has_begun() || self.spool.written.elapsed() >= TENDING;
        if !self.flow.any_is_spooled() || (changes.is_empty() && !is_due) {
            return Ok(());
        }
        let spans = self.flow.spool(position);
        let spans = self.named(spans);
        let (collections, fingerprint, life) =
            (self.now.collections.clone(), self.fingerprint, self.spool.life);
        metrics::EVENTS_SPOOLED.add(u64::try_from(changes.len()).unwrap_or(0));
        let (changes, token) = (Arc::new(changes), position.clone());
        failpoint::reach(Failpoint::SpoolBeforeWrite);
        self.store(move |spool| {
            let changes: Vec<_> = changes
                .iter()
                .filter_map(|c| {
                    Some((collections.get(c.collection.0)?.namespace(), &c.position, &*c.document_key))
                })
                .collect();
            spool.spool(&SpoolWrite {
                changes: &changes,
                token: Some(&token),
                spans: spans.iter().map(|(name, span)| (name, span.clone())).collect(),
                fingerprint: Some(fingerprint),
                life,
            })
        })
        .await?;
        failpoint::reach(Failpoint::SpoolWritten);
        self.spool.written = Instant::now();
        Ok(())
    }

    /// Gives back what the spool need not hold any more, and looks how full it is.
    pub(super) async fn tend(&mut self) -> Result<()> {
        self.show_where_it_resumes();
        let Some(workers) = self.now.workers.clone() else { return self.measure().await };
        for (id, collection) in (0..).map(CollectionId).zip(self.now.collections.clone().iter()) {
            let least = {
                let watermark = workers.watermark.lock().unwrap_or_else(PoisonError::into_inner);
                watermark.least(id).cloned()
            };
            let Some(trim) = least.and_then(|least| self.flow.trim(id, &least)) else { continue };
            let namespace = collection.namespace().clone();
            match trim {
                Trim::All => {
                    self.save(Vec::new(), vec![(namespace, None)]).await?;
                    failpoint::reach(Failpoint::SpoolClosed);
                }
                Trim::Until(position) => {
                    self.with_spool(move |spool| spool.trim(&namespace, &position)).await?;
                }
            }
            failpoint::reach(Failpoint::SpoolTrimmed);
        }
        self.measure().await
    }

    /// Shows where the stream would be read from after a restart: what is in the spool is not read again.
    fn show_where_it_resumes(&self) {
        let watermark = self.now.workers.as_ref().map(|workers| &workers.watermark);
        let watermark = watermark.map(|watermark| watermark.lock().unwrap_or_else(PoisonError::into_inner));
        let of = |id| match &watermark {
            Some(watermark) if self.flow.given(id).is_none() => watermark.least(id),
            _ => self.flow.known(id),
        };
        let least = (0..self.now.collections.len()).map(CollectionId).filter_map(of).min();
        self.gauges.resumes_from(least.map(Position::cluster_time));
    }

    /// Says how full the spool is, each time that it is a tenth fuller. A full one is not filled further: then the stream
    /// waits in the oplog.
    pub(super) async fn measure(&mut self) -> Result<()> {
        if self.checkpoint.get().is_none() {
            return Ok(());
        }
        let (bytes, entries) =
            self.with_spool(|spool| Ok((spool.spool_bytes(), spool.spool_entries()?))).await?;
        metrics::SPOOL_BYTES.set(metrics::figure(bytes));
        self.gauges.spooled(bytes);
        metrics::SPOOL_ENTRIES.set(metrics::figure(entries));
        let tenths = bytes.saturating_mul(10) / self.budget.max(1);
        let before = std::mem::replace(&mut self.spool.tenths, tenths);
        if tenths <= before || !self.flow.any_is_spooled() {
            if before >= 10 && tenths < 10 {
                tracing::info!("the spool has room again: the stream is read on");
            }
            return Ok(());
        }
        let (bytes, budget, headroom) = (BinaryBytes(bytes), BinaryBytes(self.budget), self.headroom().await);
        match tenths {
            ..8 => tracing::info!("the spool holds {bytes} of {budget} (state.max_spool){headroom}"),
            8..10 => {
                tracing::warn!(code = %Code::SpoolFull, "the spool is almost full: {bytes} of {budget} (state.max_spool){headroom}")
            }
            10.. => tracing::error!(
                code = %Code::SpoolFull,
                "the spool is full ({budget}, state.max_spool): the stream is not read on until some of it is applied{headroom}"
            ),
        }
        Ok(())
    }

    /// How much time the oplog leaves, for people.
    async fn headroom(&self) -> String {
        let position =
            (0..self.now.collections.len()).filter_map(|id| self.flow.known(CollectionId(id))).min();
        match (self.source.oplog_start().await, position) {
            (Ok(Some(oldest)), Some(position)) => {
                let left = position.cluster_time().time.saturating_sub(oldest.time);
                format!("; the oplog reaches back {left} s before what is read")
            }
            _ => String::new(),
        }
    }

    fn named(&self, spans: Vec<Saved>) -> Vec<(Namespace, Option<Span>)> {
        let name = |id: CollectionId| self.now.collections.get(id.0).map(|c| c.namespace().clone());
        spans.into_iter().filter_map(|(id, span)| Some((name(id)?, span))).collect()
    }

    /// Stores spans, by number and by name.
    pub(super) async fn save(
        &self,
        spans: Vec<Saved>,
        mut by_name: Vec<(Namespace, Option<Span>)>,
    ) -> Result<()> {
        by_name.extend(self.named(spans));
        if by_name.is_empty() {
            return Ok(());
        }
        let life = self.spool.life;
        self.store(move |spool| {
            let spans = by_name.iter().map(|(name, span)| (name, span.clone())).collect();
            spool.spool(&SpoolWrite { spans, life, ..SpoolWrite::default() })
        })
        .await
    }

    /// Writes to the spool. Waits for space on its disk.
    async fn store(&self, write: impl Fn(&Checkpoint) -> Result<()> + Send + Sync + 'static) -> Result<()> {
        let write = Arc::new(write);
        let mut waits = false;
        loop {
            let again = write.clone();
            match self.with_spool(move |spool| again(spool)).await {
                Err(error) if error.kind() == Kind::StateFull => {
                    metrics::retried(error.kind());
                    if !waits {
                        tracing::error!(code = %error.code(), "{error}: waiting until there is space");
                    }
                    waits = true;
                    sleep(FULL).await;
                }
                written => {
                    if waits && written.is_ok() {
                        tracing::info!("the state directory has space again: going on");
                    }
                    return written;
                }
            }
        }
    }

    pub(super) async fn with_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Checkpoint) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let checkpoint = self.checkpoint.get().cloned();
        let checkpoint = checkpoint.ok_or_else(|| Error::bug("use the spool: it is not open"))?;
        let done = tokio::task::spawn_blocking(move || work(&checkpoint)).await;
        done.map_err(|e| Error::caused(Kind::Bug, "use the spool", e))?
    }
}
