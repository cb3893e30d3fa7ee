//! A proxy before a real mongod that refuses, or leaves out, what services compatible with MongoDB lack, and
//! routers of sharded clusters.

use std::net::Ipv4Addr;

use mongodb::bson::{Bson, Document, doc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
    task::JoinSet,
};

/// A message begins with its length, its id, the id of the one that it answers, and its kind.
const HEADER: usize = 16;
/// Then an OP_MSG has flags, and the kind of its first section.
const OP_MSG: (i32, usize) = (2013, HEADER + 5);
/// The answer to the driver's first `hello`: flags, a cursor, two numbers.
const OP_REPLY: (i32, usize) = (1, HEADER + 20);

/// The field by which the router's collections are sharded.
pub(crate) const SHARD_KEY: &str = "region";

/// The shard key of a document.
pub(crate) fn shard_key(id: i32) -> i32 {
    id % 3
}

/// What a service lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    SplitVector,
    SplitLargeEvent,
    StartAtOperationTime,
    PostBatchResumeToken,
    /// `getParameter` and `getCmdLineOpts`.
    ServerParameters,
    /// `hint` by a key pattern.
    Hint,
    MajorityReads,
    /// `replSetGetConfig`, `replSetGetStatus`, and the database `local`.
    Members,
    CurrentOp,
    /// It is the router of a sharded cluster: the members and their oplogs are behind it, `splitVector` is
    /// not served, and change events have the shard key in `documentKey`. Documents are served for `majority`
    /// reads alone: with the level `available`, a router also gives those that a shard no longer owns.
    ReplicaSet,
}

impl Absent {
    /// The code and the words of a refusal.
    fn refusal(self, command: &Document) -> Option<(i32, &'static str)> {
        let name = command.keys().next().map_or("", String::as_str);
        let database = command.get_str("$db").unwrap_or_default();
        let (of_local, of_users) = (database == "local", !["admin", "config", "local"].contains(&database));
        let stage = |name: &str| {
            let stages = command.get_array("pipeline").into_iter().flatten();
            stages.filter_map(Bson::as_document).find_map(|stage| stage.get(name).cloned())
        };
        let stream = || stage("$changeStream").and_then(|stream| stream.as_document().cloned());
        match self {
            Self::SplitVector if name == "splitVector" => Some((303, "Feature not supported: splitVector")),
            Self::SplitLargeEvent if stage("$changeStreamSplitLargeEvent").is_some() => {
                Some((40324, "Unrecognized pipeline stage name: '$changeStreamSplitLargeEvent'"))
            }
            Self::StartAtOperationTime if stream()?.contains_key("startAtOperationTime") => {
                Some((40415, "BSON field '$changeStream.startAtOperationTime' is an unknown field"))
            }
            Self::ServerParameters if ["getParameter", "getCmdLineOpts"].contains(&name) => {
                Some((59, "no such command"))
            }
            Self::Hint if command.contains_key("hint") => Some((2, "hint is not supported")),
            Self::ReplicaSet if name == "splitVector" => Some((59, "no such command")),
            Self::MajorityReads if is_majority_read(command) => {
                Some((148, "Majority read concern requested, but it is not supported"))
            }
            Self::ReplicaSet if name == "find" && of_users && !is_majority_read(command) => {
                Some((72, "a read that may give documents which a shard no longer owns"))
            }
            Self::Members | Self::ReplicaSet if name.starts_with("replSet") || of_local => {
                Some((59, "no such command"))
            }
            Self::CurrentOp if stage("$currentOp").is_some() => {
                Some((40324, "Unrecognized pipeline stage name: '$currentOp'"))
            }
            _ => None,
        }
    }

    /// A reply as the service gives it.
    fn reply(self, mut reply: Document) -> Document {
        let is_hello = reply.contains_key("setName");
        match (self, reply.get_document_mut("cursor").ok()) {
            (Self::PostBatchResumeToken, Some(cursor)) => drop(cursor.remove("postBatchResumeToken")),
            (Self::ReplicaSet, Some(cursor)) => of_shards(cursor),
            (Self::ReplicaSet, None) if is_hello => {
                for name in ["setName", "setVersion", "hosts", "primary", "me", "electionId", "secondary"] {
                    reply.remove(name);
                }
                reply.insert("msg", "isdbgrid");
            }
            _ => {}
        }
        reply
    }
}

fn is_majority_read(command: &Document) -> bool {
    command.get_document("readConcern").is_ok_and(|concern| concern.get_str("level").ok() == Some("majority"))
}

/// Puts the shard key into change events.
fn of_shards(cursor: &mut Document) {
    for batch in ["firstBatch", "nextBatch"] {
        let events = cursor.get_array_mut(batch).into_iter().flatten().filter_map(Bson::as_document_mut);
        for key in events.filter_map(|event| event.get_document_mut("documentKey").ok()) {
            if let Ok(id) = key.get_i32("_id") {
                *key = doc! { SHARD_KEY: shard_key(id), "_id": id };
            }
        }
    }
}

/// The service. Dropping it ends all connections.
pub(crate) struct CompatibleService {
    port: u16,
    _accepting: JoinSet<()>,
}

impl CompatibleService {
    /// What the mongod on `port` of this machine is without this.
    pub(crate) async fn without(absent: Absent, port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
                connections.spawn(carry(client, server, absent));
            }
        });
        Self { port: own, _accepting: accepting }
    }

    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
    }
}

/// Carries a connection until one side ends it.
async fn carry(client: TcpStream, server: TcpStream, absent: Absent) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (answers, mut to_send) = mpsc::channel::<Vec<u8>>(16);
    let refusals = answers.clone();
    let requests = async {
        while let Some(message) = read(&mut from_client).await {
            let refused = body(&message).and_then(|command| absent.refusal(&command));
            let sent = match refused {
                Some((code, words)) => {
                    let said = doc! { "ok": 0.0, "code": code, "codeName": "Refused", "errmsg": words };
                    refusals.send(answer_to(&message, &said)).await.is_ok()
                }
                None => to_server.write_all(&message).await.is_ok(),
            };
            if !sent {
                return;
            }
        }
    };
    let replies = async {
        while let Some(message) = read(&mut from_server).await {
            let changed = body(&message).map(|reply| with_body(&message, &absent.reply(reply)));
            if answers.send(changed.unwrap_or(message)).await.is_err() {
                return;
            }
        }
    };
    let sending = async {
        while let Some(message) = to_send.recv().await {
            if to_client.write_all(&message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = replies => {}
        () = sending => {}
    }
}

/// The next message, whole.
async fn read(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = usize::try_from(from.read_i32_le().await.ok()?).ok()?;
    let mut message = vec![0; length];
    message[..4].copy_from_slice(&i32::try_from(length).unwrap().to_le_bytes());
    from.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

/// Where the body of a message of one section begins. `None`: it is of another kind, as the first `hello` is.
fn body_at(message: &[u8]) -> Option<usize> {
    let kind = i32::from_le_bytes(message[12..HEADER].try_into().unwrap());
    let (_, at) = [OP_MSG, OP_REPLY].into_iter().find(|(known, _)| *known == kind)?;
    (kind == OP_REPLY.0 || message[HEADER + 4] == 0).then_some(at)
}

fn body(message: &[u8]) -> Option<Document> {
    Some(Document::from_reader(&message[body_at(message)?..]).unwrap())
}

/// The message with another body.
fn with_body(message: &[u8], body: &Document) -> Vec<u8> {
    let at = body_at(message).unwrap();
    let mut changed = message[..at].to_vec();
    body.to_writer(&mut changed).unwrap();
    if at == OP_MSG.1 {
        // Without its checksum, if it had one.
        changed[HEADER] &= !1;
    }
    let length = i32::try_from(changed.len()).unwrap();
    changed[..4].copy_from_slice(&length.to_le_bytes());
    changed
}

/// An answer to the message.
fn answer_to(message: &[u8], said: &Document) -> Vec<u8> {
    let mut answer = with_body(message, said);
    answer.copy_within(4..8, 8);
    answer[HEADER..HEADER + 4].fill(0);
    answer
}
