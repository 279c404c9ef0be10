use super::*;
use arena_proto::{EnterField, FindRoom, Input, Leave, Move};
use gateway_plugin_sdk::{
    SessionId,
    testing::{Harness, Push},
};

mod field;
mod rooms;

type Game = Harness<Arena>;

fn game() -> Game {
    Harness::new("{}").unwrap()
}

fn find() -> Request {
    Request::FindRoom(FindRoom {})
}

fn leave() -> Request {
    Request::Leave(Leave {})
}

fn input(dx: i32, dy: i32) -> Request {
    Request::Input(Input { dx, dy })
}

fn enter(x: i32, y: i32) -> Request {
    Request::EnterField(EnterField { x, y })
}

fn move_to(x: i32, y: i32) -> Request {
    Request::Move(Move { x, y })
}

fn left(reason: Reason) -> Response {
    Response::Left(Left { reason: reason.into() })
}

fn decode(body: &[u8]) -> Response {
    ServerMessage::decode(body).unwrap().message.unwrap()
}

/// Sends a message, and returns the reply if there is one.
#[track_caller]
fn send(game: &mut Game, session: SessionId, message: Request) -> Option<Response> {
    let payload = ClientMessage { message: Some(message) }.encode_to_vec();
    let actions = game.packet_from(session, ROUTE, &payload).unwrap();
    actions.iter().find_map(|action| match action {
        Action::Reply(answer) => Some(decode(&answer.body)),
        _ => None,
    })
}

/// Removes and returns the messages that a session has received.
fn received(game: &mut Game, session: SessionId) -> Vec<Response> {
    let is_ours = |push: &Push| push.route == ROUTE;
    game.delivered(session).iter().filter(|push| is_ours(push)).map(|push| decode(&push.body)).collect()
}

#[track_caller]
fn check_refused(game: &mut Game, payload: &[u8], status: u16, why: &str) {
    let refusal = game.packet(ROUTE, payload).unwrap_err();
    assert_eq!((refusal.status, &*refusal.message), (status, why));
}

fn encoded(message: Request) -> Vec<u8> {
    ClientMessage { message: Some(message) }.encode_to_vec()
}

#[test]
fn payloads_are_checked() {
    let game = &mut game();
    check_refused(game, b"", 2, "ClientMessage.message is missing");
    let refusal = game.packet(ROUTE, b"\xff").unwrap_err();
    assert_eq!(refusal.status, 2);
    assert!(refusal.message.starts_with("ClientMessage: "), "{}", refusal.message);
    check_refused(game, &encoded(input(0, 0)), 4, "Input: the session is in no room, so send FindRoom");
    let why = "Move: the session is not in the free field, so send EnterField";
    check_refused(game, &encoded(move_to(0, 0)), 4, why);
    check_refused(game, &encoded(enter(1_000_001, 0)), 2, "x is 1000001, and has to be -1000000 to 1000000");
    check_refused(game, &encoded(enter(0, i32::MIN)), 2, "y is -2147483648, and has to be -1000000 to 1000000");
    game.packet(ROUTE, &encoded(find())).unwrap();
    check_refused(game, &encoded(input(1001, 0)), 2, "Input.dx is 1001, and has to be -1000 to 1000");
    check_refused(game, &encoded(input(0, -1001)), 2, "Input.dy is -1001, and has to be -1000 to 1000");
    check_refused(game, &encoded(move_to(0, 0)), 4, why);
}

#[track_caller]
fn check_config(config: &str, why: &str) {
    let settings = format!(r#"{{"config":{config}}}"#);
    let error = Harness::<Arena>::new(&settings).err().unwrap_or_default();
    assert!(error.starts_with(why) && error.is_empty() == why.is_empty(), "{error}");
}

#[test]
fn wrong_settings_are_refused() {
    check_config(r#"{"tick_ms": 9}"#, "config.tick_ms: a tick takes 10 to 1000 ms");
    check_config(r#"{"tick_ms": 1001}"#, "config.tick_ms: a tick takes 10 to 1000 ms");
    check_config(r#"{"speed": 0}"#, "config.speed: a speed is 1 to 100000");
    check_config(r#"{"speed": 100001}"#, "config.speed: a speed is 1 to 100000");
    check_config(r#"{"room_size": 0}"#, "config.room_size: a room takes 1 to 200 players");
    check_config(r#"{"room_size": 201}"#, "config.room_size: a room takes 1 to 200 players");
    check_config(r#"{"size": 2}"#, "config.size: unknown field `size`");
    check_config(r#"{"tick_ms": 10, "speed": 100000, "room_size": 200}"#, "");
}

#[test]
fn a_session_without_a_place_leaves_nothing_behind() {
    let game = &mut game();
    let session = game.session;
    assert_eq!(send(game, session, leave()), Some(left(Reason::Asked)));
    game.disconnect(session);
}
