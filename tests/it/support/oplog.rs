//! A server whose oplog rolls over within seconds, so that history is really lost.

use std::time::Duration;

use ::docrow::demo::servers::MongodOptions;
use mongodb::{
    Client,
    bson::{Document, Timestamp, doc},
};
use tokio::time::{sleep, timeout};

use super::waiting::DEADLINE;

/// How often some padding is written: the server's next checkpoint, once a second, removes the oplog's
/// beginning, and until then the disk need not fill.
const PACE: Duration = Duration::from_millis(10);

/// An oplog of 16 MB: it holds a test's writes, and little padding displaces them.
pub(crate) fn small_oplog() -> MongodOptions {
    MongodOptions { oplog_mb: Some(16), ..Default::default() }
}

/// The time of the first entry of the oplog.
pub(crate) async fn oplog_start(client: &Client) -> Timestamp {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    loop {
        match oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await {
            Ok(first) => return first.unwrap().get_timestamp("ts").unwrap(),
            // CappedPositionLost: the first entry was removed during the search.
            Err(error) if error.to_string().contains("136") => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes padding to a separate database until the oplog begins after `until`. The server must be from
/// [`small_oplog`].
pub(crate) async fn roll_over(client: &Client, until: Timestamp) {
    let padding = client.database("docrow_padding").collection::<Document>("padding");
    let rolled = async {
        while oplog_start(client).await <= until {
            padding.insert_one(doc! { "x": "x".repeat(200_000) }).await.unwrap();
            sleep(PACE).await;
        }
    };
    timeout(DEADLINE, rolled).await.expect("the oplog rolls over");
}
