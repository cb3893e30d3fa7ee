//! `[snapshot] max_rate`, and what `docrow throttle` takes: how fast a snapshot may read.

use std::{fmt, str::FromStr};

use bytesize::ByteSize;
use indicatif::{BinaryBytes, HumanCount};

use super::amount::amount;

/// How fast a snapshot may read, over all chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// At most so many documents a second.
    Documents(u64),
    /// At most so many bytes of BSON a second.
    Bytes(u64),
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let bytes = |text: &str| {
            let bytes = text.parse::<ByteSize>().ok()?.as_u64();
            (bytes > 0).then_some(Self::Bytes(bytes))
        };
        let wrong = "write a number of documents, 5000, or of bytes, \"20MiB\", a second";
        amount(text, Self::Documents, bytes).ok_or(wrong)
    }
}

impl From<Rate> for f64 {
    fn from((Rate::Documents(rate) | Rate::Bytes(rate)): Rate) -> Self {
        // From 2^53 on it is no limit.
        #[allow(clippy::cast_precision_loss)]
        let rate = rate as Self;
        rate
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documents(documents) => write!(f, "{} documents a second", HumanCount(*documents)),
            Self::Bytes(bytes) => write!(f, "{} a second", BinaryBytes(*bytes)),
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
        assert_eq!(Rate::Documents(5000).to_string(), "5,000 documents a second");
        for wrong in ["0", "0MiB", "", "fast", "-5", "off"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
