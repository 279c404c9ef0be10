//! The actor of one connection. It owns the socket, reads messages, writes the packets of its outbox, and sends pings.

mod control;

use crate::{
    auth::Authenticator,
    config,
    delivery::outbox::{Closing, Keep, Outgoing},
    delivery::registry::{Ended, Registered},
    net::end::End,
    net::expiry::Expiry,
    net::meter::{Meter, Verdict},
    net::receiver::Message,
    net::socket::{Error, Socket},
    routing::gateway::{Gateway, Offloaded, Served},
    telemetry::metrics::Metrics,
};
use futures_util::FutureExt;
use gateway_wire::{
    packet::{self, HEADER_LEN, Header, ROUTE_SYSTEM},
    websocket::Opcode,
};
use prost::Message as _;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io, iter,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{self, Instant, Sleep},
};

/// The number of messages that are read before their answers are written.
const MAX_READ_MESSAGES: usize = 64;

/// The time limit for the last writes, the close frame and the client's answer to it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The delay of a timer from which on the gateway itself did not run for a while.
const MIN_STALL: Duration = Duration::from_millis(100);

/// Serves a connection until it ends. `expiry` is that of the client's token. Returns the label of
/// `gateway_disconnections_total`.
pub(crate) async fn run(
    mut socket: Socket,
    session: Registered,
    gateway: &Arc<Gateway>,
    config: &config::Server,
    auth: &Authenticator,
    expiry: Option<Box<Expiry>>,
) -> &'static str {
    let mut actor = Actor {
        socket: &mut socket,
        session: &session,
        gateway,
        config,
        auth,
        timer: pin!(time::sleep(config.ping_interval)),
        expiry,
        batch: VecDeque::new(),
        meter: None,
        offloaded: None,
    };
    let End { cause, close } = match actor.welcome().await {
        ControlFlow::Continue(()) => actor.serve().await,
        ControlFlow::Break(end) => end,
    };
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    actor.socket.discard();
    if close.is_some() {
        actor.write_rest(deadline).await;
    }
    let (unwritten, offloaded) = (actor.batch.len(), actor.offloaded.take());
    let ended = Arc::clone(&session);
    // From here on, the outbox takes no more messages.
    let Ended { lost, tags } = session.end();
    if unwritten + lost > 0 {
        gateway.metrics.dropped("session_ended", unwritten + lost);
    }
    let close = async {
        if let Some(payload) = close {
            // If the client does not answer in time, the connection is closed all the same.
            let _ = time::timeout_at(deadline, close_handshake(socket, &payload, &gateway.metrics)).await;
        }
    };
    let depart = async {
        if let Some(offloaded) = offloaded {
            // The session's last packet is still served. An error means that this panicked.
            let _ = offloaded.await;
        }
        gateway.on_disconnect(ended, cause, tags).await;
    };
    // The box is needed only now. Without it, every live session would have room for it.
    tokio::join!(Box::pin(depart), Box::pin(close));
    cause
}

struct Actor<'a> {
    socket: &'a mut Socket,
    session: &'a Registered,
    gateway: &'a Arc<Gateway>,
    config: &'a config::Server,
    auth: &'a Authenticator,
    /// The time of the next ping, or of the next step of the expiry.
    timer: Pin<&'a mut Sleep>,
    /// The expiry of the client's token. The box keeps sessions without one small.
    expiry: Option<Box<Expiry>>,
    /// The packets that are being written. The batch is empty between two writes.
    batch: VecDeque<Outgoing>,
    /// The limits on the session's packets, if there are any.
    meter: Option<Box<Meter>>,
    /// The packet that the offload thread still served when the session ended.
    offloaded: Option<Offloaded>,
}

impl Actor<'_> {
    /// Sends the welcome, the first packet that a client receives.
    async fn welcome(&mut self) -> ControlFlow<End> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let welcome = gateway_proto::Welcome {
            session_id: self.session.id.to_string(),
            server_time_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        };
        let header = Header::push(ROUTE_SYSTEM, 0);
        let payload = welcome.encode_to_vec().into();
        self.batch.push_back(Outgoing { header, payload, keep: Keep::Always });
        self.write(None).await
    }

    async fn serve(&mut self) -> End {
        self.expire_in_time();
        loop {
            let flow = tokio::select! {
                biased;
                // The timer comes before the socket, because a flood keeps the socket ready all the time.
                () = self.timer.as_mut() => self.tick().await,
                // Backpressure: while a client does not read its answers, nothing is read from the client.
                message = self.socket.message(), if !self.session.outbox.is_congested() => self.read(message).await,
                closing = poll_fn(|cx| self.session.outbox.poll_drain(cx, &mut self.batch)) => {
                    self.write(closing).await
                }
            };
            if let ControlFlow::Break(end) = flow {
                return end;
            }
        }
    }

    /// Does what is due when the timer fires, and sets it again.
    async fn tick(&mut self) -> ControlFlow<End> {
        // The timer fires late if this task could not read: it was writing, waited for a plugin, or did not run. The
        // client was not silent in that time.
        self.socket.subtract_from_silence(self.timer.deadline().elapsed());
        let idle_in = self.config.idle_timeout.saturating_sub(self.socket.silence());
        let interval = self.config.ping_interval;
        let next = if idle_in.is_zero() { interval } else { interval.min(idle_in) };
        self.timer.as_mut().reset(Instant::now() + next);
        if self.expiry.is_some() {
            self.expire().await?;
        }
        self.ping().await
    }

    /// Serves a message and the messages that have arrived after it, and writes the answers. Stops serving when the
    /// answers fill a batch.
    async fn read(&mut self, first: Result<Message, Error>) -> ControlFlow<End> {
        self.session.outbox.announce_drain();
        self.begin_metering();
        self.on_message(first).await?;
        for _ in 1..MAX_READ_MESSAGES {
            // The outbox is also congested once the session is to end. Then no further packet is served.
            if self.session.outbox.is_congested() || self.socket.is_drained() {
                break;
            }
            let Some(message) = self.socket.received_message().await else { break };
            self.on_message(message).await?;
        }
        let closing = self.session.outbox.drain(&mut self.batch);
        self.write(closing).await
    }

    /// Takes the limits that hold now for the packets that have arrived.
    fn begin_metering(&mut self) {
        let rates = self.gateway.registry.limits.rates();
        match &mut self.meter {
            _ if !rates.is_limited() => self.meter = None,
            Some(meter) => meter.begin(rates),
            none => *none = Some(Box::new(Meter::new(rates))),
        }
    }

    /// Counts a packet against the limits of the session. Returns its header if it is over a limit, and whether the
    /// session has to end.
    fn excess(&mut self, message: &Result<Message, Error>) -> Option<(Header, Verdict)> {
        let meter = self.meter.as_mut()?;
        let (header, bytes) = match message {
            // A packet that is too short is answered with seq 0.
            Ok(Message::Packet(packet)) => {
                (packet::split(packet).map(|(header, _)| header).unwrap_or_default(), packet.len())
            }
            Ok(Message::TooLarge { header, bytes, .. }) => (*header, bytes + HEADER_LEN),
            _ => return None,
        };
        let verdict = meter.packet(bytes);
        (verdict != Verdict::Serve).then_some((header, verdict))
    }

    async fn on_message(&mut self, message: Result<Message, Error>) -> ControlFlow<End> {
        if let Some((header, verdict)) = self.excess(&message) {
            self.gateway.on_excess_packet(self.session, header);
            return match verdict {
                Verdict::End => ControlFlow::Break(End::with_code("rate", 1008, "too many requests for too long")),
                _ => ControlFlow::Continue(()),
            };
        }
        let end = match message {
            Ok(Message::Packet(packet)) => match self.gateway.on_packet(self.session, packet) {
                Served::Done => return ControlFlow::Continue(()),
                Served::Offloaded(offloaded) => return self.wait_for_offloaded(offloaded).await,
                // The box keeps this rare case out of the task of each session.
                Served::Control(packet) => return Box::pin(self.on_control(*packet)).await,
            },
            Ok(Message::TooLarge { header, bytes, max }) => {
                self.gateway.on_oversized_packet(self.session, header, bytes, max);
                return ControlFlow::Continue(());
            }
            Ok(Message::Ping(payload)) => {
                self.socket.put_control(Opcode::Pong, &payload);
                return ControlFlow::Continue(());
            }
            Ok(Message::Pong) => return ControlFlow::Continue(()),
            Ok(Message::Text) => End::with_code("text", 1003, "packets are binary messages"),
            // A close frame is answered with the same payload (RFC 6455, 5.5.1).
            Ok(Message::Close(payload)) => End { cause: "closed", close: Some(payload.into()) },
            Err(error) => error.into(),
        };
        ControlFlow::Break(end)
    }

    /// Waits until the offload thread has served a packet. Meanwhile the session reads no packets, but still writes.
    async fn wait_for_offloaded(&mut self, mut offloaded: Offloaded) -> ControlFlow<End> {
        match self.write_until(&mut offloaded).await {
            ControlFlow::Continue(Ok(())) => ControlFlow::Continue(()),
            ControlFlow::Continue(Err(_)) => {
                ControlFlow::Break(End::with_code("panic", 1011, "a defect of the gateway"))
            }
            ControlFlow::Break(end) => {
                self.offloaded = Some(offloaded);
                ControlFlow::Break(end)
            }
        }
    }

    /// Waits for a future. Meanwhile the session reads nothing, but still writes.
    async fn write_until<T>(&mut self, mut future: impl Future<Output = T> + Unpin) -> ControlFlow<End, T> {
        loop {
            tokio::select! {
                biased;
                output = &mut future => return ControlFlow::Continue(output),
                closing = poll_fn(|cx| self.session.outbox.poll_drain(cx, &mut self.batch)) => {
                    self.write(closing).await?;
                }
            }
        }
    }

    /// Pings the client. After a silence of `idle_timeout`, reads once more instead, and ends the session if no message
    /// has arrived.
    async fn ping(&mut self) -> ControlFlow<End> {
        if self.socket.silence() >= self.config.idle_timeout {
            return match self.socket.received_message().await {
                Some(message) => self.read(message).await,
                None => ControlFlow::Break(End::with_code("idle", 1001, "idle: nothing was received for too long")),
            };
        }
        self.socket.put_control(Opcode::Ping, &[]);
        self.write(None).await
    }

    /// Writes the batch. Then ends the session if there is a `closing`.
    async fn write(&mut self, closing: Option<Closing>) -> ControlFlow<End> {
        let written = self.write_batch(None).await;
        closing.map_or(written, |closing| ControlFlow::Break(closing.into()))
    }

    /// Writes the packets that were queued before the session ended.
    async fn write_rest(&mut self, deadline: Instant) {
        loop {
            if self.batch.is_empty() {
                let _ = self.session.outbox.drain(&mut self.batch);
            }
            if self.batch.is_empty() || self.write_batch(Some(deadline)).await.is_break() {
                return;
            }
        }
    }

    async fn write_batch(&mut self, deadline: Option<Instant>) -> ControlFlow<End> {
        let count = self.batch.len();
        let flow = self.write_out(deadline).await;
        self.gateway.metrics.sent.inc_by((count - self.batch.len()) as u64);
        if self.batch.is_empty() {
            // A session with nothing to write holds no buffer.
            self.batch = VecDeque::new();
        }
        flow
    }

    /// Writes the batch, until it is written or one of three limits ends the session:
    /// - The client takes no bytes for `idle_timeout` while the gateway runs, and counts as unreachable.
    /// - The client does not take the batch within `send_timeout`, or until `deadline` if there is one, and counts as
    ///   too slow.
    /// - The session is aborted.
    async fn write_out(&mut self, deadline: Option<Instant>) -> ControlFlow<End> {
        let (socket, batch, outbox) = (&mut *self.socket, &mut self.batch, &self.session.outbox);
        let mut packets = iter::from_fn(|| batch.pop_front());
        // Nearly every write finishes at once and needs no timer.
        if let Some(outcome) = poll_fn(|cx| socket.poll_write(cx, &mut packets)).now_or_never() {
            return written(outcome);
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + self.config.send_timeout);
        loop {
            let before = socket.written();
            let patience = Instant::now() + self.config.idle_timeout;
            tokio::select! {
                biased;
                outcome = poll_fn(|cx| socket.poll_write(cx, &mut packets)) => return written(outcome),
                closing = poll_fn(|cx| outbox.poll_abort(cx)) => return ControlFlow::Break(closing.into()),
                () = time::sleep_until(patience.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return ControlFlow::Break(Closing::send_timeout().into());
                    }
                    // A client that had no time to read while the gateway did not run either has `idle_timeout` again.
                    let has_stalled = patience.elapsed() >= MIN_STALL;
                    if socket.written() == before && !has_stalled {
                        return ControlFlow::Break(End::silent("write_timeout"));
                    }
                }
            }
        }
    }
}

fn written(outcome: io::Result<()>) -> ControlFlow<End> {
    outcome.map_or_else(|error| ControlFlow::Break(Error::from(error).into()), ControlFlow::Continue)
}

/// Sends the close frame and reads until the client closes its side. If the gateway closed with unread bytes, the
/// system would reset the connection, and the close frame could be lost. Packets that arrive now are dropped and
/// counted.
async fn close_handshake(mut socket: Socket, payload: &[u8], metrics: &Metrics) {
    // An error means that the connection broke.
    if socket.close(payload).await.is_err() {
        return;
    }
    while let Ok(message) = socket.message().await {
        if matches!(message, Message::Packet(_) | Message::TooLarge { .. }) {
            metrics.dropped("after_close", 1);
        }
    }
    linger(&mut socket.into_stream()).await;
}

/// Ends a connection such that the written bytes still arrive. The caller sets a timeout.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.shutdown().await.is_ok() {
        // A vector, because an array would take up space in the future of every session.
        let mut rest = vec![0; 4096];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}
