//! The type of codes. The codes themselves are in [`table`](super::table), and only there.

use std::fmt;

use super::{
    kind::Kind,
    table::{docrow, mongodb, postgresql, usage},
};

/// The text for a code.
struct Explanation {
    kind: Kind,
    title: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

/// Generates [`Code`] from its table. No two entries can share a number or a name, because both belong to one
/// enum.
macro_rules! codes {
    ({ $($number:literal $name:ident($kind:ident) $title:literal $meaning:literal $remedy:literal)+ }) => {
        /// What exactly happened, with a number that never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $title] $name = $number,)+
        }

        impl Code {
            /// All codes, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            fn explanation(self) -> &'static Explanation {
                match self {
                    $(Self::$name => {
                        &Explanation { kind: Kind::$kind, title: $title, meaning: $meaning, remedy: $remedy }
                    })+
                }
            }
        }
    };
}
usage! { mongodb postgresql docrow codes {} }

impl Code {
    /// Its number.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// What it is about: the heading of its thousand.
    pub fn group(self) -> &'static str {
        match self.number() / 1000 {
            1 => "1xxx: usage: command line, configuration, mapping files, collections",
            2 => "2xxx: MongoDB",
            3 => "3xxx: PostgreSQL",
            4 => "4xxx: history",
            5 => "5xxx: one writer",
            6 => "6xxx: the state directory, and stored state",
            _ => "9xxx: docrow itself",
        }
    }

    /// What it means for the program.
    pub fn kind(self) -> Kind {
        self.explanation().kind
    }

    /// What happened, in a sentence.
    pub fn title(self) -> &'static str {
        self.explanation().title
    }

    /// What that means, and what causes it.
    pub fn meaning(self) -> &'static str {
        self.explanation().meaning
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        self.explanation().remedy
    }

    /// What docrow does about it by itself.
    pub fn consequence(self) -> String {
        match self {
            Self::CollectionStopped | Self::CollectionHistoryLost => {
                "leaves the collection alone until it is started again; others continue".to_owned()
            }
            Self::TableInTheWay | Self::TableInUse => format!(
                "leaves the collection alone until it is started again; others continue; without others, {}",
                self.kind().consequence()
            ),
            Self::StopOverdue => "ends with exit code 1; nothing that was committed is lost".to_owned(),
            Self::PausedGivenUp => {
                "leaves the collection alone until `docrow resume`; others continue".to_owned()
            }
            Self::Differs => "logs it and continues; the next scheduled verification checks again".to_owned(),
            Self::SpoolFull => "stops reading the stream until some of the spool is applied".to_owned(),
            _ => self.kind().consequence(),
        }
    }

    /// Parses `DRW-1203`, `drw1203` or `1203`. `Err(Some(number))`: a number for which there is no code.
    pub fn parse(text: &str) -> Result<Self, Option<u16>> {
        let text = text.trim().to_ascii_uppercase();
        let digits = text.strip_prefix("DRW").map_or(&*text, |rest| rest.strip_prefix('-').unwrap_or(rest));
        let number = digits.parse().map_err(|_| None)?;
        Self::ALL.iter().find(|code| code.number() == number).copied().ok_or(Some(number))
    }

    /// The `most` codes whose numbers are nearest to `number`, by number.
    pub fn nearest(number: u16, most: usize) -> Vec<Self> {
        let mut codes = Self::ALL.to_vec();
        codes.sort_by_key(|code| code.number().abs_diff(number));
        codes.truncate(most);
        codes.sort();
        codes
    }
}

/// `DRW-1203`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DRW-{:04}", self.number())
    }
}

/// The general code, if nothing more specific is known.
impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Self::Usage,
            Kind::SourceAway => Self::SourceAway,
            Kind::SourceRefused => Self::SourceRefused,
            Kind::TargetAway => Self::TargetAway,
            Kind::TargetRefused => Self::TargetRefused,
            Kind::TargetRefusedRows => Self::TargetRefusedRows,
            Kind::HistoryLost => Self::HistoryLost,
            Kind::Fenced => Self::Fenced,
            Kind::StateRebuilt => Self::StateRebuilt,
            Kind::StateFull => Self::StateFull,
            Kind::StateCorrupt => Self::StateCorrupt,
            Kind::Stalled => Self::Stalled,
            Kind::Bug => Self::Bug,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 13] = [
        Kind::Usage,
        Kind::SourceAway,
        Kind::SourceRefused,
        Kind::TargetAway,
        Kind::TargetRefused,
        Kind::TargetRefusedRows,
        Kind::HistoryLost,
        Kind::Fenced,
        Kind::StateRebuilt,
        Kind::StateFull,
        Kind::StateCorrupt,
        Kind::Stalled,
        Kind::Bug,
    ];

    #[test]
    fn every_kind_has_a_general_code() {
        for kind in KINDS {
            assert_eq!(Code::from(kind).kind(), kind);
        }
        for code in Code::ALL {
            assert!(KINDS.contains(&code.kind()), "{code}");
        }
    }

    /// Codes are in order, each in the group of its subject; all texts are sentences.
    #[test]
    fn the_table_is_well_formed() {
        assert!(Code::ALL.is_sorted_by_key(|code| code.number()), "an entry is out of order");
        for code in Code::ALL {
            let groups: &[u16] = match code.kind() {
                Kind::Usage => &[1, 6],
                Kind::SourceAway | Kind::SourceRefused => &[2],
                Kind::TargetAway | Kind::TargetRefused | Kind::TargetRefusedRows => &[3],
                Kind::HistoryLost => &[4],
                Kind::Fenced => &[5],
                Kind::StateRebuilt | Kind::StateFull | Kind::StateCorrupt => &[6],
                Kind::Stalled | Kind::Bug => &[9],
            };
            assert!(groups.contains(&(code.number() / 1000)), "{code} is in a group of others");
            for text in [code.title(), code.meaning(), code.remedy()] {
                let begins = text.starts_with(|c: char| c.is_uppercase() || c == '`')
                    || ["docrow ", "mongod ", "pg_"].iter().any(|word| text.starts_with(word));
                assert!(begins && text.ends_with('.') && !text.contains("  "), "{code}: no sentence: {text}");
            }
            assert!(code.title().len() < 80, "{code}: {}", code.title());
        }
    }

    #[test]
    fn a_code_is_read_in_every_way_it_is_written() {
        for text in ["DRW-1203", "drw-1203", "DRW1203", "1203", " 1203 "] {
            assert_eq!(Code::parse(text), Ok(Code::MappingName), "{text}");
        }
        assert_eq!(Code::parse("DRW-1299"), Err(Some(1299)));
        for text in ["", "password", "DRW-", "99999", "-5"] {
            assert_eq!(Code::parse(text), Err(None), "{text}");
        }
        for code in Code::ALL {
            assert_eq!(Code::parse(&code.to_string()), Ok(*code));
        }
        assert_eq!(Code::nearest(1204, 3), [Code::MappingName, Code::MappingType, Code::MappingWithoutExtra]);
    }
}
