//! Waiting for what comes by itself.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// How long anything that is waited for may take, on a machine with much else to do.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
/// How often a condition is checked.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// The first thing that is found.
pub(crate) async fn first<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, found).await.expect(what)
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    first(what, async || holds().await.then_some(())).await;
}
