//! The three checks at the end of a seed: the independent comparison with every document rebuilt, `docrow
//! verify`, and a fresh copy by the same mappings, compared table by table.

use std::{collections::BTreeMap, path::Path};

use super::{
    failure::{Failure, Kind},
    world::World,
};
use crate::support::{Home, Place, connect};

/// How many differences are shown.
const SHOWN: usize = 8;

/// Checks everything.
pub(super) async fn judge(world: &mut World<'_>) -> Result<(), Failure> {
    let found = world.place.differences().await;
    if !found.is_empty() {
        return Err(differ(world, "rows differ from documents", &found).await);
    }
    let ended = world.finish(&["verify", "--allow-dead-letters", "--show-values", "--limit", "8"]).await?;
    if ended.code != Some(0) {
        let found = [ended.out, ended.log];
        return Err(differ(world, "docrow verify finds differences", &found).await);
    }
    let found = against_a_fresh_copy(world).await?;
    if !found.is_empty() {
        return Err(differ(world, "a fresh copy differs", &found).await);
    }
    let log = world.log();
    let alarming = |line: &&str| line.contains("panicked") || line.contains("DRW-9000");
    match log.lines().find(alarming) {
        None => Ok(()),
        Some(line) => Err(Failure::new(Kind::Ended, "docrow logged a bug", line)),
    }
}

async fn differ(world: &mut World<'_>, what: &str, found: &[String]) -> Failure {
    let shown: Vec<_> =
        found.iter().take(SHOWN).map(|line| line.chars().take(1500).collect::<String>()).collect();
    let detail = format!("{} found:\n{}\n{}", found.len(), shown.join("\n"), world.report().await);
    Failure::new(Kind::Difference, what, detail)
}

/// A collection's tables, with their columns.
#[derive(PartialEq)]
struct Tables {
    collection: String,
    text: String,
    tables: Vec<String>,
}

/// The mappings in force of the existing collections.
async fn mappings(place: &Place) -> Vec<Tables> {
    let question = "SELECT DISTINCT ON (collection) collection, mapping FROM docrow.schemas \
        WHERE collection NOT IN (SELECT collection FROM docrow.resyncs) ORDER BY collection, version DESC";
    let rows = place.postgres().await.query(question, &[]).await.unwrap();
    let there = place.database().list_collection_names().await.unwrap();
    let mut mappings = Vec::new();
    for row in rows {
        let (collection, text): (String, String) = (row.get(0), row.get(1));
        if !there.iter().any(|name| collection == format!("{}.{name}", place.name)) {
            continue;
        }
        let parsed: toml::Table = text.parse().unwrap();
        let children = parsed.get("tables").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let named = |table: &toml::Table| table["table"].as_str().unwrap().to_owned();
        let children = children.iter().map(|table| named(table.as_table().unwrap()));
        let tables = std::iter::once(named(&parsed)).chain(children).collect();
        mappings.push(Tables { collection, text, tables });
    }
    mappings
}

/// Compares with a fresh copy by the mappings in force; again if one of them has grown meanwhile, because
/// docrow still runs.
async fn against_a_fresh_copy(world: &World<'_>) -> Result<Vec<String>, Failure> {
    loop {
        let in_force = mappings(&world.place).await;
        let found = against_a_copy_by(&in_force, world).await?;
        if found.is_empty() || in_force == mappings(&world.place).await {
            return Ok(found);
        }
    }
}

/// Copies everything by these mappings into an empty database, and compares.
async fn against_a_copy_by(mappings: &[Tables], world: &World<'_>) -> Result<Vec<String>, Failure> {
    let place = &world.place;
    let fresh = format!("{}_fresh", place.name);
    let postgres = place.postgres().await;
    postgres.batch_execute(&format!("DROP DATABASE IF EXISTS {fresh} WITH (FORCE)")).await.unwrap();
    postgres.batch_execute(&format!("CREATE DATABASE {fresh}")).await.unwrap();
    let uri = place.postgres_uri.replacen(&place.name, &fresh, 1);
    let mut home = Home::new(place);
    home.set("target.uri", uri.as_str());
    home.set("mapping.evolve", "freeze");
    home.set("snapshot.parallelism", 2);
    home.set("source.include", mappings.iter().map(|m| m.collection.clone()).collect::<Vec<_>>());
    for (number, mapping) in mappings.iter().enumerate() {
        // It may have been dropped by now.
        let text = format!("optional = true\n{}", mapping.text);
        home.map(Path::new(&format!("{number}.toml")).to_str().unwrap(), &text);
    }
    let ended = home.finish(&["backfill", "--allow-dead-letters"]).await;
    if ended.code != Some(0) {
        let title = "a fresh copy by the mappings in force is refused";
        return Err(Failure::new(Kind::Difference, title, format!("{}{}", ended.out, ended.log)));
    }
    let fresh = connect(&uri).await;
    let mut found = Vec::new();
    for table in mappings.iter().flat_map(|mapping| &mapping.tables) {
        let columns = columns(&fresh, table).await;
        compare(
            &mut found,
            table,
            [&rows(&postgres, table, &columns).await, &rows(&fresh, table, &columns).await],
        );
    }
    let dead = "SELECT format('%s %s', collection, key) FROM docrow.dead_letters";
    let keys = async |session: &tokio_postgres::Client| counted(session.query(dead, &[]).await.unwrap());
    let there: Vec<_> = mappings.iter().map(|mapping| format!("{} ", mapping.collection)).collect();
    let mut letters = [keys(&postgres).await, keys(&fresh).await];
    letters.iter_mut().for_each(|keys| keys.retain(|key, _| there.iter().any(|name| key.starts_with(name))));
    compare(&mut found, "dead letters", [&letters[0], &letters[1]]);
    Ok(found)
}

async fn columns(session: &tokio_postgres::Client, table: &str) -> Vec<String> {
    let question = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(quote_ident($1)) AND attnum > 0 \
        AND NOT attisdropped ORDER BY attname";
    session.query(question, &[&table]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// How often each row occurs.
type Rows = BTreeMap<String, usize>;

async fn rows(session: &tokio_postgres::Client, table: &str, columns: &[String]) -> Rows {
    let quote = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let columns: Vec<_> = columns.iter().map(quote).collect();
    let question = format!("SELECT ROW({})::text FROM {}", columns.join(", "), quote(&table.to_owned()));
    match session.query(&question, &[]).await {
        Ok(rows) => counted(rows),
        Err(error) => Rows::from([(format!("{table} can't be read: {error:?}"), 1)]),
    }
}

fn counted(rows: Vec<tokio_postgres::Row>) -> Rows {
    let mut counted = Rows::new();
    rows.iter().for_each(|row| *counted.entry(row.get(0)).or_default() += 1);
    counted
}

/// The differences of the two sides.
fn compare(found: &mut Vec<String>, what: &str, [ours, fresh]: [&Rows; 2]) {
    for (side, left, right) in [("only replicated", ours, fresh), ("only in the fresh copy", fresh, ours)] {
        let more = left.iter().filter(|(row, count)| right.get(*row).unwrap_or(&0) < *count);
        found.extend(more.map(|(row, _)| format!("{what}, {side}: {row}")));
    }
}
