//! docrow's log is not read.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
};

use mongodb::bson::doc;

use crate::support::{Home, Place};

/// A full pipe that is not read.
fn full() -> (File, File) {
    let (reader, writer) = io::pipe().unwrap();
    let (reader, mut writer) = (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)));
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while writer.write(&vec![b'.'; size]).is_ok() {}
    }
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    (reader, writer)
}

/// "A blocked log reader stops replication": it does not, nor does it keep docrow from ending.
async fn unread(test: &str, format: &str) {
    let place = Place::shared(test).await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    let (mut reader, writer) = full();
    let (out, err) = (Stdio::from(writer.try_clone().unwrap()), Stdio::from(writer));
    let mut docrow = home.start_into(&["run", "--log-format", format], out, err);
    place.settle(&mut docrow).await;
    place.collection("sentinels").update_many(doc! {}, doc! { "$set": { "n": 1 } }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.signal("TERM").await;
    docrow.ended().await.with_code(0);
    // It has not been read until here: the pipe contains what filled it.
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read.trim_start_matches('.'), "");
}

#[tokio::test]
async fn log_unread_during_stream() {
    unread("log_unread", "text").await;
}

#[tokio::test]
async fn json_log_unread_during_stream() {
    unread("log_unread_json", "json").await;
}

/// The lines logged meanwhile are there, and so is the very last line.
#[tokio::test]
async fn log_read_again_after_it_was_full() {
    let place = Place::shared("log_read_again").await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    let (mut reader, writer) = full();
    let mut docrow = home.start_into(&["run"], Stdio::null(), Stdio::from(writer));
    place.settle(&mut docrow).await;
    let reading = std::thread::spawn(move || {
        let mut read = String::new();
        reader.read_to_string(&mut read).map(|_| read)
    });
    docrow.signal("TERM").await;
    docrow.ended().await.with_code(0);
    let read = reading.join().unwrap().unwrap();
    assert!(read.contains("mapped automatically"), "{}", read.trim_start_matches('.'));
    let last = read.trim_end().lines().last().unwrap();
    assert!(last.contains("stopped: ") && last.contains("changes applied"), "{last}");
}
