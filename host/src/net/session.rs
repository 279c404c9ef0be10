//! The actor of one connection. It owns the socket, reads messages, writes the packets of its outbox, and sends pings.

mod control;
mod kept;
mod writing;

use crate::{
    auth::Authenticator,
    config,
    delivery::outbox::{Closing, Keep, Outgoing},
    delivery::registry::{Ended, Registered},
    net::closing::close_by,
    net::end::End,
    net::expiry::Expiry,
    net::meter::Verdict,
    net::receiver::Message,
    net::resume::{Arrival, Resumes},
    net::socket::{Error, Socket},
    routing::gateway::{Gateway, Offloaded, Served},
    routing::turn::Turn,
};
use gateway_wire::{
    packet::{self, Header, ROUTE_SYSTEM},
    websocket::Opcode,
};
use kept::Kept;
use prost::Message as _;
use std::{
    collections::VecDeque,
    future::poll_fn,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{self, Instant, Sleep};

/// The number of messages that are read before their answers are written.
const MAX_READ_MESSAGES: usize = 64;

/// The time limit for the last writes, the close frame and the client's answer to it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What all sessions of the listener share.
pub(crate) struct Context<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    pub(crate) config: &'a config::Server,
    pub(crate) auth: &'a Authenticator,
    /// The sessions that outlive their connections, or `None` if they all end with them.
    pub(crate) resumes: Option<&'a Arc<Resumes>>,
}

/// Serves a session until it ends. `expiry` is that of the client's token, and `resumed` the number of lost replies if the
/// session was at another gateway before. If the client comes back over another
/// connection, the session goes on with that one. Returns the label of `gateway_disconnections_total` for the end of the
/// last connection, or `None` if that was counted before the end of the session.
pub(crate) async fn run(
    mut socket: Box<Socket>,
    session: Registered,
    context: &Context<'_>,
    mut expiry: Option<Box<Expiry>>,
    mut resumed: Option<u64>,
) -> Option<&'static str> {
    let Context { gateway, resumes, .. } = *context;
    let mut kept = Kept::default();
    let (cause, last) = loop {
        let mut actor = Actor {
            socket: &mut socket,
            session: &session,
            context,
            timer: pin!(time::sleep(context.config.ping_interval)),
            expiry: expiry.take(),
            batch: VecDeque::new(),
            kept: &mut kept,
        };
        let End { cause, close, is_break } = match actor.welcome(resumed).await {
            ControlFlow::Continue(()) => actor.serve().await,
            ControlFlow::Break(end) => end,
        };
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        actor.socket.discard();
        let resumable = resumes.filter(|_| is_break);
        if close.is_some() && resumable.is_none() {
            actor.write_rest(deadline).await;
        }
        let unwritten = actor.batch.len();
        let Some(resumes) = resumable else {
            kept.unwritten = unwritten;
            break (cause, Some((socket, close, deadline)));
        };
        gateway.metrics.disconnected(cause);
        // What was not written is kept by the outbox.
        if let Some(payload) = close {
            let metrics = Arc::clone(&gateway.metrics);
            tokio::spawn(async move { close_by(deadline, *socket, &payload, &metrics).await });
        } else {
            drop(socket);
        }
        if let Some(offloaded) = kept.offloaded.take() {
            // The next connection gets the answer. An error means that serving the packet panicked.
            let _ = offloaded.await;
        }
        let arrival = match Box::pin(resumes.wait(&session, gateway)).await {
            Ok(arrival) => arrival,
            Err(other) => {
                // What was not written goes on with the session, or is counted where that fails.
                let goes_on = matches!(other, Some(Closing::HANDED_OVER | Closing::STORED));
                kept.unwritten = if goes_on { 0 } else { unwritten };
                break (other.unwrap_or(cause), None);
            }
        };
        let Arrival { socket: next, expiry: of_next, replies_lost } = *arrival;
        (socket, expiry, resumed) = (next, of_next, Some(replies_lost));
        gateway.metrics.connections.inc();
        tracing::debug!(session = %session.id, remote = %session.remote(), "session resumed");
    };
    let ended = Arc::clone(&session);
    // From here on, the outbox takes no more messages.
    let Ended { lost, tags } = session.end();
    if let Some(resumes) = resumes {
        resumes.forget(ended.id);
    }
    if kept.unwritten + lost > 0 {
        gateway.metrics.dropped("session_ended", kept.unwritten + lost);
    }
    let is_counted = last.is_none();
    let close = async {
        if let Some((socket, Some(payload), deadline)) = last {
            close_by(deadline, *socket, &payload, &gateway.metrics).await;
        }
    };
    let depart = async {
        if let Some(offloaded) = kept.offloaded {
            // The session's last packet is still served. An error means that this panicked.
            let _ = offloaded.await;
        }
        gateway.on_disconnect(ended, cause, tags).await;
    };
    // The box is needed only now. Without it, every live session would have room for it.
    tokio::join!(Box::pin(depart), Box::pin(close));
    (!is_counted).then_some(cause)
}

/// Why the task of a session goes on.
enum Event {
    /// The timer has fired.
    Tick,
    /// A message has arrived, or the connection has ended.
    Message(Result<Message, Error>),
    /// Packets are to be written, or the session is to end.
    Drained(Option<Closing>),
}

struct Actor<'a> {
    socket: &'a mut Socket,
    session: &'a Registered,
    context: &'a Context<'a>,
    /// The time of the next ping, or of the next step of the expiry.
    timer: Pin<&'a mut Sleep>,
    /// The expiry of the client's token. The box keeps sessions without one small.
    expiry: Option<Box<Expiry>>,
    /// The packets that are being written. The batch is empty between two writes.
    batch: VecDeque<Outgoing>,
    kept: &'a mut Kept,
}

impl Actor<'_> {
    /// Sends the welcome, the first packet that a client receives. `resumed` is the number of lost replies if the client
    /// has come back.
    async fn welcome(&mut self, resumed: Option<u64>) -> ControlFlow<End> {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let resumes = self.context.resumes;
        let welcome = gateway_proto::Welcome {
            session_id: self.session.id.to_string(),
            server_time_ms: milliseconds(now),
            resume_token: resumes.map(|resumes| resumes.token(self.session).to_string()).unwrap_or_default(),
            resume_window_ms: resumes.map(|resumes| milliseconds(resumes.window())).unwrap_or_default(),
            resumed: resumed.is_some(),
            packets_received: if resumed.is_some() { self.session.packets() } else { 0 },
            replies_lost: u32::try_from(resumed.unwrap_or(0)).unwrap_or(u32::MAX),
        };
        let header = Header::push(ROUTE_SYSTEM, 0);
        let payload = welcome.encode_to_vec().into();
        self.batch.push_back(Outgoing { header, payload, keep: Keep::Always });
        self.write(None).await
    }

    async fn serve(&mut self) -> End {
        self.expire_in_time();
        loop {
            let mut writer = self.socket.lend();
            let event = tokio::select! {
                biased;
                // The timer comes before the socket, because a flood keeps the socket ready all the time.
                () = self.timer.as_mut() => Event::Tick,
                // Backpressure: while a client does not read its answers, nothing is read from the client.
                message = self.socket.message(), if !self.session.outbox.is_congested() => Event::Message(message),
                closing = poll_fn(|cx| self.session.outbox.poll_drain(cx, &mut self.batch, &mut writer)) => {
                    Event::Drained(closing)
                }
            };
            if !matches!(event, Event::Drained(_)) {
                writer = self.session.outbox.announce_drain().or(writer);
            }
            if let Some(writer) = writer {
                self.socket.take_back(writer);
            }
            let flow = match event {
                Event::Tick => self.tick().await,
                Event::Message(message) => self.read(message).await,
                Event::Drained(closing) => self.write(closing).await,
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
        let idle_in = self.context.config.idle_timeout.saturating_sub(self.socket.silence());
        let interval = self.context.config.ping_interval;
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
        self.kept.begin_metering(self.context.gateway.registry.limits.rates());
        let mut turn = Turn::new(&self.context.gateway.metrics);
        self.on_message(first, &mut turn).await?;
        for _ in 1..MAX_READ_MESSAGES {
            // The outbox is also congested once the session is to end. Then no further packet is served.
            if self.session.outbox.is_congested() || self.socket.is_drained() {
                break;
            }
            let Some(message) = self.socket.received_message().await else { break };
            self.on_message(message, &mut turn).await?;
        }
        drop(turn);
        let closing = self.session.outbox.drain(&mut self.batch);
        self.write(closing).await
    }

    async fn on_message(&mut self, message: Result<Message, Error>, turn: &mut Turn<'_>) -> ControlFlow<End> {
        if let Ok(Message::Packet(packet)) = &message
            && let Some(number) = packet::acknowledged(packet)
        {
            self.session.outbox.acknowledge(number);
        }
        if matches!(message, Ok(Message::Packet(_) | Message::TooLarge { .. })) {
            self.session.count_packet();
        }
        if let Some((header, verdict)) = self.kept.count(&message) {
            self.context.gateway.on_excess_packet(self.session, header);
            return match verdict {
                Verdict::End => ControlFlow::Break(End::with_code("rate", 1008, "too many requests for too long")),
                _ => ControlFlow::Continue(()),
            };
        }
        let end = match message {
            Ok(Message::Packet(packet)) => match turn.run(|| self.context.gateway.on_packet(self.session, packet)) {
                Served::Done => return ControlFlow::Continue(()),
                Served::Offloaded(offloaded) => {
                    turn.end();
                    return self.wait_for_offloaded(offloaded).await;
                }
                // The box keeps this rare case out of the task of each session.
                Served::Control(packet) => return Box::pin(self.on_control(*packet)).await,
            },
            Ok(Message::TooLarge { header, bytes, max }) => {
                self.context.gateway.on_oversized_packet(self.session, header, bytes, max);
                return ControlFlow::Continue(());
            }
            Ok(Message::Ping(payload)) => {
                self.socket.put_control(Opcode::Pong, &payload);
                return ControlFlow::Continue(());
            }
            Ok(Message::Pong) => return ControlFlow::Continue(()),
            Ok(Message::Text) => End::with_code("text", 1003, "packets are binary messages"),
            // A close frame is answered with the same payload (RFC 6455, 5.5.1).
            Ok(Message::Close(payload)) => End::by_client(payload.into()),
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
                self.kept.offloaded = Some(offloaded);
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
                closing = poll_fn(|cx| self.session.outbox.poll_drain(cx, &mut self.batch, &mut None)) => {
                    self.write(closing).await?;
                }
            }
        }
    }

    /// Pings the client. After a silence of `idle_timeout`, reads once more instead, and ends the session if no message
    /// has arrived.
    async fn ping(&mut self) -> ControlFlow<End> {
        if self.socket.silence() >= self.context.config.idle_timeout {
            return match self.socket.received_message().await {
                Some(message) => self.read(message).await,
                None => ControlFlow::Break(End::idle()),
            };
        }
        self.socket.put_control(Opcode::Ping, &[]);
        self.write(None).await
    }
}
