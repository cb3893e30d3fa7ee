//! `[snapshot] max_rate`, and the argument of `docrow throttle`: how fast snapshots may read.

use std::{fmt, str::FromStr};

use bytesize::ByteSize;
use indicatif::{BinaryBytes, HumanCount};

use super::amount::amount;

/// How fast snapshots may read, over all chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// The maximum number of documents per second.
    Documents(u64),
    /// The maximum number of bytes of BSON per second.
    Bytes(u64),
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let bytes = |text: &str| {
            let bytes = text.parse::<ByteSize>().ok()?.as_u64();
            (bytes > 0).then_some(Self::Bytes(bytes))
        };
        let wrong = "use a number of documents, 5000, or of bytes, \"20MiB\", per second";
        amount(text, Self::Documents, bytes).ok_or(wrong)
    }
}

impl From<Rate> for f64 {
    fn from((Rate::Documents(rate) | Rate::Bytes(rate)): Rate) -> Self {
        // From 2^53 on there is no limit.
        #[allow(clippy::cast_precision_loss)]
        let rate = rate as Self;
        rate
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documents(documents) => write!(f, "{} documents per second", HumanCount(*documents)),
            Self::Bytes(bytes) => write!(f, "{} per second", BinaryBytes(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_bytes_are_told_apart() {
        assert_eq!("5_000".parse(), Ok(Rate::Documents(5000)));
        assert_eq!("20MiB".parse(), Ok(Rate::Bytes(20 << 20)));
        assert_eq!(Rate::Documents(5000).to_string(), "5,000 documents per second");
        for wrong in ["0", "0MiB", "", "fast", "-5", "off"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
