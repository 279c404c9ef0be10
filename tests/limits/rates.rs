//! Tests of the limits on the packets of one session.

use crate::{change, limits};
use gateway_tests::{Client, Gateway, Packet, Setup, header, in_time};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const OVER: &str = "gateway_routing_errors_total{reason=\"too_many_requests\"}";
const SERVED: &str = "gateway_plugin_calls_total{plugin=\"system\",outcome=\"ok\"}";

/// Returns heartbeats with these numbers and a payload of this length.
fn heartbeats(seqs: std::ops::Range<u32>, len: usize) -> impl Iterator<Item = Vec<u8>> {
    seqs.map(move |seq| [&header(seq, 3)[..], &vec![7; len]].concat())
}

/// Sends heartbeats at once, and asserts that each is answered in order. Returns the number of those that are served.
async fn send(client: &mut Client, seqs: std::ops::Range<u32>, len: usize) -> usize {
    client.send_messages(heartbeats(seqs.clone(), len)).await;
    let mut served = 0;
    for seq in seqs {
        let reply = client.receive_any().await;
        assert_eq!((reply.seq, reply.route, reply.flags), (seq, 3, 1), "{reply:?}");
        match reply.status {
            0 => served += 1,
            status => assert_eq!((status, reply.text()), (7, "too many requests")),
        }
    }
    served
}

/// Returns the most packets that a limit serves since `began`.
fn most(began: Instant, per_s: usize) -> usize {
    2 * per_s + (began.elapsed().as_secs_f64() * per_s as f64) as usize + 1
}

#[tokio::test]
async fn packets_over_packets_per_s_get_status_7_and_every_packet_is_answered() {
    let gateway = Gateway::start(limits("packets_per_s: 10")).await;
    let mut client = gateway.client().await;
    let began = Instant::now();
    let served = send(&mut client, 1..1001, 10).await;
    assert!((20..=most(began, 10)).contains(&served), "{served} served in {:?}", began.elapsed());
    gateway.metric_is(OVER, (1000 - served) as f64).await;
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 1000.0).await;
    // No plugin was called for a packet over the limit.
    gateway.metric_is(SERVED, served as f64).await;
    let line = gateway.logged("packet refused").await;
    let fields = &line["fields"];
    assert_eq!((&fields["why"], &fields["status"]), (&"too many requests".into(), &7.into()));
    assert!(fields["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    // The limit is one of each session.
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn packets_over_bytes_per_s_get_status_7() {
    let gateway = Gateway::start(limits("bytes_per_s: 1000")).await;
    let mut client = gateway.client().await;
    let began = Instant::now();
    // Each packet has 200 bytes with its header.
    let served = send(&mut client, 1..101, 192).await;
    assert!((10..=most(began, 5)).contains(&served), "{served} served in {:?}", began.elapsed());
    // A packet that is larger than the burst is never served.
    let mut other = gateway.client().await;
    assert_eq!(send(&mut other, 1..2, 2001 - 8).await, 0);
    assert_eq!(send(&mut other, 2..3, 2000 - 8).await, 1);
}

#[tokio::test]
async fn packets_of_every_kind_count() {
    let setup = limits("packets_per_s: 1");
    let yaml = format!(
        "{}\nplugins: {{ directory: plugins, settings: {{ chat: {{ max_payload_bytes: 100 }} }} }}",
        setup.yaml
    );
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    let kinds =
        [(vec![1, 2, 3], 1), ([&header(0, 9)[..], b"x"].concat(), 3), ([&header(0, 1)[..], &[0; 200]].concat(), 9)];
    for (packet, status) in kinds {
        let mut client = gateway.client().await;
        client.send_messages(vec![packet; 20]).await;
        let mut statuses = Vec::new();
        for _ in 0..20 {
            let Packet { seq, status, .. } = client.receive_any().await;
            assert_eq!(seq, 0);
            statuses.push(status);
        }
        assert_eq!(statuses[..2], [status; 2]);
        assert!(statuses[2..].iter().filter(|status| **status == 7).count() >= 8, "{statuses:?}");
    }
}

#[tokio::test]
async fn new_limits_hold_for_live_sessions_from_the_next_packet_on() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    assert_eq!(send(&mut client, 1..501, 10).await, 500);
    change(&gateway, &limits("packets_per_s: 5")).await;
    let began = Instant::now();
    let served = send(&mut client, 501..1001, 10).await;
    assert!((10..=most(began, 5)).contains(&served), "{served} served in {:?}", began.elapsed());
    change(&gateway, &limits("packets_per_s: 1000")).await;
    assert_eq!(send(&mut client, 1001..1101, 10).await, 100);
    change(&gateway, &Setup::default()).await;
    assert_eq!(send(&mut client, 1101..4101, 10).await, 3000);
}

/// Sends 40 packets every tenth of a second, and reads the answers, until the gateway closes the session. Returns the
/// number of packets that were answered, and how long it took.
async fn flood(mut client: Client) -> (u32, Duration) {
    let (began, mut answered) = (Instant::now(), 0);
    loop {
        client.send_messages(heartbeats(answered..answered + 40, 1)).await;
        for _ in 0..40 {
            match client.try_receive().await {
                Ok(reply) => {
                    assert_eq!(reply.seq, answered, "{reply:?}");
                    assert!(matches!(reply.status, 0 | 7), "{reply:?}");
                    answered += 1;
                }
                Err(frame) => {
                    let frame = frame.expect("a close frame with a code");
                    let end = (u16::from(frame.code), frame.reason.as_str());
                    assert_eq!(end, (1008, "too many requests for too long"));
                    return (answered, began.elapsed());
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_goes_on_at_ten_times_the_limit_is_closed_while_others_are_served() {
    let gateway = Gateway::start(limits("packets_per_s: 10")).await;
    let mut other = gateway.client().await;
    let flooding = tokio::spawn(in_time("the end of the flood", flood(gateway.client().await)));
    let mut beats = 0;
    while !flooding.is_finished() {
        other.assert_alive().await;
        beats += 1;
        sleep(Duration::from_millis(200)).await;
    }
    let (answered, took) = flooding.await.unwrap();
    assert!(took >= Duration::from_secs(5), "a burst of {took:?} is no reason");
    assert!(answered > 500 && beats > 10, "{answered} answered, {beats} heartbeats of the other client");
    gateway.metric_is("gateway_disconnections_total{reason=\"rate\"}", 1.0).await;
    other.assert_alive().await;
}
