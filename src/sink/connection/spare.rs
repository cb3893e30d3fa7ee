//! Sessions that are opened before they are needed: to connect takes five round trips, and a start needs a
//! dozen sessions, one after the other.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use crate::error::{Error, Result};

/// How long a session is kept that nobody takes: a process that stands by has no use for any.
const KEPT: Duration = Duration::from_secs(10);

/// Sessions, of the type `T`, that may be taken instead of being opened. Dropping this closes them.
pub(super) struct SpareSessions<T> {
    opening: Arc<Opening<T>>,
    expiring: Mutex<JoinSet<()>>,
}

type Opening<T> = tokio::sync::Mutex<JoinSet<Result<T>>>;

impl<T: Send + 'static> SpareSessions<T> {
    /// Opens sessions.
    pub(super) async fn add<F>(&self, sessions: impl Iterator<Item = F>)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut opening = self.opening.lock().await;
        sessions.for_each(|session| drop(opening.spawn(session)));
        let kept = self.opening.clone();
        self.expiring.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            sleep(KEPT).await;
            *kept.lock().await = JoinSet::new();
        });
    }

    /// The same sessions, each as `prepare` returns it.
    pub(super) async fn prepared<F>(&self, prepare: impl Fn(T) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<T>> + Send,
    {
        let count = self.opening.lock().await.len();
        let prepared = Self::default();
        let preparing = (0..count).map(|_| {
            let (opening, prepare) = (self.opening.clone(), prepare.clone());
            async move {
                match next(&opening).await {
                    Some(session) => prepare(session).await,
                    None => Err(Error::bug("prepare a spare session: there is none")),
                }
            }
        });
        prepared.add(preparing).await;
        prepared
    }

    /// Returns the next one. `None`: there is none, or none could be opened, for a reason that whoever
    /// connects will find out.
    pub(super) async fn take(&self) -> Option<T> {
        next(&self.opening).await
    }
}

impl<T> Default for SpareSessions<T> {
    fn default() -> Self {
        Self { opening: Arc::default(), expiring: Mutex::default() }
    }
}

async fn next<T: 'static>(opening: &Opening<T>) -> Option<T> {
    let mut opening = opening.lock().await;
    while let Some(opened) = opening.join_next().await {
        if let Ok(Ok(session)) = opened {
            return Some(session);
        }
    }
    None
}
