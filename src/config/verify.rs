//! `[verify]`: scheduled verifications.

use std::{str::FromStr, time::Duration};

use super::{
    amount::amount,
    check::ValueCheck,
    keys::{self, RawVerify},
};
use crate::error::Result;

/// The minimum interval.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(366 * 24 * 3600));

/// The schedule of `docrow run`.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyConfig {
    /// The interval since the last one.
    pub every: Duration,
    /// Only a random sample of the documents, a new one each time.
    pub sample: Option<SampleSize>,
    /// The maximum number of documents per second.
    pub max_rate: Option<f64>,
}

/// The size of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleSize {
    /// About this many documents of each collection.
    Documents(u64),
    /// About this percentage.
    Percent(f64),
}

impl FromStr for SampleSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let percent = |text: &str| {
            let percent = text.strip_suffix('%')?.trim().parse().ok()?;
            (percent > 0.0 && percent <= 100.0).then_some(Self::Percent(percent))
        };
        let wrong = "use a number of documents, 5000, or a percentage, 2.5%";
        amount(text, Self::Documents, percent).ok_or(wrong)
    }
}

impl ValueCheck<'_> {
    /// `None`: there are no scheduled verifications.
    pub(super) fn verify(&self, raw: RawVerify) -> Result<Option<VerifyConfig>> {
        let RawVerify { every, sample, max_rate } = raw;
        let Some(every) = every else {
            if sample.is_some() || max_rate.is_some() {
                return Err(self.error(keys::verify::every, "missing: use for example \"24h\""));
            }
            return Ok(None);
        };
        let parsed = humantime::parse_duration(&every).ok();
        let Some(every) = parsed.filter(|every| (EVERY.0..=EVERY.1).contains(every)) else {
            return Err(self
                .error(keys::verify::every, format!("\"{every}\" is no duration: use for example \"24h\"")));
        };
        let sample = sample.map(|text| text.parse().map_err(|wrong| self.error(keys::verify::sample, wrong)));
        if max_rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
            return Err(
                self.error(keys::verify::max_rate, "must be a number of documents per second, more than 0")
            );
        }
        Ok(Some(VerifyConfig { every, sample: sample.transpose()?, max_rate }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!("5000".parse(), Ok(SampleSize::Documents(5000)));
        assert_eq!("1_000".parse(), Ok(SampleSize::Documents(1000)));
        assert_eq!("2.5%".parse(), Ok(SampleSize::Percent(2.5)));
        assert_eq!("100%".parse(), Ok(SampleSize::Percent(100.0)));
        for wrong in ["0", "", "x", "0%", "101%", "-1", "NaN%", "%"] {
            assert!(wrong.parse::<SampleSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_schedule_is_read_and_what_is_wrong_is_said() {
        let check = ValueCheck { file: "docrow.toml", folder: std::path::Path::new("") };
        let read = |every: &str, sample: &str| {
            let raw = RawVerify {
                every: Some(every.to_owned()),
                sample: Some(sample.to_owned()),
                max_rate: Some(500.0),
            };
            check.verify(raw).map_err(|error| error.to_string())
        };
        let day = Duration::from_secs(24 * 3600);
        let expected =
            VerifyConfig { every: day, sample: Some(SampleSize::Percent(2.0)), max_rate: Some(500.0) };
        assert_eq!(read("24h", "2%"), Ok(Some(expected)));
        for (every, sample, key) in
            [("0s", "2%", "verify.every"), ("daily", "2%", "verify.every"), ("1h", "0", "verify.sample")]
        {
            let wrong = read(every, sample).unwrap_err();
            assert!(wrong.starts_with(&format!("docrow.toml: {key}: ")), "{wrong}");
        }
        assert_eq!(check.verify(RawVerify::default()).unwrap(), None);
        let lone = RawVerify { max_rate: Some(1.0), ..RawVerify::default() };
        assert!(check.verify(lone).is_err(), "without every it would have no effect");
    }
}
