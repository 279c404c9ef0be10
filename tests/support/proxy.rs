//! A proxy between a gateway and its Redis. The proxy can delay SUBSCRIBE or SET commands, cut the connections that have
//! subscribed, drop bytes without closing a connection, let nothing pass for a while, and lead to another Redis.

use crate::{Redis, Setup, eventually};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// How a command for topics begins, in the protocol of Redis.
const SUBSCRIBE: &[u8] = b"\r\nSUBSCRIBE\r\n";

/// How a command that writes a value begins.
const SET: &[u8] = b"\r\nSET\r\n";

/// A running proxy.
pub struct Proxy {
    /// The port on 127.0.0.1 on which the proxy listens.
    pub port: u16,
    state: Arc<watch::Sender<State>>,
}

#[derive(Default)]
struct State {
    /// The port of the Redis to which new connections lead.
    server: u16,
    /// The command that is delayed, if there is one.
    held: Option<&'static [u8]>,
    /// The number of commands that are delayed now.
    waiting: usize,
    /// The number of calls of [`Proxy::cut_subscribers`].
    cuts: usize,
    /// The number of accepted connections.
    accepted: usize,
    /// The bytes that are dropped, and the number of connections that had been accepted then. Later connections work.
    dropped: Option<(Connections, Bound, usize)>,
    /// Whether nothing passes.
    stalled: bool,
}

/// The connections of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// Those that have subscribed.
    Subscribing,
    /// The others.
    Publishing,
}

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// From the gateway to Redis.
    ToRedis,
    /// From Redis to the gateway.
    ToGateway,
}

/// One connection.
#[derive(Clone)]
struct Line {
    /// The number of connections that were accepted before.
    number: usize,
    has_subscribed: Arc<AtomicBool>,
    state: Arc<watch::Sender<State>>,
}

impl Line {
    /// Returns whether bytes in this direction are dropped.
    fn drops(&self, bound: Bound) -> bool {
        let own =
            if self.has_subscribed.load(Ordering::SeqCst) { Connections::Subscribing } else { Connections::Publishing };
        self.state
            .borrow()
            .dropped
            .is_some_and(|(whose, which, before)| whose == own && which == bound && self.number < before)
    }
}

impl Proxy {
    /// Starts a proxy in front of this Redis.
    pub async fn start(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(watch::Sender::new(State { server: redis.port, ..State::default() }));
        let proxy = Self { port: listener.local_addr().unwrap().port(), state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let line =
                    Line { number: state.borrow().accepted, has_subscribed: Arc::default(), state: Arc::clone(&state) };
                state.send_modify(|state| state.accepted += 1);
                let server = state.borrow().server;
                tokio::spawn(carry(client, server, line));
            }
        });
        proxy
    }

    /// Returns a setup with chat, system and the game `mmo`. The bus is the Redis behind this proxy, and the gateway waits
    /// for its answers for as long as a test does.
    #[must_use]
    pub fn setup(&self) -> Setup {
        self.setup_with("timeout_ms: 60000")
    }

    /// Does the same as [`Self::setup`] with the default time that the gateway waits.
    #[must_use]
    pub fn setup_with_defaults(&self) -> Setup {
        self.setup_with("")
    }

    /// Returns the setup of [`Self::setup`] with these keys in the section `redis` instead of the timeout.
    #[must_use]
    pub fn setup_with(&self, keys: &str) -> Setup {
        let yaml = format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"127.0.0.1:{}\", {keys} }}", self.port);
        Setup { yaml, ..Setup::default() }
    }

    /// Delays all SUBSCRIBE commands until [`Self::release`] is called.
    pub fn hold_subscriptions(&self) {
        self.state.send_modify(|state| state.held = Some(SUBSCRIBE));
    }

    /// Delays all SET commands until [`Self::release`] is called.
    pub fn hold_values(&self) {
        self.state.send_modify(|state| state.held = Some(SET));
    }

    /// Waits until a command is delayed.
    pub async fn holds_a_command(&self) {
        eventually("a delayed command", || async { (self.state.borrow().waiting > 0).then_some(()) }).await;
    }

    /// Forwards the delayed commands.
    pub fn release(&self) {
        self.state.send_modify(|state| state.held = None);
    }

    /// Closes the connections that have subscribed.
    pub fn cut_subscribers(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Leads new connections to another Redis.
    pub fn lead_to(&self, redis: &Redis) {
        self.state.send_modify(|state| state.server = redis.port);
    }

    /// Lets nothing pass, on old and on new connections, as a network that is split. Connections stay open, and new
    /// ones are accepted.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// Lets everything pass again that has waited since [`Self::stall`].
    pub fn resume(&self) {
        self.state.send_modify(|state| state.stalled = false);
    }

    /// Drops all further bytes of these connections in this direction. The connections stay open, and new ones work.
    pub fn drop_silently(&self, connections: Connections, bound: Bound) {
        self.state.send_modify(|state| state.dropped = Some((connections, bound, state.accepted)));
    }
}

async fn carry(client: TcpStream, server: u16, line: Line) {
    // If Redis is unreachable, the gateway's connection ends, as it does if there is no proxy.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((client_read, client_write), (server_read, server_write)) = (client.into_split(), server.into_split());
    tokio::select! {
        _ = answers(server_read, client_write, &line) => {}
        _ = commands(client_read, server_write, &line) => {}
    }
}

async fn answers(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, line: &Line) -> std::io::Result<()> {
    let mut changes = line.state.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = server.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let _ = changes.wait_for(|state| !state.stalled).await;
        if !line.drops(Bound::ToGateway) {
            client.write_all(&buffer[..read]).await?;
        }
    }
}

async fn commands(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, line: &Line) -> std::io::Result<()> {
    let state = &line.state;
    let mut changes = state.subscribe();
    let mut cuts = None;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = client.read(&mut buffer) => read?,
            _ = changes.wait_for(|state| cuts.is_some_and(|cuts| cuts != state.cuts)) => return Ok(()),
        };
        if read == 0 {
            return Ok(());
        }
        let has = |command: &[u8]| buffer[..read].windows(command.len()).any(|bytes| bytes == command);
        let held = state.borrow().held;
        if held.is_some_and(has) {
            state.send_modify(|state| state.waiting += 1);
            let _ = changes.wait_for(|state| state.held.is_none()).await;
            state.send_modify(|state| state.waiting -= 1);
        }
        if has(SUBSCRIBE) {
            cuts = Some(state.borrow().cuts);
            line.has_subscribed.store(true, Ordering::SeqCst);
        }
        let _ = changes.wait_for(|state| !state.stalled).await;
        if !line.drops(Bound::ToRedis) {
            server.write_all(&buffer[..read]).await?;
        }
    }
}
