//! The arena, a small game. Players in rooms collect coins, and the plugin decides where everybody is. In the free
//! field, clients tell their own positions, and the plugin relays each position to those who are near.
//!
//! The plugin keeps nothing itself. A room is an entry of the plugin's state, so players stay in their rooms when a new
//! version of the plugin replaces this one. The free field needs no state at all.

mod field;
mod rooms;
#[cfg(test)]
mod tests;
mod world;

use arena_proto::{
    ClientMessage, Left, Rules, ServerMessage, client_message::Message as Request, left::Reason,
    server_message::Message as Response,
};
use field::{Cell, Field};
use gateway_plugin_sdk::{
    Absence, Action, Arrival, Departure, Metric, Packet, Plugin, Policy, Presence, Rejection, Sessions, Settings,
    Timers, export,
};
use prost::Message;
use rooms::Rooms;
use serde::Deserialize;

// To change a rule while people play, edit one of these numbers and run `make plugins`. The rooms go on with the new
// rule from their next tick on. A key in gateway.yaml overrides its number.

/// The time from one tick of a room to the next, in milliseconds.
const TICK_MS: u32 = 50;
/// The distance that a player goes in a second, in thousandths of a unit of the field.
const SPEED: u32 = 6_000;
/// The number of players that a room takes.
const ROOM_SIZE: u32 = 20;

const ROUTE: u8 = 0x02;

/// The bit that tells the number of a cell from the number of a room.
const CELL_BIT: u64 = 1 << 63;

/// The settings of the plugin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    tick_ms: u32,
    speed: u32,
    room_size: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick_ms: TICK_MS, speed: SPEED, room_size: ROOM_SIZE }
    }
}

/// The place of a session. The session's tag is its number.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Nowhere,
    Room(u64),
    Field(Cell),
}

impl Place {
    fn of(tag: u64) -> Self {
        match tag {
            0 => Self::Nowhere,
            cell if cell & CELL_BIT != 0 => Self::Field(Cell::of(cell)),
            room => Self::Room(room),
        }
    }
}

struct Arena {
    rooms: Rooms,
    field: Field,
}

impl Plugin for Arena {
    const NAME: &str = "arena";
    const ROUTES: &[u8] = &[ROUTE];
    const METRICS: &[Metric] = rooms::METRICS;
    const STATE_FORMAT: u32 = 1;
    /// Other routes need no arena.
    const GATEKEEPER: bool = false;
    type Config = Config;

    fn configure(Settings { config, routes, .. }: Settings<Config>) -> Result<Self, String> {
        let Config { tick_ms, speed, room_size } = config;
        if !(10..=1000).contains(&tick_ms) {
            return Err("config.tick_ms: a tick takes 10 to 1000 ms".to_owned());
        }
        if !(1..=100_000).contains(&speed) {
            return Err("config.speed: a speed is 1 to 100000".to_owned());
        }
        if !(1..=200).contains(&room_size) {
            return Err("config.room_size: a room takes 1 to 200 players".to_owned());
        }
        let route = routes.first().copied().unwrap_or(ROUTE);
        let rooms = Rooms { rules: Rules { tick_ms, speed }, room_size: room_size as usize, route };
        Ok(Self { rooms, field: Field { route } })
    }
}

impl Policy for Arena {
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let message = ClientMessage::decode(payload)
            .map_err(|error| Rejection::malformed(format!("ClientMessage: {error}")))?
            .message
            .ok_or_else(|| Rejection::malformed("ClientMessage.message is missing"))?;
        let (session, place) = (packet.session, Place::of(packet.tag));
        match message {
            Request::FindRoom(_) => self.find_room(packet, place),
            Request::Input(input) => match place {
                Place::Room(room) => rooms::input(room, session, input),
                _ => Err(Rejection::rejected("Input: the session is in no room, so send FindRoom")),
            },
            Request::EnterField(to) => {
                let entered = self.field.enter(session, to.x, to.y)?;
                Ok([self.leave(packet, place), entered].concat())
            }
            Request::Move(to) => match place {
                Place::Field(cell) => self.field.relay(session, cell, to.x, to.y),
                _ => Err(Rejection::rejected("Move: the session is not in the free field, so send EnterField")),
            },
            Request::Leave(_) => {
                let mut actions = self.leave(packet, place);
                actions.push(Action::tag(session, 0));
                actions.push(reply(Response::Left(Left { reason: Reason::Asked.into() })));
                Ok(actions)
            }
        }
    }
}

impl Arena {
    fn find_room(&self, packet: &Packet, place: Place) -> Result<Vec<Action>, Rejection> {
        let session = packet.session;
        match place {
            // The client may ask again, for example because it has not seen the reply.
            Place::Room(room) if let Some(joined) = self.rooms.joined(room, session) => Ok(vec![reply(joined)]),
            // The room has ended, so only the membership is left of it.
            Place::Room(room) => {
                let found = self.rooms.find(session, packet.now, reply);
                Ok([vec![Action::leave(session, room)], found].concat())
            }
            Place::Field(_) | Place::Nowhere => {
                Ok([self.leave(packet, place), self.rooms.find(session, packet.now, reply)].concat())
            }
        }
    }

    /// Removes the sender from its place.
    fn leave(&self, packet: &Packet, place: Place) -> Vec<Action> {
        let session = packet.session;
        match place {
            Place::Nowhere => Vec::new(),
            Place::Room(room) => [vec![Action::leave(session, room)], self.rooms.remove(room, session)].concat(),
            Place::Field(cell) => self.field.leave(session, cell),
        }
    }
}

impl Sessions for Arena {
    fn on_disconnect(&mut self, departure: &Departure) -> Vec<Action> {
        let session = departure.session;
        match Place::of(departure.tag) {
            Place::Nowhere => Vec::new(),
            Place::Room(room) => self.rooms.remove(room, session),
            Place::Field(cell) => vec![self.field.farewell(session, cell)],
        }
    }
}

impl Presence for Arena {
    fn on_away(&mut self, absence: &Absence) -> Vec<Action> {
        match Place::of(absence.tag) {
            Place::Room(room) => self.rooms.set_away(room, absence.session, true),
            // The others forget a player in the field who is silent.
            Place::Nowhere | Place::Field(_) => Vec::new(),
        }
    }

    fn on_back(&mut self, arrival: &Arrival) -> Vec<Action> {
        match Place::of(arrival.tag) {
            Place::Room(room) if arrival.handed_over => self.rooms.take_in(room, arrival.session, arrival.now),
            Place::Room(room) => self.rooms.set_away(room, arrival.session, false),
            // The cells of the field are the same at each gateway.
            Place::Nowhere | Place::Field(_) => Vec::new(),
        }
    }
}

impl Timers for Arena {
    fn on_wake(&mut self, room: u64, now: u64) -> Vec<Action> {
        self.rooms.tick(room, now)
    }
}

fn encode(message: Response) -> Vec<u8> {
    ServerMessage { message: Some(message) }.encode_to_vec()
}

fn reply(message: Response) -> Action {
    Action::reply(encode(message))
}

export!(Arena: Policy, Sessions, Presence, Timers);
