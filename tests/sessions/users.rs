//! Tests that a session belongs to one user, and that sessions are independent of each other.

use crate::{assert_receives, backend, delivery, publish, session_of, start};
use futures_util::SinkExt;
use gateway_proto::Welcome;
use gateway_tests::{
    Gateway, Setup, chat_request, guest,
    wire::{BINARY, CLOSE, UPGRADE, Wire, frame, reset},
};
use prost::Message as _;
use std::{
    collections::BTreeSet,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio_tungstenite::tungstenite::Message;

fn is_uuid_v4(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => c == '-',
            14 => c == '4',
            19 => "89ab".contains(c),
            _ => c.is_ascii_digit() || ('a'..='f').contains(&c),
        })
}

#[tokio::test]
async fn the_first_packet_is_the_welcome_with_seq_0_a_uuid_and_the_servers_time() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(UPGRADE.as_bytes()).await;
        assert_eq!(wire.response().await.status, 101);
        let (first, packet) = wire.frame().await.unwrap();
        assert_eq!((first, &packet[..8]), (BINARY, &[0, 0, 0, 0, 3, 0, 0, 0][..]));
        let welcome = Welcome::decode(&packet[8..]).unwrap();
        assert!(is_uuid_v4(&welcome.session_id), "{welcome:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        assert!(now.abs_diff(u128::try_from(welcome.server_time_ms).unwrap()) < 60_000, "{welcome:?} at {now}");
        ids.insert(welcome.session_id);
    }
    assert_eq!(ids.len(), 20, "each session has an id of its own");
}

#[tokio::test]
async fn each_live_session_of_a_user_receives_the_users_deliveries_under_its_own_numbers() {
    let (redis, gateway) = start("").await;
    let backend = &mut backend(&redis).await;
    let mut early = session_of(&gateway, 1).await;
    let mut other = session_of(&gateway, 2).await;
    let [first, second] = [delivery(1, "first"), delivery(1, "second")];
    publish(backend, &first, 1).await;
    assert_receives(&mut early, 1, &first).await;
    let mut late = session_of(&gateway, 1).await;
    publish(backend, &second, 1).await;
    assert_receives(&mut early, 2, &second).await;
    assert_receives(&mut late, 1, &second).await;
    // The other user's session gets no delivery: the reply to its heartbeat comes first.
    other.assert_alive().await;
}

#[tokio::test]
async fn a_session_is_bound_once() {
    let (redis, gateway) = start("").await;
    let backend = &mut backend(&redis).await;
    let mut requests = redis.subscribe("game:request:mmo").await;
    let mut client = gateway.client_of(1).await;
    for user in [2, 3] {
        let refusal = client.request(1, &chat_request("mmo", user, "as another")).await;
        assert_eq!(refusal.status, 6);
    }
    publish(backend, &delivery(2, "not for you"), 1).await;
    let yours = delivery(1, "for you");
    publish(backend, &yours, 1).await;
    assert_receives(&mut client, 1, &yours).await;
    // The session still works for its own user. The requests under other user ids were not published.
    let request = chat_request("mmo", 1, "as myself");
    client.send(1, &request).await;
    assert_eq!(requests.next().await, chat_request("mmo", 1, "bind"));
    assert_eq!(requests.next().await, request);
}

#[tokio::test]
async fn the_end_of_one_session_never_disturbs_another_of_the_same_user() {
    let (redis, gateway) = start("").await;
    let backend = &mut backend(&redis).await;
    let mut stays = session_of(&gateway, 1).await;
    let mut seq = 0;
    for way in ["close frame", "end of the connection", "TCP reset", "text message"] {
        let mut leaves = session_of(&gateway, 1).await;
        gateway.metric_is("gateway_sessions", 2.0).await;
        match way {
            "close frame" => leaves.socket.close(None).await.unwrap(),
            "TCP reset" => reset(leaves.socket.get_ref()),
            "text message" => {
                leaves.socket.send(Message::text("hello")).await.unwrap();
                leaves.closed().await;
            }
            _ => {}
        }
        drop(leaves);
        // Some of these deliveries arrive while the other session is ending, and some after its end.
        for i in 0..50 {
            let payload = delivery(1, &format!("{way} {i}"));
            publish(backend, &payload, 1).await;
            seq += 1;
            assert_receives(&mut stays, seq, &payload).await;
        }
        gateway.metric_is("gateway_sessions", 1.0).await;
        stays.assert_alive().await;
    }
}

#[tokio::test]
async fn deliveries_to_a_user_who_left_are_counted_and_the_user_can_return() {
    let (redis, gateway) = start("").await;
    let backend = &mut backend(&redis).await;
    drop(session_of(&gateway, 1).await);
    gateway.metric_is("gateway_sessions", 0.0).await;
    publish(backend, &delivery(1, "to nobody"), 1).await;
    gateway.metric_is("gateway_deliveries_total{outcome=\"not_here\"}", 1.0).await;
    let mut again = session_of(&gateway, 1).await;
    let payload = delivery(1, "welcome back");
    publish(backend, &payload, 1).await;
    assert_receives(&mut again, 1, &payload).await;
}

#[tokio::test]
async fn packets_after_the_one_on_which_a_plugin_closes_are_dropped_and_counted() {
    let files = vec![("first.wasm", fs::read(guest("first")).unwrap())];
    let gateway = Gateway::start(Setup { plugins: vec!["system"], files, ..Setup::default() }).await;
    let packet = |payload: &[u8]| frame(BINARY, &[&[0, 0, 0, 1, 0x77, 0, 0, 0], payload].concat());
    let mut wire = Wire::upgraded(gateway.address).await;
    // A `bind` packet would bind the session and publish.
    wire.send(&[packet(b"echo"), packet(b"close"), packet(b"bind").repeat(63)].concat()).await;
    let (first, echo) = wire.frame().await.unwrap();
    assert_eq!((first, &echo[..]), (BINARY, &b"\0\0\0\x01\x77\x01\0\0echo"[..]));
    assert_eq!(wire.frame().await, Some((CLOSE, b"\x0b\xb8bye"[..].into())));
    // Packets after the close frame are counted as well.
    wire.send(&packet(b"bind").repeat(5)).await;
    gateway.metric_is("gateway_messages_dropped_total{reason=\"after_close\"}", 68.0).await;
    drop(wire);
    gateway.metric_is("gateway_disconnections_total{reason=\"policy\"}", 1.0).await;
    gateway.metric_is("gateway_messages_received_total{route=\"119\"}", 2.0).await;
    gateway.metric_is("gateway_bus_published_total", 0.0).await;
}
