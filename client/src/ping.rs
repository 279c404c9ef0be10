//! `gateway-client ping`: measures how long the gateway takes to send a heartbeat back.
//!
//! One heartbeat is under way at a time, as with ping(8) on a network that is not slow. The next heartbeat waits for
//! the reply to the last one, or for its timeout.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use gateway_connection::{Event, MAX_PAYLOAD_BYTES, Received, Session, Target, interrupted};
use gateway_wire::packet::{Packet, ROUTE_SYSTEM, Status};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::show;
use crate::tally::{Tally, millis};

/// The time after which a heartbeat without a reply is lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Measure the round trip of heartbeats, like ping(8)
///
/// Within 5 s a heartbeat must come back on the system route, as a reply with the same seq, status 0 and the same payload.
///
/// If the connection breaks, the client reconnects and resumes its session. The summary counts the breaks.
///
/// Exit status: 0 if every heartbeat came back right, 1 if not, or if the gateway ended the session, or with
/// `--no-reconnect` the connection.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The number of heartbeats; 0 is endless
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: u64,
    /// The time from one heartbeat to the next
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    interval_ms: u64,
    /// The payload of a heartbeat
    #[arg(long, value_name = "BYTES", default_value_t = 8, value_parser = clap::value_parser!(u64).range(..=MAX_PAYLOAD_BYTES as u64))]
    size: u64,
    /// End with the connection, with status 1, instead of reconnecting
    #[arg(long)]
    no_reconnect: bool,
    #[command(flatten)]
    target: Target,
}

/// The meaning of the options.
struct Plan {
    /// The number of heartbeats, or `None` if they are endless.
    count: Option<u64>,
    interval: Duration,
    size: usize,
    timeout: Duration,
}

/// Runs until all heartbeats are done or until Ctrl-C, and prints a summary. Fails if anything went wrong.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let Options { count, interval_ms, size, no_reconnect, target } = options;
    let plan = Plan {
        count: (count > 0).then_some(count),
        interval: Duration::from_millis(interval_ms),
        // The size is at most MAX_PAYLOAD_BYTES, which is a usize.
        size: size as usize,
        timeout: REPLY_TIMEOUT,
    };
    let mut session = Session::open(&target, !no_reconnect).await?;
    let mut out = io::stdout().lock();
    let mut tally = Tally::default();
    writeln!(out, "PING {}: {size} bytes of payload", target.url)?;
    let mut heart = Heart::new(&mut session, &mut out, &mut tally);
    let outcome = tokio::select! {
        outcome = heart.beat(&plan) => outcome,
        () = interrupted() => Ok(()),
    };
    session.close().await;
    writeln!(out, "--- {}\n{tally}", target.url)?;
    outcome?;
    tally.verdict()
}

struct Heart<'a, W> {
    session: &'a mut Session,
    out: &'a mut W,
    tally: &'a mut Tally,
    /// The seqs of lost heartbeats. Their replies may still come.
    lost: BTreeSet<u32>,
}

impl<'a, W: Write> Heart<'a, W> {
    fn new(session: &'a mut Session, out: &'a mut W, tally: &'a mut Tally) -> Self {
        Self { session, out, tally, lost: BTreeSet::new() }
    }

    async fn beat(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let mut ticks = interval(plan.interval);
        // After a lost heartbeat the next ones do not come in a burst.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seq = 0_u32;
        while plan.count.is_none_or(|count| self.tally.sent < count) {
            self.pause(&mut ticks).await?;
            seq = seq.wrapping_add(1);
            self.beat_once(plan, seq).await?;
        }
        Ok(())
    }

    /// Waits for the next tick, and for a connection. Reads meanwhile, so that the gateway's own pings are answered.
    async fn pause(&mut self, ticks: &mut Interval) -> anyhow::Result<()> {
        loop {
            let is_connected = self.session.is_connected();
            tokio::select! {
                biased;
                _ = ticks.tick(), if is_connected => return Ok(()),
                event = self.session.next() => self.note_other(&event?)?,
            }
        }
    }

    async fn beat_once(&mut self, plan: &Plan, seq: u32) -> anyhow::Result<()> {
        let payload = pattern(seq, plan.size);
        let begin = Instant::now();
        self.tally.sent += 1;
        match timeout(plan.timeout, self.round_trip(seq, &payload)).await {
            Ok(Ok(Reply::Right)) => {
                let round_trip = begin.elapsed();
                self.tally.answered(round_trip);
                writeln!(self.out, "{} bytes: seq={seq} time={:.3} ms", plan.size, millis(round_trip))?;
            }
            Ok(Ok(Reply::Wrong(why))) => {
                self.tally.wrong += 1;
                writeln!(self.out, "seq={seq} wrong: {why}")?;
            }
            Ok(Ok(Reply::Lost)) => {
                self.tally.lost += 1;
                writeln!(self.out, "seq={seq} lost: the session is new")?;
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                self.tally.lost += 1;
                self.lost.insert(seq);
                writeln!(self.out, "seq={seq} lost: no reply within {} ms", plan.timeout.as_millis())?;
            }
        }
        Ok(())
    }

    async fn round_trip(&mut self, seq: u32, payload: &Bytes) -> anyhow::Result<Reply> {
        self.session.send(Packet::request(seq, ROUTE_SYSTEM, payload.clone())).await;
        loop {
            let event = self.session.next().await?;
            if let Event::Received(Received::Packet(packet)) = &event
                && let Some(reply) = Reply::judge(packet, seq, payload)
            {
                return Ok(reply);
            }
            self.note_other(&event)?;
            if matches!(event, Event::New { .. }) {
                return Ok(Reply::Lost);
            }
        }
    }

    /// Takes note of an event that does not concern the heartbeat under way. A push is no error: it is a delivery.
    fn note_other(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Received(Received::Packet(packet)) if !packet.header.is_reply() => Ok(()),
            Event::Received(Received::Packet(packet)) if self.lost.remove(&packet.header.seq) => {
                writeln!(self.out, "seq={} late: it counts as lost", packet.header.seq)
            }
            Event::Received(received) => {
                self.tally.stray += 1;
                writeln!(self.out, "stray: {}", show::received(received))
            }
            Event::Reconnecting { .. } => writeln!(self.out, "{}", show::event(event)),
            Event::Resumed { away, .. } | Event::New { away, .. } => {
                self.tally.breaks += 1;
                self.tally.away += *away;
                writeln!(self.out, "{}", show::event(event))
            }
        }
    }
}

/// The verdict on the reply to a heartbeat.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Right,
    /// There will be no reply.
    Lost,
    /// The reply breaks the protocol, and this says how.
    Wrong(String),
}

impl Reply {
    /// Judges a packet. Returns `None` if the packet does not concern the heartbeat `seq`.
    fn judge(packet: &Packet, seq: u32, payload: &Bytes) -> Option<Self> {
        let header = packet.header;
        let echo = header.route == ROUTE_SYSTEM && packet.payload == *payload;
        // The counter of a push may happen to be `seq`, but a push does not have the payload of the heartbeat.
        if header.seq != seq || !(header.is_reply() || echo) {
            return None;
        }
        Some(if !header.is_reply() {
            Self::Wrong("it came back without the reply flag".into())
        } else if header.route != ROUTE_SYSTEM {
            Self::Wrong(format!("the reply is on route 0x{:02x}", header.route))
        } else if header.status != Status::Ok as u16 {
            Self::Wrong(show::status(packet))
        } else if packet.payload != *payload {
            Self::Wrong(format!("the payload differs ({} bytes, sent {})", packet.payload.len(), payload.len()))
        } else {
            Self::Right
        })
    }
}

/// The payload of a heartbeat. It differs from the payloads of the heartbeats before and after, so that replies that
/// are mixed up are noticed.
fn pattern(seq: u32, size: usize) -> Bytes {
    seq.to_be_bytes().into_iter().rev().cycle().take(size).collect()
}

#[cfg(test)]
#[path = "ping_tests.rs"]
mod tests;
