//! A collection's tables in a real PostgreSQL: created, adopted, refused, changed with their mapping.

use std::time::{Duration, Instant};

use docrow::{
    error::Kind,
    mapping::{Framing, Rows},
    model::table::{Scalar, Table},
    sink::{
        metadata::{
            chunks::{self, Marker, SnapshotPlan, StoredChunk},
            mapping_versions::{self, Mapping},
            resync_requests, schema,
        },
        rows::{
            copy::Copier,
            upsert::{Batch, CollectionBatch},
        },
        tables::{
            ddl,
            ddl_plan::{Origin, Plan, Wanted, When},
        },
    },
};

use super::sink::{NS, Place, USERS, apply, bigint, column, documents, keys, mapping, push, text, users};

impl Place {
    async fn change(&self, mapping: &Mapping, tables: &[Table]) -> docrow::error::Result<Plan> {
        ddl::change_tables(&mut self.session().await, &self.target, mapping, tables).await
    }

    /// Why the mapping's first version is refused.
    async fn refusal(&self, tables: &[Table]) -> String {
        let error = self.change(&mapping(), tables).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TargetRefused, "{error}");
        assert_eq!(
            mapping_versions::load(&self.session().await, "p").await.unwrap(),
            [],
            "nothing half written"
        );
        error.to_string()
    }

    async fn stored(&self) -> Mapping {
        mapping_versions::load(&self.session().await, "p").await.unwrap().pop().unwrap()
    }

    async fn with_bookkeeping(name: &str) -> Self {
        Self::held(name).await
    }
}

fn origins(plan: &Plan) -> Vec<Origin> {
    plan.tables.iter().map(|table| table.origin).collect()
}

const USERS_DDL: &str = "CREATE TABLE users (id bigint, name text, score numeric, tags text[]);";
const MESSAGES_DDL: &str =
    "CREATE TABLE messages (body text, user_id bigint, ord bigint, PRIMARY KEY (user_id, ord));";

/// Existing user tables: adopted if they fit, with or without the key, whatever the order of their columns.
#[tokio::test]
async fn a_table_that_fits_is_adopted() {
    let place = Place::with_bookkeeping("adopt").await;
    place.query(USERS_DDL).await;
    place.query(MESSAGES_DDL).await;
    place
        .query("ALTER TABLE users ADD COLUMN note text, ADD COLUMN made timestamptz NOT NULL DEFAULT now()")
        .await;
    let oid = place.query("SELECT 'users'::regclass::oid").await;
    let plan = place.change(&mapping(), &users()).await.unwrap();
    assert_eq!(origins(&plan), [Origin::Adopted, Origin::Adopted]);
    assert_eq!(plan.steps(When::AtOnce).count(), 0);
    assert_eq!(plan.tables[0].others, [r#""note" text"#, r#""made" timestamp with time zone NOT NULL"#]);
    assert_eq!(place.stored().await, mapping());
    // Written to like any other; its own from now on.
    place.build_keys(&users()).await;
    let rows = documents(Framing::Composite, &[1, 2], "n", 2);
    apply(&mut place.applier().await, &rows, (&keys([1, 2]), &keys([])), 1).await.unwrap();
    assert_eq!(place.query("SELECT count(*) FROM messages WHERE ord < 2").await, ["4"]);
    let plan = place.change(&mapping(), &users()).await.unwrap();
    assert_eq!(origins(&plan), [Origin::Own, Origin::Own]);
    assert_eq!(plan.steps(When::AtOnce).count() + plan.steps(When::AfterCopy).count(), 0);
    assert_eq!(place.query("SELECT 'users'::regclass::oid").await, oid);
}

/// Existing user tables: refused with the diff if they do not fit, never dropped.
#[tokio::test]
async fn a_table_that_does_not_fit_is_refused_with_the_diff() {
    let place = Place::with_bookkeeping("misfit").await;
    for (make, parts) in [
        (
            "CREATE TABLE users (id bigint, name text, score numeric)",
            &[r#"no such column where "tags" text[] is"#][..],
        ),
        (
            "CREATE TABLE users (id integer, name varchar(5) NOT NULL, score numeric(10,2), tags text)",
            &[
                r#""id" integer where "id" bigint"#,
                r#""name" character varying(5) NOT NULL where "name" text"#,
                r#""score" numeric(10,2) where "score" numeric"#,
                r#""tags" text where "tags" text[]"#,
            ],
        ),
        (
            "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY, name text, score numeric, tags text[])",
            &[r#""id" bigint NOT NULL that generates its values"#],
        ),
        (
            "CREATE TABLE users (id bigint, name text, score numeric, tags text[], who text NOT NULL)",
            &[r#""who" text NOT NULL where a default for it"#],
        ),
        (
            "CREATE TABLE users (id bigint, name text PRIMARY KEY, score numeric, tags text[])",
            &[r#"PRIMARY KEY ("name") where PRIMARY KEY ("id")"#],
        ),
        ("CREATE VIEW users AS SELECT 1 AS id", &["a view where a table is wanted"]),
        ("CREATE TABLE users (id bigint) PARTITION BY HASH (id)", &["a partitioned table where a table"]),
        ("CREATE SEQUENCE users", &["a sequence where a table"]),
        ("CREATE UNLOGGED TABLE users (id bigint)", &["an unlogged table"]),
        (
            "CREATE TABLE messages (body text, user_id bigint, ord bigint); INSERT INTO messages DEFAULT VALUES",
            &[r#""public"."messages": rows where an empty table"#, "`docrow plan` shows the differences"],
        ),
    ] {
        place.query(make).await;
        let said = place.refusal(&users()).await;
        for part in parts {
            assert!(said.contains(part), "{make}: {said}");
        }
        let kind = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'public'::regnamespace \
            AND relkind <> 'i' AND relname NOT LIKE '%_seq'";
        let there = place.query(kind).await;
        assert!(["users", "messages"].contains(&there[0].as_str()), "{there:?} is there after {make}");
        let drop = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
        place.query(drop).await;
    }
}

/// Another user's table: the error contains the exact GRANT for what is missing.
#[tokio::test]
async fn a_table_without_the_privilege_is_refused_with_the_grant() {
    let place = Place::with_bookkeeping("grant").await;
    place.query("DROP ROLE IF EXISTS docrow_adopter; CREATE ROLE docrow_adopter LOGIN SUPERUSER").await;
    place.query(USERS_DDL).await;
    place.query(MESSAGES_DDL).await;
    place.query("GRANT ALL ON SCHEMA docrow, public TO docrow_adopter").await;
    place.query("GRANT ALL ON ALL TABLES IN SCHEMA docrow TO docrow_adopter").await;
    let place = place.held_by("docrow_adopter").await;
    let change = async || place.change(&mapping(), &users()).await;
    place.query("ALTER ROLE docrow_adopter NOSUPERUSER").await;
    let said = change().await.unwrap_err().to_string();
    let grant = r#"GRANT SELECT, INSERT, UPDATE, DELETE ON "public"."users" TO "docrow_adopter""#;
    assert!(said.contains(grant), "{said}");
    place.query("GRANT SELECT, INSERT, UPDATE, DELETE ON users, messages TO docrow_adopter").await;
    let said = change().await.unwrap_err().to_string();
    assert!(said.contains(r#"PRIMARY KEY ("id"), which only the table's owner can add"#), "{said}");
    assert!(!said.contains("messages"), "{said}");
    place.query("ALTER TABLE users ADD PRIMARY KEY (id)").await;
    assert_eq!(origins(&change().await.unwrap()), [Origin::Adopted, Origin::Adopted]);
    place.query("DROP OWNED BY docrow_adopter CASCADE; DROP ROLE docrow_adopter").await;
}

/// A mapping's next version: its tables get the additions, with existing rows, and it is stored with them.
#[tokio::test]
async fn a_next_version_adds_and_widens() {
    let place = Place::with_users("grow", &users()).await;
    place.build_keys(&users()).await;
    let rows = documents(Framing::Composite, &[1, 2], "n", 2);
    apply(&mut place.applier().await, &rows, (&keys([1, 2]), &keys([])), 1).await.unwrap();
    place.query("ALTER TABLE users ADD COLUMN theirs text DEFAULT 'kept'").await;

    let mut tables = users();
    tables[0].columns.push(column("age", Scalar::Bigint));
    let visits =
        vec![column("user_id", Scalar::Bigint), column("ord", Scalar::Bigint), column("at", Scalar::Text)];
    tables.push(Table { name: "visits".into(), columns: visits, key_columns: 2, soft_delete: false });
    let second = mapping().next("second");
    let plan = place.change(&second, &tables).await.unwrap();
    assert_eq!(origins(&plan), [Origin::Own, Origin::Own, Origin::Created]);
    assert_eq!(place.stored().await, second);
    assert!(!second.filled && second.version == 2);
    assert_eq!(place.query("SELECT age IS NULL AND theirs = 'kept' FROM users").await, ["t", "t"]);
    let missing = ddl::keys_missing(&place.session().await, "public", &tables).await.unwrap();
    assert_eq!(missing, [] as [&Table; 0]);

    // Again: nothing.
    let plan = place.change(&second, &tables).await.unwrap();
    assert_eq!(plan.steps(When::AtOnce).count(), 0);
    mapping_versions::set_filled(&mut place.session().await, "p", NS, 2).await.unwrap();
    assert!(place.stored().await.filled);

    // Small integers are widened; an earlier table is left alone.
    let mut rows = Rows::new(3);
    push(
        &mut rows,
        Framing::Composite,
        &tables[0],
        0,
        &[bigint(3), text("n"), None, None, bigint(i64::from(i32::MIN))],
    );
    write(&place, &tables, &rows, 3).await;
    tables[0].columns[4] = column("age", Scalar::Double);
    tables.remove(1);
    let third = second.next("third");
    let plan = place.change(&third, &tables).await.unwrap();
    assert_eq!(plan.left, [r#""public"."messages""#]);
    assert_eq!(place.query("SELECT age FROM users WHERE id = 3").await, ["-2147483648"]);
    assert_eq!(place.query("SELECT count(*) FROM messages").await, ["4"]);
}

async fn write(place: &Place, tables: &[Table], rows: &Rows, id: i64) {
    let (upserted, deleted) = (keys([id]), keys([]));
    let batch = CollectionBatch { collection: USERS, tables, rows, upserted: &upserted, deleted: &deleted };
    place.applier().await.apply(&Batch { collections: vec![batch], ..Batch::default() }).await.unwrap();
}

/// G4: nothing is rounded: if a value would not read back unchanged from a double, its column stays as it is.
#[tokio::test]
async fn a_column_with_large_integers_is_not_widened() {
    let mut tables = users();
    tables[0].columns.push(column("age", Scalar::Bigint));
    let place = Place::with_users("large", &tables).await;
    place.query("INSERT INTO users (id, age) VALUES (1, 2147483648)").await;
    tables[0].columns[4] = column("age", Scalar::Double);
    let error = place.change(&mapping().next("second"), &tables).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    assert!(error.to_string().contains(r#""age" bigint with values that would not read back"#), "{error}");
    assert_eq!(place.stored().await.version, 1);
    // Nor is a large table rewritten.
    place.query("UPDATE users SET age = 1; INSERT INTO users (id, name) SELECT n, repeat('x', 1900) FROM generate_series(2, 40000) n").await;
    let error = place.change(&mapping().next("second"), &tables).await.unwrap_err();
    assert!(error.to_string().contains("more than 64 MB"), "{error}");
    // Integers widen to bigint likewise.
    place.query("TRUNCATE users; ALTER TABLE users ALTER age TYPE integer; INSERT INTO users (id, age) VALUES (1, 7)").await;
    tables[0].columns[4] = column("age", Scalar::Bigint);
    place.change(&mapping().next("second"), &tables).await.unwrap();
    assert_eq!(place.query("SELECT pg_typeof(age) FROM users").await, ["bigint"]);
}

/// A change must not wait behind a user's long query forever, with all other queries queued behind it.
#[tokio::test]
async fn a_locked_table_is_waited_for_only_so_long() {
    let place = Place::with_users("locked", &users()).await;
    let mut tables = users();
    tables[1].columns.push(column("at", Scalar::Text));
    let user = place.client().await;
    user.batch_execute("BEGIN; SELECT FROM messages").await.unwrap();
    let started = Instant::now();
    let error = place.change(&mapping().next("second"), &tables).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway, "{error}");
    assert!(error.to_string().contains("lock timeout"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(place.stored().await.version, 1);
    // A table that needs no change waits for no lock.
    place.change(&mapping(), &users()).await.unwrap();
    user.batch_execute("COMMIT").await.unwrap();
    place.change(&mapping().next("second"), &tables).await.unwrap();
}

/// Trap: two collections, or pipelines, that write to one table.
#[tokio::test]
async fn a_table_has_one_collection() {
    let place = Place::with_users("owner", &users()).await;
    let other = Mapping::first("shop.people", "text");
    let error = place.change(&other, &users()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    let there = r#""public"."users": a table of collection shop.users of pipeline p where"#;
    assert!(error.to_string().contains(there), "{error}");
    let q = place.target_of("elsewhere", "q");
    place.query("CREATE SCHEMA elsewhere").await;
    let fence = super::sink::fence(&q).await;
    let mut session = fence.target().connect().await.unwrap();
    ddl::change_tables(&mut session, fence.target(), &mapping(), &users()).await.unwrap();
    // In another schema than that of its rows, a pipeline would continue with empty tables.
    let moved = place.target_of("elsewhere", "p");
    place.query("DROP SCHEMA elsewhere CASCADE; CREATE SCHEMA elsewhere; DELETE FROM docrow.schemas WHERE pipeline = 'q'").await;
    let error =
        ddl::change_tables(&mut place.session().await, &moved, &mapping(), &users()).await.unwrap_err();
    assert!(error.to_string().contains(r#"rows, in "public"."messages", "public"."users""#), "{error}");
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let place = Place::new("plan").await;
    place.query(MESSAGES_DDL).await;
    let mut session = place.session().await;
    let tables = users();
    let wanted = Wanted { tables: &tables, foreign_keys: true };
    let plan = ddl::plan(&mut session, &place.target, NS, wanted).await.unwrap();
    assert_eq!(origins(&plan), [Origin::Created, Origin::Adopted]);
    let later: Vec<_> = plan.steps(When::AfterCopy).map(|step| step.sql.as_str()).collect();
    let foreign =
        r#"ALTER TABLE "public"."messages" ADD FOREIGN KEY ("user_id") REFERENCES "public"."users" ("id")"#;
    assert_eq!(later, [r#"ALTER TABLE "public"."users" ADD PRIMARY KEY ("id")"#, foreign]);
    assert_eq!(
        place.query("SELECT to_regclass('users') IS NULL AND to_regnamespace('docrow') IS NULL").await,
        ["t"]
    );
    // Its suggestion can be run as it is.
    for when in [When::AtOnce, When::AfterCopy] {
        for step in plan.steps(when) {
            place.query(&step.sql).await;
        }
    }
    let after = ddl::plan(&mut session, &place.target, NS, wanted).await.unwrap();
    assert_eq!(after.steps(When::AtOnce).count() + after.steps(When::AfterCopy).count(), 0);
}

/// The metadata of an earlier docrow gets missing columns. A copy of that docrow is not continued.
#[tokio::test]
async fn earlier_bookkeeping_is_completed() {
    let place = Place::with_users("earlier", &users()).await;
    place
        .query(
            "ALTER TABLE docrow.schemas DROP COLUMN tables, DROP COLUMN filled, DROP COLUMN stopped; \
             ALTER TABLE docrow.schemas DROP COLUMN adopted, DROP COLUMN masked_by; DROP TABLE docrow.resyncs; \
             ALTER TABLE docrow.dead_letters DROP COLUMN retry_at, DROP COLUMN document_key; \
             ALTER TABLE docrow.pipelines DROP COLUMN epoch, DROP COLUMN holder, DROP COLUMN seen_at; \
             ALTER TABLE docrow.progress DROP COLUMN fingerprint; ALTER TABLE docrow.chunks DROP COLUMN replaces; \
             DROP FUNCTION docrow.enter(text, bigint, bigint)",
        )
        .await;
    for _ in 0..2 {
        let error = mapping_versions::load(&place.plain().connect().await.unwrap(), "p").await.unwrap_err();
        assert_eq!(error.kind(), Kind::TargetRefused);
        assert!(error.to_string().contains("was copied by an earlier docrow"), "{error}");
        let several = [(); 4].map(|()| async {
            schema::create(&mut place.plain().connect().await.unwrap(), "public").await.unwrap();
        });
        futures_util::future::join_all(several).await;
    }
    // The pipeline's row is unchanged, and it can be taken.
    assert_eq!(place.query("SELECT epoch FROM docrow.pipelines").await, ["0"]);
    let place = place.freed().0;
    let fence = super::sink::fence(&place.target).await;
    assert_eq!(resync_requests::asked(&fence.target().connect().await.unwrap(), "p").await.unwrap(), []);
    assert_eq!(mapping_versions::load(&place.session().await, "another").await.unwrap(), []);
    let columns = "SELECT count(*) FROM pg_attribute WHERE attname IN ('tables', 'filled', 'stopped', 'retry_at', 'document_key') \
        AND attrelid IN ('docrow.schemas'::regclass, 'docrow.dead_letters'::regclass)";
    assert_eq!(place.query(columns).await, ["5"]);
}

/// A dropped table is not created again without its rows, as if nothing were missing.
#[tokio::test]
async fn what_was_dropped_is_not_made_again() {
    for (name, drop, lost) in [
        ("dropped_table", "DROP TABLE messages", "messages was dropped or renamed"),
        ("dropped_column", "ALTER TABLE users DROP COLUMN score", "users.score was dropped or renamed"),
    ] {
        let place = Place::with_users(name, &users()).await;
        place.query(drop).await;
        let error = place.change(&mapping(), &users()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TargetRefused, "{error}");
        assert!(error.to_string().contains(lost) && error.to_string().contains("restore it"), "{error}");
    }
}

/// Tables change while docrow writes to them: the error says what happened, and what to do. Since the server
/// can't detect that COPY accepts any bytes for a column's new type, docrow checks for that.
#[tokio::test]
async fn what_is_dropped_or_changed_meanwhile_is_said() {
    let place = Place::with_users("meanwhile", &users()).await;
    place.build_keys(&users()).await;
    let none = keys([]);
    for (change, back, words) in [
        (
            "ALTER TABLE users DROP COLUMN score",
            "ALTER TABLE users ADD COLUMN score numeric",
            ["column \"score\"", "restore it"],
        ),
        (
            "ALTER TABLE messages RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO messages",
            ["messages\" does not exist", "restore it"],
        ),
        (
            "ALTER TABLE users ALTER score TYPE boolean USING true",
            "ALTER TABLE users ALTER score TYPE numeric USING 1",
            ["\"score\" is of type boolean", "change it back"],
        ),
        (
            "ALTER TABLE users DROP CONSTRAINT users_pkey",
            "ALTER TABLE users ADD PRIMARY KEY (id)",
            ["write rows to \"users\"", "start docrow again"],
        ),
    ] {
        let mut applier = place.applier().await;
        let rows = documents(Framing::Composite, &[1], "first", 1);
        apply(&mut applier, &rows, (&keys([1]), &none), 1).await.unwrap();
        place.query(change).await;
        let rows = documents(Framing::Composite, &[1], "second", 1);
        let error = apply(&mut applier, &rows, (&keys([1]), &none), 2).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TargetRefused, "{change}: {error}");
        for words in words {
            assert!(error.to_string().contains(words), "{change}: {error}");
        }
        place.query(back).await;
    }

    let chunk = StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false };
    let mut session = place.session().await;
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, vec![chunk])], &[]).await.unwrap();
    let mut copier = Copier::new(session, &place.target);
    let tables = users();
    drop(copier.begin(USERS, &tables).await.unwrap());
    place.query("ALTER TABLE messages ALTER body TYPE bytea USING body::bytea").await;
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[7], "n", 1)).await.unwrap();
    let error = writer.commit(Marker { collection: NS, number: 0, documents: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    let said = r#"commit chunk 0 of shop.users: "public"."messages", column body, is of type bytea now"#;
    assert!(error.to_string().starts_with(said), "{error}");
    assert_eq!(place.query("SELECT count(*) FROM users WHERE id = 7").await, ["0"]);
}
