//! `collections`: a thousand of them, with five documents each, on loopback: until all are live, again with
//! nothing to do, one more while another is written to, and their verification.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use mongodb::{
    bson::{Document, doc},
    options::WriteConcern,
};
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::NoTls;

use super::{
    ROUNDS, bars,
    process::Docrow,
    report::{Report, seconds},
    stage::{Mapping, Stage},
};

const COLLECTIONS: i32 = 1000;
const DOCUMENTS: i32 = 5;
const TARGET: &str = "collections";
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn run(report: &mut Report) {
    let count = report.scaled(COLLECTIONS);
    let stage = Stage::set().await;
    for numbers in (0..count).collect::<Vec<_>>().chunks(20) {
        try_join_all(numbers.iter().map(|number| add(&stage, *number))).await.unwrap();
    }
    stage.until_majority().await;
    for round in 1..=ROUNDS {
        stage.create(TARGET).await;
        let config = stage.config(TARGET, "things_*", Mapping::Auto);
        stage.settle().await;
        let before = stage.servers();
        let docrow = Docrow::start(&config, "run");
        let rows = Rows::of(&stage).await;
        let live = rows.until(&docrow, LIVE, count).await;
        let first = (docrow.stop().await, stage.servers() - before);

        stage.settle().await;
        let docrow = Docrow::start(&config, "run");
        // A change that the restarted docrow applies shows that it is at work.
        set(&stage, 0, -round).await;
        let again = rows.until(&docrow, "SELECT count(*) FROM things_0 WHERE n = $1", -round).await;
        let (appeared, worst) = one_more(&stage, &rows, &docrow, count + round).await;
        docrow.stop().await;
        let verified = stage.verify(TARGET).await.0.wall;
        stage.drop(TARGET).await;
        stage.database().collection::<Document>(&name(count + round)).drop().await.unwrap();

        let [live, again, appeared, verified] = [live, again, appeared, verified].map(seconds);
        let worst = seconds(worst) * 1000.0;
        for (bar, value) in [
            (bars::COLLECTIONS_LIVE, live),
            (bars::COLLECTIONS_AGAIN, again),
            (bars::ONE_MORE, appeared),
            (bars::OTHERS_WAIT, worst),
            (bars::COLLECTIONS_PROOF, verified),
        ] {
            report.round(bar, value);
        }
        let line = format!(
            "collections round {round}  {count}: live {live:.2} s   again {again:.2} s   one more {appeared:.2} s, \
             others wait {worst:.0} ms   verify {verified:.2} s"
        );
        let figures = json!({
            "bench": "collections", "round": round, "collections": count, "seconds": live, "again_seconds": again,
            "one_more_seconds": appeared, "others_worst_ms": worst, "verify_seconds": verified,
        });
        report.docrow(&line, figures, first.0, first.1);
    }
}

fn name(number: i32) -> String {
    format!("things_{number}")
}

async fn add(stage: &Stage, number: i32) -> mongodb::error::Result<()> {
    let documents =
        (0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0, "name": format!("thing {id}"), "list": [id] });
    let collection = stage.database().collection::<Document>(&name(number));
    collection.insert_many(documents).write_concern(WriteConcern::majority()).await.map(drop)
}

/// Sets the field `n` of one document of a collection.
async fn set(stage: &Stage, number: i32, n: i32) {
    let collection = stage.database().collection::<Document>(&name(number));
    let update = collection.update_one(doc! { "_id": 0 }, doc! { "$set": { "n": n } });
    update.write_concern(WriteConcern::majority()).await.unwrap();
}

/// Collections that are copied whole.
const LIVE: &str = "SELECT count(*) FROM (SELECT FROM docrow.chunks GROUP BY collection \
    HAVING count(*) = count(copied_at)) t HAVING count(*) >= $1";

/// The target, as it is asked meanwhile.
struct Rows {
    client: tokio_postgres::Client,
    _connection: JoinSet<Result<(), tokio_postgres::Error>>,
}

impl Rows {
    async fn of(stage: &Stage) -> Self {
        let (client, connection) = tokio_postgres::connect(&stage.uri(TARGET), NoTls).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        Self { client, _connection: driving }
    }

    /// Waits until the question about `n` has a row that counts something, and returns the time since docrow
    /// was started. A table may not be there yet.
    async fn until(&self, docrow: &Docrow, question: &str, n: i32) -> Duration {
        loop {
            let question = question.replace("$1", &n.to_string());
            let counted = self.client.query_opt(&question, &[]).await.ok().flatten();
            let elapsed = docrow.started.elapsed();
            if counted.is_some_and(|row| row.get::<_, i64>(0) > 0) {
                return elapsed;
            }
            assert!(!docrow.is_over() && elapsed < PATIENCE, "it does not show: {}", docrow.log());
            sleep(POLL).await;
        }
    }
}

/// A collection appears: how long its first document takes to show, and the longest that a write to another
/// takes from one second before to one after that.
async fn one_more(stage: &Stage, rows: &Rows, docrow: &Docrow, number: i32) -> (Duration, Duration) {
    let others = Rows::of(stage).await;
    let appear = async {
        sleep(Duration::from_secs(1)).await;
        let began = docrow.started.elapsed();
        add(stage, number).await.unwrap();
        let question = format!("SELECT count(*) FROM {} WHERE n = $1", name(number));
        let shown = rows.until(docrow, &question, 0).await;
        sleep(Duration::from_secs(1)).await;
        shown - began
    };
    let worst = Cell::new(Duration::ZERO);
    let write = async {
        for n in 1.. {
            set(stage, 1, n).await;
            let written = Instant::now();
            others.until(docrow, "SELECT count(*) FROM things_1 WHERE n = $1", n).await;
            worst.set(worst.get().max(written.elapsed()));
        }
    };
    let appeared = tokio::select! {
        appeared = appear => appeared,
        () = write => unreachable!("it goes on for as long as the other"),
    };
    (appeared, worst.get())
}
