//! The actor of one session. It owns the socket, reads messages, writes the packets of its outbox, and sends pings.
//!
//! There is one such task for each session, and nearly all of them wait. So what a waiting task does not need is in boxes
//! that are made for a while.

mod control;
mod kept;
mod leaving;
mod writing;

use crate::{
    delivery::outbox::{Closing, Keep, Outgoing},
    delivery::registry::Registered,
    net::end::End,
    net::expiry::Expiry,
    net::meter::Verdict,
    net::receiver::Message,
    net::shared::Shared,
    net::socket::{Error, Socket},
    routing::asked::Batch,
    routing::batches::MAX_PACKETS,
    routing::gateway::{Gateway, Offloaded, Served},
    routing::turn::Turn,
};
use bytes::Bytes;
use gateway_wire::{
    packet::{self, Header, ROUTE_SYSTEM},
    websocket::Opcode,
};
use kept::Kept;
use prost::Message as _;
use std::{
    collections::VecDeque,
    future::poll_fn,
    iter,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{self, Instant, Sleep};

/// The number of messages that are read before their answers are written.
const MAX_READ_MESSAGES: usize = 64;

/// How long after the warning that its token expires a client is pinged. A client answers the warning with a new token,
/// and the WebSocket of Mono 6.8 may fail if it answers a ping at the same time.
const PING_DELAY: Duration = Duration::from_secs(1);

/// Whether the connection goes on, or why it ends.
type Flow<T = ()> = ControlFlow<Box<End>, T>;

/// Serves a session until it ends, as soon as it has a connection. If the client comes back over another connection, the
/// session goes on with that one. Returns the label of `gateway_disconnections_total` for the end of the last connection.
/// Returns `None` if that was counted before the end of the session, or if there is no session.
pub(super) async fn run(opening: Pin<Box<impl Future<Output = Option<Begun>>>>) -> Option<&'static str> {
    let (mut actor, mut resumed) = opening.await?;
    loop {
        actor.put_welcome(resumed);
        let end = actor.serve().await;
        match Box::pin(actor.leave(*end)).await {
            ControlFlow::Continue(next) => (actor, resumed) = next,
            ControlFlow::Break(cause) => return cause,
        }
    }
}

/// A session that has its connection. If its client has come back, the number of lost replies is there too.
pub(super) type Begun = (Box<Actor>, Option<u64>);

/// A session and its connection.
pub(super) struct Actor {
    shared: Arc<Shared>,
    session: Registered,
    socket: Box<Socket>,
    /// The time of the next ping, or of the next step of the expiry. In a box of its own it takes less memory: the
    /// allocator rounds the size of a task up to a power of two, and with the timer that would be the next one.
    timer: Pin<Box<Sleep>>,
    /// The expiry of the client's token. The box keeps sessions without one small.
    expiry: Option<Box<Expiry>>,
    /// The packets that are being written. The batch is empty between two writes.
    batch: VecDeque<Outgoing>,
    kept: Kept,
}

/// What the task of a session does next.
enum Work {
    /// The timer has fired.
    Tick,
    /// Write the batch, and then end the session if there is a closing.
    Write(Option<Box<Closing>>),
    /// Wait until the offload thread has served a packet.
    Wait(Offloaded),
    /// Answer a packet of the control route.
    Answer(Box<(Header, Bytes)>),
    /// End the connection.
    End(Box<End>),
}

impl Actor {
    /// Returns a session that is served from now on.
    pub(super) fn new(
        shared: Arc<Shared>,
        session: Registered,
        socket: Box<Socket>,
        expiry: Option<Box<Expiry>>,
    ) -> Box<Self> {
        let timer = Box::pin(time::sleep(shared.config.server.ping_interval));
        Box::new(Self { shared, session, socket, timer, expiry, batch: VecDeque::new(), kept: Kept::default() })
    }

    /// Serves the session until its connection ends.
    async fn serve(&mut self) -> Box<End> {
        self.expire_in_time();
        let mut work = Work::Write(None);
        loop {
            let flow = match work {
                Work::Tick => self.tick().await,
                Work::Write(closing) => self.write(closing).await.map_continue(|()| None),
                Work::Wait(offloaded) => Box::pin(self.wait_for_offloaded(offloaded)).await.map_continue(Some),
                Work::Answer(packet) => Box::pin(self.on_control(*packet)).await.map_continue(Some),
                Work::End(end) => return end,
            };
            work = match flow {
                ControlFlow::Continue(Some(work)) => work,
                ControlFlow::Continue(None) => poll_fn(|cx| self.poll_next(cx)).await,
                ControlFlow::Break(end) => return end,
            };
        }
    }

    /// Puts the welcome into the batch, the first packet that a client receives. `resumed` is the number of lost replies if
    /// the client has come back.
    fn put_welcome(&mut self, resumed: Option<u64>) {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let resumes = self.shared.resumes.as_ref();
        let welcome = gateway_proto::Welcome {
            session_id: self.session.id.to_string(),
            server_time_ms: milliseconds(now),
            resume_token: resumes.map(|resumes| resumes.token(&self.session).to_string()).unwrap_or_default(),
            resume_window_ms: resumes.map(|resumes| milliseconds(resumes.window())).unwrap_or_default(),
            resumed: resumed.is_some(),
            packets_received: if resumed.is_some() { self.session.packets() } else { 0 },
            replies_lost: u32::try_from(resumed.unwrap_or(0)).unwrap_or(u32::MAX),
        };
        let header = Header::push(ROUTE_SYSTEM, 0);
        let payload = welcome.encode_to_vec().into();
        self.batch.push_back(Outgoing { header, payload, keep: Keep::Always });
    }

    /// Waits until there is something to do. Messages that have arrived are served at once.
    ///
    /// The task polls by hand, because the state of a `select!` takes more memory than the rest of a task that waits.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Work> {
        // The timer comes before the socket, because a flood keeps the socket ready all the time.
        if self.timer.as_mut().poll(cx).is_ready() {
            self.begin_work();
            return Poll::Ready(Work::Tick);
        }
        let is_held_back = self.kept.is_held_back(&self.session.outbox, self.shared.config.server.write_buffer_bytes);
        if !is_held_back && let Poll::Ready(message) = self.socket.poll_message(cx) {
            self.begin_work();
            return Poll::Ready(self.read(message));
        }
        let mut writer = self.socket.lend();
        let drained = self.session.outbox.poll_drain(cx, &mut self.batch, &mut writer);
        if let Some(writer) = writer {
            self.socket.take_back(writer);
        }
        if is_held_back && drained.is_pending() {
            // Another thread has written everything meanwhile, and the socket was not polled.
            cx.waker().wake_by_ref();
        }
        drained.map(Work::Write)
    }

    /// Takes the sending side of the connection back from the outbox.
    fn begin_work(&mut self) {
        if let Some(writer) = self.session.outbox.announce_drain() {
            self.socket.take_back(writer);
        }
    }

    /// Does what is due when the timer fires, and sets it again.
    async fn tick(&mut self) -> Flow<Option<Work>> {
        // The timer fires late if this task could not read: it was writing, waited for a plugin, or did not run. The
        // client was not silent in that time.
        self.socket.subtract_from_silence(self.timer.deadline().elapsed());
        let server = &self.shared.config.server;
        let idle_in = server.idle_timeout.saturating_sub(self.socket.silence());
        let next = if idle_in.is_zero() { server.ping_interval } else { server.ping_interval.min(idle_in) };
        self.timer.as_mut().reset(Instant::now() + next);
        if self.expiry.is_some() && Box::pin(self.expire()).await? {
            let next = self.timer.deadline().min(Instant::now() + PING_DELAY);
            self.timer.as_mut().reset(next);
            return ControlFlow::Continue(None);
        }
        ControlFlow::Continue(Some(self.ping()))
    }

    /// Serves a message and the messages that have arrived after it. Stops when what they have caused fills a batch.
    fn read(&mut self, first: Result<Message, Error>) -> Work {
        let Self { shared, session, socket, kept, .. } = self;
        let (gateway, batch_bytes) = (&shared.gateway, shared.config.server.write_buffer_bytes);
        let before = session.outbox.ever_queued();
        kept.begin_metering(gateway.registry.limits.rates());
        let (mut turn, mut batch) = (Turn::new(&gateway.metrics), None);
        let (mut message, mut left) = (first, MAX_READ_MESSAGES);
        let work = loop {
            if !socket.is_drained() && batch.as_ref().is_none_or(Batch::is_used_up) {
                batch = decide_ahead(&message, left, gateway, session, socket, kept);
            }
            let work = on_message(message, gateway, session, socket, kept, &mut turn, &mut batch);
            left -= 1;
            let is_full = session.outbox.queued().is_none() || kept::caused(before, &session.outbox) >= batch_bytes;
            if work.is_some() || left == 0 || is_full || socket.is_drained() {
                break work;
            }
            let Some(next) = socket.received_message() else { break None };
            message = next;
        };
        drop(turn);
        kept.count_caused(before, &session.outbox);
        if batch.is_some_and(|batch| !batch.is_used_up()) {
            session.conduct.end_batches();
        }
        work.unwrap_or_else(|| self.write_answers())
    }

    /// Returns the writing of what was queued so far.
    fn write_answers(&mut self) -> Work {
        Work::Write(self.session.outbox.drain(&mut self.batch))
    }

    /// Waits until the offload thread has served a packet. Meanwhile the session reads no packets, but still writes.
    async fn wait_for_offloaded(&mut self, mut offloaded: Offloaded) -> Flow<Work> {
        let before = self.session.outbox.ever_queued();
        match self.write_until(&mut offloaded).await {
            ControlFlow::Continue(Ok(())) => {
                self.kept.count_caused(before, &self.session.outbox);
                ControlFlow::Continue(self.write_answers())
            }
            ControlFlow::Continue(Err(_)) => {
                ControlFlow::Break(Box::new(End::with_code("panic", 1011, "a defect of the gateway")))
            }
            ControlFlow::Break(end) => {
                self.kept.offloaded = Some(offloaded);
                ControlFlow::Break(end)
            }
        }
    }

    /// Waits for a future. Meanwhile the session reads nothing, but still writes. The task keeps the sending side.
    async fn write_until<T>(&mut self, mut future: impl Future<Output = T> + Unpin) -> Flow<T> {
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

    /// Pings the client. After a silence of `idle_timeout`, reads once more instead, and ends the session if nothing has
    /// arrived.
    fn ping(&mut self) -> Work {
        let idle_timeout = self.shared.config.server.idle_timeout;
        if self.socket.silence() >= idle_timeout {
            if let Some(message) = self.socket.received_message() {
                return self.read(message);
            }
            // What has arrived may be a part of a message.
            if self.socket.silence() >= idle_timeout {
                return Work::End(Box::new(End::idle()));
            }
        }
        self.socket.put_control(Opcode::Ping, &[]);
        Work::Write(None)
    }
}

/// Lets the plugin decide on a packet and the packets that have arrived right after it, on at most `most` of them.
/// Packets over a limit of the session are not shown to the plugin.
fn decide_ahead(
    first: &Result<Message, Error>,
    most: usize,
    gateway: &Gateway,
    session: &Registered,
    socket: &mut Socket,
    kept: &Kept,
) -> Option<Batch> {
    let first = packet(first).filter(|first| gateway.takes_batches(session, first))?;
    let rest: Vec<_> = socket.look_ahead(most.min(MAX_PACKETS) - 1).map_while(packet).collect();
    let packets = || iter::once(first).chain(rest.iter().copied());
    if rest.is_empty() {
        return None;
    }
    if !kept.have_room(packets()) {
        session.conduct.end_batches();
        return None;
    }
    gateway.decide_together(session, packets())
}

fn packet(message: &Result<Message, Error>) -> Option<&Bytes> {
    if let Ok(Message::Packet(packet)) = message { Some(packet) } else { None }
}

/// Serves a message. Returns what has to be done before the next one.
fn on_message(
    message: Result<Message, Error>,
    gateway: &Arc<Gateway>,
    session: &Registered,
    socket: &mut Socket,
    kept: &mut Kept,
    turn: &mut Turn<'_>,
    batch: &mut Option<Batch>,
) -> Option<Work> {
    if let Ok(Message::Packet(packet)) = &message
        && let Some(number) = packet::acknowledged(packet)
    {
        session.outbox.acknowledge(number);
    }
    if matches!(message, Ok(Message::Packet(_) | Message::TooLarge { .. })) {
        session.count_packet();
    }
    if let Some((header, verdict)) = kept.count(&message) {
        *batch = None;
        gateway.on_excess_packet(session, header);
        let end = || End::with_code("rate", 1008, "too many requests for too long");
        return (verdict == Verdict::End).then(|| Work::End(Box::new(end())));
    }
    let end = match message {
        Ok(Message::Packet(packet)) => match turn.run(|| gateway.on_packet_of(batch, session, packet)) {
            Served::Done => return None,
            Served::Offloaded(offloaded) => return Some(Work::Wait(offloaded)),
            Served::Control(packet) => return Some(Work::Answer(packet)),
        },
        Ok(Message::TooLarge { header, bytes, max }) => {
            gateway.on_oversized_packet(session, header, bytes, max);
            return None;
        }
        Ok(Message::Ping(payload)) => {
            socket.put_control(Opcode::Pong, &payload);
            return None;
        }
        Ok(Message::Pong) => return None,
        Ok(Message::Text) => End::with_code("text", 1003, "packets are binary messages"),
        // A close frame is answered with the same payload (RFC 6455, 5.5.1).
        Ok(Message::Close(payload)) => End::by_client(payload.into()),
        Err(error) => error.into(),
    };
    Some(Work::End(Box::new(end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::session::Session;
    use std::future::Ready;

    /// Returns the size of the future that `run` returns.
    fn size_of_task<F>(_: impl FnOnce(Pin<Box<Ready<Option<Begun>>>>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_that_waits_is_small() {
        // The allocator rounds these up to 256, 384, 192 and 112 bytes: a task has 104 bytes of the runtime besides its
        // future, and a session has two counters of references.
        assert!(size_of_task(run) <= 152, "{}", size_of_task(run));
        assert!(size_of::<Session>() <= 368, "{}", size_of::<Session>());
        assert!(size_of::<Socket>() <= 192, "{}", size_of::<Socket>());
        assert!(size_of::<Actor>() <= 112, "{}", size_of::<Actor>());
    }
}
