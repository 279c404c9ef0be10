//! Tests that neither a client nor a plugin can take capacity away from the others.

use crate::{ROUTE, bystander::Bystander, loaded, settings};
use gateway_tests::{Client, Gateway, PATIENCE, Packet, Setup, chat_request, component, header, put, wat};
use std::time::Duration;
use tokio::time::{self, Instant};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// A time in which no failed call of a session is forgiven. The gateway forgives one each second.
const UNFORGIVEN: Duration = Duration::from_millis(900);

/// The packets of the attempts. A busy machine may be too slow in single attempts, and then failures are forgiven. A
/// call that loops takes its whole deadline, and one that panics takes no time. So the last attempts need little of the
/// machine.
const ATTEMPTS: [&[u8]; 5] = [b"loop", b"loop", b"loop", b"panic", b"panic"];

/// Starts a gateway whose hostile plugin misbehaves as each packet says.
async fn obedient() -> Gateway {
    loaded(settings("on_packet", "as-the-packet-says", "")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_packets_make_a_plugin_fail_is_throttled_and_others_are_not() {
    let mut times = Vec::new();
    // Each attempt has its own gateway, since failures of several sessions bring the plugin into quarantine.
    for packet in ATTEMPTS {
        let attack = attack(packet).await;
        if attack.to_sixth < UNFORGIVEN && attack.slowest < UNFORGIVEN {
            assert_eq!((attack.first, attack.failed), (vec![8, 8, 8, 8, 8, 7], 10));
            return;
        }
        times.push((attack.to_sixth, attack.slowest));
    }
    panic!("six packets, and the slowest packet, took so long in each attempt: {times:?}");
}

/// What happened to a session whose packets make a plugin fail, until the session was ended.
struct Attack {
    /// The statuses of the first six replies.
    first: Vec<u16>,
    /// The number of failed calls.
    failed: usize,
    /// The time until the sixth reply.
    to_sixth: Duration,
    /// The longest time of one packet.
    slowest: Duration,
}

/// Sends this packet, which makes a plugin fail, until the session is ended. Asserts that another client is served
/// meanwhile.
async fn attack(packet: &[u8]) -> Attack {
    let gateway = obedient().await;
    let (mut attacker, mut player) = (gateway.client().await, gateway.client().await);
    // The first calls of a new plugin run on a thread of low priority, which is slow on a busy machine.
    for _ in 0..20 {
        assert_eq!(player.request(ROUTE, b"well").await.text(), "well");
    }
    let mut attack = Attack { first: Vec::new(), failed: 0, to_sixth: Duration::MAX, slowest: Duration::ZERO };
    let began = Instant::now();
    let reason = loop {
        let asked = Instant::now();
        assert!(began.elapsed() < PATIENCE, "the session is not ended after {} failed calls", attack.failed);
        let reply = attacker.try_request(ROUTE, packet).await;
        let answer = player.request(ROUTE, b"well").await;
        assert_eq!((answer.status, answer.text()), (0, "well"), "after {:?}", attack.first);
        match reply {
            Ok(Packet { status: status @ (7 | 8), .. }) => {
                attack.failed += usize::from(status == 8);
                if attack.first.len() < 6 {
                    attack.first.push(status);
                    attack.to_sixth = began.elapsed();
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(close) => break close,
        }
        attack.slowest = attack.slowest.max(asked.elapsed());
    };
    assert_eq!(reason.unwrap().code, CloseCode::Policy);
    gateway.metric_is("gateway_disconnections_total{reason=\"plugin_faults\"}", 1.0).await;
    gateway.metric_is("gateway_plugin_quarantined{plugin=\"hostile\"}", 0.0).await;
    attack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_paused_is_served_again_after_the_pause() {
    let gateway = obedient().await;
    let mut client = gateway.client().await;
    // Five failures bring the pause. On a busy machine some of them are forgiven, and it takes more.
    let (mut failed, began) = (0, Instant::now());
    let reply = loop {
        let reply = client.request(ROUTE, b"panic").await;
        if reply.status == 7 {
            break reply;
        }
        assert_eq!(reply.status, 8, "after {failed} failed calls");
        failed += 1;
        assert!(failed <= 10, "{failed} calls failed without a pause");
    };
    let is_as_expected = if began.elapsed() < UNFORGIVEN { failed == 5 } else { failed >= 5 };
    assert!(is_as_expected, "the pause began after {failed} failed calls");
    assert_eq!(reply.text(), "the session's packets make a plugin fail: one packet a second is served");
    let deadline = Instant::now() + PATIENCE;
    while client.request(ROUTE, b"well").await.status != 0 {
        assert!(Instant::now() < deadline, "it is not served again");
        time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_payload_over_the_routes_limit_is_answered_with_status_9_and_costs_no_call() {
    let yaml =
        "games: [{ id: mmo }]\nplugins: { directory: plugins, settings: { system: { max_payload_bytes: 1000 } } }";
    let gateway = Gateway::start(Setup { yaml: yaml.to_owned(), ..Setup::default() }).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(3, &[7; 1000]).await.status, 0);
    let reply = client.request(3, &[7; 1001]).await;
    assert_eq!(reply.status, 9);
    assert_eq!(reply.text(), "the payload has 1001 bytes, and this route takes 1000 (`max_payload_bytes`)");
    // The default limit of a route is 65,536 bytes.
    let request = |content: usize| chat_request("mmo", 1, &"x".repeat(content));
    let around = request(60_000).len() - 60_000;
    let (fits, too_large) = (request(65_536 - around), request(65_537 - around));
    assert_eq!((fits.len(), too_large.len()), (65_536, 65_537));
    client.send(1, &fits).await;
    assert_eq!(client.request(1, &too_large).await.status, 9);
    gateway.metric_is("gateway_routing_errors_total{reason=\"payload_too_large\"}", 2.0).await;
    // Chat was called when the session began, and for the payload that fits.
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"ok\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_delivers_to_a_bounded_number_of_sessions() {
    let gateway = loaded(settings("on_packet", "as-the-packet-says", "pushes: 5000")).await;
    let mut client = gateway.client().await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(gateway.client_of(1).await);
    }
    let reply = client.request(ROUTE, b"a-thousand-deliveries").await;
    assert_eq!(reply.status, 8);
    assert_eq!(reply.text(), "the plugin would deliver to 6000 sessions at once, and 5000 are the most (`pushes`)");
    gateway.logged("would reach more sessions").await;
    drop(sessions.pop());
    gateway.metric_is("gateway_sessions", 6.0).await;
    client.send(ROUTE, b"a-thousand-deliveries").await;
    for session in &mut sessions {
        for seq in 1..=1000 {
            let push = session.receive().await;
            assert_eq!((push.seq, push.route), (seq, ROUTE));
        }
    }
    gateway.metric_is("gateway_plugin_pushes_total{plugin=\"hostile\"}", 5000.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_log_lines_are_suppressed_and_counted_by_cause() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = Client::connect(gateway.address).await;
    // In one write, so that they come within one second also on a machine that is busy.
    client.send_messages((1..=50).map(|seq| header(seq, 0xee))).await;
    for _ in 0..50 {
        assert_eq!(client.receive().await.status, 3);
    }
    assert_eq!(client.request(1, b"\xff").await.status, 2);
    let told = gateway.logged("were suppressed in the last second").await;
    assert_eq!((&told["fields"]["what"], &told["fields"]["subject"]), (&"packet refused".into(), &"no_route".into()));
    assert_eq!(told["fields"]["suppressed"], 49);
    // Lines with another cause are counted separately.
    gateway.logged("\"status\":2").await;
}

#[tokio::test]
async fn the_target_of_a_delivery_that_is_not_here_is_named_at_debug() {
    let setup = settings("on_packet", "as-the-packet-says", "");
    let gateway = loaded(Setup { env: vec![("RUST_LOG", "info,gateway=debug")], ..setup }).await;
    gateway.client().await.send(ROUTE, b"a-thousand-deliveries").await;
    let line = gateway.logged("the user has no session on this gateway").await;
    assert_eq!((&line["fields"]["user"], &line["fields"]["plugin"]), (&1.into(), &"hostile".into()));
}

#[tokio::test]
async fn a_refusals_text_is_one_log_line_without_control_characters() {
    let gateway = obedient().await;
    let mut client = gateway.client().await;
    let reply = client.request(ROUTE, b"refuse-at-length").await;
    assert_eq!((reply.status, reply.payload.len()), (4, 1024));
    let line = gateway.logged("packet refused").await;
    let why = line["fields"]["why"].as_str().unwrap();
    assert!(why.starts_with("\\u{7}\\u{7}") && why.len() <= 4096, "{} bytes", why.len());
}

/// Returns a C++ name of a few hundred bytes that stands for a name of gigabytes: each type is a pair of the one
/// before.
fn name_bomb() -> String {
    let number = |i: u32| char::from_digit(i, 36).unwrap().to_ascii_uppercase();
    let pairs: String = (0..34).map(|i| format!("S_IS{0}_S{0}_E", number(i))).collect();
    format!("_Z1fSt4pairIiiE{pairs}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_in_a_function_whose_name_stands_for_gigabytes_costs_one_short_line() {
    let gateway = loaded(settings("on_packet", "well", "")).await;
    let bystander = Bystander::start(&gateway).await;
    let bomb = format!("$\"{}\"", name_bomb());
    put(&gateway.plugin("endless"), &component(&wat("endless").replace("$recurse", &bomb)));
    gateway.logged("plugin loaded\",\"plugin\":\"endless").await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(0x67, b"recurse").await.status, 8);
    let line = gateway.logged("plugin call failed").await;
    let message = line["fields"]["message"].as_str().unwrap();
    assert!(message.contains("call stack exhausted in _Z1fSt4pair") && message.len() <= 5000, "{message}");
    bystander.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_publishes_more_than_the_bus_takes_leaves_capacity_for_others() {
    let limits = "call_timeout_ms: 10000, memory_mb: 256, result_mb: 64";
    let mut setup = settings("on_packet", "publish-15-mib-twice", limits);
    setup.plugins.push("demo-chat");
    let gateway = loaded(setup).await;
    let greedy: Vec<_> = (0..4)
        .map(|_| {
            let address = gateway.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..10 {
                    client.send(ROUTE, b"").await;
                }
                client.assert_last_alive().await;
            })
        })
        .collect();
    let mut player = gateway.client().await;
    for _ in 0..100 {
        player.send(1, &chat_request("mmo", 1, "x")).await;
        let push = player.receive().await;
        assert_eq!((push.route, push.flags, push.status), (1, 0, 0), "{push:?}");
    }
    for client in greedy {
        client.await.unwrap();
    }
}
