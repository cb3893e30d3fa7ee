//! The users workload: documents of about 6 KB that become rows of 15 tables (`schemas/users.toml`).
//!
//! A document follows from its seed and `_id` alone, so that anyone can make it again. The people in it are invented.

use std::{
    iter,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use fastrand::Rng;
use mongodb::{
    Collection,
    bson::{DateTime, RawArrayBuf, RawDocumentBuf, rawdoc},
    options::WriteConcern,
};
use tokio::task::JoinSet;

use crate::error::{Error, Kind, Result};

/// Documents in one insert: more gain nothing, and mongod takes at most 48 MB.
const BATCH: i32 = 1000;
/// Inserts at a time.
const PARALLEL: usize = 4;

/// The user `id` of the workload `seed`.
pub fn user(seed: u64, id: i32) -> RawDocumentBuf {
    let mut make =
        Make(Rng::with_seed(seed ^ u64::from(id.unsigned_abs()).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
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
        "activityLog": make.array(5..8, Make::entry),
        "transactions": make.array(4..7, Make::entry),
        "messages": make.array(3..6, Make::message),
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

/// Inserts the users `ids` of the workload `seed`, and counts into `loaded` as they are acknowledged.
pub async fn load(
    users: &Collection<RawDocumentBuf>,
    seed: u64,
    ids: Range<i32>,
    loaded: &AtomicU64,
) -> Result<()> {
    // Not yet replicated to a majority, which a throwaway server does a moment later anyway.
    let quick = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).build();
    let mut inserts = JoinSet::new();
    let mut batches = ids
        .clone()
        .step_by(usize::try_from(BATCH).unwrap_or(1))
        .map(|start| start..ids.end.min(start + BATCH));
    loop {
        while inserts.len() < PARALLEL
            && let Some(batch) = batches.next()
        {
            let (users, quick) = (users.clone(), quick.clone());
            inserts.spawn(async move {
                let documents: Vec<_> = batch.map(|id| user(seed, id)).collect();
                users
                    .insert_many(&documents)
                    .ordered(false)
                    .write_concern(quick)
                    .await
                    .map(|_| documents.len())
            });
        }
        let Some(inserted) = inserts.join_next().await else { return Ok(()) };
        let inserted = inserted.map_err(|e| Error::caused(Kind::Bug, "make users", e))?;
        let count = inserted.map_err(|e| Error::caused(Kind::SourceAway, "insert users", e))?;
        loaded.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
}

/// Makes parts of a user.
#[derive(Debug)]
pub(super) struct Make(pub(super) Rng);

impl Make {
    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        self.0.choice(from).copied().unwrap_or_default()
    }

    fn one_of(&mut self, prefix: &str, numbers: Range<u32>) -> String {
        format!("{prefix}{}", self.0.u32(numbers))
    }

    /// A text of `count` words.
    pub(super) fn words(&mut self, count: usize) -> String {
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
    pub(super) fn date(&mut self) -> DateTime {
        DateTime::from_millis(self.0.i64(1_420_070_400_000..1_767_225_600_000))
    }

    pub(super) fn entry(&mut self) -> RawDocumentBuf {
        rawdoc! {
            "key": self.one_of("key_", 0..10_000),
            "value": self.words(3),
            "timestamp": self.date(),
            "metadata": self.words(3),
        }
    }

    pub(super) fn message(&mut self) -> RawDocumentBuf {
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

#[cfg(test)]
mod tests {
    use mongodb::bson::RawDocument;

    use super::*;

    fn len(document: &RawDocument, path: &[&str]) -> usize {
        let (last, objects) = path.split_last().unwrap();
        let holder = objects.iter().fold(document, |holder, name| holder.get_document(*name).unwrap());
        holder.get_array(last).unwrap().into_iter().count()
    }

    fn rows(user: &RawDocument) -> usize {
        let arrays: &[&[&str]] = &[
            &["profile", "education"],
            &["profile", "experience"],
            &["preferences", "settings"],
            &["activityLog"],
            &["transactions"],
            &["messages"],
            &["socialMedia", "posts"],
            &["socialMedia", "groups"],
        ];
        let messages = user.get_array("messages").unwrap().into_iter();
        let attachments =
            messages.map(|m| len(m.unwrap().as_document().unwrap(), &["attachments"])).sum::<usize>();
        6 + arrays.iter().map(|path| len(user, path)).sum::<usize>() + attachments
    }

    #[test]
    fn are_as_large_and_as_nested_as_said() {
        let count = 2000;
        let users: Vec<_> = (0..count).map(|id| user(1, id)).collect();
        let bytes = users.iter().map(|user| user.as_bytes().len()).sum::<usize>() / users.len();
        assert!((5700..6000).contains(&bytes), "{bytes} bytes a document");
        let rows = users.iter().map(|user| rows(user)).sum::<usize>() as f64 / f64::from(count);
        assert!((38.5..39.5).contains(&rows), "{rows} rows a document");
    }

    #[test]
    fn follow_from_seed_and_id() {
        assert_eq!(user(1, 7), user(1, 7));
        assert_ne!(user(1, 7), user(2, 7));
    }
}
