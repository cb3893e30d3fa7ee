//! Columns that become wider while docrow runs.
//!
//! Every test ends with the comparison of source and target, and with sums on which SQL and MongoDB agree.

use docrow::error::Code;
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, doc};
use serde_json::Value;

use crate::support::{Before, Docrow, Gate, Home, Place, status::of};

/// A table of this many documents is too large to be rewritten: each has a text that does not compress.
const LARGE: i32 = 660;
const TEXT: usize = 110_000;

/// Orders with whole prices. Their sample has nothing else.
async fn orders(place: &Place, count: i32, text: usize) {
    place.add_sentinels().await;
    let orders = place.collection("orders");
    let text: String = std::iter::repeat_with(fastrand::alphanumeric).take(text).collect();
    let order =
        |id: i32| doc! { "_id": id, "price": id, "lines": [{ "qty": 1 }, { "qty": id }], "text": &text };
    orders.insert_many((0..count).map(order)).await.unwrap();
}

/// Some prices and quantities with fractions.
async fn fractions(place: &Place) {
    let inc = doc! { "$inc": { "price": 0.5, "lines.1.qty": 0.25 } };
    let found =
        place.collection("orders").update_many(doc! { "_id": { "$mod": [97, 3] } }, inc).await.unwrap();
    assert!(found.modified_count > 0);
}

/// The sums of all prices and all quantities in MongoDB and SQL.
async fn assert_sums(place: &Place) {
    let postgres = place.postgres().await;
    let question =
        "SELECT (SELECT sum(price)::float8 FROM orders), (SELECT sum(qty)::float8 FROM orders_lines)";
    let row = postgres.query_one(question, &[]).await.unwrap();
    let (price, qty): (f64, f64) = (row.get(0), row.get(1));
    let group =
        doc! { "_id": null, "price": { "$sum": "$price" }, "qty": { "$sum": { "$sum": "$lines.qty" } } };
    let summed = place.collection("orders").aggregate([doc! { "$group": group }]).await.unwrap();
    let summed: Vec<_> = summed.try_collect().await.unwrap();
    let of = |name: &str| match summed[0].get(name) {
        Some(Bson::Double(sum)) => *sum,
        Some(Bson::Int32(sum)) => f64::from(*sum),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((price, qty), (of("price"), of("qty")));
}

/// The types of the columns `price` and `qty`, and of all others like them.
async fn types(place: &Place) -> Vec<String> {
    let question = "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute \
        WHERE attrelid IN ('orders'::regclass, 'orders_lines'::regclass) AND attname ~ '^(price|qty)' \
        AND NOT attisdropped ORDER BY 1";
    place.postgres().await.query(question, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits until the columns `price` and `qty` are of these types.
async fn until_types(place: &Place, docrow: &mut Docrow, wanted: [&str; 2]) {
    docrow.until("the columns are wide", async || types(place).await == wanted).await;
}

/// Waits until both are of this type, and filled.
async fn until_wide(place: &Place, docrow: &mut Docrow, ty: &str) {
    until_types(place, docrow, [&format!("price {ty}"), &format!("qty {ty}")]).await;
    let filled = "SELECT count(*) FROM docrow.schemas WHERE NOT filled";
    docrow.until("all is filled", async || place.number(filled).await == Some(0)).await;
}

/// Nothing of them is in `_extra`.
async fn assert_columns_tell_all(place: &Place) {
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE _extra IS NOT NULL").await, Some(0));
}

/// Waits until both are `double precision`, and checks the rest.
async fn assert_wide(place: &Place, home: &Home, docrow: &mut Docrow) {
    until_wide(place, docrow, "double precision").await;
    place.settle(docrow).await;
    place.assert_same(home).await;
    assert_sums(place).await;
}

/// Like [`Place::assert_same`], but with a judge that knows no `numeric`.
async fn assert_exactly_same(place: &Place, home: &Home) {
    place.assert_exact().await;
    home.finish(&["verify"]).await.with_code(0).quiet();
}

fn file(place: &Place, ty: &str) -> String {
    format!(
        "collection = \"{}.orders\"\ntable = \"orders\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\ntype = \"bigint\"\n\
         [columns]\nprice = {{ path = \"price\", type = {ty} }}\ntext = {{ path = \"text\", type = \"text\" }}\n\
         [[tables]]\ntable = \"orders_lines\"\npath = \"lines[]\"\nparent = \"order_id\"\nordinals = [\"line\"]\n\
         columns = {{ qty = {{ path = \"qty\", type = {ty} }} }}\n",
        place.name
    )
}

const BIGINT: &str = "\"bigint\"";

/// Some orders, replicated with a mapping file in which all prices are whole.
async fn with_whole_prices(test: &str) -> (Place, Home, Docrow) {
    let place = Place::shared(test).await;
    orders(&place, 300, 10).await;
    let home = Home::new(&place);
    home.map("orders.toml", &file(&place, BIGINT));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    (place, home, docrow)
}

/// Whole numbers of a large table turn out to have fractions: its columns become wide while documents change,
/// and nothing waits for the table to be rewritten. docrow is killed in between.
#[tokio::test]
async fn fractions_in_a_large_table_widen_its_columns_online() {
    let place = Place::shared("widening_large").await;
    orders(&place, LARGE, TEXT).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let bytes = "SELECT pg_table_size('orders')";
    assert!(place.number(bytes).await > Some(65 << 20));
    let node = "SELECT relfilenode::bigint FROM pg_class WHERE relname = 'orders'";
    let before = place.number(node).await;
    fractions(&place).await;
    // In the middle of it, with changes on both sides.
    let some = "SELECT count(*) FROM orders WHERE price_widened_by_docrow IS NOT NULL";
    docrow.until("some are filled", async || place.number(some).await > Some(60)).await;
    docrow.kill9().await.quiet();
    let change = |n: f64| doc! { "$inc": { "price": n, "lines.0.qty": 1 } };
    place.collection("orders").update_many(doc! { "_id": { "$mod": [50, 0] } }, change(0.25)).await.unwrap();
    let mut docrow = home.run();
    place.collection("orders").update_many(doc! { "_id": { "$mod": [50, 1] } }, change(1.5)).await.unwrap();
    place.collection("orders").delete_many(doc! { "_id": { "$mod": [50, 2] } }).await.unwrap();
    assert_wide(&place, &home, &mut docrow).await;
    assert_columns_tell_all(&place).await;
    assert_eq!(place.number(node).await, before, "the table was rewritten");
    docrow.stop().await.quiet();
}

/// A mapping file may request a wider type, with any reading, and nothing more is needed.
#[tokio::test]
async fn a_mapping_file_with_wider_types_is_all_it_takes() {
    let (place, home, mut docrow) = with_whole_prices("widening_file").await;
    fractions(&place).await;
    // No double represents it in a column of this reading: it is noted.
    place
        .collection("orders")
        .update_one(doc! { "_id": 7 }, doc! { "$set": { "price": 1_i64 << 40 } })
        .await
        .unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
    for (written, ty) in [("\"double precision\"", "double precision"), ("\"jsonb\"", "jsonb")] {
        home.map("orders.toml", &file(&place, written));
        let plan = home.finish(&["plan"]).await.with_code(0);
        assert!(plan.out.contains(&format!("ADD COLUMN \"price_widened_by_docrow\" {ty}")), "{}", plan.out);
        let mut docrow = home.run();
        place.collection("orders").update_many(doc! {}, doc! { "$inc": { "price": 1 } }).await.unwrap();
        until_wide(&place, &mut docrow, ty).await;
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
        if ty != "jsonb" {
            assert_sums(&place).await;
        }
        docrow.stop().await.quiet();
    }
    home.map("orders.toml", &file(&place, BIGINT));
    let ended = home.finish(&["run"]).await.with_code(2).coded(Code::MappingChanged);
    assert!(ended.log.contains("column orders.price: its type was jsonb"), "{}", ended.log);
}

/// An object that would be lost with a column, such as a user's index or view, keeps it from being replaced:
/// docrow reports that and continues, with other columns, too. A comment is transferred.
#[tokio::test]
async fn a_column_that_somebody_uses_stays_as_it_is() {
    let (place, home, docrow) = with_whole_prices("widening_used").await;
    docrow.stop().await.quiet();
    let theirs = "CREATE INDEX theirs ON orders (price); CREATE VIEW expensive AS SELECT * FROM orders WHERE price > 9; \
        COMMENT ON COLUMN orders_lines.qty IS 'how many'";
    place.postgres().await.batch_execute(theirs).await.unwrap();
    home.map("orders.toml", &file(&place, "\"double precision\""));
    let mut docrow = home.run();
    fractions(&place).await;
    until_types(&place, &mut docrow, ["price bigint", "qty double precision"]).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["columns stay as they are"]).coded(Code::ColumnInUse);
    for what in ["index public.theirs depends on it", "rule _RETURN on view public.expensive depends on it"] {
        assert!(ended.log.contains(what), "{}", ended.log);
    }

    place.postgres().await.batch_execute("DROP INDEX theirs; DROP VIEW expensive").await.unwrap();
    let mut docrow = home.run();
    assert_wide(&place, &home, &mut docrow).await;
    let comment = "SELECT count(*) FROM pg_description WHERE description = 'how many'";
    assert_eq!(place.number(comment).await, Some(1));
    docrow.stop().await.quiet();
}

/// A reader's transaction only keeps the wide column from replacing the narrow one: changes are applied
/// meanwhile.
#[tokio::test]
async fn a_lock_delays_the_exchange_only() {
    let (place, home, docrow) = with_whole_prices("widening_locked").await;
    docrow.stop().await.quiet();
    home.map("orders.toml", &file(&place, "\"numeric\""));
    let gate = Gate::close(&place, Before::Update("docrow.schemas", "NEW.filled AND NOT OLD.filled")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    let reader = place.postgres().await;
    reader.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE").await.unwrap();
    gate.open().await;
    fractions(&place).await;
    place.settle(&mut docrow).await;
    assert_exactly_same(&place, &home).await;
    reader.batch_execute("COMMIT").await.unwrap();
    until_wide(&place, &mut docrow, "numeric").await;
    assert_exactly_same(&place, &home).await;
    // Reported if the lock was held for long.
    docrow.stop().await.quiet_but(&["wider columns wait"]);
}

/// Until a column is wide, status, check and dashboard warn that sums over it are wrong: how many values it
/// lacks, since when, and how to fix it. What was not counted is unknown.
#[tokio::test]
async fn a_column_that_lacks_values_is_told_until_it_is_mended() {
    let place = Place::shared("widening_told").await;
    orders(&place, 300, 10).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let view = "CREATE VIEW expensive AS SELECT price FROM orders WHERE price > 9";
    place.postgres().await.batch_execute(view).await.unwrap();
    fractions(&place).await;
    let mut orders = Value::Null;
    until_types(&place, &mut docrow, ["price bigint", "qty double precision"]).await;
    docrow
        .until("it is counted", async || {
            orders = of(&home.status().await, "orders").clone();
            orders["misfits"]["columns"].as_array().is_some_and(|columns| columns.len() == 1)
        })
        .await;
    let columns = orders["misfits"]["columns"].as_array().unwrap();
    let told: Vec<_> =
        columns.iter().map(|c| (&c["table"], &c["column"], &c["values"], &c["numbers"])).collect();
    let lacking = place.number("SELECT count(*) FROM orders WHERE price IS NULL").await.unwrap();
    assert_eq!(told, [(&"orders".into(), &"price".into(), &lacking.into(), &lacking.into())]);
    let table = home.finish(&["status"]).await.with_code(0).out;
    for part in [
        "orders.price is bigint and lacks 4 numbers: sums over it are wrong",
        "orders.price bigint, since ",
        "→ ",
    ] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let check = home.finish(&["check"]).await.out;
    assert!(check.contains("orders.price (bigint) lacks 4 values"), "{check}");
    docrow.stop().await.quiet_but(&["columns stay as they are"]).coded(Code::ColumnInUse);

    place.postgres().await.batch_execute("DROP VIEW expensive").await.unwrap();
    let mut docrow = home.run();
    until_wide(&place, &mut docrow, "double precision").await;
    docrow
        .until("nothing is lacking", async || {
            of(&home.status().await, "orders")["misfits"]["columns"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_sums(&place).await;
    docrow.stop().await.quiet();
}
