//! The floor: the lowest cost of writing the same rows, which is `psql` reloading the rows that docrow wrote.
//!
//! Each table's binary dump is loaded into a bare table, two tables at a time; then the primary keys are
//! built, two at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::stage::{Stage, psql};

const CONNECTIONS: usize = 2;

/// The tables of a database, written to files.
pub(crate) struct Dump {
    database: String,
    /// With their primary keys, the largest first.
    tables: Vec<(String, String)>,
    pub(crate) rows: u64,
}

impl Dump {
    pub(crate) async fn of(stage: &Stage, database: &str) -> Self {
        let tables = "SELECT relname, pg_get_constraintdef(k.oid) FROM pg_class c JOIN pg_constraint k ON conrelid = c.oid \
            WHERE relnamespace = 'public'::regnamespace AND contype = 'p' ORDER BY pg_relation_size(c.oid) DESC";
        let listed = stage.psql(database, tables).await;
        let tables: Vec<_> = listed
            .lines()
            .filter_map(|line| line.split_once('|'))
            .map(|(table, key)| (table.to_owned(), key.to_owned()))
            .collect();
        let mut rows = 0;
        for (table, _) in &tables {
            let file = stage.folder().join(table);
            stage.psql(database, &format!("COPY {table} TO '{}' (FORMAT binary)", file.display())).await;
            let count = stage.psql(database, &format!("SELECT count(*) FROM {table}")).await;
            rows += count.trim().parse::<u64>().unwrap();
        }
        // Autovacuum would do this sooner or later.
        stage.psql(database, "VACUUM ANALYZE").await;
        Self { database: database.to_owned(), tables, rows }
    }

    pub(crate) async fn reload(&self, stage: &Stage) -> Duration {
        let create: String =
            self.tables.iter().map(|(t, _)| format!("CREATE TABLE again.{t} (LIKE public.{t});")).collect();
        let create = format!("CREATE SCHEMA again; {create}");
        stage.psql(&self.database, &create).await;
        stage.settle().await;
        let uri = stage.uri(&self.database);
        let started = Instant::now();
        let copy = |(table, _): &(String, String)| {
            let file = stage.folder().join(table);
            format!("\\copy again.{table} FROM '{}' (FORMAT binary)", file.display())
        };
        side_by_side(&uri, self.tables.iter().map(copy).collect()).await;
        let key = |(table, key): &(String, String)| {
            format!(
                "SET maintenance_work_mem = '256MB'; ALTER TABLE again.{table} ADD {key}; ANALYZE again.{table}"
            )
        };
        side_by_side(&uri, self.tables.iter().map(key).collect()).await;
        let took = started.elapsed();
        // Autovacuum would process it while something else is measured.
        stage.psql(&self.database, "DROP SCHEMA again CASCADE").await;
        took
    }
}

async fn side_by_side(uri: &str, commands: VecDeque<String>) {
    let commands = Arc::new(Mutex::new(commands));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (commands, uri) = (commands.clone(), uri.to_owned());
        connections.spawn(async move {
            loop {
                let command = commands.lock().unwrap().pop_front();
                let Some(command) = command else { break };
                psql(&uri, &command).await;
            }
        });
    }
    while let Some(ended) = connections.join_next().await {
        ended.unwrap();
    }
}
