//! How far rows are behind MongoDB: the one place where lag is calculated. Pure: the clock's time is passed
//! in.
//!
//! A replica set's time moves only when something is written; if nothing is, a sign of life every ten seconds
//! moves it, by ten seconds at once. So the difference between two of its times is not the lag: the rows of
//! an idle set would be ten seconds behind each time, until the sign of life has passed through. What counts
//! is for how long there has been something that is not applied: since the first look at the set's clock that
//! showed a later time than the rows'. From there on lag grows by this machine's own clock, whether or not
//! MongoDB keeps writing, and whatever wall clocks say.

use std::{collections::VecDeque, time::Duration};

use mongodb::bson::Timestamp;
use tokio::time::Instant;

/// Looks that follow each other within this time leave nothing open between them.
const PROMPT: Duration = Duration::from_secs(2);
/// How many of the set's times are remembered. If there are more, every second one is forgotten.
const MOST: usize = 4096;

/// What was seen of the set's clock, and when.
#[derive(Debug, Default)]
pub(super) struct Timeline(VecDeque<Seen>);

/// A time that the set's clock showed.
#[derive(Debug)]
struct Seen {
    time: Timestamp,
    /// The first look that showed it, and the last.
    first: Instant,
    last: Instant,
}

impl Timeline {
    /// Records what the set's clock shows now. It never goes back.
    pub(super) fn saw(&mut self, time: Timestamp, now: Instant) {
        match self.0.back_mut() {
            Some(seen) if seen.time.time >= time.time => seen.last = now,
            _ => self.0.push_back(Seen { time, first: now, last: now }),
        }
        if self.0.len() > MOST {
            let mut number = 0_usize;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// How long there has been something that is not applied, if everything up to and including `applied` is.
    /// `None`: the set's clock has not been seen yet.
    pub(super) fn behind(&self, applied: Timestamp, now: Instant) -> Option<Duration> {
        self.0.back()?;
        let number = self.0.partition_point(|seen| seen.time.time <= applied.time);
        let Some(later) = self.0.get(number) else { return Some(Duration::ZERO) };
        let most = Duration::from_secs(later.time.time.saturating_sub(applied.time).into());
        let before = number.checked_sub(1).and_then(|number| self.0.get(number));
        // Whatever the set wrote between two looks, it may have written right after the first of them.
        let open = before.map_or(most, |before| {
            let gap = later.first.saturating_duration_since(before.last);
            if gap <= PROMPT { Duration::ZERO } else { gap.min(most) }
        });
        Some(now.saturating_duration_since(later.first) + open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn time(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    /// Looks once a second at a clock that shows these times. Returns when it was last looked.
    fn seen(timeline: &mut Timeline, began: Instant, times: impl IntoIterator<Item = u32>) -> Instant {
        let looks = (0_u32..).zip(times).map(|(number, shown)| (began + number * SECOND, shown));
        looks.fold(began, |_, (now, shown)| {
            timeline.saw(time(shown), now);
            now
        })
    }

    #[test]
    fn a_clock_that_was_not_seen_says_nothing() {
        assert_eq!(Timeline::default().behind(time(1), Instant::now()), None);
    }

    /// An idle set's sign of life, every ten seconds, is passed on within a second: that is not a lag of ten
    /// seconds.
    #[test]
    fn an_idle_set_is_never_ten_seconds_ahead() {
        let (mut timeline, began) = (Timeline::default(), Instant::now());
        for second in 0..100_u32 {
            let (now, shown) = (began + second * SECOND, 1000 + second / 10 * 10);
            timeline.saw(time(shown), now);
            // The rows follow a second later.
            let applied = 1000 + second.saturating_sub(1) / 10 * 10;
            assert!(timeline.behind(time(applied), now) <= Some(SECOND), "after {second} s");
        }
    }

    #[test]
    fn lag_is_the_age_of_the_first_write_that_is_not_applied() {
        let (mut timeline, began) = (Timeline::default(), Instant::now());
        let now = seen(&mut timeline, began, 1000..1060);
        assert_eq!(timeline.behind(time(1059), now), Some(Duration::ZERO));
        assert_eq!(timeline.behind(time(1019), now), Some(39 * SECOND));
        // Time before the first look counts by the set's own clock.
        assert_eq!(timeline.behind(time(900), now), Some(100 * SECOND + 59 * SECOND));
    }

    /// PostgreSQL is away, and MongoDB is idle but for one write.
    #[test]
    fn lag_grows_while_nothing_more_is_written() {
        let (mut timeline, began) = (Timeline::default(), Instant::now());
        let now = seen(&mut timeline, began, [1000, 1001, 1001]);
        assert_eq!(timeline.behind(time(1000), now), Some(SECOND));
        assert_eq!(timeline.behind(time(1000), now + 60 * SECOND), Some(61 * SECOND));
    }

    /// MongoDB did not answer for half a minute, and was written to meanwhile.
    #[test]
    fn time_between_looks_counts_in_full() {
        let (mut timeline, began) = (Timeline::default(), Instant::now());
        timeline.saw(time(1000), began);
        let now = began + 30 * SECOND;
        timeline.saw(time(1029), now);
        assert_eq!(timeline.behind(time(1000), now), Some(29 * SECOND));
    }

    /// Days of an outage take no more memory, and their lag is still about right.
    #[test]
    fn a_long_outage_is_remembered_in_a_bounded_way() {
        let (mut timeline, began) = (Timeline::default(), Instant::now());
        let now = seen(&mut timeline, began, 0..100_000);
        assert!(timeline.0.len() <= MOST);
        for applied in [5_u32, 1000, 50_001, 99_000] {
            let (lag, exact) = (timeline.behind(time(applied), now).unwrap(), 99_999 - u64::from(applied));
            assert!(lag.as_secs().abs_diff(exact) <= 64, "{applied}: {lag:?}, not {exact} s");
        }
    }
}
