use gateway_proto::Welcome;
use gateway_stand_in::{Peer, gateway, scripts};
use gateway_wire::packet::{Header, ROUTE_CHAT};
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// The time that an expected reply may take. It is long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

fn target(url: &str) -> Target {
    Target { url: url.parse().unwrap(), token: None, ca: None }
}

fn plan(count: u64, timeout: Duration) -> Plan {
    Plan { count: Some(count), interval: Duration::from_millis(1), size: 8, timeout }
}

/// Sends heartbeats to a gateway that plays `script`. Returns the outcome, the tally and the lines without their times.
async fn beat<S>(plan: Plan, script: impl FnOnce(Peer) -> S + Send + 'static) -> (anyhow::Result<()>, Tally, String)
where
    S: Future<Output = ()> + Send + 'static,
{
    let (url, task) = gateway(script).await;
    let mut session = Session::open(&target(&url), false).await.unwrap();
    let (mut out, mut tally) = (Vec::new(), Tally::default());
    let outcome = Heart::new(&mut session, &mut out, &mut tally).beat(&plan).await;
    session.close().await;
    task.await.unwrap();
    (outcome, tally, without_times(out))
}

fn without_times(out: Vec<u8>) -> String {
    let lines = String::from_utf8(out).unwrap();
    lines.lines().map(|line| line.split(" time=").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_heartbeat_that_comes_back_is_timed() {
    let (outcome, tally, lines) = beat(plan(3, PATIENT), async |mut peer: Peer| {
        peer.welcome("s").await;
        for _ in 0..3 {
            peer.send_message(Message::Ping("still there?".into())).await;
            peer.echo().await;
        }
        assert_eq!(peer.closed().await, Some(1000));
        assert_eq!(peer.pongs, 3);
    })
    .await;
    outcome.unwrap();
    tally.verdict().unwrap();
    assert!(tally.to_string().starts_with("3 sent, 3 answered, 0 lost, 0 wrong, 0 stray\n"));
    assert_eq!(lines, "8 bytes: seq=1\n8 bytes: seq=2\n8 bytes: seq=3");
}

#[tokio::test]
async fn a_lost_heartbeat_is_noticed_and_its_late_reply_forgiven() {
    let (url, task) = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        let first = peer.request().await;
        // The client sends the second heartbeat once the first one is lost.
        let second = peer.request().await;
        peer.send(&first.reply(0, first.payload.clone())).await;
        peer.send(&second.reply(0, second.payload.clone())).await;
        assert_eq!(peer.closed().await, Some(1000));
    })
    .await;
    let mut session = Session::open(&target(&url), false).await.unwrap();
    let (mut out, mut tally) = (Vec::new(), Tally::default());
    let mut heart = Heart::new(&mut session, &mut out, &mut tally);
    heart.beat_once(&plan(1, Duration::from_millis(50)), 1).await.unwrap();
    heart.beat_once(&plan(1, PATIENT), 2).await.unwrap();
    session.close().await;
    task.await.unwrap();
    assert_eq!(tally.verdict().unwrap_err().to_string(), "1 lost, 0 wrong, 0 stray replies");
    let expected = "seq=1 lost: no reply within 50 ms\nseq=1 late: it counts as lost\n8 bytes: seq=2";
    assert_eq!(without_times(out), expected);
}

#[tokio::test]
async fn wrong_and_stray_replies_are_noticed() {
    let (outcome, tally, lines) = beat(plan(2, PATIENT), async |mut peer: Peer| {
        peer.welcome("s").await;
        let first = peer.request().await;
        peer.send(&Packet::request(99, ROUTE_SYSTEM, "").reply(0, "")).await;
        peer.send_message(Message::text("hi")).await;
        peer.send(&first.reply(3, "no such route")).await;
        peer.echo().await;
        assert_eq!(peer.closed().await, Some(1000));
    })
    .await;
    outcome.unwrap();
    assert_eq!(tally.verdict().unwrap_err().to_string(), "0 lost, 1 wrong, 2 stray replies");
    let expected = "stray: < reply #99 system  status 0 ok, empty\n\
                    stray: < no packet: 2 bytes \"hi\"\n\
                    seq=1 wrong: status 3 no route: no such route\n\
                    8 bytes: seq=2";
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn the_gateway_may_end_it() {
    let (outcome, tally, _) = beat(plan(2, PATIENT), async |mut peer: Peer| {
        peer.welcome("s").await;
        peer.echo().await;
        peer.request().await;
        peer.close(1001, "drain").await;
    })
    .await;
    let ended = outcome.unwrap_err().to_string();
    assert_eq!(ended, "the gateway closed the connection: 1001 going away (it is shutting down): drain");
    assert!(tally.to_string().starts_with("2 sent, 1 answered"));
}

#[tokio::test]
async fn a_break_is_counted_and_the_next_heartbeat_waits_for_the_connection() {
    let welcome = |token: &str, resumed, packets_received| Welcome {
        session_id: "s".into(),
        resume_token: token.into(),
        resumed,
        packets_received,
        ..Welcome::default()
    };
    let mut gateway = scripts().await;
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(welcome("t1", false, 0)).await;
        peer.echo().await;
        peer.request().await;
    });
    // The gateway has not served the second heartbeat, so it comes again.
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(welcome("t2", true, 1)).await;
        peer.echo().await;
        peer.request().await;
    });
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(welcome("t3", false, 0)).await;
        peer.echo().await;
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = Session::open(&target(gateway.url()), true).await.unwrap();
    let (mut out, mut tally) = (Vec::new(), Tally::default());
    let plan = plan(4, PATIENT);
    let mut heart = Heart::new(&mut session, &mut out, &mut tally);
    timeout(PATIENT, heart.beat(&plan)).await.expect("an end in time").unwrap();
    session.close().await;
    gateway.end().await;
    assert_eq!((tally.sent, tally.lost, tally.wrong, tally.stray, tally.breaks), (4, 1, 0, 0, 2));
    let lines = without_times(out);
    let kinds: Vec<_> =
        lines.lines().map(|line| line.split([' ', ':']).take(4).collect::<Vec<_>>().join(" ")).collect();
    let lost = "* the connection is";
    let expected = [
        "8 bytes  seq=1",
        lost,
        "* resumed after",
        "8 bytes  seq=2",
        lost,
        "* new session after",
        "seq=3 lost  the",
        "8 bytes  seq=4",
    ];
    assert!(kinds.iter().zip(expected).all(|(kind, expected)| kind.starts_with(expected)), "{lines}");
    assert_eq!(kinds.len(), expected.len(), "{lines}");
}

#[track_caller]
fn check(packet: &Packet, verdict: Option<&str>) {
    let expected = verdict.map(|why| if why.is_empty() { Reply::Right } else { Reply::Wrong(why.into()) });
    assert_eq!(Reply::judge(packet, 5, &Bytes::from_static(b"beat")), expected);
}

#[test]
fn a_reply_is_judged_by_every_field() {
    let request = Packet::request(5, ROUTE_SYSTEM, "beat");
    let right = request.reply(0, "beat");
    check(&right, Some(""));
    check(&request, Some("it came back without the reply flag"));
    let on_chat = Header { route: ROUTE_CHAT, ..right.header };
    check(&Packet { header: on_chat, ..right.clone() }, Some("the reply is on route 0x01"));
    check(&request.reply(5, "bus down"), Some("status 5 unavailable: bus down"));
    check(&request.reply(0, "bea"), Some("the payload differs (3 bytes, sent 4)"));
    check(&Packet { header: Header { seq: 6, ..right.header }, ..right }, None);
    check(&Packet::push(ROUTE_SYSTEM, 5, "news"), None);
    check(&Packet::push(ROUTE_CHAT, 5, "beat"), None);
}

#[test]
fn payloads_of_successive_heartbeats_differ() {
    assert_eq!(pattern(0x0102_0304, 6), b"\x04\x03\x02\x01\x04\x03"[..]);
    assert_ne!(pattern(1, 1), pattern(2, 1));
    assert_eq!(pattern(1, 0), b""[..]);
}
