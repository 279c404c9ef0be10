//! Tests of the free field.

use super::*;
use arena_proto::{FieldEntered, FieldLeft, FieldPosition};
use gateway_plugin_sdk::{Keep, Target};

/// Enters the field with a new session.
#[track_caller]
fn join(game: &mut Game, x: i32, y: i32) -> SessionId {
    let session = game.connect("").unwrap();
    let entered = Response::FieldEntered(FieldEntered { player: session.low, cell: 10_000 });
    assert_eq!(send(game, session, enter(x, y)), Some(entered));
    session
}

fn position(of: SessionId, x: i32, y: i32) -> Response {
    Response::FieldPosition(FieldPosition { player: of.low, x, y })
}

fn gone(session: SessionId) -> Response {
    Response::FieldLeft(FieldLeft { player: session.low })
}

/// The number of the cell with these coordinates, as it is a part of the state that a new version takes over.
fn cell(x: i16, y: i16) -> u64 {
    1 << 63 | u64::from(x as u16) << 16 | u64::from(y as u16)
}

#[test]
fn those_who_are_near_see_a_position_and_those_who_are_far_do_not() {
    let game = &mut game();
    let (a, near, far) = (join(game, 0, 0), join(game, -1, 19_999), join(game, 20_000, 0));
    game.delivered(a);
    assert_eq!(send(game, a, move_to(1, 2)), None);
    assert_eq!(received(game, near), [position(a, 1, 2)]);
    assert_eq!((received(game, far), received(game, a)), (vec![], vec![]));
    send(game, near, move_to(-2, 19_998));
    assert_eq!(received(game, a), [position(near, -2, 19_998)]);
}

#[test]
fn a_position_goes_to_the_cell_without_the_sender_and_replaces_an_older_one() {
    let game = &mut game();
    let a = game.session;
    send(game, a, enter(-1, 5));
    let actions = game.packet(ROUTE, &encoded(move_to(-1, 6))).unwrap();
    let [Action::Deliver(delivery)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((delivery.to, delivery.except), (Target::Group(cell(-1, 0)), Some(a)));
    assert_eq!((delivery.keep, delivery.route), (Keep::Latest(a.low), ROUTE));
}

#[test]
fn crossing_a_border_leaves_and_joins_the_difference() {
    let game = &mut game();
    let a = game.session;
    send(game, a, enter(9_999, 0));
    let old = join(game, -10_000, 0);
    let new = join(game, 20_000, 0);
    let both = join(game, 5, 5);
    game.delivered(old);
    game.delivered(both);
    let actions = game.packet(ROUTE, &encoded(move_to(10_000, 0))).unwrap();
    let leave = |x, y| Action::leave(a, cell(x, y));
    let join = |x, y| Action::join(a, cell(x, y));
    let expected = [leave(-1, -1), leave(-1, 0), leave(-1, 1), join(2, -1), join(2, 0), join(2, 1)];
    assert_eq!(actions[..6], expected);
    assert_eq!(actions[6], Action::tag(a, cell(1, 0)));
    assert_eq!((actions.len(), game.tag(a)), (9, cell(1, 0)));
    let groups = |game: &Game, x| game.members(cell(x, 0)).contains(&a);
    assert_eq!([-1, 0, 1, 2].map(|x| groups(game, x)), [false, true, true, true]);
    // Whoever saw the old cell only learns that the player is out of sight now.
    let at = position(a, 10_000, 0);
    assert_eq!((received(game, old), received(game, new)), (vec![at.clone()], vec![at.clone()]));
    assert_eq!(received(game, both), [at.clone(), at]);
}

#[test]
fn a_long_jump_changes_all_cells() {
    let game = &mut game();
    let a = join(game, 0, 0);
    send(game, a, move_to(0, 30_000));
    assert_eq!((game.members(cell(0, 1)), game.members(cell(0, 2))), (vec![], vec![a]));
    send(game, a, move_to(-1_000_000, 1_000_000));
    assert!(game.members(cell(0, 2)).is_empty() && game.members(cell(1, 4)).is_empty());
    assert_eq!((game.members(cell(-101, 101)), game.members(cell(-99, 99))), (vec![a], vec![a]));
}

#[test]
fn whoever_leaves_the_field_vanishes() {
    let game = &mut game();
    let (a, b, far) = (join(game, 0, 0), join(game, 0, 0), join(game, 20_000, 0));
    assert_eq!(send(game, a, leave()), Some(left(Reason::Asked)));
    assert_eq!((game.tag(a), game.members(cell(0, 0))), (0, vec![b]));
    assert_eq!(received(game, b), [gone(a)]);
    send(game, a, enter(0, 0));
    assert_eq!(received(game, b), [position(a, 0, 0)]);
    game.disconnect(a);
    assert_eq!((received(game, b), received(game, far)), (vec![gone(a)], vec![]));
}

#[test]
fn a_session_is_in_one_place_at_a_time() {
    let game = &mut game();
    let a = join(game, 0, 0);
    let b = join(game, 0, 0);
    assert!(matches!(send(game, a, find()), Some(Response::RoomJoined(_))));
    assert_eq!((game.members(cell(0, 0)), game.tag(a)), (vec![b], 1));
    assert_eq!(received(game, b), [gone(a)]);
    send(game, a, enter(0, 0));
    assert_eq!((game.members(1), game.tag(a)), (vec![], cell(0, 0)));
    assert_eq!(game.state("room/0000000000000001"), None);
    send(game, a, enter(50_000, 0));
    assert_eq!((game.members(cell(0, 0)), game.members(cell(5, 0))), (vec![b], vec![a]));
}
