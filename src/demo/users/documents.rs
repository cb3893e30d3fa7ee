//! The documents of the users workload: of about 6 KB, they become rows of 15 tables (`schemas/users.toml`).
//!
//! A document follows from its seed and `_id` alone, so that anyone can make it again. The people in it are
//! invented. The bench and the fuzz target of the mapping share this file, so it needs nothing of docrow.

use std::{iter, ops::Range};

use bson::{DateTime, RawArrayBuf, RawDocumentBuf, rawdoc};
use fastrand::Rng;

/// The user `id` of the workload `seed`.
pub fn user(seed: u64, id: i32) -> RawDocumentBuf {
    let mut make =
        UserMaker(Rng::with_seed(seed ^ u64::from(id.unsigned_abs()).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let (first, last) = (make.pick(FIRST_NAMES), make.pick(LAST_NAMES));
    let created = make.date();
    rawdoc! {
        "_id": id,
        "username": format!("{}_{}{id}", first.to_lowercase(), last.to_lowercase()),
        "email": format!("{}.{}{id}@example.com", first.to_lowercase(), last.to_lowercase()),
        "firstName": first,
        "lastName": last,
        "age": make.0.i32(18..90),
        "createdAt": created,
        "updatedAt": DateTime::from_millis(created.timestamp_millis() + make.0.i64(0..10_000_000_000)),
        "address": make.address(),
        "profile": make.profile(),
        "preferences": make.preferences(),
        "activityLog": make.array(5..8, UserMaker::entry),
        "transactions": make.array(4..7, UserMaker::entry),
        "messages": make.array(3..6, UserMaker::message),
        "socialMedia": make.social_media(),
        "largeData": {
            "blob1": make.words(20),
            "blob2": make.words(20),
            "blob3": make.words(20),
            "blob4": make.words(20),
            "blob5": make.words(20),
        },
    }
}

/// Generates parts of a user.
#[derive(Debug)]
pub(crate) struct UserMaker(pub(crate) Rng);

impl UserMaker {
    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        self.0.choice(from).copied().unwrap_or_default()
    }

    fn one_of(&mut self, prefix: &str, numbers: Range<u32>) -> String {
        format!("{prefix}{}", self.0.u32(numbers))
    }

    /// A text of `count` words.
    pub(crate) fn words(&mut self, count: usize) -> String {
        let mut text = String::with_capacity(count * 7);
        for word in 0..count {
            if word > 0 {
                text.push(' ');
            }
            text.push_str(self.pick(WORDS));
        }
        text
    }

    fn word_list(&mut self, count: Range<usize>) -> RawArrayBuf {
        let count = self.0.usize(count);
        RawArrayBuf::from_iter(iter::repeat_with(|| self.pick(WORDS)).take(count))
    }

    fn array(
        &mut self,
        count: Range<usize>,
        mut element: impl FnMut(&mut Self) -> RawDocumentBuf,
    ) -> RawArrayBuf {
        let count = self.0.usize(count);
        RawArrayBuf::from_iter(iter::repeat_with(|| element(self)).take(count))
    }

    /// A time from 2015 to 2026, to the millisecond.
    pub(crate) fn date(&mut self) -> DateTime {
        DateTime::from_millis(self.0.i64(1_420_070_400_000..1_767_225_600_000))
    }

    pub(crate) fn entry(&mut self) -> RawDocumentBuf {
        rawdoc! {
            "key": self.one_of("key_", 0..10_000),
            "value": self.words(3),
            "timestamp": self.date(),
            "metadata": self.words(3),
        }
    }

    pub(crate) fn message(&mut self) -> RawDocumentBuf {
        rawdoc! {
            "id": format!("msg-{:016x}", self.0.u64(..)),
            "from": self.one_of("user_", 0..100_000),
            "to": self.one_of("user_", 0..100_000),
            "subject": self.words(4),
            "body": self.words(14),
            "timestamp": self.date(),
            "read": self.0.bool(),
            "attachments": self.array(0..3, |make| rawdoc! {
                "name": format!("{}.pdf", make.pick(WORDS)),
                "size": make.0.i32(1_000..10_000_000),
                "type": "application/pdf",
            }),
        }
    }

    fn address(&mut self) -> RawDocumentBuf {
        rawdoc! {
            "street": format!("{} {} Street", self.0.u32(1..1000), self.pick(LAST_NAMES)),
            "city": self.pick(CITIES),
            "state": self.pick(STATES),
            "zipCode": format!("{:05}", self.0.u32(0..100_000)),
            "country": self.pick(COUNTRIES),
            "coordinates": { "lat": self.0.f64() * 180.0 - 90.0, "lng": self.0.f64() * 360.0 - 180.0 },
        }
    }

    fn profile(&mut self) -> RawDocumentBuf {
        rawdoc! {
            "bio": self.words(20),
            "interests": self.word_list(2..7),
            "skills": self.word_list(2..7),
            "education": self.array(1..4, |make| rawdoc! {
                "institution": format!("University of {}", make.pick(CITIES)),
                "degree": make.pick(&["BA", "BSc", "MA", "MSc", "PhD"]),
                "year": make.0.i32(1970..2026),
                "description": make.words(7),
            }),
            "experience": self.array(1..5, |make| rawdoc! {
                "company": format!("{} & Sons", make.pick(LAST_NAMES)),
                "position": make.pick(&["Analyst", "Baker", "Designer", "Engineer", "Teacher", "Writer"]),
                "duration": make.one_of("P", 1..20) + "Y",
                "description": make.words(7),
            }),
        }
    }

    fn preferences(&mut self) -> RawDocumentBuf {
        rawdoc! {
            "language": self.pick(&["de", "en", "es", "fr", "ja", "pl", "pt", "uk"]),
            "timezone": self.pick(&["America/Lima", "Asia/Tokyo", "Europe/Berlin", "Pacific/Auckland", "UTC"]),
            "notifications": { "email": self.0.bool(), "push": self.0.bool(), "sms": self.0.bool() },
            "settings": self.array(4..7, Self::entry),
        }
    }

    fn social_media(&mut self) -> RawDocumentBuf {
        let connections = self.0.usize(3..8);
        let connections: Vec<_> =
            iter::repeat_with(|| self.one_of("user_", 0..100_000)).take(connections).collect();
        rawdoc! {
            "connections": RawArrayBuf::from_iter(connections),
            "posts": self.array(2..4, Self::entry),
            "groups": self.array(1..4, |make| rawdoc! {
                "id": make.one_of("group_", 0..1000),
                "name": make.words(2),
                "joined": make.date(),
            }),
        }
    }
}

const FIRST_NAMES: &[&str] = &[
    "Ada", "Adèle", "Amara", "Björn", "Chiara", "Dmytro", "Elif", "Emeka", "Fatima", "Grace", "Hana", "Ines",
    "Ivan", "João", "Kenji", "Lena", "Mateo", "Mei", "Nadia", "Omar", "Priya", "Rosa", "Sofía", "Tariq",
    "Uma", "Yuki", "Zoë",
];

const LAST_NAMES: &[&str] = &[
    "Adeyemi",
    "Andersson",
    "Chen",
    "Costa",
    "Dubois",
    "Fischer",
    "García",
    "Haddad",
    "Ivanova",
    "Jones",
    "Kaya",
    "Kowalski",
    "Lovelace",
    "Mori",
    "Müller",
    "Novák",
    "O'Brien",
    "Okafor",
    "Patel",
    "Rossi",
    "Sato",
    "Shevchenko",
    "Silva",
    "Tanaka",
    "Weber",
    "Yılmaz",
];

const CITIES: &[&str] = &[
    "Accra", "Berlin", "Bogotá", "Cairo", "Dhaka", "Hanoi", "Kyiv", "Lagos", "Lima", "Lyon", "Malmö",
    "Nairobi", "Oslo", "Porto", "Quito", "Seoul", "Tokyo", "Tunis", "Warsaw", "Zürich",
];

const STATES: &[&str] = &["AZ", "CA", "FL", "IL", "MA", "NY", "OR", "TX", "VA", "WA"];

const COUNTRIES: &[&str] =
    &["Brazil", "Egypt", "France", "Ghana", "India", "Japan", "Kenya", "Norway", "Peru", "Ukraine"];

const WORDS: &[&str] = &[
    "amber", "anchor", "autumn", "basket", "beacon", "birch", "breeze", "bridge", "candle", "canyon",
    "cedar", "cherry", "cinder", "cliff", "clover", "cobalt", "copper", "coral", "cotton", "crane", "dawn",
    "delta", "desert", "dove", "dune", "eagle", "ember", "falcon", "feather", "fern", "field", "flint",
    "forest", "fountain", "garden", "garnet", "glacier", "granite", "grove", "harbor", "hazel", "heron",
    "hollow", "horizon", "island", "ivory", "jasmine", "kettle", "lagoon", "lantern", "laurel", "lemon",
    "lichen", "linen", "lotus", "maple", "marble", "meadow", "mirror", "mosaic", "mountain", "nectar",
    "nutmeg", "oasis", "ocean", "olive", "onyx", "opal", "orchard", "otter", "pebble", "pepper", "pine",
    "plum", "pond", "prairie", "quartz", "quiet", "raven", "reed", "ridge", "river", "robin", "rowan",
    "saffron", "sage", "sail", "sand", "shore", "silver", "slate", "spruce", "stone", "stream", "summit",
    "thistle", "thunder", "timber", "trail", "valley", "velvet", "violet", "walnut", "water", "willow",
    "winter", "wren", "zephyr",
];
