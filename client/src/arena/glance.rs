//! The parts of the game's messages that bots read. What is not declared here, above all the players and the coins of
//! a snapshot, is skipped without an allocation.

use arena_proto::Rules;
use prost::Message;

/// A part of `arena.ServerMessage`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Glance {
    #[prost(message, optional, tag = "1")]
    pub(crate) room_joined: Option<RoomGlance>,
    #[prost(message, optional, tag = "2")]
    pub(crate) snapshot: Option<SnapshotGlance>,
    #[prost(message, optional, tag = "4")]
    pub(crate) field_position: Option<Seen>,
    #[prost(message, optional, tag = "6")]
    pub(crate) left: Option<Seen>,
}

/// A part of `arena.RoomJoined`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct RoomGlance {
    #[prost(uint64, tag = "1")]
    pub(crate) room: u64,
}

/// A part of `arena.Snapshot`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SnapshotGlance {
    #[prost(message, optional, tag = "3")]
    pub(crate) rules: Option<Rules>,
}

/// A message of which only the presence counts.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Seen {}

#[cfg(test)]
mod tests {
    use arena_proto::server_message::Message as Response;
    use arena_proto::{FieldPosition, Left, Player, RoomJoined, ServerMessage, Snapshot};

    use super::*;

    #[track_caller]
    fn check(message: Response, glance: Glance) {
        let message = ServerMessage { message: Some(message) };
        assert_eq!(Glance::decode(message.encode_to_vec().as_slice()), Ok(glance));
    }

    #[test]
    fn a_glance_has_the_field_numbers_of_the_messages() {
        let rules = Some(Rules { tick_ms: 50, speed: 6000 });
        let players = vec![Player { player: 7, x: -1, y: 2, score: 3, away: false }];
        let snapshot = Snapshot { room: 1, tick: 2, rules, players, coins: vec![] };
        let none = Glance::default();
        check(Response::Snapshot(snapshot), Glance { snapshot: Some(SnapshotGlance { rules }), ..none });
        let joined = RoomJoined { room: 5, ..RoomJoined::default() };
        check(Response::RoomJoined(joined), Glance { room_joined: Some(RoomGlance { room: 5 }), ..none });
        let position = FieldPosition { player: 1, x: 2, y: 3 };
        check(Response::FieldPosition(position), Glance { field_position: Some(Seen {}), ..none });
        check(Response::Left(Left { reason: 2 }), Glance { left: Some(Seen {}), ..none });
    }
}
