//! Tests of the packet header, and of what each route does with a packet (docs/protocol.md).

#[path = "routes/chat.rs"]
mod chat;

use gateway_proto::Welcome;
use gateway_tests::{Client, Gateway, Packet, Redis, Setup, Subscription, chat_request, header};
use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

const CHAT: u8 = 1;
const GAME: u8 = 2;
const SYSTEM: u8 = 3;

/// The default of `max_message_bytes`.
const MAX_MESSAGE_BYTES: usize = 16_777_216;

/// The largest length of a refusal's text, in bytes.
const SHORT: usize = 200;

/// A gateway on a Redis, a subscription to every topic, and a client.
struct Stage {
    redis: Redis,
    gateway: Gateway,
    heard: Subscription,
    client: Client,
}

impl Stage {
    async fn new() -> Self {
        Self::with("games: [{ id: mmo }]").await
    }

    async fn with(yaml: &str) -> Self {
        let redis = Redis::start().await;
        let heard = redis.observe().await;
        let plugins = "plugins: { directory: plugins, settings: { chat: { max_payload_bytes: 16777216 } } }";
        let yaml = format!("{yaml}\n{plugins}\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}", redis.port);
        let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
        gateway.metric_is("gateway_bus_connected", 1.0).await;
        let client = gateway.client().await;
        Self { redis, gateway, heard, client }
    }

    /// Sends a chat request, and asserts that it is refused with this status and a text that contains `why`.
    async fn refused(&mut self, payload: &[u8], status: u16, why: &str) {
        let reply = self.client.request(CHAT, payload).await;
        assert_eq!(reply.status, status, "{payload:?}: {reply:?}");
        assert_text(&reply, why);
    }

    /// Sends a chat request, and asserts that it is the next message on any topic. Thus nothing that was sent before it
    /// was published.
    async fn published(&mut self, game: &str, payload: &[u8]) {
        self.client.send(CHAT, payload).await;
        assert_eq!(self.heard.next_with_topic().await, (format!("game:request:{game}"), payload.to_vec()));
    }

    async fn refusals_are(&self, reason: &str, count: usize) {
        self.gateway.metric_is(&format!("gateway_routing_errors_total{{reason=\"{reason}\"}}"), count as f64).await;
    }
}

#[track_caller]
fn assert_text(reply: &Packet, why: &str) {
    let text = reply.text();
    assert!((1..=SHORT).contains(&text.len()) && text.contains(why), "{why:?} in {text:?} of {} bytes", text.len());
}

#[tokio::test]
async fn the_first_packet_is_a_welcome_push_with_seq_0() {
    let now = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let gateway = Gateway::start(Setup::default()).await;
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let before = now();
        let client = gateway.client().await;
        // `connect` has already checked the header: seq 0, route 3, flags 0, status 0.
        let Welcome { session_id, server_time_ms, .. } = client.welcome;
        assert!((before..=now()).contains(&server_time_ms), "{server_time_ms} is not within {before} and now");
        let groups: Vec<_> = session_id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{session_id} is no UUID");
        ids.insert(session_id);
    }
    assert_eq!(ids.len(), 2, "every session has an id of its own");
}

#[tokio::test]
async fn a_reply_has_the_seq_and_the_route_of_its_request_bit_0_of_the_flags_and_a_status() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    client.send_message(&b"\x01\x02\x03\x04\x03\x00\x00\x00beat"[..]).await;
    assert_eq!(client.receive_message().await, &b"\x01\x02\x03\x04\x03\x01\x00\x00beat"[..]);
    client.send_message(&b"\xff\xfe\xfd\xfc\x02\x00\x00\x00"[..]).await;
    assert_eq!(client.receive_message().await[..8], *b"\xff\xfe\xfd\xfc\x02\x01\x00\x03");
    client.send_message(&b"\x80\x00\x00\x00\x01\x00\x00\x00"[..]).await;
    assert_eq!(client.receive_message().await[..8], *b"\x80\x00\x00\x00\x01\x01\x00\x02");
}

#[tokio::test]
async fn a_push_has_the_delivery_counter_for_its_seq_no_flags_and_no_status() {
    let Stage { redis, client, gateway, .. } = Stage::new().await;
    redis.subscribers_are("broadcast", 1).await;
    let delivery = [&b"\x5a\x24"[..], client.welcome.session_id.as_bytes()].concat();
    let mut client = client;
    for seq in 1..=300_u32 {
        redis.publish("broadcast", &delivery).await;
        let pushed = [&seq.to_be_bytes()[..], b"\x01\x00\x00\x00", &delivery].concat();
        assert_eq!(client.receive_message().await, pushed);
    }
    // The counter belongs to the session: replies do not increment it, and another session begins at 1.
    client.assert_alive().await;
    redis.publish("broadcast", &delivery).await;
    assert_eq!(client.receive().await.seq, 301);
    let mut other = gateway.client().await;
    redis.publish("broadcast", &[&b"\x5a\x24"[..], other.welcome.session_id.as_bytes()].concat()).await;
    assert_eq!(other.receive().await.seq, 1);
    client.assert_alive().await;
}

#[tokio::test]
async fn a_packet_shorter_than_its_header_gets_status_1_with_seq_0_and_the_connection_lives_on() {
    let stage = Stage::new().await;
    let mut client = stage.client;
    for len in 0..8 {
        client.send_message(vec![SYSTEM; len]).await;
        let reply = client.receive().await;
        assert_eq!((reply.seq, reply.route, reply.flags, reply.status), (0, 0, 1, 1), "{len} bytes: {reply:?}");
        assert_text(&reply, &len.to_string());
        client.assert_alive().await;
    }
    stage.gateway.metric_is("gateway_routing_errors_total{reason=\"malformed_packet\"}", 8.0).await;
}

#[tokio::test]
async fn each_of_the_routes_that_no_plugin_claims_answers_status_3() {
    let mut stage = Stage::new().await;
    // Route 0 is the gateway's own.
    for route in (1..=u8::MAX).filter(|route| ![CHAT, SYSTEM].contains(route)) {
        let reply = stage.client.request(route, &chat_request("mmo", 7, "hi")).await;
        assert_eq!(reply.status, 3, "{reply:?}");
        assert_text(&reply, &format!("0x{route:02x}"));
    }
    stage.client.assert_alive().await;
    stage.refusals_are("no_route", 253).await;
    stage.gateway.metric_is("gateway_messages_received_total{route=\"none\"}", 253.0).await;
    stage.published("mmo", &chat_request("mmo", 8, "nothing was bound or published")).await;
}

#[tokio::test]
async fn the_game_route_is_served_by_the_plugin_that_claims_it() {
    let yaml = "plugins: { directory: plugins, settings: { system: { routes: [2, 3] } } }".to_owned();
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let mut client = gateway.client().await;
    let reply = client.request(GAME, b"move").await;
    assert_eq!((reply.status, &reply.payload[..]), (0, &b"move"[..]));
    client.assert_alive().await;
}

#[tokio::test]
async fn reserved_flags_and_status_bits_of_a_client_are_ignored() {
    let mut stage = Stage::new().await;
    let bits = (0..24).map(|bit| 1_u32 << bit).chain([0xff_ffff]);
    for bits in bits {
        let [_, reserved @ ..] = bits.to_be_bytes();
        let packet = |route, payload: &[u8]| [&[0, 0, 0, 9, route], &reserved[..], payload].concat();
        stage.client.send_message(packet(SYSTEM, b"beat")).await;
        assert_eq!(stage.client.receive_message().await, &b"\x00\x00\x00\x09\x03\x01\x00\x00beat"[..], "{bits:#x}");
        stage.client.send_message(packet(GAME, b"")).await;
        assert_eq!(stage.client.receive_message().await[..8], *b"\x00\x00\x00\x09\x02\x01\x00\x03", "{bits:#x}");
        let request = chat_request("mmo", 7, &format!("{bits:#x}"));
        stage.client.send_message(packet(CHAT, &request)).await;
        assert_eq!(stage.heard.next().await, request);
    }
    stage.client.assert_alive().await;
}

#[tokio::test]
async fn a_heartbeat_of_any_size_comes_back_unchanged_and_never_touches_the_bus() {
    let mut stage = Stage::new().await;
    for size in [0, 1, 64, 65_535, 1 << 20, MAX_MESSAGE_BYTES - 8] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for seq in [0, 1, u32::MAX] {
            stage.client.send_message([&header(seq, SYSTEM)[..], &payload].concat()).await;
            let reply = stage.client.receive().await;
            assert_eq!((reply.seq, reply.route, reply.flags, reply.status), (seq, SYSTEM, 1, 0), "{size} bytes");
            assert!(reply.payload == payload, "sent {size} bytes, received {} different ones", reply.payload.len());
        }
    }
    assert_eq!(stage.gateway.metric("gateway_messages_received_total{route=\"3\"}").await, 18.0);
    assert_eq!(stage.gateway.metric("gateway_bus_published_total").await, 0.0);
    stage.published("mmo", &chat_request("mmo", 7, "the first message on any topic")).await;
    stage.gateway.metric_is("gateway_bus_published_total", 1.0).await;
}

#[tokio::test]
async fn a_refused_packet_is_logged_with_its_session_its_status_and_why() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    client.send_message([&header(77, CHAT)[..], &chat_request("other", 7, "hi")].concat()).await;
    let reply = client.receive().await;
    let line = gateway.logged("packet refused").await;
    let fields = &line["fields"];
    assert_eq!(fields["session"], client.welcome.session_id.as_str(), "{line}");
    assert_eq!((&fields["route"], &fields["seq"], &fields["status"]), (&1.into(), &77.into(), &4.into()), "{line}");
    assert_eq!((line["level"].as_str(), fields["why"].as_str()), (Some("WARN"), Some(reply.text())), "{line}");
}

#[tokio::test]
async fn pipelined_packets_good_and_bad_are_all_answered_in_order() {
    let mut stage = Stage::new().await;
    stage.published("mmo", &chat_request("mmo", 7, "binds")).await;
    let (mut packets, mut answers, mut publishes) = (Vec::new(), Vec::new(), Vec::new());
    for seq in 1..=500_u32 {
        let packet = |route, payload: &[u8]| [&header(seq, route)[..], payload].concat();
        let text = format!("number {seq}");
        let (message, answer) = match seq % 7 {
            0 => (packet(SYSTEM, text.as_bytes()), Some((seq, SYSTEM, 0))),
            1 => (packet(0x7f, text.as_bytes()), Some((seq, 0x7f, 3))),
            2 => (vec![0xee; seq as usize % 8], Some((0, 0, 1))),
            3 => (packet(CHAT, b"\x0a\x7f"), Some((seq, CHAT, 2))),
            4 => (packet(CHAT, &chat_request("other", 7, &text)), Some((seq, CHAT, 4))),
            5 => (packet(CHAT, &chat_request("mmo", 8, &text)), Some((seq, CHAT, 6))),
            _ => {
                publishes.push(chat_request("mmo", 7, &text));
                (packet(CHAT, &chat_request("mmo", 7, &text)), None)
            }
        };
        packets.push(message);
        answers.extend(answer);
    }
    stage.client.send_messages(packets).await;
    for (seq, route, status) in answers {
        let reply = stage.client.receive().await;
        assert_eq!((reply.seq, reply.route, reply.flags, reply.status), (seq, route, 1, status), "{reply:?}");
        if status == 0 {
            assert_eq!(reply.text(), format!("number {seq}"));
        } else {
            assert_text(&reply, "");
        }
    }
    stage.client.assert_alive().await;
    for payload in publishes {
        assert_eq!(stage.heard.next_with_topic().await, ("game:request:mmo".to_owned(), payload));
    }
    for (reason, count) in
        [("no_route", 72), ("malformed_packet", 72), ("malformed_payload", 72), ("rejected", 71), ("forbidden", 71)]
    {
        stage.refusals_are(reason, count).await;
    }
}
