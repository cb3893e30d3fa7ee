//! A TCP proxy in front of a server that can cut connections: at once, or when a certain message passes.
//!
//! "Applied, but the answer was lost" is [`Trap::after`]: the message is forwarded, the server's answers up
//! to its own are swallowed, then the connection is cut on both sides.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// PostgreSQL's simple query `COMMIT`, and the beginning of its answer.
const COMMIT: (&[u8], &[u8]) = (b"Q\0\0\0\x0bCOMMIT\0", b"C\0\0\0\x0bCOMMIT\0");

/// A proxy. Dropping it ends all connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

struct Shared {
    server: AtomicU16,
    refuses: AtomicBool,
    /// Counts the cuts: every connection that is older than the latest ends.
    cuts: watch::Sender<usize>,
    stalled: watch::Sender<bool>,
    trap: Mutex<Option<Trap>>,
    sprung: AtomicUsize,
    round_trips: AtomicUsize,
}

/// A condition that cuts a connection, once.
#[derive(Clone)]
pub(crate) enum Trap {
    /// A message of the client's.
    Message {
        message: &'static [u8],
        /// The server's answer; `None`: the server must not see the message.
        answer: Option<&'static [u8]>,
    },
    /// The client, over all connections, has sent this many bytes.
    Bytes(usize),
    /// A message of the client's: its connection is not cut, but nothing passes there any more, neither that
    /// nor anything else.
    Frozen(&'static [u8]),
}

impl Trap {
    /// The next `COMMIT` does not reach the server.
    pub(crate) fn before_commit() -> Self {
        Self::Message { message: COMMIT.0, answer: None }
    }

    /// The next `COMMIT` is executed, but its answer is lost.
    pub(crate) fn after_commit() -> Self {
        Self::Message { message: COMMIT.0, answer: Some(COMMIT.1) }
    }

    /// What to do about bytes that pass, of which the first `before` have passed already.
    fn look(&mut self, seen: &[u8], before: usize) -> Passing {
        match self {
            Self::Message { message, answer } => match (find(seen, message), &answer) {
                (None, _) => Passing::All,
                (Some(at), None) => Passing::Up(at.saturating_sub(before)),
                (Some(_), Some(answer)) => Passing::AndSwallow(answer),
            },
            Self::Frozen(message) => find(seen, message).map_or(Passing::All, |_| Passing::Never),
            Self::Bytes(left) if *left < seen.len() - before => Passing::Up(*left),
            Self::Bytes(left) => {
                *left -= seen.len() - before;
                Passing::All
            }
        }
    }
}

/// What happens to bytes.
enum Passing {
    /// They pass.
    All,
    /// This many of them pass, then the connection is cut.
    Up(usize),
    /// They pass, and it is cut after this answer.
    AndSwallow(&'static [u8]),
    /// Neither they nor any later ones pass.
    Never,
}

impl Proxy {
    /// A proxy for the server that listens on `port` of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), port).await
    }

    /// The same, which listens at an address of this machine.
    pub(crate) async fn at(address: SocketAddr, port: u16) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            server: AtomicU16::new(port),
            refuses: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
            trap: Mutex::new(None),
            sprung: AtomicUsize::new(0),
            round_trips: AtomicUsize::new(0),
        });
        let mut accepting = JoinSet::new();
        let address = listener.local_addr().unwrap();
        accepting.spawn(accept(listener, shared.clone()));
        Self { address, shared, _accepting: accepting }
    }

    /// A proxy for the server that `uri` names.
    pub(crate) async fn of(uri: &str) -> Self {
        Self::to(port_of(uri).parse().unwrap()).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `uri` through this proxy.
    pub(crate) fn uri(&self, uri: &str) -> String {
        uri.replacen(&format!(":{}", port_of(uri)), &format!(":{}", self.address.port()), 1)
    }

    /// The one mongod behind this proxy, for a client that must not look for its replica set beside it.
    pub(crate) fn mongodb_uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address())
    }

    /// From now on, new connections go to the server on `port`.
    pub(crate) fn lead_to(&self, port: u16) {
        self.shared.server.store(port, Ordering::SeqCst);
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends new connections at once, from now on, or accepts them again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Lets nothing through, without ending anything, or lets it flow again.
    pub(crate) fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// Sets the trap, replacing an earlier one.
    pub(crate) fn set(&self, trap: Trap) {
        *self.shared.trap.lock().unwrap() = Some(trap);
    }

    /// How often the client has sent something after an answer, or first, over all connections.
    pub(crate) fn round_trips(&self) -> usize {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// How often a trap has cut a connection, or frozen it.
    pub(crate) fn sprung(&self) -> usize {
        self.shared.sprung.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// What to do with passing bytes. A trap that springs is removed.
    fn look(&self, seen: &[u8], before: usize) -> Passing {
        let mut trap = self.trap.lock().unwrap();
        let passing = trap.as_mut().map_or(Passing::All, |trap| trap.look(seen, before));
        if !matches!(passing, Passing::All) {
            *trap = None;
        }
        passing
    }

    fn note_cut(&self) {
        self.sprung.fetch_add(1, Ordering::SeqCst);
    }
}

/// The port in a URI that names one host.
pub(crate) fn port_of(uri: &str) -> &str {
    let (_, rest) = uri.split_once("://").unwrap();
    let host = rest.split('/').next().unwrap().rsplit('@').next().unwrap();
    host.rsplit_once(':').unwrap().1
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        if shared.refuses.load(Ordering::SeqCst) {
            continue;
        }
        let shared = shared.clone();
        connections.spawn(async move {
            let mut cuts = shared.cuts.subscribe();
            tokio::select! {
                biased;
                _ = cuts.changed() => {}
                () = carry(client, &shared) => {}
            }
        });
    }
}

/// Carries a connection until it ends, or is cut.
async fn carry(client: TcpStream, shared: &Shared) {
    let port = shared.server.load(Ordering::SeqCst);
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (swallow, swallowing) = watch::channel(None);
    let is_answered = AtomicBool::new(true);
    tokio::select! {
        () = forth(from_client, to_server, swallow, shared, &is_answered) => {}
        () = back(from_server, to_client, swallowing, shared, &is_answered) => {}
    }
}

/// The client's messages. Ends when a trap cuts.
async fn forth(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallow: watch::Sender<Option<&'static [u8]>>,
    shared: &Shared,
    is_answered: &AtomicBool,
) {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if is_answered.swap(false, Ordering::SeqCst) {
            shared.round_trips.fetch_add(1, Ordering::SeqCst);
        }
        flowing(shared).await;
        let before = seen.len();
        seen.extend_from_slice(&buffer[..count]);
        match shared.look(&seen, before) {
            Passing::All => {}
            Passing::Up(passing) => {
                let _ = to.write_all(&buffer[..passing]).await;
                return shared.note_cut();
            }
            Passing::AndSwallow(answer) => drop(swallow.send_replace(Some(answer))),
            Passing::Never => {
                shared.note_cut();
                return std::future::pending().await;
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        // The beginning of a message may have come.
        seen.drain(..seen.len().saturating_sub(COMMIT.0.len() - 1));
    }
}

/// The server's answers. Ends after the last one that is swallowed.
async fn back(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallowing: watch::Receiver<Option<&'static [u8]>>,
    shared: &Shared,
    is_answered: &AtomicBool,
) {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        is_answered.store(true, Ordering::SeqCst);
        flowing(shared).await;
        if let Some(answer) = *swallowing.borrow() {
            seen.extend_from_slice(&buffer[..count]);
            if find(&seen, answer).is_some() {
                return shared.note_cut();
            }
        } else if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn flowing(shared: &Shared) {
    let mut stalled = shared.stalled.subscribe();
    let _ = stalled.wait_for(|stalled| !stalled).await;
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
