//! The free field: positions are relayed to those who are near.
//!
//! The field is divided into square cells. A session is a member of the groups of its own cell and of the eight cells
//! around it, and its position goes to the group of its own cell. So each player sees those who are near, and the
//! plugin needs no state but the session's tag, which is the number of its cell.

use crate::{CELL_BIT, encode, reply};
use arena_proto::{FieldEntered, FieldLeft, FieldPosition, server_message::Message as Response};
use gateway_plugin_sdk::{Action, Delivery, Rejection, SessionId, Target};

/// The side of a cell.
pub(crate) const CELL: i32 = 10_000;

/// The largest coordinate. The smallest one is its negative.
const MAX: i32 = 1_000_000;

/// The free field.
pub(crate) struct Field {
    pub(crate) route: u8,
}

/// A cell of the field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    x: i16,
    y: i16,
}

impl Cell {
    /// Returns the cell of a position.
    fn at(x: i32, y: i32) -> Result<Self, Rejection> {
        for (field, value) in [("x", x), ("y", y)] {
            if !(-MAX..=MAX).contains(&value) {
                return Err(Rejection::malformed(format!("{field} is {value}, and has to be -{MAX} to {MAX}")));
            }
        }
        // The quotients are -100 to 100.
        Ok(Self { x: x.div_euclid(CELL) as i16, y: y.div_euclid(CELL) as i16 })
    }

    /// Returns the cell with this number.
    pub(crate) fn of(number: u64) -> Self {
        Self { x: (number >> 16) as i16, y: number as i16 }
    }

    /// Returns the cell's number, which is the number of its group and the tag of the sessions in it.
    pub(crate) fn number(self) -> u64 {
        // As a u16 a negative coordinate has no bits above the lower 16.
        CELL_BIT | u64::from(self.x as u16) << 16 | u64::from(self.y as u16)
    }

    /// Returns the cells that a session in this cell sees: this one and the eight around it.
    fn seen(self) -> impl Iterator<Item = Self> {
        let around = move |x| (-1..=1).map(move |y| Self { x: self.x + x, y: self.y + y });
        (-1..=1).flat_map(around)
    }

    fn sees(self, other: Self) -> bool {
        (self.x - other.x).abs() <= 1 && (self.y - other.y).abs() <= 1
    }
}

impl Field {
    /// Puts a session into the field.
    pub(crate) fn enter(&self, session: SessionId, x: i32, y: i32) -> Result<Vec<Action>, Rejection> {
        let cell = Cell::at(x, y)?;
        let mut actions: Vec<_> = cell.seen().map(|seen| Action::join(session, seen.number())).collect();
        let entered = FieldEntered { player: player(session), cell: CELL };
        actions.extend([
            Action::tag(session, cell.number()),
            reply(Response::FieldEntered(entered)),
            self.position(session, cell, x, y),
        ]);
        Ok(actions)
    }

    /// Relays the new position of a session that was in the cell `from`.
    pub(crate) fn relay(&self, session: SessionId, from: Cell, x: i32, y: i32) -> Result<Vec<Action>, Rejection> {
        let to = Cell::at(x, y)?;
        if to == from {
            return Ok(vec![self.position(session, to, x, y)]);
        }
        let lost = from.seen().filter(|cell| !to.sees(*cell)).map(|cell| Action::leave(session, cell.number()));
        let gained = to.seen().filter(|cell| !from.sees(*cell)).map(|cell| Action::join(session, cell.number()));
        let mut actions: Vec<_> = lost.chain(gained).collect();
        // Those who saw the old cell only also have to learn that the player has gone out of sight.
        actions.extend([
            Action::tag(session, to.number()),
            self.position(session, from, x, y),
            self.position(session, to, x, y),
        ]);
        Ok(actions)
    }

    /// Removes a session from the field.
    pub(crate) fn leave(&self, session: SessionId, cell: Cell) -> Vec<Action> {
        let leaves = cell.seen().map(|seen| Action::leave(session, seen.number()));
        leaves.chain([self.farewell(session, cell)]).collect()
    }

    /// Tells those who are near that a session has left the field.
    pub(crate) fn farewell(&self, session: SessionId, cell: Cell) -> Action {
        self.push(session, cell, Response::FieldLeft(FieldLeft { player: player(session) }))
    }

    fn position(&self, session: SessionId, cell: Cell, x: i32, y: i32) -> Action {
        self.push(session, cell, Response::FieldPosition(FieldPosition { player: player(session), x, y }))
    }

    /// Pushes a message about a session to those who see a cell. It replaces an older message about the session.
    fn push(&self, session: SessionId, cell: Cell, message: Response) -> Action {
        let delivery = Delivery::to(Target::Group(cell.number()), self.route).body(encode(message));
        delivery.except(session).latest(player(session)).into()
    }
}

/// Returns the number of a session's player. The low half of a session id is random, so it needs no counter.
fn player(session: SessionId) -> u64 {
    session.low
}
