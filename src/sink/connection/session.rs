//! One connection to PostgreSQL, and how to open it.
//!
//! A [`Session`] owns its connection's task: dropping it closes the connection, and the server rolls back
//! open transactions. Messages that the server sends by itself (notices, which may quote values) are not
//! logged.
//!
//! A session that a [`Fence`](crate::sink::metadata::fence::Fence)'s target has opened can write to the
//! pipeline, by [`Session::enter`]; any other one can only read.

use std::{
    fmt, future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{
    future::{BoxFuture, join},
    join,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, Connection, Error as PgError, Row, tls::TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    cancellation::{Cancellation, Cancellations},
    fence_entry::{ENTERED, FenceEntry},
    pulse::{Pulse, SilenceListener},
    round_trip::{OneRoundTrip, Parameter},
    settings::{IN_HASTE, SETTINGS},
    spare::SpareSessions,
    sqlstate, tls,
    transaction::WriteTransaction,
    uri::{self, PATIENCE, TargetUri},
};
use crate::error::{Code, Error, Result};

/// What the connection that listens for silence is called, in `pg_stat_activity`.
const PULSE: &str = "docrow pulse";

/// How to connect.
#[derive(Clone)]
struct ServerLogin {
    config: Config,
    tls: MakeRustlsConnect,
}

/// The target of rows: a server, a schema in it, and the name of the pipeline that writes.
#[derive(Clone)]
pub struct Target {
    /// All clones share it, also when it is replaced.
    login: Arc<RwLock<ServerLogin>>,
    address: String,
    schema: String,
    pipeline: String,
    /// The epoch in which the holder of the pipeline writes.
    epoch: Option<i64>,
    /// Ends sessions when the server is silent. `None`: the callers have their own limits.
    pulse: Option<Arc<Pulse>>,
    cancellations: Cancellations,
    spares: Arc<SpareSessions<Session>>,
}

impl Target {
    /// Parses a URI, `postgresql://user:password@host:port/database?option=value`, and reads the certificates
    /// that it names. Errors never repeat the URI: it contains a password.
    pub fn parse(uri: &str, schema: &str, pipeline: &str) -> Result<Self> {
        let TargetUri { config, tls, address, patience } = uri::parse(uri)?;
        let tls = tls::connector(&tls, config.get_ssl_negotiation())?;
        let (schema, pipeline) = (schema.to_owned(), pipeline.to_owned());
        let pulse = Some(Arc::new(Pulse::new(patience)));
        let login = Arc::new(RwLock::new(ServerLogin { config, tls }));
        let (cancellations, spares) = Default::default();
        Ok(Self { login, address, schema, pipeline, epoch: None, pulse, cancellations, spares })
    }

    fn login(&self) -> ServerLogin {
        self.login.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects with another login and certificate from now on, as in `uri`, which is otherwise the same.
    /// Errors: connecting with them fails; then everything stays as it was.
    pub async fn log_in_again(&self, uri: &str) -> Result<()> {
        let other = Self::parse(uri, &self.schema, &self.pipeline)?.unattended();
        other.connect().await?;
        *self.login.write().unwrap_or_else(PoisonError::into_inner) = other.login();
        Ok(())
    }

    /// The schema of the user's tables.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// `host:port`, for people.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port/database`, for people.
    pub fn place(&self) -> String {
        let login = self.login();
        format!("{}/{}", self.address, login.config.get_dbname().unwrap_or_default())
    }

    /// The user and the database that the URI names.
    pub(crate) fn user_and_database(&self) -> Option<(String, String)> {
        let ServerLogin { config, .. } = self.login();
        Some((config.get_user()?.to_owned(), config.get_dbname()?.to_owned()))
    }

    /// The same, with sessions that write in `epoch`.
    pub(crate) async fn at(&self, epoch: i64) -> Self {
        let pipeline = self.pipeline.clone();
        let spares = self.spares.prepared(move |mut session: Session| {
            let pipeline = pipeline.clone();
            async move {
                let entry = FenceEntry::prepare(&session.client, &pipeline, epoch).await;
                session.entry = Some(entry.map_err(|e| sqlstate::error("prepare a session", &e))?);
                Ok(session)
            }
        });
        Self { epoch: Some(epoch), spares: Arc::new(spares.await), ..self.clone() }
    }

    /// The same, with sessions that are not ended when the server is silent: each use of them has its own
    /// limit.
    #[must_use]
    pub fn unattended(&self) -> Self {
        Self { pulse: None, spares: Arc::default(), ..self.clone() }
    }

    /// Opens sessions for those who will connect within the next seconds, and gives them `open`, too.
    pub(crate) async fn connect_ahead(&self, open: Session, more: usize) {
        self.spares.add(std::iter::once(future::ready(Ok(open)))).await;
        let target = Self { spares: Arc::default(), ..self.clone() };
        let connect = |_| {
            let target = target.clone();
            async move { target.connect().await }
        };
        self.spares.add((0..more).map(connect)).await;
    }

    /// A session that is open already.
    async fn spare(&self) -> Option<Session> {
        loop {
            let session = self.spares.take().await?;
            if !session.is_closed() {
                return Some(session);
            }
        }
    }

    /// Monitors from now on whether the server still answers, as all sessions do.
    pub(crate) fn listen(&self) -> SilenceListener {
        SilenceListener::to(self.pulse.as_ref())
    }

    /// Asks over a connection of its own until there is no answer.
    async fn until_silent(self, patience: Duration) -> Error {
        let mut session = None;
        loop {
            sleep(patience / 4).await;
            let open = match &mut session {
                Some(open) => open,
                // A failure to connect says nothing: the server, or a pool, may have no connections left.
                none => match self.connect_as(PULSE).await {
                    Ok(open) => none.insert(open),
                    Err(_) => continue,
                },
            };
            match timeout(patience * 3 / 4, open.client.check_connection()).await {
                Ok(Ok(())) => {}
                // The others will have detected it, too, or it concerns only this one.
                Ok(Err(_)) => session = None,
                Err(_) => break,
            }
        }
        let (address, seconds) = (&self.address, patience.as_secs_f64());
        let words = "it hangs, or the way to it does";
        let text = format!("no answer from PostgreSQL at {address} for {seconds} s: {words}");
        Error::new(Code::TargetSilent, text)
    }

    /// Connects under a name that is visible in `pg_stat_activity`.
    pub(crate) async fn connect_as(&self, name: &str) -> Result<Session> {
        if let Some(session) = self.spare().await {
            let named = "SELECT set_config('application_name', $1, false)";
            if session.client.fetch_one(named, &[&name]).await.is_ok() {
                return Ok(session);
            }
        }
        let mut login = self.login();
        login.config.application_name(name);
        self.connect_by(login).await
    }

    /// Connects for statements that wait for no lock longer than a [try](crate::sink::tables::locks).
    pub async fn connect_in_haste(&self) -> Result<Session> {
        let session = self.connect().await?;
        let set = session.client.batch_execute(IN_HASTE).await;
        set.map_err(|e| sqlstate::error(format!("connect to PostgreSQL at {}", self.address), &e))?;
        Ok(session)
    }

    /// Opens two sessions at once; the second is missing if the server has none left. Errors: as
    /// [`Self::connect`].
    pub async fn connect_twice(&self) -> Result<(Session, Option<Session>)> {
        match join!(self.connect(), self.connect()) {
            (Ok(one), other) => Ok((one, other.ok())),
            (Err(error), other) => other.map(|other| (other, None)).map_err(|_| error),
        }
    }

    /// Connects. Errors: of [`Kind::TargetAway`](crate::error::Kind) if there is no answer, of
    /// `TargetRefused` if the server refuses.
    pub async fn connect(&self) -> Result<Session> {
        match self.spare().await {
            Some(session) => Ok(session),
            None => self.connect_by(self.login()).await,
        }
    }

    async fn connect_by(&self, login: ServerLogin) -> Result<Session> {
        let doing = || format!("connect to PostgreSQL at {}", self.address);
        // The driver's own limit covers only the TCP handshake: a server that accepts and then stays silent
        // needs this one.
        let patience = login.config.get_connect_timeout().copied().unwrap_or(PATIENCE) * 2;
        timeout(patience, self.open(login))
            .await
            .map_err(|_| {
                Error::new(Code::TargetSilent, format!("{}: no answer: check host and port", doing()))
            })?
            .map_err(|e| sqlstate::error(doing(), &e))
    }

    async fn open(&self, ServerLogin { config, tls }: ServerLogin) -> Result<Session, PgError> {
        let (client, connection) = config.connect(tls.clone()).await?;
        let cancellation = Cancellation::needed(&client, &connection, tls, &self.cancellations);
        let mut session = Session::start(client, connection, self);
        session.cancellation = cancellation;
        let settings = session.client.batch_execute(SETTINGS);
        match self.epoch {
            None => settings.await?,
            Some(epoch) => {
                // In one round trip, and in this order.
                let entry = FenceEntry::prepare(&session.client, &self.pipeline, epoch);
                let (set, entry) = join(settings, entry).await;
                set?;
                session.entry = Some(entry?);
            }
        }
        Ok(session)
    }
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}, schema {}, pipeline {})", self.address, self.schema, self.pipeline)
    }
}

/// One connection. Dropping it closes it, and rolls back open transactions.
#[derive(Debug)]
pub struct Session {
    pub(crate) client: Client,
    connection: JoinSet<()>,
    entry: Option<FenceEntry>,
    cancellation: Option<Cancellation>,
}

impl Session {
    fn start<T>(client: Client, mut messages: Connection<tokio_postgres::Socket, T>, target: &Target) -> Self
    where
        T: TlsStream + Unpin + Send + 'static,
    {
        let mut connection = JoinSet::new();
        // It is boxed, for a session's task holds what connects a session.
        let silence = target.pulse.clone().map(|pulse| {
            let asked = target.unattended().until_silent(pulse.patience());
            Box::pin(pulse.attend(asked)) as BoxFuture<'static, ()>
        });
        // The callers that wait for an answer get the error.
        connection.spawn(async move {
            let carry =
                async { while let Some(Ok(_)) = future::poll_fn(|cx| messages.poll_message(cx)).await {} };
            match silence {
                None => carry.await,
                Some(silence) => tokio::select! {
                    biased;
                    () = carry => {}
                    () = silence => {}
                },
            }
        });
        Self { client, connection, entry: None, cancellation: None }
    }

    /// How transactions of this session enter the pipeline. Errors: [`Kind::Bug`](crate::error::Kind) if they
    /// may not.
    pub(crate) fn entry(&self) -> Result<&FenceEntry> {
        self.entry.as_ref().ok_or_else(|| Error::bug("write to the pipeline: this session may only read"))
    }

    /// Begins a transaction that writes to the pipeline. Errors: [`Kind::Fenced`](crate::error::Kind) if
    /// another process has taken it.
    pub(crate) async fn enter(&mut self, doing: &str) -> Result<WriteTransaction<'_>> {
        let entry = self.entry()?.clone();
        let transaction = WriteTransaction::of(&self.client);
        // Both are on their way before the first answer: they are sent when they are polled first.
        let (begun, entered) = join(transaction.begin(), entry.enter(&self.client)).await;
        begun.and(entered).map_err(|e| sqlstate::error(doing, &e))?;
        Ok(transaction)
    }

    /// The same, with what `along` asks in the same round trip. Should it write, it must do nothing unless
    /// the pipeline was [`ENTERED`].
    pub(crate) async fn enter_along<'a, T>(
        &'a mut self,
        doing: &str,
        along: impl AsyncFnOnce(&'a Client) -> Result<T>,
    ) -> Result<(WriteTransaction<'a>, T)> {
        let (entry, client) = (self.entry()?, &self.client);
        let transaction = WriteTransaction::of(client);
        let (begun, entered, along) = join!(transaction.begin(), entry.enter(client), along(client));
        begun.and(entered).map_err(|e| sqlstate::error(doing, &e))?;
        Ok((transaction, along?))
    }

    /// Runs a statement in a transaction of its own that writes to the pipeline, all in one round trip. It
    /// must do nothing unless the pipeline was [`ENTERED`]. Returns the rows that it returns. Errors: as of
    /// [`Self::enter`], and those of the statement.
    pub(crate) async fn write(
        &mut self,
        doing: &str,
        statement: &str,
        parameters: &[&dyn Parameter],
    ) -> Result<Vec<Row>> {
        debug_assert!(statement.contains(ENTERED), "{statement}");
        let (entry, client) = (self.entry()?, &self.client);
        // All are sent when they are polled first.
        let (begun, entered, written, committed) = join!(
            client.batch_execute("START TRANSACTION"),
            entry.enter(client),
            client.fetch(statement, parameters),
            client.batch_execute("COMMIT")
        );
        // If one of them fails, COMMIT rolls back.
        begun.and(entered).and(committed).and(written).map_err(|e| sqlstate::error(doing, &e))
    }

    /// As [`Self::enter`], or, for a caller that does not hold the pipeline, without entering it.
    pub(crate) async fn enter_if_fenced(&mut self, doing: &str) -> Result<WriteTransaction<'_>> {
        match self.entry {
            Some(_) => self.enter(doing).await,
            None => {
                let transaction = WriteTransaction::of(&self.client);
                transaction.begin().await.map_err(|e| sqlstate::error(doing, &e))?;
                Ok(transaction)
            }
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Returns once the connection has ended, from whichever side.
    pub async fn closed(&mut self) {
        self.connection.join_next().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_does_not_show_its_password() {
        let target = Target::parse("postgresql://u:secret@db:5433/x?connect_timeout=3", "s", "p").unwrap();
        assert_eq!(target.address(), "db:5433");
        assert!(!format!("{target:?}").contains("secret"));
    }
}
