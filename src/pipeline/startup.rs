//! Waits, at the start of a run, for states of the servers that pass by themselves: PostgreSQL starts up or
//! shuts down, MongoDB's member does, or its replica set elects a primary. Everything else that is wrong at a
//! start ends the run at once: a host, a password or a privilege does not mend itself.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    error::{Code, Disposition, Error, Result},
    process_status::{Stage, Vitals},
    retry::Retry,
    shutdown::Shutdown,
};

/// Repeats `work` while it fails because of a state that passes by itself, for at most `patience`.
///
/// Returns `None` if `shutdown` is requested. Errors: that of `work`.
pub(super) async fn outlast<T>(
    patience: Duration,
    vitals: &Vitals,
    shutdown: &Shutdown,
    work: impl AsyncFn() -> Result<T>,
) -> Result<Option<T>> {
    let (deadline, mut retry, mut shown) = (Instant::now() + patience, Retry::new(), None);
    loop {
        let done = tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(None),
            done = work() => done,
        };
        let error = match done {
            // A server that restarts may also be away for a while.
            Err(error)
                if (passes(&error)
                    || shown.is_some() && error.kind().disposition() == Disposition::Retry)
                    && Instant::now() < deadline =>
            {
                error
            }
            Err(error) if shown.is_some() => {
                return Err(error.within(format!("waited for {} s (--wait)", patience.as_secs())));
            }
            done => return done.map(Some),
        };
        vitals.enter(Stage::Retrying, Some(error.coded()));
        if shown.replace(error.code()) != Some(error.code()) {
            let left = deadline.saturating_duration_since(Instant::now());
            tracing::warn!(code = %error.code(), "{error}: waiting for up to {} s (--wait)", left.as_secs());
        }
        let delay = retry.after_failure().min(deadline.saturating_duration_since(Instant::now()));
        tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(None),
            () = sleep(delay) => {}
        }
    }
}

fn passes(error: &Error) -> bool {
    matches!(error.code(), Code::SourceNoPrimary | Code::SourceRestarting | Code::TargetRestarting)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Fails `failures` times with this code. Returns what comes of it, and after how many tries.
    async fn outlasted(code: Code, failures: u32, patience: Duration) -> (Result<Option<()>>, u32) {
        let tries = AtomicU32::new(0);
        let work = async || {
            let is_failure = tries.fetch_add(1, Ordering::Relaxed) < failures;
            if is_failure { Err(Error::new(code, "connect")) } else { Ok(()) }
        };
        let done = outlast(patience, &Vitals::default(), &Shutdown::default(), work).await;
        (done, tries.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_by_itself_is_outlasted() {
        let (done, tries) = outlasted(Code::TargetRestarting, 5, MINUTE).await;
        assert_eq!((done.unwrap(), tries), (Some(()), 6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_an_error_after_the_wait_or_at_once() {
        let began = Instant::now();
        let (done, _) = outlasted(Code::SourceNoPrimary, u32::MAX, MINUTE).await;
        let error = done.unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (Code::SourceNoPrimary, "waited for 60 s (--wait): connect")
        );
        assert!((MINUTE..MINUTE + MINUTE / 4).contains(&began.elapsed()), "{:?}", began.elapsed());
        let (done, tries) = outlasted(Code::TargetCredentials, 1, MINUTE).await;
        assert_eq!((done.unwrap_err().to_string().as_str(), tries), ("connect", 1));
        let (done, tries) = outlasted(Code::TargetRestarting, 1, Duration::ZERO).await;
        assert_eq!((done.unwrap_err().to_string().as_str(), tries), ("connect", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let shutdown = Shutdown::default();
        let work = async || {
            shutdown.request();
            Err::<(), _>(Error::new(Code::TargetRestarting, "connect"))
        };
        assert_eq!(outlast(MINUTE, &Vitals::default(), &shutdown, work).await.unwrap(), None);
    }
}
