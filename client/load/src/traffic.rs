//! The messages of all clients that are under way. Each arrival is counted, and makes room for more messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::bail;
use gateway_connection::text;
use gateway_wire::packet::{self, ROUTE_CONTROL, ROUTE_SYSTEM, Status};
use gateway_wire::resp::Frame;
use hdrhistogram::CreationError;

use crate::client::Client;
use crate::clock::{Clock, Period, Schedule, nanos};
use crate::frame;
use crate::message::user_of;
use crate::plan::{Pace, Way};
use crate::resp;
use crate::session;
use crate::socket::Outlet;
use crate::stream::Stream;
use crate::tally::Tally;

/// The state that all tasks of a run share. A task takes each lock once for each piece of bytes that it reads, which
/// costs next to nothing on one thread.
pub(crate) struct Traffic {
    pub(crate) way: Way,
    pub(crate) clients: Vec<Client>,
    /// The connection to Redis for publishes, if this program plays the backend, or the session of the client that sends
    /// to all others.
    pub(crate) publisher: Option<Outlet>,
    pub(crate) clock: Clock,
    /// The period, once traffic has begun.
    period: OnceLock<Period>,
    /// The schedule, in an open loop.
    schedule: Option<Schedule>,
    tally: Mutex<Tally>,
    stopped: AtomicBool,
}

/// The state of the subscription between two pieces of its stream.
#[derive(Default)]
pub(crate) struct Ear {
    scanner: resp::Scanner,
    /// The clients of the messages in the current piece.
    listed: Vec<usize>,
    out: Vec<u8>,
}

impl Traffic {
    pub(crate) fn new(
        way: Way,
        pace: Pace,
        clients: Vec<Client>,
        publisher: Option<Outlet>,
    ) -> Result<Self, CreationError> {
        let schedule = match pace {
            Pace::Window(_) => None,
            Pace::Rate(rate) => Some(Schedule::new(if let Way::Fanout(_) = way { 1 } else { clients.len() }, rate)),
        };
        let (clock, tally) = (Clock::new(), Mutex::new(Tally::new()?));
        Ok(Self {
            way,
            clients,
            publisher,
            clock,
            period: OnceLock::new(),
            schedule,
            tally,
            stopped: AtomicBool::new(false),
        })
    }

    /// Begins the period now. Latencies count from here on.
    pub(crate) fn begin(&self, warmup: Duration, duration: Duration) -> &Period {
        if let (Way::Fanout(_), Some(schedule)) = (&self.way, self.schedule) {
            // All messages count as sent from here on. To note each of them at each client when it is sent would take
            // the time in which others are due.
            let total = schedule.total(nanos(warmup + duration));
            for client in &self.clients {
                lock(&client.stream).send(total, 0);
            }
        }
        self.period.get_or_init(|| Period::new(self.clock.now(), warmup, duration))
    }

    /// Takes a piece of the stream of a client's session.
    pub(crate) fn hear(
        &self,
        index: usize,
        scanner: &mut frame::Scanner,
        piece: &[u8],
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let (client, now) = (&self.clients[index], self.clock.now());
        {
            let (mut tally, mut stream) = (self.tally(), lock(&client.stream));
            scanner.feed(piece, |frame| {
                if let Some(message) = session::message(&frame, &client.outlet)? {
                    self.take(index, message, now, &mut stream, &mut tally);
                }
                Ok(())
            })?;
        }
        self.send_on(index, now, out)
    }

    fn take(&self, index: usize, message: &[u8], now: u64, stream: &mut Stream, tally: &mut Tally) {
        let Ok((header, payload)) = packet::split(message) else {
            tally.stray += 1;
            return;
        };
        if !header.is_reply() && header.route == ROUTE_CONTROL {
            // It is outside of the delivery counter.
            return;
        }
        if !header.is_reply() && !stream.counts_on(header.seq) {
            tally.miscounted += 1;
        }
        let ok = header.status == Status::Ok as u16;
        if header.is_reply() && ok && self.way.relay().is_some_and(|relay| relay.route == header.route) {
            self.clients[index].bound.store(true, Ordering::Relaxed);
            return;
        }
        let number = match (&self.clients[index].script.received, header.is_reply()) {
            _ if !ok => {
                stream.refused(header.seq);
                return tally.refused(header.status, payload);
            }
            (Some(expected), false) => self.unwired(expected.number_in(payload)),
            (Some(expected), true) => {
                (header.route == ROUTE_SYSTEM && payload == expected.bytes).then(|| stream.number_of(header.seq))
            }
            (None, _) => None,
        };
        self.arrive(index, number, now, stream, tally);
    }

    /// Takes a piece of the stream of the subscription.
    pub(crate) fn overhear(&self, ear: &mut Ear, piece: &[u8]) -> anyhow::Result<()> {
        let now = self.clock.now();
        let Ear { scanner, listed, out } = ear;
        {
            let mut tally = self.tally();
            scanner.feed(piece, |frame| {
                match frame {
                    Frame::List(parts) => {
                        if let [Frame::Text(b"message"), _, Frame::Text(payload)] = parts[..] {
                            self.publication(payload, now, &mut tally, listed, out);
                        }
                    }
                    Frame::Error(error) => bail!("Redis says {}", text::clean(&String::from_utf8_lossy(error))),
                    _ => {}
                }
                Ok(())
            })?;
        }
        if let Some(publisher) = &self.publisher {
            publisher.queue(out)?;
            out.clear();
        }
        for index in listed.drain(..) {
            lock(&self.clients[index].stream).listed = false;
            self.send_on(index, now, out)?;
        }
        Ok(())
    }

    fn publication(&self, payload: &[u8], now: u64, tally: &mut Tally, listed: &mut Vec<usize>, out: &mut Vec<u8>) {
        let game_id = self.way.bus().map_or("", |bus| &bus.game);
        let index = user_of(payload, game_id).and_then(|user_id| usize::try_from(user_id - 1).ok());
        let client = index.and_then(|index| self.clients.get(index));
        let (Some(index), Some(client)) = (index, client) else {
            tally.stray += 1;
            return;
        };
        let number = client.script.published.as_ref().and_then(|published| published.number_in(payload));
        match (&self.way, number) {
            (Way::Request(_), number) => {
                let mut stream = lock(&client.stream);
                self.arrive(index, number, now, &mut stream, tally);
                if !stream.listed {
                    stream.listed = true;
                    listed.push(index);
                }
            }
            (Way::Loop(_), Some(number)) => {
                if let Some(answer) = &client.script.answer {
                    answer.append(number, out);
                }
            }
            (Way::Deliver(_), Some(_)) => client.bound.store(true, Ordering::Relaxed),
            // All are of the same user, and the number of the request is that of the client.
            (Way::Fanout(_), Some(number)) => match self.clients.get(number as usize) {
                Some(client) => client.bound.store(true, Ordering::Relaxed),
                None => tally.stray += 1,
            },
            (_, None) | (Way::Ping, _) => tally.stray += 1,
        }
    }

    fn arrive(&self, index: usize, number: Option<u64>, now: u64, stream: &mut Stream, tally: &mut Tally) {
        let Some((number, (arrival, sent_at))) = number.and_then(|number| Some((number, stream.arrived(number)?)))
        else {
            tally.stray += 1;
            return;
        };
        tally.note(arrival);
        let is_fanout = matches!(self.way, Way::Fanout(_));
        if is_fanout && !tally.is_last(number, arrival, self.clients.len()) {
            return;
        }
        let Some(period) = self.period.get() else { return };
        let index = if is_fanout { 0 } else { index };
        let due = |schedule: Schedule| period.start + schedule.due(schedule.message(index, number));
        if let Some(begin) = sent_at.or_else(|| self.schedule.map(due))
            && period.measured.contains(&begin)
        {
            tally.latency.record(now.saturating_sub(begin));
        }
    }

    /// Sends as many messages as the window of a client has room for. The stream is locked meanwhile, so that two
    /// bursts cannot be mixed up.
    pub(crate) fn send_on(&self, index: usize, now: u64, out: &mut Vec<u8>) -> anyhow::Result<()> {
        if self.stopped() {
            return Ok(());
        }
        let client = &self.clients[index];
        let mut stream = lock(&client.stream);
        let burst = stream.burst();
        if burst == 0 {
            return Ok(());
        }
        out.clear();
        client.script.append(stream.send(burst, now), out);
        match self.backend() {
            Some(publisher) => publisher.queue(out),
            None => client.outlet.send(out),
        }
    }

    /// Sends the messages `from..to` of the schedule.
    pub(crate) fn send_scheduled(
        &self,
        schedule: Schedule,
        from: u64,
        to: u64,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        out.clear();
        if let Way::Fanout(_) = self.way {
            self.clients[0].script.append(from + 1..to + 1, out);
            return self.backend().map_or(Ok(()), |sender| sender.send(out));
        }
        for (index, count) in schedule.shares(from, to) {
            let client = &self.clients[index];
            let numbers = lock(&client.stream).send(count, 0);
            client.script.append(numbers, out);
            if self.backend().is_none() {
                client.outlet.send(out)?;
                out.clear();
            }
        }
        self.backend().map_or(Ok(()), |publisher| publisher.send(out))
    }

    /// The number of a message that has this number where it arrives. In the mode `fanout`, these numbers begin with 1:
    /// if a packet is passed on as it is, its seq then serves as the delivery counter.
    fn unwired(&self, number: Option<u64>) -> Option<u64> {
        number?.checked_sub(u64::from(matches!(self.way, Way::Fanout(_))))
    }

    /// Takes a piece of the stream of the session that sends to all others.
    pub(crate) fn answer(&self, scanner: &mut frame::Scanner, piece: &[u8]) -> anyhow::Result<()> {
        let Some(sender) = &self.publisher else { return Ok(()) };
        scanner.feed(piece, |frame| {
            if let Some(message) = session::message(&frame, sender)?
                && let Ok((header, payload)) = packet::split(message)
                && header.status != Status::Ok as u16
            {
                self.tally().refused(header.status, payload);
            }
            Ok(())
        })
    }

    /// The connection to which all messages go, if the backend or one more client sends them.
    fn backend(&self) -> Option<&Outlet> {
        self.publisher.as_ref().filter(|_| self.way.has_binding())
    }

    /// The sessions, with that of a client that sends to all others.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Outlet> {
        let sender = self.publisher.iter().filter(|_| self.way.relay().is_some());
        self.clients.iter().map(|client| &client.outlet).chain(sender)
    }

    /// The number of messages that have neither arrived nor been refused.
    pub(crate) fn missing(&self) -> u64 {
        self.clients.iter().map(|client| lock(&client.stream).missing()).sum()
    }

    /// The first message that has neither arrived nor been refused: its user, its number among the messages of this
    /// user, and how many messages that user has sent.
    pub(crate) fn first_missing(&self) -> Option<(usize, u64, u64)> {
        self.clients.iter().enumerate().find_map(|(index, client)| {
            let stream = lock(&client.stream);
            Some((index + 1, stream.first_missing()?, stream.sent()))
        })
    }

    pub(crate) fn sent(&self) -> u64 {
        self.clients.iter().map(|client| lock(&client.stream).sent()).sum()
    }

    pub(crate) fn schedule(&self) -> Option<Schedule> {
        self.schedule
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Stops sending.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Takes a lock. No code under these locks panics half-way through a change, so a poisoned lock is taken as well.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
