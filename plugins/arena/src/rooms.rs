//! Rooms: matchmaking and the tick.
//!
//! A room has these entries of the plugin's state. `ROOM` is its number in hexadecimal.
//!
//! - `room/ROOM` is its world. It goes if the room has not ticked for a minute, which a room only does if its gateway
//!   was restarted.
//! - `open/ROOM` is there if the room has a free place.
//! - `in/ROOM/SESSION` is the input of a player. It is written without a read, so inputs never wait for one another.
//!
//! The room's number is also the number of its group, of its timer, and of the push that a newer snapshot replaces.

use crate::{
    encode,
    world::{HEIGHT, WIDTH, World},
};
use arena_proto::{Input, Left, RoomJoined, Rules, Snapshot, left::Reason, server_message::Message as Response};
use gateway_plugin_sdk::{Action, Delivery, Metric, Rejection, SessionId, Target, state};
use prost::Message;
use std::{collections::BTreeMap, time::Duration};

/// The time for which an input holds.
const INPUT_TTL: Duration = Duration::from_secs(1);

/// The time for which a world is kept that does not tick.
const WORLD_TTL: Duration = Duration::from_secs(60);

/// The maximum number of inputs that one tick reads.
const MAX_INPUTS: u32 = 1_000;

/// The entry that counts rooms and players.
const LOBBY: &str = "lobby";

const ROOMS: u32 = 0;
const TICKS: u32 = 1;
const LATE_TICKS: u32 = 2;

/// The metrics of the plugin, at the positions above.
pub(crate) const METRICS: &[Metric] = &[
    Metric::gauge("rooms", "Rooms with players."),
    Metric::counter("ticks", "Ticks of rooms."),
    Metric::counter("late_ticks", "Ticks that came so late that the next one was due as well."),
];

/// The rules of all rooms.
pub(crate) struct Rooms {
    pub(crate) rules: Rules,
    /// The number of players that a room takes.
    pub(crate) room_size: usize,
    pub(crate) route: u8,
}

/// What the numbers of new rooms and players follow from.
#[derive(Clone, PartialEq, prost::Message)]
struct Lobby {
    #[prost(uint64, tag = "1")]
    last_room: u64,
    #[prost(uint64, tag = "2")]
    last_player: u64,
    /// The number of rooms.
    #[prost(uint64, tag = "3")]
    rooms: u64,
}

/// Keeps a player's input until the next tick.
pub(crate) fn input(room: u64, session: SessionId, input: Input) -> Result<Vec<Action>, Rejection> {
    for (field, value) in [("dx", input.dx), ("dy", input.dy)] {
        if !(-1000..=1000).contains(&value) {
            return Err(Rejection::malformed(format!("Input.{field} is {value}, and has to be -1000 to 1000")));
        }
    }
    Ok(vec![Action::put_for(input_key(room, session), input.encode_to_vec(), INPUT_TTL)])
}

impl Rooms {
    /// Gives a session a place in a room with a free place, or in a new room. `tell` makes the action that tells the client
    /// so.
    pub(crate) fn find(&self, session: SessionId, now: u64, tell: impl FnOnce(Response) -> Action) -> Vec<Action> {
        let mut lobby: Lobby = load(LOBBY).unwrap_or_default();
        let mut actions = Vec::new();
        let (room, mut world) = self.open_room(&mut actions).unwrap_or_else(|| {
            lobby.last_room += 1;
            lobby.rooms += 1;
            (lobby.last_room, World::new(lobby.last_room, now + u64::from(self.rules.tick_ms)))
        });
        lobby.last_player += 1;
        world.join(lobby.last_player, session);
        actions.extend([
            Action::put(LOBBY, lobby.encode_to_vec()),
            Action::measure(ROOMS, lobby.rooms as f64),
            Action::join(session, room),
            Action::tag(session, room),
            // The time is the one that the timer has. If the timer was lost with a restart, the room ticks again.
            self.wake(room, &world, now),
            tell(self.joined_as(room, lobby.last_player)),
        ]);
        actions.extend(self.store(room, world));
        actions
    }

    /// Returns the reply to a session that is in the room already.
    pub(crate) fn joined(&self, room: u64, session: SessionId) -> Option<Response> {
        let world: World = load(&world_key(room))?;
        world.player(session).map(|player| self.joined_as(room, player.shown.player))
    }

    /// Gives a place to a session that was in a room of another gateway. The rooms here have the same numbers.
    pub(crate) fn take_in(&self, old_room: u64, session: SessionId, now: u64) -> Vec<Action> {
        let tell = |joined| Action::deliver_body(Target::Session(session), self.route, encode(joined));
        [vec![Action::leave(session, old_room)], self.find(session, now, tell)].concat()
    }

    /// Records whether the client of a player is away.
    pub(crate) fn set_away(&self, room: u64, session: SessionId, is_away: bool) -> Vec<Action> {
        let Some(mut world) = load::<World>(&world_key(room)) else { return Vec::new() };
        if !world.set_away(session, is_away) {
            return Vec::new();
        }
        // An input from before the break no longer says where the player wants to go.
        [vec![Action::remove(input_key(room, session))], self.store(room, world)].concat()
    }

    /// Removes a session's player from a room. The room ends with its last player.
    pub(crate) fn remove(&self, room: u64, session: SessionId) -> Vec<Action> {
        let Some(mut world) = load::<World>(&world_key(room)) else { return Vec::new() };
        world.remove(session);
        self.store(room, world)
    }

    /// Advances a room by one tick, and pushes the snapshot to its players.
    pub(crate) fn tick(&self, room: u64, now: u64) -> Vec<Action> {
        let Some(mut world) = load::<World>(&world_key(room)) else {
            return vec![self.left(Target::Group(room), Reason::Closed)];
        };
        world.step(self.rules, &inputs(room));
        let is_late = world.schedule(now, self.rules.tick_ms);
        let mut actions = vec![Action::measure(TICKS, 1.0), Action::measure(LATE_TICKS, f64::from(u8::from(is_late)))];
        for session in world.remove_silent() {
            let left = self.left(Target::Session(session), Reason::Silent);
            actions.extend([Action::leave(session, room), Action::tag(session, 0), left]);
        }
        actions.push(self.snapshot(room, &world));
        actions.push(self.wake(room, &world, now));
        actions.extend(self.store(room, world));
        actions
    }

    /// Returns the first room with a free place. A room that is listed wrongly is taken off the list.
    fn open_room(&self, actions: &mut Vec<Action>) -> Option<(u64, World)> {
        let (key, _) = state::scan("open/", 1).pop()?;
        let room = key.strip_prefix("open/").and_then(|room| u64::from_str_radix(room, 16).ok());
        let found = room.and_then(|room| Some((room, load::<World>(&world_key(room))?)));
        let open = found.filter(|(_, world)| world.players.len() < self.room_size);
        if open.is_none() {
            actions.push(Action::remove(key));
        }
        open
    }

    /// Stores a world after a change, and lists the room if it has a free place. Ends the room if it has no players.
    fn store(&self, room: u64, mut world: World) -> Vec<Action> {
        if world.players.is_empty() {
            return end(room);
        }
        let has_place = world.players.len() < self.room_size;
        let mut actions = Vec::new();
        if has_place != world.is_listed {
            world.is_listed = has_place;
            let key = open_key(room);
            actions.push(if has_place { Action::put(key, []) } else { Action::remove(key) });
        }
        actions.push(Action::put_for(world_key(room), world.encode_to_vec(), WORLD_TTL));
        actions
    }

    fn joined_as(&self, room: u64, player: u64) -> Response {
        Response::RoomJoined(RoomJoined { room, player, width: WIDTH, height: HEIGHT, rules: Some(self.rules) })
    }

    fn snapshot(&self, room: u64, world: &World) -> Action {
        let snapshot = Snapshot {
            room,
            tick: world.tick,
            rules: Some(self.rules),
            players: world.players.iter().map(|player| player.shown).collect(),
            coins: world.coins.clone(),
        };
        Delivery::to(Target::Group(room), self.route).body(encode(Response::Snapshot(snapshot))).latest(room).into()
    }

    fn left(&self, to: Target, reason: Reason) -> Action {
        Action::deliver_body(to, self.route, encode(Response::Left(Left { reason: reason.into() })))
    }

    /// Sets the room's timer to the time of its next tick.
    fn wake(&self, room: u64, world: &World, now: u64) -> Action {
        // If the clock was set back, the next tick is not later than usual.
        let wait = world.due.saturating_sub(now).min(u64::from(self.rules.tick_ms));
        Action::wake(room, Duration::from_millis(wait))
    }
}

/// Ends a room without players.
fn end(room: u64) -> Vec<Action> {
    let mut lobby: Lobby = load(LOBBY).unwrap_or_default();
    lobby.rooms = lobby.rooms.saturating_sub(1);
    vec![
        Action::cancel(room),
        Action::remove(world_key(room)),
        Action::remove(open_key(room)),
        Action::put(LOBBY, lobby.encode_to_vec()),
        Action::measure(ROOMS, lobby.rooms as f64),
    ]
}

/// Returns the inputs of the players in a room.
fn inputs(room: u64) -> BTreeMap<SessionId, Input> {
    let prefix = inputs_key(room);
    let entry = |(key, value): (String, Vec<u8>)| {
        let (high, low) = key.strip_prefix(&prefix)?.split_at_checked(16)?;
        let half = |digits| u64::from_str_radix(digits, 16).ok();
        let session = SessionId { high: half(high)?, low: half(low)? };
        Some((session, Input::decode(value.as_slice()).ok()?))
    };
    state::scan(&prefix, MAX_INPUTS).into_iter().filter_map(entry).collect()
}

/// Reads an entry of the plugin's state. An entry that this version cannot read counts as missing.
fn load<M: Message + Default>(key: &str) -> Option<M> {
    M::decode(state::get(key)?.as_slice()).ok()
}

fn world_key(room: u64) -> String {
    format!("room/{room:016x}")
}

fn open_key(room: u64) -> String {
    format!("open/{room:016x}")
}

fn inputs_key(room: u64) -> String {
    format!("in/{room:016x}/")
}

fn input_key(room: u64, session: SessionId) -> String {
    format!("{}{:016x}{:016x}", inputs_key(room), session.high, session.low)
}
