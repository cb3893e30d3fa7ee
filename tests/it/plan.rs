//! `docrow plan`: the DDL as a readable diff against the live target, and `--apply`.

use mongodb::bson::doc;

use crate::support::{Code, Ended, Home, Place};

async fn place(test: &str) -> (Place, Home) {
    let place = Place::shared(&format!("plan_{test}")).await;
    let order = |id: i32| doc! { "_id": id, "total": 1.5, "lines": [{ "item": "pen" }, { "item": "ink" }] };
    place.collection("orders").insert_many((0..20).map(order)).await.unwrap();
    let home = Home::new(&place);
    let mapping = format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\nforeign_keys = true\n\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\n\
         [columns]\ntotal = {{ path = 'total', type = 'double precision' }}\n\n\
         [[tables]]\ntable = 'lines'\npath = 'lines[]'\nparent = 'order_id'\nordinals = ['line']\n\
         columns = {{ item = {{ path = 'item', type = 'text' }} }}\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    (place, home)
}

async fn plan(home: &Home, code: i32) -> Ended {
    home.finish(&["plan"]).await.with_code(code).quiet()
}

/// Lines without the mark before them.
fn marked(out: &str, mark: &str) -> String {
    out.lines().filter_map(|line| line.strip_prefix(mark)).fold(String::new(), |all, line| all + line + "\n")
}

#[tokio::test]
async fn a_plan_is_sql_and_applied_it_is_nothing_to_do() {
    let (place, home) = place("apply").await;
    let planned = plan(&home, 0).await.out;
    let expected = format!(
        r#"{}.orders
+ CREATE TABLE "public"."orders" (
+     "id" bigint NOT NULL,
+     "total" double precision,
+     "_extra" jsonb
+ );
+ CREATE TABLE "public"."lines" (
+     "order_id" bigint NOT NULL,
+     "line" bigint NOT NULL,
+     "item" text
+ );
+ ALTER TABLE "public"."orders" ADD PRIMARY KEY ("id"); -- after the copy
+ ALTER TABLE "public"."lines" ADD PRIMARY KEY ("order_id", "line"); -- after the copy
+ ALTER TABLE "public"."lines" ADD FOREIGN KEY ("order_id") REFERENCES "public"."orders" ("id"); -- after the copy
"#,
        place.name
    );
    assert_eq!(planned, expected);
    let document = home.finish(&["plan", "--json"]).await.with_code(0).quiet().out;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["applied"], false);
    let table = &document["collections"][0]["tables"][1];
    assert_eq!((&table["table"], &table["origin"]), (&r#""public"."lines""#.into(), &"created".into()));
    assert_eq!(
        (table["sql"].as_array().unwrap().len(), table["sql_after_copy"].as_array().unwrap().len()),
        (1, 2)
    );
    let written = "SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow'";
    assert_eq!(place.number(written).await, Some(0));
    assert!(!home.state().exists());

    // It is valid SQL as printed.
    let elsewhere = Place::shared("plan_apply_by_hand").await;
    elsewhere.postgres().await.batch_execute(&marked(&planned, "+ ")).await.unwrap();

    let applied = home.finish(&["plan", "--apply"]).await.with_code(0).quiet().out;
    assert!(applied.starts_with(&planned) && applied.contains("executed"), "{applied}");
    assert_eq!(place.number("SELECT count(*) FROM docrow.schemas WHERE filled").await, Some(1));
    let again = plan(&home, 0).await.out;
    assert_eq!(again.matches("needs no change").count(), 2, "{again}");
    assert_eq!(again.matches("+ ").count(), 3, "what comes after the copy: {again}");
    home.backfill().await;
    assert_eq!(plan(&home, 0).await.out, format!("= {}.orders: nothing to do\n", place.name));
    place.assert_same(&home).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_shown_and_nothing_is_executed() {
    let (place, home) = place("obstacle").await;
    let session = place.postgres().await;
    let theirs = "CREATE TABLE orders (id bigint, total numeric(9,2), _extra jsonb, note text); \
        CREATE TABLE lines (order_id bigint, line bigint, item text, PRIMARY KEY (order_id, line))";
    session.batch_execute(theirs).await.unwrap();
    for arguments in [&["plan"][..], &["plan", "--apply"]] {
        let ended = home.finish(arguments).await.with_code(1).quiet();
        let diff = r#"! "public"."orders" does not fit
!     wanted "total" double precision; found "total" numeric(9,2)
=     "note" text stays: it is not in the mapping
= "public"."lines" is adopted: it is empty and fits
"#;
        assert!(ended.out.contains(diff), "{}", ended.out);
        assert!(!ended.out.contains("executed,"), "{}", ended.out);
    }
    let ended = home.finish(&["plan", "--apply", "--json"]).await.with_code(1).quiet();
    let document: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let obstacle = &document["collections"][0]["tables"][0]["obstacles"][0];
    assert_eq!(obstacle["there"], r#""total" numeric(9,2)"#);
    assert_eq!(document["applied"], false);
    assert_eq!(place.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow'").await, Some(0));
    // A run is refused with the same text, on one line.
    let ended = home.finish(&["backfill"]).await.with_code(4).coded(Code::TableInTheWay);
    let said = ended.error();
    assert!(said.contains(r#""total" numeric(9,2) where "total" double precision is wanted"#), "{said}");

    session.batch_execute("ALTER TABLE orders ALTER total TYPE double precision").await.unwrap();
    home.finish(&["plan", "--apply"]).await.with_code(0).quiet();
    home.backfill().await;
    place.assert_same(&home).await;
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE note IS NULL").await, Some(20));
}

/// A mapping file with additions: the plan shows what `run` does about it.
#[tokio::test]
async fn what_a_changed_mapping_file_adds_is_planned() {
    let (place, home) = place("change").await;
    home.backfill().await;
    let text = std::fs::read_to_string(home.path().join("schemas/orders.toml")).unwrap();
    home.map("orders.toml", &text.replace("[columns]", "[columns]\nnote = { path = 'note', type = 'text' }"));
    let orders = place.collection("orders");
    orders.insert_one(doc! { "_id": 99, "note": "new" }).await.unwrap();
    let planned = plan(&home, 0).await.out;
    let change = r#"= "public"."orders" stays, and is changed
+ ALTER TABLE "public"."orders" ADD COLUMN "note" text;
= "public"."lines" needs no change
"#;
    assert!(planned.contains(change), "{planned}");
    home.finish(&["plan", "--apply"]).await.with_code(0).quiet();
    assert_eq!(plan(&home, 0).await.out, format!("= {}.orders: nothing to do\n", place.name));
    home.backfill().await;
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE note = 'new'").await, Some(1));
    place.assert_same(&home).await;
}

/// G9: the tables of a running pipeline belong to its process.
#[tokio::test]
async fn a_running_pipeline_is_not_changed_from_outside() {
    let (place, home) = place("running").await;
    place.add_sentinels().await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    assert!(plan(&home, 0).await.out.contains("nothing to do"));
    let ended = home.finish(&["plan", "--apply"]).await.with_code(6);
    assert!(ended.error().contains("stop the other process"), "{}", ended.log);
    docrow.stop().await.quiet();
}

/// What was shown is executed: nothing is sampled twice.
#[tokio::test]
async fn a_plan_that_is_applied_samples_once() {
    let place = Place::shared("plan_once").await;
    place.collection("orders").insert_one(doc! { "_id": 1, "total": 1.5 }).await.unwrap();
    let home = Home::new(&place);
    let ended = home.finish(&["plan", "--apply"]).await.with_code(0).quiet();
    assert_eq!(ended.log.matches("mapped automatically").count(), 1, "{}", ended.log);
    home.backfill().await;
    place.assert_same(&home).await;
}

#[tokio::test]
async fn hostile_names_do_not_reach_the_terminal() {
    let place = Place::shared("plan_names").await;
    let name = "o\u{1b}[2J\"; DROP TABLE x; --";
    place.collection(name).insert_one(doc! { "_id": 1, "\u{9b}a\u{202e}": "x" }).await.unwrap();
    let home = Home::new(&place);
    let out = plan(&home, 0).await.out;
    assert!(!out.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{out}");
    assert!(out.contains(r"o\u001b[2J"), "{out}");
}
