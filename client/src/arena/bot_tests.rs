use arena_proto::{FieldEntered, FieldPosition, Left, ServerMessage, Snapshot};
use gateway_proto::Welcome;
use gateway_stand_in::{gateway, scripts};
use gateway_wire::packet::Header;

use super::*;
use crate::arena::tally::Counts;

const RULES: Rules = Rules { tick_ms: 50, speed: 6000 };

fn push(seq: u32, message: Response) -> Packet {
    Packet::push(ROUTE_GAME, seq, ServerMessage { message: Some(message) }.encode_to_vec())
}

fn snapshot(seq: u32, rules: Rules) -> Packet {
    push(seq, Response::Snapshot(Snapshot { room: 1, rules: Some(rules), ..Snapshot::default() }))
}

fn joined(room: u64) -> Response {
    Response::RoomJoined(RoomJoined { room, player: 1, width: 2, height: 3, rules: Some(RULES) })
}

fn replaces(packet: Packet) -> Packet {
    Packet { header: Header { flags: FLAG_REPLACES, ..packet.header }, ..packet }
}

#[test]
fn a_bot_counts_what_it_sees() {
    let mut tally = Tally::new().unwrap();
    let mut bot = Bot::new(0, 1);
    let begin = Instant::now();
    bot.begin(&joined(5), &mut tally);
    assert_eq!((tally.connected, tally.rooms.get(&5), tally.speed), (1, Some(&1), Some(6000)));
    let faster = Rules { speed: 9000, ..RULES };
    let position = FieldPosition { player: 2, x: 0, y: 0 };
    let packets = [
        snapshot(1, RULES),
        snapshot(2, RULES),
        replaces(snapshot(5, faster)),
        snapshot(6, faster),
        Packet::push(ROUTE_CONTROL, 0, "a gap of the bus"),
        push(7, Response::FieldPosition(position)),
        push(8, Response::Left(Left { reason: 1 })),
        Packet::push(ROUTE_SYSTEM, 9, "anything"),
        Packet::request(1, ROUTE_GAME, "").reply(4, "no"),
    ];
    for (number, packet) in (0..).zip(packets) {
        bot.note(&packet, begin + Duration::from_millis(50) * number, &mut tally);
    }
    let counts = Counts {
        snapshots: 4,
        positions: 1,
        replaced: 1,
        lost: 2,
        rule_changes: 1,
        refused: 1,
        removed: 1,
        ..Counts::default()
    };
    assert_eq!((tally.counts, tally.speed), (counts, Some(9000)));
    assert_eq!(tally.trouble.as_deref(), Some("status 4 rejected: no"));
    let line = tally.second();
    assert!(line.contains("interval p50 50.0 p99 50.0 max 50.0 ms"), "{line}");
    bot.end(&mut tally);
    assert_eq!((tally.connected, tally.rooms.len()), (0, 0));
}

#[test]
fn a_repeated_number_is_no_loss_of_four_billion_pushes() {
    let mut tally = Tally::new().unwrap();
    let mut bot = Bot::new(0, 1);
    for seq in [1, 1, 2] {
        bot.note(&snapshot(seq, RULES), Instant::now(), &mut tally);
    }
    assert_eq!(tally.counts.lost, 0);
}

#[test]
fn bots_stand_apart_in_the_field_and_walk() {
    let mut positions: Vec<_> = (0..9).map(|number| Bot::new(number, 9).position).collect();
    assert_eq!(positions[..4], [(-10_000, -10_000), (0, -10_000), (10_000, -10_000), (-10_000, 0)]);
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), 9);
    let mut bot = Bot::new(0, 1);
    bot.begin(&Response::FieldEntered(FieldEntered::default()), &mut Tally::new().unwrap());
    let next = |bot: &mut Bot| bot.beat();
    assert_eq!(next(&mut bot), packet(2, Request::Move(Move { x: 1500, y: 0 })));
    assert_eq!(next(&mut bot), packet(3, Request::Move(Move { x: 3000, y: 0 })));
}

fn shared(url: &str) -> Arc<Shared> {
    let target = Target { url: url.parse().unwrap(), token: None, ca: None };
    Arc::new(Shared::new(target, false, true, 1, 1, Tally::new().unwrap()))
}

#[tokio::test]
async fn a_bot_joins_plays_and_leaves() {
    let (url, task) = gateway(async |mut peer| {
        peer.welcome("s").await;
        let request = peer.request().await;
        assert_eq!(request, packet(1, Request::FindRoom(arena_proto::FindRoom {})));
        let joined = ServerMessage { message: Some(joined(5)) }.encode_to_vec();
        peer.send(&request.reply(0, joined)).await;
        // The bot may send its first input before or after it has received the snapshot, which it acknowledges then.
        peer.send(&snapshot(1, RULES)).await;
        let input = peer.request().await;
        assert_eq!((input.header.seq, input.header.route), (2, ROUTE_GAME));
        assert_eq!(input.payload, packet(2, Request::Input(Input { dx: 1000, dy: 0 })).payload);
        peer.close(4000, "oops").await;
    })
    .await;
    let shared = shared(&url);
    play(Arc::clone(&shared), 0, watch::channel(false).1).await;
    task.await.unwrap();
    let tally = shared.tally();
    assert_eq!((tally.counts.snapshots, tally.counts.failed, tally.connected), (1, 1, 0));
    assert!(tally.trouble.as_deref().unwrap().ends_with("4000 a code of the game: oops"), "{:?}", tally.trouble);
}

#[tokio::test]
async fn a_bot_without_a_place_fails() {
    let (url, task) = gateway(async |mut peer| {
        peer.welcome("s").await;
        let request = peer.request().await;
        peer.send(&request.reply(3, "no plugin serves route 0x02")).await;
    })
    .await;
    let shared = shared(&url);
    play(Arc::clone(&shared), 0, watch::channel(false).1).await;
    task.await.unwrap();
    let why = "the gateway gives no place in the arena: status 3 no route: no plugin serves route 0x02";
    assert_eq!(shared.tally().trouble.as_deref(), Some(why));
}

#[tokio::test]
async fn a_bot_goes_on_after_a_break_and_asks_for_a_new_place_in_a_new_session() {
    let welcome = |token: &str, resumed, packets_received| Welcome {
        session_id: "s".into(),
        resume_token: token.into(),
        resumed,
        packets_received,
        ..Welcome::default()
    };
    let place = |room| ServerMessage { message: Some(joined(room)) }.encode_to_vec();
    let mut gateway = scripts().await;
    gateway.connection(async move |mut peer| {
        peer.welcome_with(welcome("t1", false, 0)).await;
        let request = peer.request().await;
        peer.send(&request.reply(0, place(5))).await;
    });
    gateway.connection(async move |mut peer| {
        peer.welcome_with(welcome("t2", true, 1)).await;
        peer.send(&snapshot(1, RULES)).await;
        assert_eq!(peer.request().await.header.route, ROUTE_GAME);
    });
    gateway.connection(async move |mut peer| {
        peer.welcome_with(welcome("t3", false, 0)).await;
        let request = peer.request().await;
        assert_eq!(request, packet(1, Request::FindRoom(arena_proto::FindRoom {})));
        peer.send(&request.reply(0, place(6))).await;
        // The numbers of a new session begin at 1 again, which is no loss.
        peer.send(&snapshot(1, RULES)).await;
        peer.send(&snapshot(2, RULES)).await;
        peer.request().await;
        peer.close(4000, "").await;
    });
    let shared = shared(gateway.url());
    let (_stop, stopped) = watch::channel(false);
    let playing = play(Arc::clone(&shared), 0, stopped);
    tokio::time::timeout(Duration::from_secs(60), playing).await.expect("an end in time");
    gateway.end().await;
    let tally = shared.tally();
    let counts = Counts { snapshots: 3, resumed: 1, new_sessions: 1, failed: 1, ..Counts::default() };
    assert_eq!((tally.counts, tally.connected, tally.rooms.len()), (counts, 0, 0));
}
