//! One actor per connection: it owns the socket, reads packets, writes what its outbox holds, and pings.

use crate::{
    config,
    delivery::outbox::{Closing, Outgoing},
    delivery::registry::Registered,
    net::socket::Socket,
    net::wire::Progress,
    packet::{Header, ROUTE_SYSTEM},
    routing::gateway::{Aside, Gateway},
};
use bytes::Bytes;
use futures_util::FutureExt;
use prost::Message as _;
use std::{
    future::{Future, poll_fn},
    iter, mem,
    ops::ControlFlow,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{self, Instant},
};
use tungstenite::{
    Error, Message,
    error::{CapacityError, ProtocolError},
    protocol::CloseFrame,
};

/// Packets that are read before their answers are written.
const BATCH: usize = 64;

/// How long the other side may take to see its close frame.
const LINGER: Duration = Duration::from_secs(2);

/// How a session ended: the label of `gateway_disconnections_total`, and what the other side is told.
struct End {
    cause: &'static str,
    told: Option<(u16, String)>,
}

impl End {
    fn silent(cause: &'static str) -> Self {
        Self { cause, told: None }
    }

    fn told(cause: &'static str, code: u16, reason: impl Into<String>) -> Self {
        Self { cause, told: Some((code, reason.into())) }
    }
}

impl From<Closing> for End {
    fn from(closing: Closing) -> Self {
        Self::told(closing.cause, closing.code, closing.reason)
    }
}

/// Serves a connection until it ends, and answers with the reason.
pub async fn run(
    mut socket: Socket,
    session: Registered,
    gateway: &Arc<Gateway>,
    config: &config::Server,
) -> &'static str {
    let progress = socket.progress();
    let mut actor = Actor { socket: &mut socket, progress, session: &session, gateway, config, batch: Vec::new() };
    let End { cause, told } = match actor.welcome().await {
        ControlFlow::Continue(()) => actor.serve().await,
        ControlFlow::Break(end) => end,
    };
    if let Some((code, reason)) = told {
        // Whoever does not want to hear it is gone all the same.
        let deadline = Instant::now() + LINGER;
        let _ = time::timeout_at(deadline, actor.write_rest()).await;
        // From here on nothing reaches it any more.
        drop(session);
        let _ = time::timeout_at(deadline, part(socket, code, reason)).await;
    }
    cause
}

struct Actor<'a> {
    socket: &'a mut Socket,
    progress: Arc<Progress>,
    session: &'a Registered,
    gateway: &'a Arc<Gateway>,
    config: &'a config::Server,
    /// What is being written; empty between writes.
    batch: Vec<Outgoing>,
}

impl Actor<'_> {
    /// The first packet that a client receives.
    async fn welcome(&mut self) -> ControlFlow<End> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let welcome = gateway_proto::Welcome {
            session_id: self.session.id.to_string(),
            server_time_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        };
        self.batch.push(Outgoing { header: Header::push(ROUTE_SYSTEM, 0), payload: welcome.encode_to_vec().into() });
        self.write(None).await
    }

    async fn serve(&mut self) -> End {
        let mut timer = pin!(time::sleep(self.config.ping_interval));
        loop {
            let flow = tokio::select! {
                biased;
                // Before the socket, which a flood keeps ready for ever.
                () = &mut timer => {
                    let flow = self.ping().await;
                    let idle_in = self.config.idle_timeout.saturating_sub(self.progress.silence());
                    timer.as_mut().reset(Instant::now() + self.config.ping_interval.min(idle_in));
                    flow
                }
                message = self.socket.message() => self.read(message).await,
                closing = poll_fn(|cx| self.session.outbox.poll_drain(cx, &mut self.batch)) => self.write(closing).await,
            };
            if let ControlFlow::Break(end) = flow {
                return end;
            }
        }
    }

    /// Serves a message and those that are ready behind it, as long as the answers do not pile up, and writes the answers.
    async fn read(&mut self, first: Result<Message, Error>) -> ControlFlow<End> {
        self.session.outbox.attend();
        self.on_message(first).await?;
        for _ in 1..BATCH {
            if self.session.outbox.queued_bytes() >= self.config.write_buffer_bytes {
                break;
            }
            let Some(message) = self.socket.message_at_hand().await else { break };
            self.on_message(message).await?;
        }
        let closing = self.session.outbox.drain(&mut self.batch);
        self.write(closing).await
    }

    async fn on_message(&mut self, message: Result<Message, Error>) -> ControlFlow<End> {
        let end = match message {
            Ok(Message::Binary(packet)) => match self.gateway.on_packet(self.session, packet) {
                None => return ControlFlow::Continue(()),
                Some(aside) => return self.wait(aside).await,
            },
            // The pong has been queued. Whoever does not read pongs is not read from either.
            Ok(Message::Ping(_)) => {
                let flushing = self.socket.write(iter::empty());
                return bounded(flushing, &self.progress, self.session, self.config.idle_timeout).await;
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => return ControlFlow::Continue(()),
            Ok(Message::Text(_)) => End::told("text", 1003, "packets are binary messages"),
            // What is told then is the client's own frame, as the answer to it.
            Ok(Message::Close(_)) => End::told("closed", 1000, ""),
            Err(error) => ended(&error),
        };
        ControlFlow::Break(end)
    }

    /// Waits for a slow plugin to decide on a packet. The session's next packets have to wait as well; what is sent to it has not.
    async fn wait(&mut self, mut aside: Aside) -> ControlFlow<End> {
        loop {
            tokio::select! {
                biased;
                served = &mut aside => return match served {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(End::told("panic", 1011, "a defect of the gateway")),
                },
                closing = poll_fn(|cx| self.session.outbox.poll_drain(cx, &mut self.batch)) => self.write(closing).await?,
            }
        }
    }

    /// Writes what is in the batch, and ends the session where that is wanted.
    async fn write(&mut self, closing: Option<Closing>) -> ControlFlow<End> {
        let written = if self.batch.is_empty() { ControlFlow::Continue(()) } else { self.write_batch().await };
        closing.map_or(written, |closing| ControlFlow::Break(closing.into()))
    }

    /// All of the batch into the socket's buffer, then one flush.
    async fn write_batch(&mut self) -> ControlFlow<End> {
        let batch = mem::take(&mut self.batch);
        let count = batch.len();
        let writing = self.socket.write(batch.into_iter().map(|outgoing| Message::Binary(outgoing.packet())));
        let flow = bounded(writing, &self.progress, self.session, self.config.idle_timeout).await;
        if flow.is_continue() {
            self.gateway.metrics.sent.inc_by(count as u64);
        }
        flow
    }

    /// Writes the answers to what came before the end.
    async fn write_rest(&mut self) {
        let closing = self.session.outbox.drain(&mut self.batch);
        // It ends in any case.
        let _ = self.write(closing).await;
    }

    async fn ping(&mut self) -> ControlFlow<End> {
        if self.progress.silence() >= self.config.idle_timeout {
            return ControlFlow::Break(End::told("idle", 1001, "idle: nothing was heard for too long"));
        }
        let ping = self.socket.write(iter::once(Message::Ping(Bytes::new())));
        bounded(ping, &self.progress, self.session, self.config.idle_timeout).await
    }
}

/// Bounds a write: a client that reads nothing for `timeout` is gone, and one whose full queue is to close it goes at once.
async fn bounded(
    writing: impl Future<Output = Result<(), Error>>,
    progress: &Progress,
    session: &Registered,
    timeout: Duration,
) -> ControlFlow<End> {
    let mut writing = pin!(writing);
    // Nearly every write is done at once, and needs no timer.
    if let Some(outcome) = writing.as_mut().now_or_never() {
        return outcome.map_or_else(|error| ControlFlow::Break(ended(&error)), ControlFlow::Continue);
    }
    loop {
        let before = progress.written();
        let overflow = poll_fn(|cx| session.outbox.poll_overflow(cx));
        tokio::select! {
            biased;
            outcome = time::timeout(timeout, &mut writing) => match outcome {
                Ok(Ok(())) => return ControlFlow::Continue(()),
                Ok(Err(error)) => return ControlFlow::Break(ended(&error)),
                Err(_) if progress.written() == before => return ControlFlow::Break(End::silent("write_timeout")),
                Err(_) => {}
            },
            closing = overflow => return ControlFlow::Break(closing.into()),
        }
    }
}

fn ended(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            End::told("too_large", 1009, format!("a message of {size} bytes is over max_message_bytes, {max_size}"))
        }
        Error::ConnectionClosed | Error::AlreadyClosed => End::silent("closed"),
        Error::Io(_) | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::silent("gone"),
        Error::Utf8(_) => End::told("protocol_error", 1007, "text has to be UTF-8"),
        other => End::told("protocol_error", 1002, other.to_string()),
    }
}

/// Says good-bye, then reads on until the other side has closed: to close with bytes unread would reset the connection, and the
/// close frame could be lost on the way.
async fn part(mut socket: Socket, code: u16, mut reason: String) {
    reason.truncate(reason.floor_char_boundary(123));
    // Where the other side has closed by itself, its frame is answered by the flush instead. Errors mean that it is gone.
    let close = CloseFrame { code: code.into(), reason: reason.into() };
    let _ = socket.write(iter::once(Message::Close(Some(close)))).await;
    let _ = socket.write(iter::empty()).await;
    linger(socket.wire()).await;
}

/// Ends a connection in a way that what was written still arrives. Runs under a timeout of the caller's.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.shutdown().await.is_ok() {
        // Not an array: every session would hold it all its life.
        let mut rest = vec![0; 4096];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}
