//! Keeps writing to a users collection: every kind of change that a change stream reports for documents.
//!
//! The writes depend on the seed and the earlier writes, so one writer at a time on one range of ids is
//! repeatable. Writers on disjoint ranges may run concurrently.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use fastrand::Rng;
use mongodb::{
    Client, ClientSession, Collection,
    bson::{Document, RawDocumentBuf, doc},
};
use tokio::time::MissedTickBehavior;

use super::users::{UserMaker, user};
use crate::error::{Error, Kind, Result};

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteKind {
    /// A new document.
    Insert,
    /// Scalar fields of a document get other values.
    Set,
    /// Elements are appended to an array.
    Push,
    /// Elements are removed from an array.
    Pull,
    /// A document is replaced as a whole.
    Replace,
    /// Fields and objects are removed.
    Unset,
    /// A field is renamed to an unmapped name, or back.
    Rename,
    /// A document is deleted.
    Delete,
    /// Several documents change in one transaction.
    Transaction,
}

impl WriteKind {
    /// Each kind, as often as it should happen.
    const DECK: [Self; 20] = [
        Self::Insert,
        Self::Insert,
        Self::Insert,
        Self::Set,
        Self::Set,
        Self::Set,
        Self::Set,
        Self::Set,
        Self::Push,
        Self::Push,
        Self::Push,
        Self::Pull,
        Self::Replace,
        Self::Replace,
        Self::Unset,
        Self::Rename,
        Self::Rename,
        Self::Delete,
        Self::Delete,
        Self::Transaction,
    ];
}

impl fmt::Display for WriteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert => "inserts",
            Self::Set => "field updates",
            Self::Push => "array pushes",
            Self::Pull => "array pulls",
            Self::Replace => "replaces",
            Self::Unset => "unsets",
            Self::Rename => "renames",
            Self::Delete => "deletes",
            Self::Transaction => "transactions",
        })
    }
}

/// How often each kind of change was made.
pub type Deeds = BTreeMap<WriteKind, u64>;

/// Writes to a users collection.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    users: Collection<RawDocumentBuf>,
    make: UserMaker,
    seed: u64,
    alive: Vec<i32>,
    next: i32,
    deeds: Deeds,
}

impl Writer {
    /// A writer to `users`, which contains the users `ids` and none after them, where the writer inserts.
    pub fn new(client: &Client, users: &Collection<RawDocumentBuf>, seed: u64, ids: Range<i32>) -> Self {
        let make = UserMaker(Rng::with_seed(seed));
        let (client, users, next) = (client.clone(), users.clone(), ids.end);
        Self { client, users, make, seed, alive: ids.collect(), next, deeds: Deeds::new() }
    }

    /// What it has done so far.
    pub fn deeds(&self) -> &Deeds {
        &self.deeds
    }

    /// Makes changes for `duration`, at most `per_second`.
    pub async fn write_for(&mut self, duration: Duration, per_second: u32) -> Result<()> {
        let end = Instant::now() + duration;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            ticks.tick().await;
            self.write().await?;
        }
        Ok(())
    }

    /// Makes `count` changes, one after the other.
    pub async fn write_times(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            self.write().await?;
        }
        Ok(())
    }

    /// Makes one change. After an error, the change may have been made or not; the writer can continue.
    pub async fn write(&mut self) -> Result<()> {
        let deed = self.make.0.choice(WriteKind::DECK).unwrap_or(WriteKind::Insert);
        let outcome = match deed {
            WriteKind::Insert => self.insert(None).await,
            WriteKind::Replace => self.replace().await,
            WriteKind::Delete => self.delete(None).await,
            WriteKind::Transaction => self.transaction().await,
            WriteKind::Set | WriteKind::Push | WriteKind::Pull | WriteKind::Unset | WriteKind::Rename => {
                self.update(deed, None).await
            }
        };
        outcome.map_err(|e| Error::caused(Kind::SourceAway, format!("write to the users: {deed}"), e))?;
        *self.deeds.entry(deed).or_default() += 1;
        Ok(())
    }

    /// Changes some documents and then commits, or, one time in four, aborts.
    async fn transaction(&mut self) -> mongodb::error::Result<()> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let (alive, next) = (self.alive.clone(), self.next);
        self.insert(Some(&mut session)).await?;
        self.update(WriteKind::Set, Some(&mut session)).await?;
        self.update(WriteKind::Push, Some(&mut session)).await?;
        self.delete(Some(&mut session)).await?;
        if self.make.0.u8(0..4) > 0 {
            return session.commit_transaction().await;
        }
        (self.alive, self.next) = (alive, next);
        session.abort_transaction().await
    }

    async fn insert(&mut self, session: Option<&mut ClientSession>) -> mongodb::error::Result<()> {
        let id = self.next;
        self.next += 1;
        self.alive.push(id);
        let insert = self.users.insert_one(user(self.seed, id));
        match session {
            Some(session) => insert.session(session).await,
            None => insert.await,
        }
        .map(drop)
    }

    async fn replace(&mut self) -> mongodb::error::Result<()> {
        let Some(id) = self.any() else { return self.insert(None).await };
        let seed = self.make.0.u64(..);
        self.users.replace_one(doc! { "_id": id }, user(seed, id)).await.map(drop)
    }

    async fn delete(&mut self, session: Option<&mut ClientSession>) -> mongodb::error::Result<()> {
        let Some(id) = self.any() else { return Ok(()) };
        self.alive.retain(|alive| *alive != id);
        let delete = self.users.delete_one(doc! { "_id": id });
        match session {
            Some(session) => delete.session(session).await,
            None => delete.await,
        }
        .map(drop)
    }

    async fn update(
        &mut self,
        deed: WriteKind,
        session: Option<&mut ClientSession>,
    ) -> mongodb::error::Result<()> {
        let Some(id) = self.any() else { return Ok(()) };
        let change = match deed {
            WriteKind::Set => self.set(),
            WriteKind::Push => self.push(),
            WriteKind::Pull => self.pull(),
            WriteKind::Unset => self.unset(),
            _ => self.rename(),
        };
        let update = self.users.update_one(doc! { "_id": id }, change);
        match session {
            Some(session) => update.session(session).await,
            None => update.await,
        }
        .map(drop)
    }

    /// An existing document, unless a transaction or an error lied.
    fn any(&mut self) -> Option<i32> {
        self.make.0.choice(&self.alive).copied()
    }

    fn set(&mut self) -> Document {
        let make = &mut self.make;
        match make.0.u8(0..5) {
            0 => doc! { "$set": { "age": make.0.i32(18..90), "updatedAt": make.date() } },
            1 => doc! { "$set": { "address.coordinates.lat": make.0.f64() * 90.0 } },
            2 => doc! { "$set": { "messages.0.read": true, "messages.1.subject": make.words(4) } },
            3 => doc! { "$set": { "preferences.notifications": { "email": make.0.bool() } } },
            // Unmapped fields.
            _ => doc! { "$set": { "nickname": make.words(1) }, "$inc": { "visits": 1 } },
        }
    }

    fn push(&mut self) -> Document {
        match self.make.0.u8(0..4) {
            0 => doc! { "$push": { "activityLog": as_document(&self.make.entry()) } },
            1 => doc! { "$push": { "messages": as_document(&self.make.message()) } },
            2 => doc! { "$push": { "profile.skills": self.make.words(1) } },
            _ => {
                doc! { "$push": { "transactions": { "$position": 0, "$each": [as_document(&self.make.entry())] } } }
            }
        }
    }

    fn pull(&mut self) -> Document {
        match self.make.0.u8(0..3) {
            0 => doc! { "$pop": { "activityLog": -1 } },
            1 => doc! { "$pop": { "messages": 1 } },
            _ => doc! { "$pull": { "socialMedia.groups": { "id": { "$lt": "group_5" } } } },
        }
    }

    fn unset(&mut self) -> Document {
        let path = ["profile.bio", "address.coordinates", "largeData.blob3", "socialMedia", "nickname"];
        doc! { "$unset": { self.make.0.choice(path).unwrap_or_default(): "" } }
    }

    fn rename(&mut self) -> Document {
        let names = [("email", "contact"), ("profile.bio", "about"), ("largeData", "blobs")];
        let (known, unknown) = self.make.0.choice(names).unwrap_or_default();
        // Renaming a missing field does nothing, so over time each is renamed back and forth.
        if self.make.0.bool() {
            doc! { "$rename": { known: unknown } }
        } else {
            doc! { "$rename": { unknown: known } }
        }
    }
}

fn as_document(raw: &RawDocumentBuf) -> Document {
    // This can't fail: the value was created here a moment ago.
    Document::try_from(raw.as_ref()).unwrap_or_default()
}
