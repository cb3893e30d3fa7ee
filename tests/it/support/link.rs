//! A network between docrow and a server: everything arrives after a delay, and no faster than the line
//! carries it. Threads forward it: they sleep to a tenth of a millisecond, tokio's timer to one.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// The most that is read at once, in bytes, and how many such pieces may be on their way on a connection:
/// more than the fastest line holds within its delay.
const PIECE: usize = 64 << 10;
const PIECES: usize = 256;

/// How long a round trip takes, and what the line carries each way, all its connections together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) round_trip: Duration,
    pub(crate) megabits_per_second: f64,
}

/// A line to a server. Dropping it accepts no more connections; those that are open end with their ends.
pub(crate) struct Link {
    address: SocketAddr,
    is_dropped: Arc<AtomicBool>,
}

impl Link {
    /// To the server that listens on `port` of this machine.
    pub(crate) fn to(port: u16, pace: Pace) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let is_dropped = Arc::new(AtomicBool::new(false));
        let dropped = is_dropped.clone();
        let directions =
            [(); 2].map(|()| Arc::new(Direction { pace, is_free_at: Mutex::new(Instant::now()) }));
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept()
                && !dropped.load(Ordering::SeqCst)
            {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                let [forth, back] = directions.clone();
                forward(client.try_clone().unwrap(), server.try_clone().unwrap(), forth);
                forward(server, client, back);
            }
        });
        Self { address, is_dropped }
    }

    /// The one mongod behind it: its replica set names itself by an address that leads past the line.
    pub(crate) fn mongodb_uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
    }
}

struct Direction {
    pace: Pace,
    is_free_at: Mutex<Instant>,
}

impl Direction {
    /// When these bytes arrive if they are sent now.
    fn arrival(&self, bytes: usize) -> Instant {
        let mut is_free_at = self.is_free_at.lock().unwrap();
        let carried = Duration::from_secs_f64(bytes as f64 * 8.0 / (self.pace.megabits_per_second * 1e6));
        *is_free_at = Instant::now().max(*is_free_at) + carried;
        *is_free_at + self.pace.round_trip / 2
    }
}

fn forward(from: TcpStream, to: TcpStream, direction: Arc<Direction>) {
    let _ = to.set_nodelay(true);
    let (send, sent) = sync_channel(PIECES);
    thread::spawn(move || depart(from, &direction, &send));
    thread::spawn(move || arrive(to, &sent));
}

fn depart(mut from: TcpStream, direction: &Direction, send: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if send.send((direction.arrival(count), buffer[..count].to_vec())).is_err() {
            break;
        }
    }
}

fn arrive(mut to: TcpStream, sent: &Receiver<(Instant, Vec<u8>)>) {
    for (arrival, bytes) in sent {
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // Both ways, so that the other one's reader ends, too.
    let _ = to.shutdown(Shutdown::Both);
}
