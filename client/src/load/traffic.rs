//! The messages under way, of all clients: what is heard of them is counted, and makes room for more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::bail;

use super::client::Client;
use super::clock::{Clock, Period, Schedule};
use super::frame;
use super::message::user_of;
use super::plan::{Pace, Way};
use super::resp::{self, Reply};
use super::session;
use super::socket::Outlet;
use super::stream::Stream;
use super::tally::Tally;
use crate::packet::{HEADER_BYTES, ROUTE_SYSTEM};
use crate::show;

/// What all tasks of a run share. They take a lock once for each piece that is read: on one thread that costs next to nothing.
pub(super) struct Traffic {
    pub(super) way: Way,
    pub(super) clients: Vec<Client>,
    /// Set where this program speaks for the backend.
    pub(super) publisher: Option<Outlet>,
    pub(super) clock: Clock,
    /// Set when traffic begins.
    period: OnceLock<Period>,
    /// Of an open loop.
    schedule: Option<Schedule>,
    tally: Mutex<Tally>,
    stopped: AtomicBool,
}

/// A subscription's place in its stream.
#[derive(Default)]
pub(super) struct Ear {
    scanner: resp::Scanner,
    /// The clients of the messages in this piece.
    listed: Vec<usize>,
    out: Vec<u8>,
}

impl Traffic {
    pub(super) fn new(way: Way, pace: Pace, clients: Vec<Client>, publisher: Option<Outlet>) -> Self {
        let schedule = match pace {
            Pace::Window(_) => None,
            Pace::Rate(rate) => Some(Schedule::new(clients.len(), rate)),
        };
        let (clock, tally) = (Clock::new(), Mutex::new(Tally::new()));
        Self {
            way,
            clients,
            publisher,
            clock,
            period: OnceLock::new(),
            schedule,
            tally,
            stopped: AtomicBool::new(false),
        }
    }

    /// From now on messages count.
    pub(super) fn begin(&self, warmup: Duration, duration: Duration) -> &Period {
        self.period.get_or_init(|| Period::new(self.clock.now(), warmup, duration))
    }

    /// Takes what a client's session has sent.
    pub(super) fn hear(
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
        let Some((&[s0, s1, s2, s3, route, flags, t0, t1], payload)) = message.split_first_chunk::<HEADER_BYTES>()
        else {
            tally.stray += 1;
            return;
        };
        let (seq, status) = (u32::from_be_bytes([s0, s1, s2, s3]), u16::from_be_bytes([t0, t1]));
        let is_reply = flags & 1 != 0;
        if !is_reply && !stream.counts_on(seq) {
            tally.miscounted += 1;
        }
        let number = match (&self.clients[index].script.received, is_reply) {
            _ if status != 0 => {
                stream.refused(seq);
                return tally.refused(status, payload);
            }
            (Some(expected), false) => expected.number_in(payload),
            (Some(expected), true) => {
                (route == ROUTE_SYSTEM && payload == expected.bytes).then(|| stream.number_of(seq))
            }
            (None, _) => None,
        };
        self.arrive(index, number, now, stream, tally);
    }

    /// Takes what the subscription has sent.
    pub(super) fn overhear(&self, ear: &mut Ear, piece: &[u8]) -> anyhow::Result<()> {
        let now = self.clock.now();
        let Ear { scanner, listed, out } = ear;
        {
            let mut tally = self.tally();
            scanner.feed(piece, |reply| {
                match reply {
                    Reply::Message(payload) => self.publication(payload, now, &mut tally, listed, out),
                    Reply::Error(error) => bail!("Redis says {}", show::text(&String::from_utf8_lossy(error))),
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
        let Some(period) = self.period.get() else { return };
        let due = |schedule: Schedule| period.start + schedule.due(schedule.message(index, number));
        if let Some(begin) = sent_at.or_else(|| self.schedule.map(due))
            && period.measured.contains(&begin)
        {
            tally.latency.record(now.saturating_sub(begin));
        }
    }

    /// Sends what the window of a client has room for. It is locked meanwhile, so that no two bursts are mixed up.
    pub(super) fn send_on(&self, index: usize, now: u64, out: &mut Vec<u8>) -> anyhow::Result<()> {
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
    pub(super) fn send_scheduled(
        &self,
        schedule: Schedule,
        from: u64,
        to: u64,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        out.clear();
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

    /// Whose messages go to Redis.
    fn backend(&self) -> Option<&Outlet> {
        self.publisher.as_ref().filter(|_| matches!(self.way, Way::Deliver(_)))
    }

    /// Of the messages that were sent, those that have neither arrived nor been refused.
    pub(super) fn missing(&self) -> u64 {
        self.clients.iter().map(|client| lock(&client.stream).missing()).sum()
    }

    /// One of those: the user, its number of those of this user, and how many these were.
    pub(super) fn first_missing(&self) -> Option<(usize, u64, u64)> {
        self.clients.iter().enumerate().find_map(|(index, client)| {
            let stream = lock(&client.stream);
            Some((index + 1, stream.first_missing()?, stream.sent()))
        })
    }

    pub(super) fn sent(&self) -> u64 {
        self.clients.iter().map(|client| lock(&client.stream).sent()).sum()
    }

    pub(super) fn schedule(&self) -> Option<Schedule> {
        self.schedule
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// From here on nothing is sent.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Nothing under these locks panics half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
