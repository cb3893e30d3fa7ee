//! `docrow infer`: the file that it writes is the mapping, and nothing is overwritten.

use std::{collections::BTreeMap, fs, sync::atomic::AtomicU64, time::Instant};

use docrow::demo::{samples, users};
use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::support::{Code, Home, Place};

/// The mapping files that a home has, by name.
fn files(home: &Home) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(home.path().join("schemas")) else { return BTreeMap::new() };
    let file = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    entries.map(|entry| file(entry.unwrap().path())).collect()
}

/// Acceptance: `docrow infer` on the users workload yields a file that, used unchanged, passes the equality
/// test. G1, and the mapping in force is the file's.
#[tokio::test]
async fn the_file_of_the_users_is_used_unchanged() {
    let place = Place::shared("infer_users").await;
    users::load(&place.database().collection("users"), 1, 0..5_000, &AtomicU64::new(0)).await.unwrap();
    let mut home = Home::new(&place);
    let namespace = format!("{}.users", place.name);
    // It needs no target, and no configuration file.
    let configuration = fs::read(home.path().join("docrow.toml")).unwrap();
    fs::remove_file(home.path().join("docrow.toml")).unwrap();
    let began = Instant::now();
    let ended = home.finish(&["infer", &namespace, "--source", &place.mongodb_uri]).await;
    let ended = ended.with_code(0).quiet();
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    let said = format!("schemas/users.toml: {namespace}, 2,000 documents sampled, ");
    assert!(ended.log.contains(&said), "{}", ended.log);
    assert_eq!(ended.out, "");

    fs::write(home.path().join("docrow.toml"), configuration).unwrap();
    home.set("stream.partitions", 2);
    let written = files(&home);
    let ended = home.backfill().await;
    assert!(ended.log.contains("done: 5,000 documents copied"), "{}", ended.log);
    assert!(!ended.log.contains("mapped automatically"), "{}", ended.log);
    place.assert_same(&home).await;
    assert_eq!(files(&home), written);
    // As with any file: its content is in force.
    let ended = home.backfill().await;
    assert!(ended.log.contains("done: 0 documents copied as 0 rows"), "{}", ended.log);
}

/// The files are the mapping that the collections get without them.
#[tokio::test]
async fn files_say_what_is_automatic() {
    let place = Place::shared("infer_automatic").await;
    samples::load(&place.database()).await.unwrap();
    place.collection("Movies").insert_one(doc! { "_id": 1, "reviews": [{ "stars": 5 }] }).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    let question = "SELECT string_agg(mapping, E'\n' ORDER BY collection) FROM docrow.schemas";
    let automatic: String = place.postgres().await.query_one(question, &[]).await.unwrap().get(0);
    let ended = home.finish(&["infer"]).await.with_code(0).quiet();
    assert_eq!(ended.log.matches(" documents sampled, ").count(), 3, "{}", ended.log);
    let without_layout = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.map(|line| line.split("  # ").next().unwrap());
        let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        words.filter(|line| !line.is_empty()).collect()
    };
    // In the order of the collections' names, which decides which of two gets the plain name.
    let mut written = files(&home);
    let plain = written.remove("movies.toml").unwrap();
    let countries = written.remove("countries.toml").unwrap();
    let (other, suffixed) = written.pop_first().unwrap();
    assert!(other.starts_with("movies_") && plain.contains(".Movies\"\n"), "{other}\n{plain}");
    assert_eq!(without_layout(&automatic), without_layout(&format!("{plain}\n{countries}\n{suffixed}")));
    home.backfill().await;
    place.assert_same(&home).await;
}

/// Nothing is overwritten, and nothing is written if there is an obstacle.
#[tokio::test]
async fn nothing_is_written_over() {
    let place = Place::shared("infer_force").await;
    for name in ["orders", "people", "empty"] {
        place.collection(name).insert_one(doc! { "_id": 1, "a": "x" }).await.unwrap();
    }
    place.collection("empty").delete_many(doc! {}).await.unwrap();
    let create = doc! { "create": "view", "viewOn": "orders", "pipeline": [] };
    place.database().run_command(create).await.unwrap();
    let home = Home::new(&place);
    let name = |collection: &str| format!("{}.{collection}", place.name);
    let infer = async |arguments: &[&str]| home.finish(&[&["infer"], arguments].concat()).await;

    let ended = infer(&[&name("orders"), "--print"]).await.with_code(0).quiet();
    assert!(ended.out.contains("\na = { path = \"a\", type = \"text\" }\n"), "{}", ended.out);
    assert_eq!(files(&home).len(), 0);
    let ended = infer(&[&name("empty"), &name("or*")]).await.with_code(0).quiet();
    assert!(ended.log.contains("schemas/empty.toml: "), "{}", ended.log);
    assert!(ended.log.contains(".empty has no documents yet, so the file has no columns"), "{}", ended.log);
    assert_eq!(files(&home)["orders.toml"], infer(&[&name("orders"), "--print"]).await.out);

    home.map("orders.toml", &files(&home)["orders.toml"].replace("\na = ", "\nmine = "));
    fs::rename(home.path().join("schemas/orders.toml"), home.path().join("schemas/mine.toml")).unwrap();
    let before = files(&home);
    let ended = infer(&[]).await.with_code(2).coded(Code::FileInTheWay);
    let there =
        "schemas/empty.toml: it maps docrow_test_infer_force.empty: --force overwrites it, --print only";
    assert!(ended.error().contains(there), "{}", ended.log);
    let ended = infer(&[&name("orders")]).await.with_code(2);
    assert!(ended.error().contains("write schemas/mine.toml: it maps "), "{}", ended.log);
    assert_eq!(files(&home), before);
    infer(&[&name("orders"), "--force"]).await.with_code(0).quiet();
    assert_eq!(files(&home).len(), 2);
    assert!(files(&home)["mine.toml"].contains("\na = "));

    // A file of that name that maps another collection is never overwritten.
    let other = before["mine.toml"].replace(".orders", ".elsewhere").replace("\"orders\"", "\"x\"");
    home.map("people.toml", &format!("optional = true\n{other}"));
    let ended = infer(&[&name("people"), "--force"]).await.with_code(2);
    assert!(ended.error().contains(".people: it maps docrow_test_infer_force.elsewhere"), "{}", ended.log);

    let ended = infer(&[&name("nobody")]).await.with_code(2);
    assert!(ended.error().contains("no collection of "), "{}", ended.log);
    let ended = infer(&[&name("view")]).await.with_code(2);
    assert!(ended.error().contains("it is a view"), "{}", ended.log);
    infer(&["--size", "0"]).await.with_code(2);
    home.backfill().await;
    place.assert_same(&home).await;
}

/// Trap: a collection named `x"; DROP TABLE y; --` is just a name, and so are its fields, of any length and
/// script; those that fold to the same name stay distinct. Each has a mapping file that works unchanged.
#[tokio::test]
async fn awkward_names_have_mapping_files() {
    let place = Place::shared("infer_names").await;
    let long = "n".repeat(200);
    let names = [
        "x\"; DROP TABLE docrow.chunks; --",
        "it's.dotted/and spaced",
        "/../../etc",
        "größe🙂",
        "🙂",
        "fooBar",
        "foo_bar",
        "--force",
        &long[..150],
    ];
    let mut document = doc! {
        "a.b": 1, "$c": "x'); DROP TABLE users; --", "say \"hi\"": true, "select": 1, "": { "": 0 }, "🙂": [1, 2],
        "Größe": { "x y": 1.5, "": 1 }, "firstName": 1, "first_name": 2, "first name": 3, "_id_": 4, "line\nbreak": "x",
        "tab\t\\": 1, "'; --": "y", "a[]": 1, "b[]": [{ "c[]": 1 }], "xmin": 1, "_extra": 1, "_ord": 1, "#": [{ "#": 1, "a.b": [{ "$": 1 }] }],
        "mixed\n#": 1,
    };
    document.insert(long.clone(), 1);
    document.insert(format!("{long}2"), doc! { long.clone(): "x" });
    for name in names {
        let collection = place.collection(name);
        let mut other = document.clone();
        document.insert("_id", 1);
        other.extend(doc! { "_id": 2, "mixed\n#": "x", "a.b": "y" });
        collection.insert_many([&document, &other]).await.unwrap();
    }
    let home = Home::new(&place);
    let ended = home.finish(&["infer"]).await.with_code(0).quiet();
    let written = files(&home);
    assert_eq!(written.len(), names.len(), "{}", ended.log);
    for (file, text) in &written {
        let safe = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        assert!(file.chars().all(safe) && file.len() <= 68, "{file}");
        assert!(text.lines().all(|line| line.is_empty() || line.contains(['#', '=', '['])), "{text}");
    }
    let ended = home.backfill().await;
    assert!(!ended.log.contains("mapped automatically"), "{}", ended.log);
    place.assert_same(&home).await;
    let count = "SELECT count(*) FROM docrow.schemas";
    assert_eq!(place.number(count).await, Some(names.len() as i64));
}

/// A collection with 100 fields takes seconds.
#[tokio::test]
async fn a_hundred_fields_take_seconds() {
    let place = Place::shared("infer_wide").await;
    let value = |i: i32, n: i32| match i % 4 {
        0 => Bson::Int32(n),
        1 => format!("text {n}").into(),
        2 => doc! { "in": n, "at": DateTime::from_millis(n.into()) }.into(),
        _ => vec![doc! { "n": n, "s": "x" }; 3].into(),
    };
    let document = |n: i32| (0..100).map(|i| (format!("field{i}"), value(i, n))).collect::<Document>();
    place.collection("wide").insert_many((0..20_000).map(document)).await.unwrap();
    let home = Home::new(&place);
    let began = Instant::now();
    home.finish(&["infer"]).await.with_code(0).quiet();
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    let text = &files(&home)["wide.toml"];
    assert_eq!(text.matches("[[tables]]").count(), 25);
    assert_eq!(text.matches("{ path = ").count(), 25 + 25 + 50 + 25 * 2);
}
