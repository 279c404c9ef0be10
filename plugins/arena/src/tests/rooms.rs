//! Tests of matchmaking and of the tick.

use super::*;
use arena_proto::{Rules, Snapshot};
use gateway_plugin_sdk::{Keep, Target};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(50);

/// The positions of the metrics.
const ROOMS: usize = 0;
const TICKS: usize = 1;
const LATE_TICKS: usize = 2;

/// A game whose rooms take two players.
fn pairs() -> Game {
    Harness::new(r#"{"config":{"room_size":2}}"#).unwrap()
}

/// Sends `FindRoom` from a new session. Returns the session, its room and its player.
fn join(game: &mut Game) -> (SessionId, u64, u64) {
    let session = game.connect("").unwrap();
    let (room, player) = place(game, session);
    (session, room, player)
}

/// Sends `FindRoom`, and returns the room and the player.
#[track_caller]
fn place(game: &mut Game, session: SessionId) -> (u64, u64) {
    match send(game, session, find()) {
        Some(Response::RoomJoined(joined)) => (joined.room, joined.player),
        other => panic!("{other:?}"),
    }
}

/// Advances by one tick, and returns the only snapshot that a session gets.
#[track_caller]
fn snapshot(game: &mut Game, session: SessionId) -> Snapshot {
    game.delivered(session);
    game.advance(TICK);
    match &received(game, session)[..] {
        [Response::Snapshot(snapshot)] => snapshot.clone(),
        other => panic!("{other:?}"),
    }
}

fn players(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.players.iter().map(|player| player.player).collect()
}

/// The distance to the right that the first player of a snapshot has gone since an earlier snapshot.
fn gone(from: &Snapshot, to: &Snapshot) -> i32 {
    to.players[0].x - from.players[0].x
}

/// Moves the first player of a room to the middle, where no border is in the way.
#[track_caller]
fn center(game: &mut Game, room: u64) {
    let key = format!("room/{room:016x}");
    let mut world = world::World::decode(game.state(&key).unwrap().as_slice()).unwrap();
    world.players[0].shown.x = 30_000;
    world.players[0].shown.y = 10_000;
    game.put(&key, world.encode_to_vec());
}

#[test]
fn players_fill_a_room_and_then_a_new_one() {
    let game = &mut pairs();
    let (a, b, c) = (join(game), join(game), join(game));
    assert_eq!([a, b, c].map(|(_, room, player)| (room, player)), [(1, 1), (1, 2), (2, 3)]);
    assert_eq!((game.members(1), game.members(2)), (vec![a.0, b.0], vec![c.0]));
    assert_eq!((game.tag(b.0), game.tag(c.0), game.metric(ROOMS)), (1, 2, 2.0));
    // A running room with a free place is filled before a new one.
    assert_eq!(send(game, a.0, leave()), Some(left(Reason::Asked)));
    assert_eq!((join(game).1, join(game).1, join(game).1), (1, 2, 3));
}

#[test]
fn whoever_is_in_a_room_stays_in_it() {
    let game = &mut pairs();
    let (session, room, player) = join(game);
    assert_eq!(place(game, session), (room, player));
    assert_eq!(players(&snapshot(game, session)), [player]);
}

#[test]
fn a_room_ticks_20_times_a_second_and_pushes_the_newest_snapshot() {
    let game = &mut game();
    let (session, _, player) = join(game);
    assert_eq!(game.timer(1), Some(TICK));
    game.advance(Duration::from_secs(1));
    let pushes = game.delivered(session);
    assert_eq!((pushes.len(), game.metric(TICKS), game.metric(LATE_TICKS)), (20, 20.0, 0.0));
    for (number, push) in (1..).zip(pushes) {
        assert_eq!((push.route, push.keep), (ROUTE, Keep::Latest(1)));
        let Response::Snapshot(Snapshot { room, tick, rules, players, coins }) = decode(&push.body) else {
            panic!("no snapshot")
        };
        assert_eq!((room, tick, rules), (1, number, Some(Rules { tick_ms: 50, speed: 6_000 })));
        assert_eq!((players.len(), players[0].player, coins.len()), (1, player, 8));
    }
}

#[test]
fn a_late_tick_is_one_step_and_keeps_the_cadence() {
    let game = &mut game();
    let (session, ..) = join(game);
    let begin = game.now;
    game.now = begin + 130;
    game.advance(Duration::ZERO);
    assert_eq!((game.metric(TICKS), game.metric(LATE_TICKS)), (1.0, 1.0));
    assert_eq!(game.timer(1), Some(Duration::from_millis(20)));
    game.now = begin + 199;
    game.advance(Duration::ZERO);
    assert_eq!((game.metric(TICKS), game.metric(LATE_TICKS)), (2.0, 1.0));
    assert_eq!(game.timer(1), Some(Duration::from_millis(1)));
    assert_eq!(received(game, session).len(), 2);
}

#[test]
fn somebody_who_joins_does_not_shift_the_cadence() {
    let game = &mut game();
    join(game);
    game.advance(Duration::from_millis(70));
    join(game);
    assert_eq!(game.timer(1), Some(Duration::from_millis(30)));
}

#[test]
fn an_input_holds_for_a_second() {
    let game = &mut game();
    let (session, room, _) = join(game);
    center(game, room);
    let start = snapshot(game, session);
    assert_eq!(send(game, session, input(1000, 0)), None);
    let first = snapshot(game, session);
    assert_eq!((gone(&start, &first), first.players[0].y), (300, 10_000));
    game.advance(Duration::from_millis(850));
    let last = snapshot(game, session);
    assert_eq!((gone(&start, &last), last.tick), (19 * 300, start.tick + 19));
    assert_eq!(gone(&last, &snapshot(game, session)), 0);
    assert_eq!(send(game, session, input(-1000, 0)), None);
    assert_eq!(gone(&last, &snapshot(game, session)), -300);
}

#[test]
fn an_input_is_written_without_a_read() {
    let game = &mut game();
    let session = game.session;
    place(game, session);
    let key = "in/0000000000000001/00000000000000010000000000000002";
    let value = Input { dx: 5, dy: 0 }.encode_to_vec();
    let actions = game.packet(ROUTE, &encoded(input(5, 0))).unwrap();
    assert_eq!(actions, [Action::put_for(key, value, Duration::from_secs(1))]);
}

#[test]
fn two_rooms_do_not_mix() {
    let game = &mut pairs();
    let (a, _, player_a) = join(game);
    let (b, _, player_b) = join(game);
    let (c, room_c, player_c) = join(game);
    center(game, 1);
    center(game, room_c);
    assert_eq!(players(&snapshot(game, a)), [player_a, player_b]);
    let before = snapshot(game, c);
    assert_eq!((before.room, players(&before)), (room_c, vec![player_c]));
    send(game, a, input(1000, 0));
    let after = snapshot(game, c);
    assert_eq!(gone(&before, &after), 0);
    send(game, c, input(-1000, 0));
    assert_eq!(gone(&after, &snapshot(game, c)), -300);
    game.disconnect(b);
    assert_eq!(players(&snapshot(game, a)), [player_a]);
    assert_eq!(players(&snapshot(game, c)), [player_c]);
}

#[test]
fn whoever_leaves_vanishes_and_the_last_one_ends_the_room() {
    let game = &mut game();
    let (a, ..) = join(game);
    let (b, _, player_b) = join(game);
    assert_eq!(send(game, a, leave()), Some(left(Reason::Asked)));
    assert_eq!((game.tag(a), game.members(1)), (0, vec![b]));
    assert_eq!(players(&snapshot(game, b)), [player_b]);
    assert_eq!(received(game, a), []);
    assert_eq!(game.metric(ROOMS), 1.0);
    game.disconnect(b);
    assert_eq!((game.timer(1), game.metric(ROOMS)), (None, 0.0));
    assert_eq!((game.state("room/0000000000000001"), game.state("open/0000000000000001")), (None, None));
    assert_eq!(join(game).1, 2);
}

#[test]
fn another_speed_or_tick_holds_from_the_next_tick_on() {
    let game = &mut game();
    let (session, room, player) = join(game);
    center(game, room);
    let before = snapshot(game, session);
    game.reload(r#"{"config":{"speed":12000}}"#).unwrap();
    send(game, session, input(1000, 0));
    let after = snapshot(game, session);
    assert_eq!((after.room, after.tick, players(&after)), (room, before.tick + 1, vec![player]));
    assert_eq!((after.rules, gone(&before, &after)), (Some(Rules { tick_ms: 50, speed: 12_000 }), 600));
    game.reload(r#"{"config":{"tick_ms":100}}"#).unwrap();
    let after = snapshot(game, session);
    assert_eq!(after.rules, Some(Rules { tick_ms: 100, speed: 6_000 }));
    assert_eq!(game.timer(room), Some(Duration::from_millis(100)));
}

#[test]
fn another_size_holds_for_rooms_that_are_full() {
    let game = &mut pairs();
    join(game);
    join(game);
    game.reload(r#"{"config":{"room_size":3}}"#).unwrap();
    game.advance(TICK);
    assert_eq!(join(game).1, 1);
    game.reload(r#"{"config":{"room_size":4}}"#).unwrap();
    game.advance(TICK);
    // The room is listed with a free place, and the next version sees none in it.
    game.reload(r#"{"config":{"room_size":3}}"#).unwrap();
    assert_eq!((join(game).1, join(game).1), (2, 2));
}

#[test]
fn a_silent_player_is_removed_and_can_come_back() {
    let game = &mut game();
    let (a, ..) = join(game);
    let (b, _, player_b) = join(game);
    for _ in 0..59 {
        send(game, b, input(0, 0));
        game.advance(Duration::from_millis(500));
    }
    send(game, b, input(0, 0));
    game.delivered(a);
    game.advance(Duration::from_millis(450));
    assert_eq!((received(game, a).len(), game.tag(a)), (9, 1));
    assert_eq!(players(&snapshot(game, b)), [player_b]);
    assert_eq!(received(game, a), [left(Reason::Silent)]);
    assert_eq!((game.tag(a), game.members(1)), (0, vec![b]));
    assert_eq!(place(game, a), (1, 3));
}

#[test]
fn a_player_whose_client_is_away_stands_still_and_stays() {
    let game = &mut game();
    let (a, room, player_a) = join(game);
    let (b, _, player_b) = join(game);
    center(game, room);
    send(game, a, input(1000, 0));
    let before = snapshot(game, b);
    game.leave(a);
    for _ in 0..70 {
        send(game, b, input(0, 0));
        game.advance(Duration::from_millis(500));
    }
    let after = snapshot(game, b);
    assert_eq!((players(&after), gone(&before, &after)), (vec![player_a, player_b], 0));
    assert_eq!(after.players.iter().map(|player| player.away).collect::<Vec<_>>(), [true, false]);
    game.come_back(a);
    let back = snapshot(game, a);
    assert_eq!((back.room, back.players[0].away, gone(&after, &back)), (room, false, 0));
    send(game, a, input(1000, 0));
    assert_eq!(gone(&back, &snapshot(game, a)), 300);
    game.leave(a);
    game.disconnect(a);
    assert_eq!(players(&snapshot(game, b)), [player_b]);
}

#[test]
fn a_player_who_comes_from_a_room_of_another_gateway_gets_one_here() {
    let game = &mut game();
    let (a, ..) = join(game);
    // The tag is the number of the room at the other gateway.
    let b = game.hand_over(Some(7), 1000);
    let joined = match &received(game, b)[..] {
        [Response::RoomJoined(joined)] => *joined,
        other => panic!("{other:?}"),
    };
    assert_eq!((joined.room, game.tag(b), game.members(1)), (1, 1, vec![a, b]));
    assert_eq!(players(&snapshot(game, b)), [1, joined.player]);
    // A session without a place has none here either.
    let c = game.hand_over(None, 0);
    assert_eq!((received(game, c), game.tag(c)), (vec![], 0));
}

#[test]
fn players_of_a_lost_room_find_a_new_one() {
    let game = &mut game();
    let (session, ..) = join(game);
    game.put("room/0000000000000001", b"\xff");
    game.advance(TICK);
    assert_eq!(received(game, session), [left(Reason::Closed)]);
    assert_eq!(game.timer(1), None);
    assert_eq!(place(game, session), (2, 2));
    assert_eq!((game.members(1), game.members(2), game.tag(session)), (vec![], vec![session], 2));
    assert_eq!(game.state("open/0000000000000001"), None);
}

#[test]
fn a_room_ticks_again_after_a_restart() {
    let old = &mut game();
    join(old);
    let new = &mut game();
    for key in ["lobby", "room/0000000000000001", "open/0000000000000001"] {
        new.put(key, old.state(key).unwrap());
    }
    new.now += 10_000;
    let (session, room, player) = join(new);
    assert_eq!((room, player), (1, 2));
    new.advance(Duration::from_millis(1));
    assert_eq!((received(new, session).len(), new.timer(1)), (1, Some(Duration::from_millis(49))));
}

#[test]
fn a_snapshot_goes_to_the_group_of_the_room() {
    let game = &mut game();
    join(game);
    let actions = game.advance(TICK);
    let targets = actions.iter().filter_map(|action| match action {
        Action::Deliver(delivery) => Some(delivery.to),
        _ => None,
    });
    assert_eq!(targets.collect::<Vec<_>>(), [Target::Group(1)]);
}
