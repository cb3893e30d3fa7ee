//! The sink against a real PostgreSQL.

use bytes::BufMut;
use docrow::{
    error::{Disposition, Error, Kind},
    mapping::{Framing, Rows},
    model::{
        change::{CollectionId, Position},
        partition::Partition,
        table::{Column, ColumnType, Scalar, Table},
    },
    sink::{
        Intent, Keys, Session, Target,
        metadata::{
            chunks::{self, Marker, SnapshotPlan, StoredChunk},
            dead_letters::{self, DeadKey, DeadLetter},
            fence::{Fence, Holder, OnHeld},
            mapping_versions::{self, Mapping},
            positions::{self, Reached, StoredPosition},
            schema,
        },
        preflight,
        rows::{
            copy::Copier,
            read::{self, Reader},
            upsert::{Applier, Batch, CollectionBatch},
        },
        tables::ddl,
    },
};
use mongodb::bson::rawdoc;

use crate::support::{self, connect};

pub(super) const USERS: CollectionId = CollectionId(0);
pub(super) const FINGERPRINT: i64 = -7;
pub(super) const NS: &str = "shop.users";

/// A separate database, and docrow's target in it.
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) uri: String,
    /// The writer.
    fence: Option<Fence>,
}

impl Place {
    pub(super) async fn new(name: &str) -> Self {
        Self::at(support::Place::shared(&format!("sink_{name}")).await.postgres_uri)
    }

    /// On a separate server.
    pub(super) fn at(uri: String) -> Self {
        Self { target: Target::parse(&uri, "public", "p").unwrap(), uri, fence: None }
    }

    /// With the schema `docrow`, and a target that can be written to.
    pub(super) async fn held(name: &str) -> Self {
        let mut place = Self::new(name).await;
        place.hold().await;
        place
    }

    /// Takes the pipeline, as the same user or another one.
    pub(super) async fn hold(&mut self) {
        self.fence = None;
        let fence = fence(&self.target).await;
        self.target = fence.target().clone();
        self.fence = Some(fence);
    }

    pub(super) async fn session(&self) -> Session {
        self.target.connect().await.unwrap()
    }

    /// A target without write access.
    pub(super) fn plain(&self) -> Target {
        Target::parse(&self.uri, "public", "p").unwrap()
    }

    /// The same, not held, and what held it.
    pub(super) fn freed(mut self) -> (Self, Fence) {
        let fence = self.fence.take().expect("it is held");
        (Self { target: self.plain(), ..self }, fence)
    }

    /// The same, held by another user.
    pub(super) async fn held_by(mut self, user: &str) -> Self {
        self.target = self.target_as(user);
        self.hold().await;
        self
    }

    /// A target for another user, without write access.
    pub(super) fn target_as(&self, user: &str) -> Target {
        let (_, server) = self.uri.rsplit_once('@').unwrap();
        Target::parse(&format!("postgresql://{user}@{server}"), "public", "p").unwrap()
    }

    /// Another pipeline or schema in the same database.
    pub(super) fn target_of(&self, schema: &str, pipeline: &str) -> Target {
        Target::parse(&self.uri, schema, pipeline).unwrap()
    }

    /// A client of the test's own.
    pub(super) async fn client(&self) -> tokio_postgres::Client {
        connect(&self.uri).await
    }

    /// Runs statements as the superuser, returns the first column of the last rows as text.
    pub(super) async fn query(&self, text: &str) -> Vec<String> {
        query(&self.uri, text).await
    }

    /// With the schema `docrow`, and the tables of users, without keys.
    pub(super) async fn with_users(name: &str, tables: &[Table]) -> Self {
        let place = Self::held(name).await;
        let mut session = place.session().await;
        ddl::change_tables(&mut session, &place.target, &mapping(), tables).await.unwrap();
        place
    }

    pub(super) async fn build_keys(&self, tables: &[Table]) {
        let mut session = self.session().await;
        for table in tables {
            ddl::build_key(&mut session, "public", table).await.unwrap();
        }
    }

    pub(super) async fn applier(&self) -> Applier {
        Applier::new(self.session().await, &self.target, Partition(0), FINGERPRINT).await.unwrap()
    }
}

/// Takes a pipeline as a separate process.
pub(super) async fn fence(target: &Target) -> Fence {
    Fence::acquire(target, &Holder::new(), OnHeld::Refuse).await.unwrap()
}

async fn query(uri: &str, text: &str) -> Vec<String> {
    let client = connect(uri).await;
    let messages = client.simple_query(text).await.unwrap();
    let first = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    };
    messages.into_iter().filter_map(first).collect()
}

pub(super) fn mapping() -> Mapping {
    Mapping::first(NS, "collection = \"shop.users\"")
}

pub(super) fn column(name: &str, ty: Scalar) -> Column {
    Column { name: name.into(), ty: ColumnType::scalar(ty) }
}

/// `users (id, name, score, tags[])` and `messages (user_id, ord, body)`.
pub(super) fn users() -> Vec<Table> {
    let tags =
        Column { name: "tags".into(), ty: ColumnType { array: true, ..ColumnType::scalar(Scalar::Text) } };
    vec![
        Table {
            name: "users".into(),
            columns: vec![
                column("id", Scalar::Bigint),
                column("name", Scalar::Text),
                column("score", Scalar::Numeric),
                tags,
            ],
            key_columns: 1,
            soft_delete: false,
        },
        Table {
            name: "messages".into(),
            columns: vec![
                column("user_id", Scalar::Bigint),
                column("ord", Scalar::Bigint),
                column("body", Scalar::Text),
            ],
            key_columns: 2,
            soft_delete: false,
        },
    ]
}

/// Encodes a row.
pub(super) fn push(rows: &mut Rows, framing: Framing, table: &Table, at: usize, values: &[Option<Vec<u8>>]) {
    let out = &mut rows.tables[at];
    let mut row = Vec::new();
    match framing {
        Framing::Copy => row.put_i16(values.len().try_into().unwrap()),
        Framing::Composite => row.put_i32(values.len().try_into().unwrap()),
    }
    for (value, column) in values.iter().zip(&table.columns) {
        if framing == Framing::Composite {
            row.put_u32(column.ty.oid());
        }
        match value {
            Some(value) => {
                row.put_i32(value.len().try_into().unwrap());
                row.put_slice(value);
            }
            None => row.put_i32(-1),
        }
    }
    if framing == Framing::Composite {
        out.bytes.put_i32(row.len().try_into().unwrap());
    }
    out.bytes.put_slice(&row);
    out.count += 1;
}

pub(super) fn bigint(value: i64) -> Option<Vec<u8>> {
    Some(value.to_be_bytes().to_vec())
}

pub(super) fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

/// `1` with `scale` zeros after the point.
fn one(scale: i16) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for part in [1_i16, 0, 0, scale, 1] {
        out.put_i16(part);
    }
    Some(out)
}

fn text_array(values: &[&str]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for part in [1_i32, 0, 25, values.len().try_into().unwrap(), 1] {
        out.put_i32(part);
    }
    for value in values {
        out.put_i32(value.len().try_into().unwrap());
        out.put_slice(value.as_bytes());
    }
    Some(out)
}

pub(super) fn keys(ids: impl IntoIterator<Item = i64>) -> Keys {
    let mut keys = Keys::default();
    ids.into_iter().for_each(|id| keys.push(&id.to_be_bytes()));
    keys
}

/// Users `ids` named `name`, each with `messages` messages.
pub(super) fn documents(framing: Framing, ids: &[i64], name: &str, messages: i64) -> Rows {
    let (tables, mut rows) = (users(), Rows::new(2));
    for &id in ids {
        push(&mut rows, framing, &tables[0], 0, &[bigint(id), text(name), one(1), text_array(&["a", "b"])]);
        for ord in 0..messages {
            push(&mut rows, framing, &tables[1], 1, &[bigint(id), bigint(ord), text(name)]);
        }
    }
    rows
}

pub(super) fn position(increment: u32) -> Position {
    Position::from_token(&rawdoc! { "_data": format!("8265000000{increment:08X}2B"), "_typeBits": 1 })
        .unwrap()
}

fn stored(partition: u16, increment: u32) -> StoredPosition {
    StoredPosition {
        partition: Partition(partition),
        collection: NS.into(),
        position: position(increment),
        fingerprint: None,
    }
}

/// Applies upserts and deletes of users, reaching a position.
pub(super) async fn apply(
    applier: &mut Applier,
    rows: &Rows,
    (upserted, deleted): (&Keys, &Keys),
    reached: u32,
) -> docrow::error::Result<docrow::sink::rows::upsert::AppliedBatch> {
    let (tables, reached) = (users(), position(reached));
    let reached = [Reached { collection: NS, position: &reached }];
    let users = CollectionBatch { collection: USERS, tables: &tables, rows, upserted, deleted };
    applier.apply(&Batch { collections: vec![users], reached: &reached, ..Batch::default() }).await
}

async fn position_of(session: &Session) -> Position {
    positions::load(session, "p").await.unwrap()[0].position.clone()
}

#[tokio::test]
async fn a_refused_connection_says_where_and_what_to_do() {
    let away = Target::parse("postgresql://u:secret@127.0.0.1:1/d", "public", "p").unwrap();
    let error = away.connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway);
    let said = error.to_string();
    assert!(said.starts_with("connect to PostgreSQL at 127.0.0.1:1: "), "{said}");
    assert!(said.contains("refused") && said.contains("is PostgreSQL running there"), "{said}");

    let nobody = Target::parse("postgresql://u:secret@no-such-host.invalid/d", "public", "p").unwrap();
    assert_eq!(nobody.connect().await.unwrap_err().kind(), Kind::TargetAway);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("postgresql://u:secret@{}/d?connect_timeout=1", listener.local_addr().unwrap());
    let error = Target::parse(&mute, "public", "p").unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway);
    assert!(error.to_string().contains("no answer"), "{error}");
}

#[tokio::test]
async fn a_missing_database_and_a_missing_privilege_are_named() {
    let place = Place::new("refusals").await;
    let uri = format!("{}_not_there", place.uri);
    let error = Target::parse(&uri, "public", "p").unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    assert!(error.to_string().contains("CREATE DATABASE"), "{error}");

    place.query("DROP ROLE IF EXISTS docrow_poor; CREATE ROLE docrow_poor LOGIN PASSWORD 'x'").await;
    // Without what everyone may do before 15.
    place.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    let (_, server) = place.uri.rsplit_once('@').unwrap();
    let poor = Target::parse(&format!("postgresql://docrow_poor:x@{server}"), "public", "p").unwrap();
    let error = inspected(&poor).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    let grant = r#"CREATE SCHEMA "docrow" AUTHORIZATION "docrow_poor""#;
    assert!(error.to_string().contains(grant), "{error}");
    place.query(grant).await;
    let error = inspected(&poor).await.unwrap_err();
    let grant = r#"GRANT USAGE, CREATE ON SCHEMA "public" TO "docrow_poor""#;
    assert!(error.to_string().contains(grant), "{error}");
    place.query(grant).await;
    inspected(&poor).await.unwrap();
    assert_eq!(
        place.query("SELECT relname FROM pg_class WHERE relnamespace = 'docrow'::regnamespace").await,
        [""; 0]
    );
    place.query("CREATE SCHEMA another AUTHORIZATION docrow_poor").await;
    // All that docrow needs, as that user.
    schema::create(&mut poor.connect().await.unwrap(), "another").await.unwrap();
    let fence = fence(&poor).await;
    let poor = fence.target();
    let mut session = poor.connect().await.unwrap();
    ddl::change_tables(&mut session, poor, &mapping(), &users()).await.unwrap();
    let tables = users();
    for table in &tables {
        ddl::build_key(&mut session, "public", table).await.unwrap();
    }
    let rows = documents(Framing::Composite, &[1], "n", 2);
    let mut applier = Applier::new(session, poor, Partition(0), FINGERPRINT).await.unwrap();
    apply(&mut applier, &rows, (&keys([1]), &keys([])), 1).await.unwrap();
    let mut copier = Copier::new(poor.connect().await.unwrap(), poor);
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[2], "n", 1)).await.unwrap();
    drop(writer);
    drop((applier, copier, fence));
    place.query("DROP OWNED BY docrow_poor CASCADE; DROP ROLE docrow_poor").await;
}

#[tokio::test]
async fn processes_that_start_at_once_do_not_collide() {
    let place = Place::new("race").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let target = place.target.clone();
        tasks.spawn(async move {
            schema::create(&mut target.connect().await.unwrap(), "fresh").await.unwrap();
        });
    }
    assert_eq!(tasks.join_all().await.len(), 8);
    let fence = fence(&place.target).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let target = fence.target().clone();
        tasks.spawn(async move {
            let mut session = target.connect().await.unwrap();
            ddl::change_tables(&mut session, &target, &mapping(), &users()).await.unwrap();
        });
    }
    assert_eq!(tasks.join_all().await.len(), 8);
    assert_eq!(mapping_versions::load(&place.session().await, "p").await.unwrap(), [mapping()]);
}

#[tokio::test]
async fn a_table_of_someone_else_is_left_alone() {
    let place = Place::held("foreign").await;
    place.query("CREATE TABLE messages (body text); INSERT INTO messages VALUES ('mine')").await;
    let mut session = place.session().await;
    let error = ddl::change_tables(&mut session, &place.target, &mapping(), &users()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    assert!(
        error.to_string().contains(r#""public"."messages": rows where an empty table is wanted"#),
        "{error}"
    );
    // Nothing half written: neither the other table nor the mapping.
    assert_eq!(mapping_versions::load(&session, "p").await.unwrap(), []);
    assert_eq!(place.query("SELECT to_regclass('public.users') IS NULL").await, ["t"]);
}

#[tokio::test]
async fn keys_are_built_once() {
    let place = Place::with_users("keys", &users()).await;
    let tables = users();
    let session = place.session().await;
    assert_eq!(ddl::keys_missing(&session, "public", &tables).await.unwrap().len(), 2);
    place.build_keys(&tables[..1]).await;
    assert_eq!(ddl::keys_missing(&session, "public", &tables).await.unwrap(), [&tables[1]]);
    place.build_keys(&tables).await;
    place.build_keys(&tables).await;
    assert!(ddl::keys_missing(&session, "public", &tables).await.unwrap().is_empty());
}

/// G2, G5: rows and marker commit together; no chunk is copied twice.
#[tokio::test]
async fn a_chunk_is_copied_whole_and_once() {
    let place = Place::with_users("chunks", &users()).await;
    let (tables, mut session) = (users(), place.session().await);
    let plan: Vec<StoredChunk> = (0..3)
        .map(|n| StoredChunk {
            number: n,
            min: (n > 0).then(|| vec![0, 1]),
            max: None,
            copied: None,
            replaces: false,
        })
        .collect();
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, plan.to_vec())], &[stored(0, 1), stored(1, 1)])
        .await
        .unwrap();
    assert_eq!(chunks::load(&session, "p", NS).await.unwrap(), plan);
    assert!(chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, plan.to_vec())], &[]).await.is_err());

    let mut copier = Copier::new(place.session().await, &place.target);
    let marker = Marker { collection: NS, number: 1, documents: 4 };
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    let mut rows = documents(Framing::Copy, &[1, 2], "n", 3);
    assert_eq!(writer.write(&mut rows).await.unwrap(), 8);
    assert_eq!((rows.row_count(), rows.byte_len()), (0, 0));
    // Larger than a frame, with nothing for the second table. The buffer has its memory back afterwards.
    let long = "x".repeat(1_000_000);
    let mut rows = documents(Framing::Copy, &[3, 4], &long, 0);
    assert_eq!(writer.write(&mut rows).await.unwrap(), 2);
    assert!(rows.tables[0].bytes.try_reclaim(2_000_000));
    writer.commit(marker).await.unwrap();
    assert_eq!(place.query("SELECT count(*) || ' ' || max(length(name)) FROM users").await, ["4 1000000"]);
    assert_eq!(place.query("SELECT count(*) FROM messages").await, ["6"]);
    assert_eq!(place.query("SELECT tags FROM users LIMIT 1").await, ["{a,b}"]);
    assert_eq!(chunks::load(&session, "p", NS).await.unwrap()[1].copied, Some(4));

    // Again: refused, and nothing of it stays.
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[5], "n", 1)).await.unwrap();
    let error = writer.commit(marker).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway, "the plan must be read again");
    assert!(error.to_string().contains("chunk 1 of shop.users: already copied"), "{error}");
    let writer = copier.begin(USERS, &tables).await.unwrap();
    let unplanned = Marker { number: 9, ..marker };
    assert_eq!(writer.commit(unplanned).await.unwrap_err().kind(), Kind::Bug);
    // Dropped: rolled back.
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[6], "n", 1)).await.unwrap();
    drop(writer);
    let writer = copier.begin(USERS, &tables).await.unwrap();
    writer.commit(Marker { number: 2, documents: 0, ..marker }).await.unwrap();
    assert_eq!(place.query("SELECT count(*) FROM users").await, ["4"]);
}

/// G10: a document that the target refuses stops nothing, and is stored. G12: the error quotes no value.
#[tokio::test]
async fn a_refused_document_leaves_the_rest_of_its_chunk() {
    let place = Place::with_users("savepoint", &users()).await;
    place.query("ALTER TABLE messages ADD CONSTRAINT polite CHECK (body <> 'rude')").await;
    let (tables, mut session) = (users(), place.session().await);
    let plan = [StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false }];
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, plan.to_vec())], &[]).await.unwrap();
    let mut copier = Copier::new(session, &place.target);
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    for (id, name) in [(1, "kind"), (2, "rude"), (3, "kind")] {
        writer.savepoint().await.unwrap();
        match writer.write(&mut documents(Framing::Copy, &[id], name, 1)).await {
            Ok(_) => writer.release_savepoint().await.unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), Kind::TargetRefusedRows);
                let said = error.to_string();
                assert!(said.contains(r#""messages""#) && said.contains(r#""polite""#), "{said}");
                assert!(!said.contains("rude"), "{said}");
                writer.rollback_to_savepoint().await.unwrap();
                writer.dead_letters(&[letter(id, &said)]).await.unwrap();
            }
        }
    }
    writer.commit(Marker { collection: NS, number: 0, documents: 3 }).await.unwrap();
    assert_eq!(place.query("SELECT id FROM users ORDER BY 1").await, ["1", "3"]);
    assert_eq!(place.query("SELECT key FROM docrow.dead_letters WHERE reason LIKE '%polite%'").await, ["2"]);
}

fn letter(id: i64, reason: &str) -> DeadLetter {
    DeadLetter {
        collection: NS.into(),
        key: id.to_string(),
        path: None,
        document_key: rawdoc! { "_id": id }.into_bytes(),
        reason: reason.into(),
        document: Some(vec![1, 2, 3]),
    }
}

#[tokio::test]
async fn a_batch_upserts_deletes_and_replaces_children() {
    let place = Place::with_users("batch", &users()).await;
    place.build_keys(&users()).await;
    let (mut applier, session) = (place.applier().await, place.session().await);
    positions::reset(&mut place.session().await, "p", &[stored(0, 1)]).await.unwrap();

    let (ids, none) = ([1, 2, 3], keys([]));
    let rows = documents(Framing::Composite, &ids, "first", 3);
    let applied = apply(&mut applier, &rows, (&keys(ids), &none), 5).await.unwrap();
    assert_eq!((applied.written, applied.deleted), (12, 0));
    assert_eq!(position_of(&session).await, position(5));

    // The same again, as after a lost answer: no row is touched.
    let applied = apply(&mut applier, &rows, (&keys(ids), &none), 5).await.unwrap();
    assert_eq!((applied.written, applied.deleted), (0, 0));

    let rows = documents(Framing::Composite, &[2], "second", 1);
    let applied = apply(&mut applier, &rows, (&keys([2]), &keys([3])), 6).await.unwrap();
    assert_eq!((applied.written, applied.deleted), (2, 4));
    assert_eq!(place.query("SELECT id || name FROM users ORDER BY 1").await, ["1first", "2second"]);
    let messages = "SELECT user_id || body FROM messages ORDER BY user_id, ord";
    assert_eq!(place.query(messages).await, ["1first", "1first", "1first", "2second"]);

    // An array that became empty.
    let rows = documents(Framing::Composite, &[1], "first", 0);
    let applied = apply(&mut applier, &rows, (&keys([1]), &none), 6).await.unwrap();
    assert_eq!((applied.written, applied.deleted), (0, 3));
    assert_eq!(place.query(messages).await, ["2second"]);

    // Only positions; nothing at all.
    apply(&mut applier, &Rows::new(2), (&none, &none), 7).await.unwrap();
    applier.apply(&Batch::default()).await.unwrap();
    assert_eq!(position_of(&session).await, position(7));
}

/// G4: 1.0 and 1.00 are equal numbers, and different documents.
#[tokio::test]
async fn an_equal_number_of_another_scale_is_written() {
    let place = Place::with_users("scale", &users()).await;
    place.build_keys(&users()).await;
    let (mut applier, tables) = (place.applier().await, users());
    for scale in [1, 2] {
        let mut rows = Rows::new(2);
        push(&mut rows, Framing::Composite, &tables[0], 0, &[bigint(1), text("n"), one(scale), None]);
        apply(&mut applier, &rows, (&keys([1]), &keys([])), 1).await.unwrap();
    }
    assert_eq!(place.query("SELECT score FROM users").await, ["1.00"]);
}

/// G2, G10: a refused row undoes its batch, including positions, and the session continues.
#[tokio::test]
async fn a_refused_row_undoes_its_batch() {
    let place = Place::with_users("undo", &users()).await;
    place.build_keys(&users()).await;
    place.query("ALTER TABLE users ADD CONSTRAINT polite CHECK (name <> 'rude')").await;
    positions::reset(&mut place.session().await, "p", &[stored(0, 1)]).await.unwrap();
    let (mut applier, session, none) = (place.applier().await, place.session().await, keys([]));

    let mut rows = documents(Framing::Composite, &[1], "kind", 1);
    let bad = documents(Framing::Composite, &[2], "rude", 1);
    for (all, bad) in rows.tables.iter_mut().zip(&bad.tables) {
        all.bytes.put_slice(&bad.bytes);
        all.count += bad.count;
    }
    let error = apply(&mut applier, &rows, (&keys([1, 2]), &none), 2).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefusedRows);
    let said = error.to_string();
    assert!(said.contains(r#""users""#) && said.contains("polite") && !said.contains("rude"), "{said}");
    assert_eq!(place.query("SELECT count(*) FROM users").await, ["0"]);
    assert_eq!(position_of(&session).await, position(1));

    // The good one, then the bad one as a dead letter with the position, which is removed later.
    let (tables, reached, letters) = (users(), position(2), [letter(2, &said)]);
    let good = documents(Framing::Composite, &[1], "kind", 1);
    let upserted = keys([1]);
    let batch = CollectionBatch {
        collection: USERS,
        tables: &tables,
        rows: &good,
        upserted: &upserted,
        deleted: &none,
    };
    applier.apply(&Batch { collections: vec![batch], ..Batch::default() }).await.unwrap();
    assert_eq!(position_of(&session).await, position(1));
    let reached = [Reached { collection: NS, position: &reached }];
    for _ in 0..2 {
        let batch = Batch { dead_letters: &letters, reached: &reached, ..Batch::default() };
        applier.apply(&batch).await.unwrap();
    }
    assert_eq!(position_of(&session).await, position(2));
    let dead = dead_letters::keys(&session, "p").await.unwrap();
    assert!(dead.count(NS) == 1 && dead.contains(NS, "2") && !dead.contains(NS, "1"));
    let healed = [DeadKey { collection: NS.into(), key: "2".into() }];
    applier.apply(&Batch { healed: &healed, ..Batch::default() }).await.unwrap();
    assert!(dead_letters::keys(&session, "p").await.unwrap().is_empty());
}

/// A killed process may have a transaction that commits late.
#[tokio::test]
async fn a_stale_writer_cannot_move_a_position_back() {
    let place = Place::with_users("stale", &users()).await;
    place.build_keys(&users()).await;
    let (mut applier, session, none) = (place.applier().await, place.session().await, keys([]));
    let rows = |name| documents(Framing::Composite, &[1], name, 0);
    apply(&mut applier, &rows("newer"), (&keys([1]), &none), 10).await.unwrap();
    let error = apply(&mut applier, &rows("older"), (&keys([1]), &none), 9).await.unwrap_err();
    assert_eq!(error.kind().disposition(), Disposition::Retry);
    assert!(error.to_string().contains("moved the position further"), "{error}");
    assert_eq!(position_of(&session).await, position(10));
    assert_eq!(place.query("SELECT name FROM users").await, ["newer"]);
    assert_eq!(position_of(&session).await.as_bytes(), position(10).as_bytes());
}

#[tokio::test]
async fn positions_are_replaced_when_partitions_change() {
    let place = Place::with_users("reset", &users()).await;
    let mut session = place.session().await;
    positions::reset(&mut session, "p", &[stored(0, 5), stored(1, 6)]).await.unwrap();
    let fewer = [stored(0, 4)];
    positions::reset(&mut session, "p", &fewer).await.unwrap();
    assert_eq!(positions::load(&session, "p").await.unwrap(), fewer);
    assert_eq!(positions::load(&session, "q").await.unwrap(), []);
    assert_eq!(positions::register(&session, "q", "a").await.unwrap(), "a");
    assert_eq!(positions::register(&session, "q", "b").await.unwrap(), "a");
}

#[tokio::test]
async fn a_connection_ended_by_the_server_is_to_be_retried() {
    let place = Place::with_users("ended", &users()).await;
    place.build_keys(&users()).await;
    let mut applier = place.applier().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name = 'docrow' AND datname = current_database()";
    place.query(end).await;
    let rows = documents(Framing::Composite, &[1], "n", 0);
    let error = apply(&mut applier, &rows, (&keys([1]), &keys([])), 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway, "{error}");
}

/// A table whose columns have changed, for example by `evolve`, is written with the new ones.
#[tokio::test]
async fn statements_follow_the_tables() {
    let place = Place::with_users("evolve", &users()).await;
    place.build_keys(&users()).await;
    let (mut applier, mut tables) = (place.applier().await, users());
    let rows = documents(Framing::Composite, &[1], "n", 0);
    apply(&mut applier, &rows, (&keys([1]), &keys([])), 1).await.unwrap();
    place.query("ALTER TABLE users ADD COLUMN age bigint, ADD COLUMN theirs text DEFAULT 'kept'").await;
    tables[0].columns.push(column("age", Scalar::Bigint));
    let (mut rows, upserted, none) = (Rows::new(2), keys([2]), keys([]));
    push(&mut rows, Framing::Composite, &tables[0], 0, &[bigint(2), None, None, None, bigint(7)]);
    let batch = CollectionBatch {
        collection: USERS,
        tables: &tables,
        rows: &rows,
        upserted: &upserted,
        deleted: &none,
    };
    applier.apply(&Batch { collections: vec![batch], ..Batch::default() }).await.unwrap();
    assert_eq!(place.query("SELECT age || theirs FROM users WHERE id = 2").await, ["7kept"]);
}

/// TRAPS: a name is a name, whatever it contains.
#[tokio::test]
async fn hostile_names_are_names() {
    let mut tables = users();
    tables[0].name = r#"x"; DROP TABLE messages; --"#.into();
    tables[0].columns[0].name = r#"a"b"#.into();
    tables[1].columns[2].name = "$1 'ü' %s {}".into();
    let place = Place::with_users("names", &tables).await;
    let plan = [StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false }];
    chunks::store(&mut place.session().await, "p", &[SnapshotPlan::new(NS, plan.to_vec())], &[])
        .await
        .unwrap();
    let mut copier = Copier::new(place.session().await, &place.target);
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[1], "n", 1)).await.unwrap();
    writer.commit(Marker { collection: NS, number: 0, documents: 1 }).await.unwrap();
    place.build_keys(&tables).await;
    let (rows, upserted, deleted) = (documents(Framing::Composite, &[2], "n", 1), keys([2]), keys([1]));
    let batch = CollectionBatch {
        collection: USERS,
        tables: &tables,
        rows: &rows,
        upserted: &upserted,
        deleted: &deleted,
    };
    place.applier().await.apply(&Batch { collections: vec![batch], ..Batch::default() }).await.unwrap();
    let mut reader = Reader::new(place.session().await, &place.target);
    for table in &tables {
        assert_eq!(reader.rows(table, &keys([1, 2])).await.unwrap().len(), 1);
        reader.forget_seen(table).await.unwrap();
        assert_eq!(reader.unseen(&tables[0], table).await.unwrap().next(9).await.unwrap().count, 1);
    }
}

/// G12: the message of a user's trigger may quote a row.
#[tokio::test]
async fn a_trigger_of_the_user_refuses_rows_and_is_not_quoted() {
    let place = Place::with_users("trigger", &users()).await;
    place.build_keys(&users()).await;
    place
        .query(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE WARNING 'about %', NEW.name; RAISE EXCEPTION 'not %', NEW.name; END $$; \
             CREATE TRIGGER no BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION no()",
        )
        .await;
    let rows = documents(Framing::Composite, &[1], "secret", 1);
    let error = apply(&mut place.applier().await, &rows, (&keys([1]), &keys([])), 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefusedRows);
    let said = format!("{error} {error:?}");
    assert!(said.contains("P0001") && !said.contains("secret"), "{said}");
}

/// G10: a key that fits no index, the likeliest reason for a dead letter, must not prevent the letter, too.
#[tokio::test]
async fn a_dead_letter_with_a_long_key_is_stored() {
    let place = Place::with_users("longkey", &users()).await;
    // Random, for a long run of one letter is compressed and fits.
    let key: String = std::iter::repeat_with(fastrand::alphanumeric).take(20_000).collect();
    let letters = [DeadLetter { key: key.clone(), ..letter(0, "too long") }];
    place.applier().await.apply(&Batch { dead_letters: &letters, ..Batch::default() }).await.unwrap();
    assert_eq!(place.query("SELECT key FROM docrow.dead_letters").await, [key]);
}

/// A batch is sent completely or not at all: cancelling the wait leaves no transaction open.
#[tokio::test]
async fn a_dropped_apply_leaves_the_session_usable() {
    let place = Place::with_users("dropped", &users()).await;
    place.build_keys(&users()).await;
    let (mut applier, none) = (place.applier().await, keys([]));
    let rows = |name| documents(Framing::Composite, &[1], name, 1);
    apply(&mut applier, &rows("first"), (&keys([1]), &none), 1).await.unwrap();
    let (second, upserted) = (rows("second"), keys([1]));
    {
        let mut applying = std::pin::pin!(apply(&mut applier, &second, (&upserted, &none), 2));
        std::future::poll_fn(|cx| {
            assert!(applying.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    apply(&mut applier, &rows("third"), (&keys([1]), &none), 3).await.unwrap();
    assert_eq!(place.query("SELECT name FROM users").await, ["third"]);
    assert_eq!(position_of(&place.session().await).await, position(3));
}

async fn inspected(target: &Target) -> Result<String, Error> {
    let (session, other) = target.connect_twice().await.unwrap();
    preflight(&session, other, target, Intent::Write).await
}

#[tokio::test]
async fn a_read_only_target_is_refused_at_first_and_waited_for_later() {
    let place = Place::with_users("readonly", &users()).await;
    place.build_keys(&users()).await;
    let mut applier = place.applier().await;
    place.query("ALTER DATABASE docrow_test_sink_readonly SET default_transaction_read_only = on").await;
    let error = inspected(&place.target).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    assert!(error.to_string().contains("default_transaction_read_only"), "{error}");
    let rows = documents(Framing::Composite, &[1], "n", 1);
    apply(&mut applier, &rows, (&keys([1]), &keys([])), 1).await.unwrap();
    let mut applier = place.applier().await;
    let error = apply(&mut applier, &rows, (&keys([1]), &keys([])), 2).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway, "{error}");
}

#[tokio::test]
async fn rows_are_read_back_by_key() {
    let place = Place::with_users("read", &users()).await;
    place.build_keys(&users()).await;
    let tables = users();
    let rows = documents(Framing::Composite, &[1, 2, 3], "n", 2);
    apply(&mut place.applier().await, &rows, (&keys([1, 2, 3]), &keys([])), 1).await.unwrap();
    let mut reader = Reader::new(place.session().await, &place.target);
    let rows = reader.rows(&tables[1], &keys([3, 1])).await.unwrap();
    let ids: Vec<_> = rows.iter().map(|row| read::value(row, 0).unwrap().unwrap().to_vec()).collect();
    assert_eq!(ids, [1_i64, 1, 3, 3].map(|id| id.to_be_bytes().to_vec()));
    for table in &tables {
        reader.forget_seen(table).await.unwrap();
        reader.see(&keys([1])).await.unwrap();
        reader.see(&keys([3, 4])).await.unwrap();
        let unseen = reader.unseen(&tables[0], table).await.unwrap().next(10).await.unwrap();
        assert_eq!(unseen.iter().collect::<Vec<_>>(), [2_i64.to_be_bytes()]);
    }
}
