//! One session that moves by itself, and what it sees.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arena_proto::client_message::Message as Request;
use arena_proto::server_message::Message as Response;
use arena_proto::{Input, Move, RoomJoined, Rules};
use gateway_connection::{Event, Received, Session, Target};
use gateway_wire::packet::{FLAG_REPLACES, Packet, ROUTE_CONTROL, ROUTE_GAME, ROUTE_SYSTEM, Status};
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::entry::{FIRST_SEQ, join, packet};
use super::glance::Glance;
use super::tally::Tally;
use crate::show;

/// The time from one input of a bot to the next.
const BEAT: Duration = Duration::from_millis(250);

/// The number of inputs after which a bot takes another direction.
const BEATS_PER_DIRECTION: u64 = 6;

/// The directions of bots.
const DIRECTIONS: [(i32, i32); 8] =
    [(1000, 0), (707, 707), (0, 1000), (-707, 707), (-1000, 0), (-707, -707), (0, -1000), (707, -707)];

/// The distance that a bot in the field goes from one beat to the next, for each thousandth of its direction.
const STRIDE: f64 = 1.5;

/// The largest coordinate of the field.
const FIELD_MAX: i32 = 1_000_000;

/// What all bots share.
pub(crate) struct Shared {
    pub(crate) target: Target,
    pub(crate) field: bool,
    pub(crate) reconnects: bool,
    pub(crate) bots: u32,
    /// The permits to connect. Without a limit, a thousand connections at once would wait for one another.
    pub(crate) connecting: Semaphore,
    tally: Mutex<Tally>,
}

impl Shared {
    pub(crate) fn new(
        target: Target,
        field: bool,
        reconnects: bool,
        bots: u32,
        connecting: usize,
        tally: Tally,
    ) -> Self {
        Self { target, field, reconnects, bots, connecting: Semaphore::new(connecting), tally: Mutex::new(tally) }
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plays until `stop` changes or until the session ends.
pub(crate) async fn play(shared: Arc<Shared>, number: u32, mut stop: watch::Receiver<bool>) {
    let outcome = tokio::select! {
        outcome = connect(&shared, number) => outcome,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let (mut session, mut bot) = match outcome {
        Ok(playing) => playing,
        Err(error) => return shared.tally().fail(format!("{error:#}")),
    };
    let outcome = tokio::select! {
        outcome = bot.play(&mut session, &shared) => outcome,
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    };
    bot.end(&mut shared.tally());
    if let Err(error) = outcome {
        shared.tally().fail(format!("{error:#}"));
    }
    session.close().await;
}

async fn connect(shared: &Shared, number: u32) -> anyhow::Result<(Session, Bot)> {
    let _permit = shared.connecting.acquire().await?;
    let mut session = Session::open(&shared.target, shared.reconnects).await?;
    let mut bot = Bot::new(number, shared.bots);
    bot.enter(&mut session, shared).await?;
    Ok((session, bot))
}

/// What a bot does and has seen.
struct Bot {
    number: u32,
    /// The position in the free field.
    position: (i32, i32),
    is_in_field: bool,
    is_playing: bool,
    beats: u64,
    seq: u32,
    room: Option<u64>,
    rules: Option<Rules>,
    /// The number of the last push.
    last_push: u32,
    last_snapshot: Option<Instant>,
}

impl Bot {
    /// Creates a bot. In the field, `bots` bots stand in a square, one in each cell.
    fn new(number: u32, bots: u32) -> Self {
        // There are at most 100 000 bots, so the numbers are small.
        let (number_i32, side) = (number as i32, f64::from(bots).sqrt().ceil() as i32);
        let at = |index: i32| ((index - side / 2) * 10_000).clamp(-FIELD_MAX, FIELD_MAX);
        Self {
            number,
            position: (at(number_i32 % side), at(number_i32 / side)),
            is_in_field: false,
            is_playing: false,
            beats: 0,
            seq: FIRST_SEQ,
            room: None,
            rules: None,
            last_push: 0,
            last_snapshot: None,
        }
    }

    /// Asks for a place.
    async fn enter(&mut self, session: &mut Session, shared: &Shared) -> anyhow::Result<()> {
        let position = shared.field.then_some(self.position);
        let joined = join(session, position, |packet| self.note(packet, Instant::now(), &mut shared.tally())).await?;
        self.begin(&joined, &mut shared.tally());
        Ok(())
    }

    fn begin(&mut self, joined: &Response, tally: &mut Tally) {
        self.is_playing = true;
        tally.connected += 1;
        if let Response::RoomJoined(RoomJoined { room, rules, .. }) = joined {
            tally.enter_room(*room);
            self.room = Some(*room);
            self.learn(*rules, tally);
        } else {
            self.is_in_field = true;
        }
    }

    fn end(&mut self, tally: &mut Tally) {
        if mem::take(&mut self.is_playing) {
            tally.connected -= 1;
        }
        if let Some(room) = self.room.take() {
            tally.leave_room(room);
        }
    }

    /// Sends inputs and counts what arrives, until the session ends. A bot whose session is new asks for another place.
    async fn play(&mut self, session: &mut Session, shared: &Shared) -> anyhow::Result<()> {
        // The bots do not all send at the same time.
        let phase = Duration::from_millis(u64::from(self.number) * 37 % 250);
        let mut beats = interval_at(Instant::now() + phase, BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // An input that waits for a connection would be too old.
                _ = beats.tick(), if session.is_connected() => {
                    let beat = self.beat();
                    session.send(beat).await;
                }
                event = session.next() => match event? {
                    Event::Received(Received::Packet(packet)) => {
                        self.note(&packet, Instant::now(), &mut shared.tally());
                    }
                    Event::Received(Received::NoPacket(_)) | Event::Reconnecting { .. } => {}
                    Event::Resumed { .. } => shared.tally().counts.resumed += 1,
                    Event::New { .. } => {
                        shared.tally().counts.new_sessions += 1;
                        self.end(&mut shared.tally());
                        (self.seq, self.last_push, self.last_snapshot) = (FIRST_SEQ, 0, None);
                        self.enter(session, shared).await?;
                    }
                },
            }
        }
    }

    /// Returns the packet with the next input or position.
    fn beat(&mut self) -> Packet {
        let turns = u64::from(self.number) + self.beats / BEATS_PER_DIRECTION * 3;
        // The remainder is less than 8.
        let (dx, dy) = DIRECTIONS[(turns % 8) as usize];
        self.beats += 1;
        self.seq = self.seq.wrapping_add(1);
        if !self.is_in_field {
            return packet(self.seq, Request::Input(Input { dx, dy }));
        }
        let moved = |from: i32, part: i32| (from + (f64::from(part) * STRIDE) as i32).clamp(-FIELD_MAX, FIELD_MAX);
        let (x, y) = (moved(self.position.0, dx), moved(self.position.1, dy));
        self.position = (x, y);
        packet(self.seq, Request::Move(Move { x, y }))
    }

    /// Counts a packet that arrived at `now`.
    fn note(&mut self, packet: &Packet, now: Instant, tally: &mut Tally) {
        let header = packet.header;
        if header.is_reply() {
            if header.status != Status::Ok as u16 {
                tally.counts.refused += 1;
                tally.trouble.get_or_insert_with(|| show::status(packet));
            }
            return;
        }
        // The welcome and the pushes on the control route are outside of the delivery counter.
        if header.seq == 0 && matches!(header.route, ROUTE_SYSTEM | ROUTE_CONTROL) {
            return;
        }
        tally.counts.lost += u64::from(header.seq.wrapping_sub(self.last_push).saturating_sub(1));
        self.last_push = header.seq;
        tally.counts.replaced += u64::from(header.flags & FLAG_REPLACES != 0);
        if header.route == ROUTE_GAME
            && let Ok(glance) = Glance::decode(packet.payload.as_ref())
        {
            self.look(glance, now, tally);
        }
    }

    fn look(&mut self, glance: Glance, now: Instant, tally: &mut Tally) {
        if let Some(joined) = glance.room_joined {
            // The session has moved to another gateway.
            if let Some(old) = self.room.replace(joined.room) {
                tally.leave_room(old);
            }
            tally.enter_room(joined.room);
        }
        if let Some(snapshot) = glance.snapshot {
            tally.counts.snapshots += 1;
            if let Some(last) = self.last_snapshot.replace(now) {
                tally.record_interval(u64::try_from((now - last).as_micros()).unwrap_or(u64::MAX));
            }
            self.learn(snapshot.rules, tally);
        }
        tally.counts.positions += u64::from(glance.field_position.is_some());
        tally.counts.removed += u64::from(glance.left.is_some());
    }

    fn learn(&mut self, rules: Option<Rules>, tally: &mut Tally) {
        if rules.is_some() && rules != self.rules {
            tally.counts.rule_changes += u64::from(self.rules.is_some());
            tally.speed = rules.map(|rules| rules.speed);
            self.rules = rules;
        }
    }
}

#[cfg(test)]
#[path = "bot_tests.rs"]
mod tests;
