//! A proxy between a gateway and its Redis. The proxy can delay SUBSCRIBE commands and cut the connections that have
//! subscribed.

use crate::{Redis, Setup, eventually};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// A running proxy.
pub struct Proxy {
    /// The port on 127.0.0.1 on which the proxy listens.
    pub port: u16,
    state: Arc<watch::Sender<State>>,
}

#[derive(Default)]
struct State {
    /// Whether SUBSCRIBE commands are delayed.
    held: bool,
    /// The number of commands that are delayed now.
    waiting: usize,
    /// The number of calls of [`Proxy::cut_subscribers`].
    cuts: usize,
}

impl Proxy {
    /// Starts a proxy in front of this Redis.
    pub async fn start(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let (server, state) = (redis.port, Arc::clone(&proxy.state));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&state)));
            }
        });
        proxy
    }

    /// Returns a setup with chat, system and the game `mmo`. The bus is the Redis behind this proxy.
    #[must_use]
    pub fn setup(&self) -> Setup {
        let yaml = format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 60000 }}", self.port);
        Setup { yaml, ..Setup::default() }
    }

    /// Delays all SUBSCRIBE commands until [`Self::release`] is called.
    pub fn hold_subscriptions(&self) {
        self.state.send_modify(|state| state.held = true);
    }

    /// Waits until a subscription is delayed.
    pub async fn holds_a_subscription(&self) {
        eventually("a delayed SUBSCRIBE command", || async { (self.state.borrow().waiting > 0).then_some(()) }).await;
    }

    /// Forwards the delayed commands.
    pub fn release(&self) {
        self.state.send_modify(|state| state.held = false);
    }

    /// Closes the connections that have subscribed.
    pub fn cut_subscribers(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn carry(client: TcpStream, server: u16, state: Arc<watch::Sender<State>>) {
    // If Redis is unreachable, the gateway's connection ends, as it does if there is no proxy.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((client_read, mut client_write), (mut server_read, server_write)) = (client.into_split(), server.into_split());
    tokio::select! {
        _ = copy(&mut server_read, &mut client_write) => {}
        _ = commands(client_read, server_write, &state) => {}
    }
}

async fn commands(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    state: &watch::Sender<State>,
) -> std::io::Result<()> {
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
        if buffer[..read].windows(13).any(|bytes| bytes == b"\r\nSUBSCRIBE\r\n") {
            state.send_modify(|state| state.waiting += 1);
            let _ = changes.wait_for(|state| !state.held).await;
            state.send_modify(|state| state.waiting -= 1);
            cuts = Some(state.borrow().cuts);
        }
        server.write_all(&buffer[..read]).await?;
    }
}
