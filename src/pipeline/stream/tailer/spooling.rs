//! Puts changes into the spool, trims it, and watches how full it is.
//!
//! A span that ends, or is worthless, is *owed*: it is stored with whatever is written next. The token never
//! moves before that, so it does not matter when that is. No step waits: if the disk is full, a later step
//! tries the write again.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use indicatif::BinaryBytes;
use tokio::time::{Instant, timeout};

use super::{
    Tailer,
    spool::{FULL, TENDING},
};
use crate::{
    checkpoint::SpoolSpan,
    error::{Code, Error, Kind, Result},
    failpoint::{self, Failpoint},
    metrics,
    model::change::{Change, CollectionId, Namespace, Position},
    pipeline::{
        collection::Collection,
        ports::{SpoolLog, SpoolUpdate},
        stream::route::{Saved, Trim},
    },
};

/// How long MongoDB may take to say how far the oplog reaches back.
const BRIEF: Duration = Duration::from_secs(1);

impl Tailer {
    /// Puts changes into the spool. If there are none, the token moves now and then. `false`: there is no
    /// space for them, and nothing has changed.
    pub(super) async fn put(&mut self, changes: Vec<Change>, position: &Position) -> Result<bool> {
        let is_due = self.flow.has_begun() || self.spool.written.elapsed() >= TENDING;
        let is_idle = changes.is_empty();
        if !self.flow.any_is_spooled() {
            self.have_space();
            return Ok(true);
        }
        if is_idle && (!is_due || Instant::now() < self.spool.again) {
            return Ok(true);
        }
        let mut flow = self.flow.clone();
        let spans = flow.spool(position);
        let new: Vec<_> = spans.iter().filter(|(id, _)| self.flow.given(*id).is_none()).cloned().collect();
        let spans = [self.spool.owed.clone(), self.named(spans)].concat();
        metrics::EVENTS_SPOOLED.add(u64::try_from(changes.len()).unwrap_or(0));
        failpoint::reach(Failpoint::SpoolBeforeWrite);
        failpoint::hang(Failpoint::SpoolBeforeWrite).await;
        let update = SpoolUpdate {
            names: self.names.clone(),
            changes,
            token: Some(position.clone()),
            spans,
            fingerprint: Some(self.fingerprint),
            life: self.spool.life,
        };
        if !self.store(update).await? {
            // The write may have been carried out all the same, and then it stored spans that are not
            // continued here.
            self.owe(new.into_iter().map(|(id, _)| (id, None)).collect());
            // Without changes nothing is held up: the token moves later.
            return Ok(is_idle);
        }
        failpoint::reach(Failpoint::SpoolWritten);
        self.flow = flow;
        self.spool.owed.clear();
        self.spool.written = Instant::now();
        if !is_idle {
            self.have_space();
        }
        Ok(true)
    }

    /// Gives back what the spool no longer needs to hold, and measures how full it is.
    pub(super) async fn trim_and_measure(&mut self) -> Result<()> {
        self.post.at("trims and measures the spool");
        self.show_where_it_resumes();
        self.gauges.stalled(self.stream.as_ref().and_then(|stream| stream.trouble()));
        let Some(workers) = self.now.workers.clone() else {
            self.pay().await?;
            return self.measure().await;
        };
        let mut closes = false;
        for (id, collection) in (0..).map(CollectionId).zip(self.now.collections.clone().iter()) {
            // An owed span says where it begins: that must not become later before it is stored.
            if self.spool.owed.iter().any(|(name, _)| name == collection.namespace()) {
                continue;
            }
            let least = {
                let watermark = workers.watermark.lock().unwrap_or_else(PoisonError::into_inner);
                watermark.least(id).cloned()
            };
            let Some(trim) = least.and_then(|least| self.flow.trim(id, &least)) else { continue };
            let namespace = collection.namespace().clone();
            match trim {
                Trim::All => {
                    self.spool.owed.push((namespace, None));
                    closes = true;
                }
                Trim::Until(position) => {
                    self.log()?.trim(namespace, position).await?;
                }
            }
            failpoint::reach(Failpoint::SpoolTrimmed);
        }
        self.pay().await?;
        if closes {
            failpoint::reach(Failpoint::SpoolClosed);
        }
        self.measure().await
    }

    /// Shows where the stream would be read from after a restart: changes in the spool are not read again.
    fn show_where_it_resumes(&self) {
        let watermark = self.now.workers.as_ref().map(|workers| &workers.watermark);
        let watermark = watermark.map(|watermark| watermark.lock().unwrap_or_else(PoisonError::into_inner));
        let of = |id| match &watermark {
            Some(watermark) if self.flow.given(id).is_none() => watermark.least(id),
            _ => self.flow.known(id),
        };
        let least = self.flow.followed().filter_map(of).min();
        self.gauges.resumes_from(least.map(Position::cluster_time));
    }

    /// Reports how full the spool is, each time it is another tenth fuller. A full one is not filled further:
    /// then the stream waits in the oplog.
    pub(super) async fn measure(&mut self) -> Result<()> {
        let Some(log) = self.log.get() else { return Ok(()) };
        let (bytes, entries) = log.size().await?;
        metrics::SPOOL_BYTES.set(metrics::figure(bytes));
        self.gauges.spooled(bytes);
        metrics::SPOOL_ENTRIES.set(metrics::figure(entries));
        let tenths = bytes.saturating_mul(10) / self.budget.max(1);
        if tenths >= 10 || self.spool.is_lacking {
            self.give_up_paused().await?;
        }
        let before = std::mem::replace(&mut self.spool.tenths, tenths);
        if tenths <= before || !self.flow.any_is_spooled() {
            if before >= 10 && tenths < 10 {
                tracing::info!("the spool has room again: reading the stream continues");
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
                "the spool is full ({budget}, state.max_spool): the stream is not read further until some of the spool is applied{headroom}"
            ),
        }
        Ok(())
    }

    /// Gives up the waiting changes of paused collections, so that the others, if there are any, continue.
    async fn give_up_paused(&mut self) -> Result<()> {
        let collections = self.now.collections.clone();
        if collections.iter().all(Collection::rests) {
            return Ok(());
        }
        let looked = self.spool.looked.replace(Instant::now());
        if looked.is_some_and(|looked| looked > self.spool.written) {
            // Nothing has come in since.
            return Ok(());
        }
        for (id, collection) in (0..).map(CollectionId).zip(collections.iter()) {
            if collection.is_paused()
                && collection.stopped().is_none()
                && !self.waiting(id, 1).await?.0.is_empty()
            {
                collection.stop_for_space();
            }
        }
        self.abandon_stopped();
        self.pay().await
    }

    /// How much time the oplog leaves, for the log.
    async fn headroom(&self) -> String {
        match (timeout(BRIEF, self.source.oplog_start()).await, self.flow.start()) {
            (Ok(Ok(Some(oldest))), Some(position)) => {
                let left = position.cluster_time().time.saturating_sub(oldest.time);
                format!("; the oplog reaches back {left} s before the stream's position")
            }
            _ => String::new(),
        }
    }

    fn named(&self, spans: Vec<Saved>) -> Vec<(Namespace, Option<SpoolSpan>)> {
        let name = |id: CollectionId| self.now.collections.get(id.0).map(|c| c.namespace().clone());
        spans.into_iter().filter_map(|(id, span)| Some((name(id)?, span))).collect()
    }

    /// Records spans to store with the next write.
    pub(super) fn owe(&mut self, spans: Vec<Saved>) {
        for span in self.named(spans) {
            if self.spool.owed.last() != Some(&span) {
                self.spool.owed.push(span);
            }
        }
    }

    /// Stores the owed spans, if there is space.
    pub(super) async fn pay(&mut self) -> Result<()> {
        if self.spool.owed.is_empty() {
            return Ok(());
        }
        let (spans, life) = (self.spool.owed.clone(), self.spool.life);
        if self.store(SpoolUpdate { spans, life, ..SpoolUpdate::default() }).await? {
            self.spool.owed.clear();
        }
        Ok(())
    }

    /// Writes to the spool. `false`: there is no space for it.
    async fn store(&mut self, update: SpoolUpdate) -> Result<bool> {
        match self.log()?.write(update).await {
            Err(error) if error.kind() == Kind::StateFull => {
                self.lack_space(&error);
                Ok(false)
            }
            written => written.map(|()| true),
        }
    }

    /// Records that there is no space, and when to look for it next.
    pub(super) fn lack_space(&mut self, error: &Error) {
        metrics::retried(error.kind());
        self.spool.again = Instant::now() + FULL;
        if !std::mem::replace(&mut self.spool.is_lacking, true) {
            tracing::error!(code = %error.code(), "{error}: waiting until there is space");
            self.gauges.lacks_space(Some(error.to_string()));
        }
    }

    /// Records that there is enough space for what was read.
    fn have_space(&mut self) {
        if self.spool.owed.is_empty() && std::mem::take(&mut self.spool.is_lacking) {
            tracing::info!("the state directory has space again: continuing");
            self.gauges.lacks_space(None);
        }
    }

    pub(super) fn log(&self) -> Result<Arc<dyn SpoolLog>> {
        self.log.get().ok_or_else(|| Error::bug("use the spool: it is not open"))
    }
}
