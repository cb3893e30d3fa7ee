//! G9, one writer: a pipeline is fenced in PostgreSQL, and a fenced-off process can never commit.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use docrow::{
    error::{Error, Kind},
    mapping::{Framing, Rows},
    model::{partition::Partition, resync_reason::Reason},
    sink::{
        Session, Target,
        metadata::{
            chunks::{self, Marker, SnapshotPlan, StoredChunk},
            dead_letters,
            fence::{Fence, Holder, OnHeld},
            mapping_versions,
            positions::{self, StoredPosition},
            resync_requests,
            runner::holder,
        },
        rows::{
            copy::Copier,
            upsert::{Applier, Batch, CollectionBatch},
        },
        tables::{ddl, sql},
    },
};
use tokio::{task::JoinSet, time::timeout};

use super::sink::{FINGERPRINT, NS, Place, USERS, apply, documents, fence, keys, mapping, position, users};

const DEADLINE: Duration = Duration::from_secs(60);

async fn acquire(target: &Target, holder: &Holder, on_held: OnHeld) -> docrow::error::Result<Fence> {
    timeout(DEADLINE, Fence::acquire(target, holder, on_held)).await.expect("the pipeline is taken in time")
}

async fn is_pending(future: &mut Pin<&mut impl Future>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

/// Polls `future`, which must not end, until the query returns `t`.
async fn until(place: &Place, question: &str, future: &mut Pin<&mut impl Future>) {
    let deadline = Instant::now() + DEADLINE;
    while place.query(question).await != ["t"] {
        assert!(is_pending(future).await, "it must wait");
        assert!(Instant::now() < deadline, "{question}");
    }
}

/// A session waits for an exclusive advisory lock: for the end of other transactions.
const WAITED_FOR: &str = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
    WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND NOT granted AND datname = current_database()";

const WAITS_SINCE: &str = "SELECT query_start::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
    WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND NOT granted AND datname = current_database()";

const EPOCH: &str = "SELECT epoch FROM docrow.pipelines WHERE pipeline = 'p'";

/// A session that has written with `fence`, whose own connection is gone: the pipeline is free, and the
/// process does not know.
async fn deposed(fence: Fence) -> (Target, Session) {
    let target = fence.target().clone();
    let session = target.connect().await.unwrap();
    (target, session)
}

/// G9: a second process with the same pipeline name is refused.
#[tokio::test]
async fn a_second_process_is_refused_until_the_first_ends() {
    let place = Place::new("fence").await;
    let mut first = fence(&place.target).await;
    assert_eq!(place.query(EPOCH).await, ["1"]);
    let error = acquire(&place.target, &Holder::new(), OnHeld::Refuse).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    let said = error.to_string();
    let own = format!("docrow process {}", std::process::id());
    assert!(
        said.contains("PostgreSQL process") && said.contains(&own) && said.contains("--standby"),
        "{said}"
    );
    let session = place.session().await;
    assert!(holder(&session, "p").await.unwrap().unwrap().contains(&own));
    assert_eq!(holder(&session, "q").await.unwrap(), None);
    fence(&place.target_of("public", "another")).await;

    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name LIKE 'docrow fence %' AND datname = current_database()";
    place.query(end).await;
    let lost = timeout(DEADLINE, first.hold()).await.unwrap();
    assert_eq!(lost.kind(), Kind::TargetAway, "{lost}");
    let second = fence(&place.target).await;
    assert_eq!(place.query(EPOCH).await, ["2"]);
    drop(second);
    // Dropping it frees it.
    fence(&place.target).await;
}

/// G9: of many simultaneous processes, one gets it.
#[tokio::test]
async fn one_of_many_gets_the_pipeline() {
    let place = Place::new("fence_many").await;
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let target = place.target.clone();
        tasks.spawn(async move { acquire(&target, &Holder::new(), OnHeld::Refuse).await });
    }
    let taken = tasks.join_all().await;
    let refused = taken.iter().filter_map(|taken| taken.as_ref().err()).map(Error::kind);
    assert_eq!(refused.collect::<Vec<_>>(), [Kind::Fenced; 5]);
    assert_eq!(place.query(EPOCH).await, ["1"]);
}

/// A process whose own connection broke does not wait for the server to notice.
#[tokio::test]
async fn a_process_takes_its_own_pipeline_again_at_once() {
    let place = Place::new("fence_again").await;
    let holder = Holder::new();
    let mut first = acquire(&place.target, &holder, OnHeld::Refuse).await.unwrap();
    let began = Instant::now();
    let second = acquire(&place.target, &holder, OnHeld::Refuse).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(timeout(DEADLINE, first.hold()).await.unwrap().kind(), Kind::TargetAway);
    assert_eq!(place.query(EPOCH).await, ["2"]);
    drop(second);
}

/// G9: a frozen holder loses the pipeline; one that gives signs of life does not, however long the other
/// waits.
#[tokio::test]
async fn a_silent_holder_is_taken_over_from_and_a_living_one_is_not() {
    let place = Place::new("fence_silent").await;
    let other = place.target_of("public", "q");
    // What remains of a frozen holder: a connection with its name and its lock.
    let first = fence(&place.target).await;
    let lock = "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
        WHERE locktype = 'advisory' AND datname = current_database()";
    let lock = place.query(lock).await;
    drop(first);
    let silent = place.client().await;
    let stopped =
        format!("SET application_name = 'docrow fence stopped'; SELECT pg_advisory_lock({})", lock[0]);
    silent.batch_execute(&stopped).await.unwrap();
    let mut living = fence(&other).await;
    let began = Instant::now();
    let [standby, waits] = [Holder::new(), Holder::new()];
    let took = tokio::select! {
        biased;
        lost = living.hold() => panic!("{lost}"),
        taken = acquire(&other, &waits, OnHeld::StandBy) => panic!("taken: {taken:?}"),
        took = acquire(&place.target, &standby, OnHeld::StandBy) => took.unwrap(),
    };
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(silent.simple_query("SELECT 1").await.is_err());
    // Ending the standby leaves nothing behind.
    drop(living);
    fence(&other).await;
    let error = acquire(&place.target, &Holder::new(), OnHeld::Refuse).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    drop(took);
}

/// G9: holding ends when another process has raised the epoch.
#[tokio::test]
async fn a_holder_notices_that_it_is_none() {
    let place = Place::new("fence_notice").await;
    let mut fence = fence(&place.target).await;
    place.query("UPDATE docrow.pipelines SET epoch = epoch + 1").await;
    let lost = timeout(DEADLINE, fence.hold()).await.unwrap();
    assert_eq!(lost.kind(), Kind::Fenced, "{lost}");
}

/// G9: whatever a fenced-off process does, nothing of it is committed.
#[tokio::test]
async fn a_fenced_off_process_can_not_write() {
    let place = Place::with_users("fence_off", &users()).await;
    place.build_keys(&users()).await;
    let (mut applier, tables, none) = (place.applier().await, users(), keys([]));
    let rows = documents(Framing::Composite, &[1], "first", 1);
    apply(&mut applier, &rows, (&keys([1]), &none), 1).await.unwrap();
    let chunk = [StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false }];
    let mut session = place.session().await;
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, chunk.to_vec())], &[]).await.unwrap();
    let mut copier = Copier::new(place.session().await, &place.target);
    let dump = async || {
        let all = "SELECT json_agg(t) FROM (SELECT (SELECT json_agg(u) FROM users u), (SELECT json_agg(m) FROM messages m), \
            (SELECT json_agg(p) FROM docrow.progress p), (SELECT json_agg(c) FROM docrow.chunks c), \
            (SELECT json_agg(s) FROM docrow.schemas s), (SELECT json_agg(d) FROM docrow.dead_letters d), \
            (SELECT json_agg(r) FROM docrow.resyncs r)) t";
        place.query(all).await
    };
    let before = dump().await;
    place.query("UPDATE docrow.pipelines SET epoch = epoch + 1").await;

    let mut outcomes: Vec<(&str, Error)> = Vec::new();
    let rows = documents(Framing::Composite, &[1, 2], "second", 2);
    outcomes.push(("apply", apply(&mut applier, &rows, (&keys([1, 2]), &none), 2).await.unwrap_err()));
    let nothing = Rows::new(2);
    outcomes.push(("delete", apply(&mut applier, &nothing, (&none, &keys([1])), 2).await.unwrap_err()));
    outcomes.push(("copy", copier.begin(USERS, &tables).await.err().unwrap()));
    let s = &mut session;
    let stored = StoredPosition {
        partition: Partition(0),
        collection: NS.into(),
        position: position(9),
        fingerprint: None,
    };
    let second = mapping().next("second");
    outcomes.push(("reset", positions::reset(s, "p", &[stored]).await.unwrap_err()));
    outcomes.push((
        "store",
        chunks::store(s, "p", &[SnapshotPlan::new("shop.more", chunk.to_vec())], &[]).await.unwrap_err(),
    ));
    outcomes.push(("replace", chunks::replace(s, "p", NS, &chunk, &[]).await.unwrap_err()));
    outcomes.push(("filled", mapping_versions::set_filled(s, "p", NS, 1).await.unwrap_err()));
    outcomes.push(("stopped", mapping_versions::set_stopped(s, "p", NS, Some("x")).await.unwrap_err()));
    outcomes.push(("answered", dead_letters::answered(s, "p", &[1]).await.unwrap_err()));
    outcomes.push(("change", ddl::change_tables(s, &place.target, &second, &users()).await.unwrap_err()));
    outcomes.push(("drop", ddl::drop_tables(s, &place.target, NS).await.unwrap_err()));
    outcomes.push(("key", ddl::build_key(s, "public", &tables[0]).await.unwrap_err()));
    outcomes.push(("references", ddl::add_foreign_keys(s, "public", &tables).await.unwrap_err()));
    outcomes.push(("ask", resync_requests::ask(s, "p", &[NS], Reason::HistoryLost).await.unwrap_err()));
    for (what, error) in outcomes {
        assert_eq!(error.kind(), Kind::Fenced, "{what}: {error}");
        assert!(error.to_string().contains("taken the pipeline over"), "{what}: {error}");
    }
    assert_eq!(dump().await, before);
}

/// A session that no fence's target has connected can't write by mistake.
#[tokio::test]
async fn without_the_pipeline_nothing_is_written() {
    let place = Place::with_users("fence_without", &users()).await;
    let plain = place.plain();
    let session = plain.connect().await.unwrap();
    let error = Applier::new(session, &plain, Partition(0), FINGERPRINT).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Bug);
    let error = positions::reset(&mut plain.connect().await.unwrap(), "p", &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Bug);
}

/// A batch's statements are sent together: if the first of them, which begins the transaction, is cancelled,
/// the rest runs without one, each by itself. None of them does anything then.
#[tokio::test]
async fn statements_outside_of_their_transaction_do_nothing() {
    let place = Place::with_users("fence_begin", &users()).await;
    place.build_keys(&users()).await;
    let rows = documents(Framing::Composite, &[1], "n", 1);
    apply(&mut place.applier().await, &rows, (&keys([1]), &keys([])), 1).await.unwrap();
    let (tables, client) = (users(), place.client().await);
    let ids = vec![1_i64];
    for table in &tables {
        client.batch_execute(&sql::create_row_type(&table.name, table)).await.unwrap();
        assert_eq!(client.execute(&sql::delete("public", table), &[&ids]).await.unwrap(), 0);
    }
    let row = "SELECT ARRAY[ROW(7, 'new', 1, '{}')::pg_temp.users]";
    let upsert = sql::upsert("public", &tables[0], "users").replace("$1", &format!("({row})"));
    assert_eq!(client.execute(&upsert, &[]).await.unwrap(), 0, "{upsert}");
    let row = "SELECT ARRAY[ROW(1, 5, 'new')::pg_temp.messages]";
    let merge = sql::merge("public", &tables[1], "messages").replace("$2", &format!("({row})"));
    assert_eq!(client.execute(&merge, &[&ids]).await.unwrap(), 0, "{merge}");
    assert_eq!(
        place.query("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM messages)").await,
        ["2"]
    );
}

/// G9: the epoch is not raised across a transaction. One that ends in time counts.
#[tokio::test]
async fn a_chunk_that_is_under_way_is_committed_before_the_pipeline_passes_on() {
    let place = Place::with_users("fence_chunk", &users()).await;
    let (free, first) = place.freed();
    let (target, mut session) = deposed(first).await;
    let chunk = [StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false }];
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, chunk.to_vec())], &[]).await.unwrap();
    let (mut copier, tables, standby) = (Copier::new(session, &target), users(), Holder::new());
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[1], "n", 1)).await.unwrap();
    let mut second = pin!(acquire(&free.target, &standby, OnHeld::StandBy));
    until(&free, WAITED_FOR, &mut second).await;
    assert_eq!(free.query(EPOCH).await, ["1"]);
    writer.commit(Marker { collection: NS, number: 0, documents: 1 }).await.unwrap();
    let second = second.await.unwrap();
    let session = second.target().connect().await.unwrap();
    assert_eq!(chunks::load(&session, "p", NS).await.unwrap()[0].copied, Some(1));
    assert_eq!(copier.begin(USERS, &tables).await.err().unwrap().kind(), Kind::Fenced);
}

/// G9: one that does not end is terminated, and nothing of it stays.
#[tokio::test]
async fn a_chunk_that_does_not_end_is_rolled_back_before_the_pipeline_passes_on() {
    let place = Place::with_users("fence_stuck", &users()).await;
    let (free, first) = place.freed();
    let (target, mut session) = deposed(first).await;
    let chunk = [StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false }];
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, chunk.to_vec())], &[]).await.unwrap();
    let (mut copier, tables) = (Copier::new(session, &target), users());
    let mut writer = copier.begin(USERS, &tables).await.unwrap();
    writer.write(&mut documents(Framing::Copy, &[1], "n", 1)).await.unwrap();
    let second = fence(&free.target).await;
    let error = writer.commit(Marker { collection: NS, number: 0, documents: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetAway, "{error}");
    assert_eq!(free.query("SELECT count(*) FROM users").await, ["0"]);
    let session = second.target().connect().await.unwrap();
    assert_eq!(chunks::load(&session, "p", NS).await.unwrap()[0].copied, None);
}

/// G2, G9: a batch of the previous process that commits late is seen by the next one, which has another
/// number of partitions: no earlier position is distributed.
#[tokio::test]
async fn a_late_batch_is_seen_by_a_change_of_the_number_of_partitions() {
    let place = Place::with_users("fence_late", &users()).await;
    place.build_keys(&users()).await;
    let stored = |partition, at| StoredPosition {
        partition: Partition(partition),
        collection: NS.into(),
        position: position(at),
        fingerprint: Some(FINGERPRINT),
    };
    positions::reset(&mut place.session().await, "p", &[stored(0, 5), stored(1, 5)]).await.unwrap();
    let mut applier = place.applier().await;
    let (none, rows) = (keys([]), |name| documents(Framing::Composite, &[1], name, 0));
    apply(&mut applier, &rows("first"), (&keys([1]), &none), 6).await.unwrap();
    let (free, first) = place.freed();
    drop(first);
    // The batch waits for a row that another session has locked.
    let client = free.client().await;
    client.batch_execute("BEGIN; SELECT FROM users FOR UPDATE").await.unwrap();
    let (late, upserted) = (rows("late"), keys([1]));
    let standby = Holder::new();
    let second = {
        let mut both = pin!(async {
            tokio::join!(
                apply(&mut applier, &late, (&upserted, &none), 7),
                acquire(&free.target, &standby, OnHeld::StandBy)
            )
        });
        until(&free, WAITED_FOR, &mut both).await;
        client.batch_execute("COMMIT").await.unwrap();
        let (applied, second) = both.await;
        applied.unwrap();
        second.unwrap()
    };
    let mut session = second.target().connect().await.unwrap();
    let found = positions::load(&session, "p").await.unwrap();
    assert_eq!(found, [stored(0, 7), stored(1, 5)]);
    // Their minimum, for the only partition that there is now. Then the former process returns.
    positions::reset(&mut session, "p", &[stored(0, 5)]).await.unwrap();
    let error = apply(&mut applier, &rows("later"), (&upserted, &none), 8).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert_eq!(positions::load(&session, "p").await.unwrap(), [stored(0, 5)]);
    assert_eq!(free.query("SELECT name FROM users").await, ["late"]);
}

/// Another user's transactions may not be terminated: they are waited for, and the log says what to grant.
#[tokio::test]
async fn what_may_not_be_ended_is_waited_for() {
    let place = Place::with_users("fence_role", &users()).await;
    let (free, first) = place.freed();
    let (target, session) = deposed(first).await;
    free.query("DROP ROLE IF EXISTS docrow_standby; CREATE ROLE docrow_standby LOGIN").await;
    free.query("GRANT ALL ON SCHEMA docrow, public TO docrow_standby").await;
    free.query("GRANT ALL ON ALL TABLES IN SCHEMA docrow TO docrow_standby").await;
    let (mut copier, tables, standby) = (Copier::new(session, &target), users(), Holder::new());
    let writer = copier.begin(USERS, &tables).await.unwrap();
    let other = free.target_as("docrow_standby");
    let mut second = pin!(acquire(&other, &standby, OnHeld::StandBy));
    until(&free, WAITED_FOR, &mut second).await;
    // It has tried to terminate them once it waits again.
    let since = free.query(&format!("SELECT min(at) FROM ({WAITS_SINCE}) AS w (at)")).await[0].clone();
    let anew = format!("SELECT count(*) > 0 FROM ({WAITS_SINCE}) AS w (at) WHERE at <> '{since}'");
    until(&free, &anew, &mut second).await;
    drop(writer);
    drop(second.await.unwrap());
    drop(copier);
    free.query("DROP OWNED BY docrow_standby CASCADE; DROP ROLE docrow_standby").await;
}

/// G9: a holder of the pipeline writes as long as it can, while the pipeline passes from one process to the
/// next. In the order in which they commit, no epoch comes after a later one.
#[tokio::test]
async fn writers_of_different_epochs_never_interleave() {
    let place = Place::with_users("fence_order", &users()).await;
    place.build_keys(&users()).await;
    let order = "CREATE TABLE written (epoch bigint, batches bigint); INSERT INTO written VALUES (0, 0); \
        CREATE FUNCTION in_order() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE before bigint; BEGIN \
            PERFORM pg_sleep(CASE WHEN random() < 0.5 THEN 0.2 ELSE 0 END); SELECT epoch INTO before FROM public.written FOR UPDATE; \
            IF before > current_setting('docrow.entered')::bigint THEN RAISE EXCEPTION 'out of order'; END IF; \
            UPDATE public.written SET epoch = current_setting('docrow.entered')::bigint, batches = batches + 1; \
            RETURN NULL; END $$; \
        CREATE TRIGGER in_order AFTER INSERT OR UPDATE ON users FOR EACH STATEMENT EXECUTE FUNCTION in_order()";
    place.query(order).await;
    let (free, first) = place.freed();
    drop(first);
    let (mut tasks, left) = (JoinSet::new(), Arc::new(AtomicUsize::new(3)));
    for task in 0..3 {
        let (target, left) = (free.target.clone(), left.clone());
        tasks.spawn(async move {
            for term in 0..3 {
                let fence = Fence::acquire(&target, &Holder::new(), OnHeld::StandBy).await.unwrap();
                let held = fence.target().clone();
                let session = held.connect().await.unwrap();
                let mut applier = Applier::new(session, &held, Partition(0), FINGERPRINT).await.unwrap();
                let mut fence = Some(fence);
                for round in 0.. {
                    let rows = documents(Framing::Composite, &[task], &format!("{term} {round}"), 1);
                    let (tables, upserted, deleted) = (users(), keys([task]), keys([]));
                    let batch = CollectionBatch {
                        collection: USERS,
                        tables: &tables,
                        rows: &rows,
                        upserted: &upserted,
                        deleted: &deleted,
                    };
                    let batch = Batch { collections: vec![batch], ..Batch::default() };
                    match applier.apply(&batch).await {
                        Ok(_) => {}
                        Err(error) => {
                            assert!(matches!(error.kind(), Kind::Fenced | Kind::TargetAway), "{error}");
                            assert!(fence.is_none(), "{error}");
                            break;
                        }
                    }
                    if round == 5 {
                        fence = None;
                    }
                    // There is no other process to take over.
                    if round > 5 && left.load(Ordering::SeqCst) == 1 {
                        break;
                    }
                }
            }
            left.fetch_sub(1, Ordering::SeqCst);
        });
    }
    timeout(DEADLINE, tasks.join_all()).await.unwrap();
    let written = free.query("SELECT epoch || ' ' || (batches > 60) FROM written").await;
    assert_eq!(written, ["10 true"], "every term has written");
}
