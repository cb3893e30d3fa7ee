//! A time as people and JSON documents see it: ISO 8601, in UTC, in whole seconds.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use mongodb::bson::Timestamp;
use serde::{Deserialize, Serialize};

/// A time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment(SystemTime);

impl Moment {
    /// Now, by this machine's clock.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// How long after `earlier` it is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.duration_since(earlier.0).unwrap_or_default()
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(SystemTime::UNIX_EPOCH + Duration::from_secs(since_1970.as_secs()))
    }
}

/// The second of a cluster time.
impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Self {
        Self(SystemTime::UNIX_EPOCH + Duration::from_secs(time.time.into()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = humantime::TimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        humantime::parse_rfc3339(&text).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_as_written() {
        let moment = Moment::from(Timestamp { time: 1_763_763_201, increment: 7 });
        assert_eq!(moment.to_string(), "2025-11-21T22:13:21Z");
        assert_eq!(Moment::try_from(String::from(moment)).unwrap(), moment);
        assert_eq!((moment.seconds(), Moment::now().since(moment) > Duration::ZERO), (1_763_763_201, true));
        assert_eq!(moment.since(Moment::now()), Duration::ZERO);
    }
}
