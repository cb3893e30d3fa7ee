//! The figures of a running process.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use mongodb::bson::{Document, doc};

use super::{exposition::Exposition, files::promtool};
use crate::support::{Docrow, Home, Place, Proxy, RETRIES, SENTINELS};

/// `orders`, whose `n` is a number, and whose key is one.
const ORDERS: &str = r#"
collection = "NS.orders"
table = "orders"
extra = "_extra"
[key]
column = "id"
type = "bigint"
[columns]
n = { path = "n", type = "bigint" }
note = { path = "note", type = "text" }
[[tables]]
table = "lines"
path = "lines[]"
parent = "order_id"
ordinals = ["position"]
columns = { item = { path = "item", type = "text" } }
"#;

/// A reader of docrow's metrics.
struct Scraped {
    port: u16,
    /// `database.orders`.
    orders: String,
}

impl Scraped {
    fn new(place: &Place, home: &mut Home) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        home.set("serve.listen", format!("127.0.0.1:{port}"));
        home.map("orders.toml", &ORDERS.replace("NS", &place.name));
        Self { port, orders: format!("{}.orders", place.name) }
    }

    async fn now(&self) -> Exposition {
        Exposition::of(self.port).await.expect("it listens")
    }

    /// Waits until the figures satisfy the condition.
    async fn until(
        &self,
        docrow: &mut Docrow,
        what: &str,
        mut so: impl FnMut(&Exposition) -> bool,
    ) -> Exposition {
        let mut last = None;
        docrow
            .until(what, async || {
                last = Exposition::of(self.port).await;
                last.as_ref().is_some_and(&mut so)
            })
            .await;
        last.unwrap()
    }

    /// A series of `orders`.
    fn of(&self, name: &str) -> String {
        format!("{name}{{collection=\"{}\"}}", self.orders)
    }
}

fn order(id: i32) -> Document {
    doc! { "_id": id, "n": id, "lines": [{ "item": "pen" }, { "item": "ink" }] }
}

/// Issue 6: every metric is there, with HELP and TYPE, as Prometheus requires, and the figures match the
/// work: an insert increases the rows by as many as there are in PostgreSQL.
#[tokio::test]
async fn figures_agree_with_what_was_written() {
    let place = Place::shared("metrics_figures").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_many((0..500).map(order)).await.unwrap();
    // A value that does not fit its column, one that does not fit its table, and a key that can't be
    // converted.
    orders.insert_one(doc! { "_id": 500, "n": "many", "lines": "none" }).await.unwrap();
    orders.insert_one(doc! { "_id": "a key that is a secret", "n": 1 }).await.unwrap();
    let mut home = Home::new(&place);
    let scraped = Scraped::new(&place, &mut home);
    let mut docrow = home.run();

    place.settle(&mut docrow).await;
    let rows = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM lines) + (SELECT count(*) FROM sentinels)";
    let copied = place.number(rows).await.unwrap();
    assert_eq!(copied, 501 + 1000 + SENTINELS);
    let number = |count: i64| count as f64;
    let applied = |shown: &Exposition| shown.get("docrow_events_applied_total");
    let before = scraped
        .until(&mut docrow, "all is live, and counted", |shown| {
            shown.find(&live(&scraped)) == Some(1.0) && applied(shown) == number(SENTINELS)
        })
        .await;
    assert_eq!(before.missing(), [""; 0], "{}", before.text);
    assert_eq!(before.get("docrow_rows_written_total{method=\"copy\"}"), number(copied));
    assert_eq!(before.get(&scraped.of("docrow_snapshot_documents_done")), 502.0);
    assert_eq!(before.get(&scraped.of("docrow_snapshot_documents_estimated")), 502.0);
    assert_eq!(before.get(&scraped.of("docrow_documents_copied_total")), 502.0);
    assert_eq!(before.get(&scraped.of("docrow_misfits_total")), 2.0);
    assert_eq!(before.get(&scraped.of("docrow_dead_letters_total")), 1.0);
    assert_eq!(before.get(&scraped.of("docrow_dead_letters_stored")), 1.0);
    assert_eq!(before.get("docrow_leader{pipeline=\"docrow\"}"), 1.0);
    assert_eq!(before.get(&scraped.of("docrow_documents_written_total")), 0.0);
    assert!(before.get("docrow_source_read_bytes_total{from=\"snapshot\"}") > 500.0 * 50.0);
    assert!(before.get("docrow_target_written_bytes_total{method=\"copy\"}") > number(copied) * 10.0);

    orders.insert_many((1000..1200).map(order)).await.unwrap();
    orders.update_many(doc! { "_id": { "$lt": 50 } }, doc! { "$set": { "note": "new" } }).await.unwrap();
    // An append to an array requires a lookup.
    let push = doc! { "$push": { "lines": { "item": "cap" } } };
    orders.update_many(doc! { "_id": { "$gte": 50, "$lt": 60 } }, push).await.unwrap();
    orders.delete_many(doc! { "_id": { "$gte": 100, "$lt": 110 } }).await.unwrap();
    orders.delete_one(doc! { "_id": "a key that is a secret" }).await.unwrap();
    place.settle(&mut docrow).await;
    let events = 200.0 + 50.0 + 10.0 + 10.0 + 1.0;
    let wanted = applied(&before) + events + number(SENTINELS);
    let after = scraped.until(&mut docrow, "all is counted", |shown| applied(shown) >= wanted).await;
    let grown = |series: &str| after.get(series) - before.get(series);
    assert_eq!(applied(&after), wanted);
    // The one without a key has no rows to delete.
    assert_eq!(grown(&scraped.of("docrow_documents_written_total")), events - 1.0);
    assert_eq!(grown("docrow_events_read_total"), events + number(SENTINELS));
    // The sentinels are among the earlier rows.
    let written = 200.0 * 3.0 + 50.0 + 10.0 + number(SENTINELS);
    let upserted = grown("docrow_rows_written_total{method=\"upsert\"}");
    // The root rows of ten orders did not change.
    assert_eq!(upserted, written, "{}", after.text);
    assert_eq!(grown("docrow_rows_deleted_total"), 10.0 * 3.0);
    assert_eq!(grown("docrow_rows_written_total{method=\"copy\"}"), 0.0);
    assert!(grown("docrow_lookups_total") >= 10.0);
    assert_eq!(grown("docrow_batch_events_sum"), events + number(SENTINELS));
    assert!(grown("docrow_batch_events_count") >= 1.0);
    assert!(grown("docrow_end_to_end_latency_seconds_count") >= 1.0);
    assert!(grown("docrow_source_read_bytes_total{from=\"stream\"}") > 200.0 * 50.0);
    assert_eq!(after.get(&scraped.of("docrow_dead_letters_stored")), 0.0, "it is healed");
    for histogram in
        ["docrow_end_to_end_latency_seconds", "docrow_batch_events", "docrow_lookup_duration_seconds"]
    {
        let all = after.get(&format!("{histogram}_bucket{{le=\"+Inf\"}}"));
        assert_eq!(all, after.get(&format!("{histogram}_count")));
    }
    assert!(!after.text.contains("secret"), "G12\n{}", after.text);
    let (good, said) = promtool(&["check", "metrics"], &after.text);
    assert!(good && said.trim().is_empty(), "{said}");
    latency_is_what_it_took(&place, &scraped, &mut docrow).await;
    docrow.stop().await.quiet_but(&["dead letter", "document by document"]);
    place.assert_same(&home).await;
}

/// Changes one by one: together they took no longer than until they were seen. (By the cluster's time, in
/// seconds, it would be half a second more for each.)
async fn latency_is_what_it_took(place: &Place, scraped: &Scraped, docrow: &mut Docrow) {
    const CHANGES: i32 = 6;
    let before = scraped.now().await;
    let mut took = Duration::ZERO;
    for id in 2000..2000 + CHANGES {
        let began = Instant::now();
        place.collection("orders").insert_one(order(id)).await.unwrap();
        let seen = format!("SELECT count(*) FROM orders WHERE id = {id}");
        docrow.until("it is seen", async || place.number(&seen).await == Some(1)).await;
        took += began.elapsed();
    }
    let grown = |after: &Exposition, what: &str| {
        let series = format!("docrow_end_to_end_latency_seconds_{what}");
        after.get(&series) - before.get(&series)
    };
    let all = |shown: &Exposition| grown(shown, "count") >= f64::from(CHANGES);
    let after = scraped.until(docrow, "all are counted", all).await;
    // The precision of the clocks' difference.
    let most = took.as_secs_f64() + 0.06 * f64::from(CHANGES);
    assert!(grown(&after, "sum") <= most, "{} > {most}", grown(&after, "sum"));
}

fn live(scraped: &Scraped) -> String {
    format!("docrow_collection_phase{{collection=\"{}\",phase=\"live\"}}", scraped.orders)
}

/// Lag goes to zero when writes stop, and grows while PostgreSQL is away; meanwhile the position does not
/// become stale, because changes in the spool need not be read again (G6).
#[tokio::test]
async fn lag_grows_while_postgresql_is_away_and_not_while_nothing_is_written() {
    let place = Place::shared("metrics_lag").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_many((0..100).map(order)).await.unwrap();
    let proxy = Proxy::of(&place.postgres_uri).await;
    let mut home = Home::new(&place);
    home.set("target.uri", proxy.uri(&place.postgres_uri));
    let scraped = Scraped::new(&place, &mut home);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    // Other tests write to this server meanwhile, so its time advances: so do the positions.
    let lag = scraped.of("docrow_lag_seconds");
    let small = |shown: &Exposition| {
        shown.find(&live(&scraped)) == Some(1.0) && shown.find(&lag).is_some_and(|lag| lag <= 2.0)
    };
    let before = scraped.until(&mut docrow, "the lag is small", small).await;
    assert_eq!(before.get("docrow_retries_total{cause=\"target_away\"}"), 0.0);

    proxy.refuse(true);
    proxy.cut();
    let mut id = 1000;
    let away = |shown: &Exposition| {
        shown.get(&lag) >= 4.0
            && shown.get("docrow_leader{pipeline=\"docrow\"}") == 0.0
            && shown.get("docrow_spool_entries") >= 1.0
            && shown.get("docrow_position_age_seconds") < shown.get(&lag)
    };
    let mut last = None;
    docrow
        .until("the lag grows", async || {
            orders.insert_one(order(id)).await.unwrap();
            id += 1;
            last = Exposition::of(scraped.port).await;
            last.as_ref().is_some_and(away)
        })
        .await;
    // It is looked up when it is read from the spool, and no longer exists by then.
    orders.delete_one(doc! { "_id": 1000 }).await.unwrap();
    let during = last.unwrap();
    assert!(during.get("docrow_retries_total{cause=\"target_away\"}") >= 1.0);
    assert!(during.get("docrow_events_spooled_total") >= 1.0);
    assert!(during.get("docrow_oplog_window_seconds") > during.get("docrow_position_age_seconds"));

    proxy.refuse(false);
    place.settle(&mut docrow).await;
    let caught_up = |shown: &Exposition| small(shown) && shown.get("docrow_spool_entries") == 0.0;
    let after = scraped.until(&mut docrow, "the lag is small again", caught_up).await;
    assert!(after.get("docrow_lookups_missing_total") >= 1.0, "{}", after.text);
    // Changes that waited are in the histogram, with their full time.
    let slow = |shown: &Exposition| {
        shown.get("docrow_end_to_end_latency_seconds_count")
            - shown.get("docrow_end_to_end_latency_seconds_bucket{le=\"1\"}")
    };
    assert!(slow(&after) >= 1.0, "{}", after.text);
    docrow.stop().await.quiet_but(&[RETRIES]);
    place.assert_same(&home).await;
}

/// A standby writes nothing, and reports so, until it takes over.
#[tokio::test]
async fn a_standby_is_no_leader_until_it_takes_over() {
    let place = Place::shared("metrics_standby").await;
    place.add_sentinels().await;
    let (mut home, mut other) = (Home::new(&place), Home::new(&place));
    let (leads, waits) = (Scraped::new(&place, &mut home), Scraped::new(&place, &mut other));
    place.collection("orders").insert_many((0..10).map(order)).await.unwrap();
    let mut leader = home.run();
    place.settle(&mut leader).await;
    let mut standby = other.start(&["run", "--standby"]);
    let leading = "docrow_leader{pipeline=\"docrow\"}";
    let shown = waits.until(&mut standby, "it shows something", |shown| shown.find(leading).is_some()).await;
    assert_eq!((shown.get(leading), shown.find(&waits.of("docrow_lag_seconds"))), (0.0, None));
    assert!(shown.get("docrow_stream_last_reply_timestamp_seconds").is_nan());
    assert_eq!(leads.now().await.get(leading), 1.0);
    leader.kill9().await;
    waits.until(&mut standby, "it leads", |shown| shown.get(leading) == 1.0).await;
    place.settle(&mut standby).await;
    standby.stop().await.with_code(0);
}
