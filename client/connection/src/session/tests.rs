use gateway_proto::{Control, Reconnect, Welcome, control::Event as ControlEvent};
use gateway_stand_in::{Peer, Scripts, scripts};
use gateway_wire::packet::{FLAG_ACK, Header, ROUTE_CHAT};
use tokio_tungstenite::tungstenite::Message as WebSocketMessage;

use super::*;

/// The time that an expected event may take. It is long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

fn target(url: &str) -> Target {
    Target { url: url.parse().unwrap(), token: None, ca: None }
}

async fn session(gateway: &Scripts) -> Session {
    Session::open(&target(gateway.url()), true).await.unwrap()
}

async fn next(session: &mut Session) -> anyhow::Result<Event> {
    timeout(PATIENT, session.next()).await.expect("an event in time")
}

/// The next event that is no break and no failed attempt, and the number of those before it.
async fn back(session: &mut Session) -> (Event, usize) {
    let mut breaks = 0;
    let back = async {
        loop {
            match session.next().await.unwrap() {
                Event::Reconnecting { .. } => breaks += 1,
                event => return event,
            }
        }
    };
    let event = timeout(PATIENT, back).await.expect("a connection in time");
    (event, breaks)
}

async fn check_receives(session: &mut Session, packet: Packet) {
    assert_eq!(next(session).await.unwrap(), Event::Received(Received::Packet(packet)));
}

fn welcome(token: &str) -> Welcome {
    Welcome { session_id: "s".into(), resume_token: token.into(), ..Welcome::default() }
}

fn resumed(token: &str, packets_received: u64) -> Welcome {
    Welcome { resumed: true, packets_received, ..welcome(token) }
}

fn push(seq: u32) -> Packet {
    Packet::push(ROUTE_CHAT, seq, format!("push {seq}"))
}

fn request(seq: u32) -> Packet {
    Packet::request(seq, ROUTE_CHAT, "hi")
}

/// The request as it arrives after a push with this number.
fn acknowledging(packet: Packet, ack: u16) -> Packet {
    Packet { header: Header { flags: FLAG_ACK, status: ack, ..packet.header }, ..packet }
}

fn reconnect(url: &str, after_ms: i64) -> Packet {
    let control = Control { event: Some(ControlEvent::Reconnect(Reconnect { url: url.into(), after_ms })) };
    Packet::push(ROUTE_CONTROL, 0, control.encode_to_vec())
}

#[tokio::test]
async fn a_session_that_is_cut_goes_on() {
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws");
        peer.welcome_with(welcome("t1")).await;
        assert_eq!(peer.request().await, request(1));
        peer.send(&push(1)).await;
        peer.send(&push(2)).await;
        peer.send(&request(1).reply(0, "ok")).await;
        // The client sends two more packets, of which the gateway reads one.
        assert_eq!(peer.request().await, acknowledging(request(2), 2));
    });
    gateway.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws?resume=t1&seen=2&replies=1");
        peer.welcome_with(resumed("t2", 2)).await;
        peer.send(&push(3)).await;
        peer.send(&request(2).reply(0, "ok")).await;
        assert_eq!(peer.request().await, acknowledging(request(3), 2));
        peer.send(&request(3).reply(0, "ok")).await;
        assert_eq!(peer.request().await, acknowledging(request(4), 3));
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    session.send(request(1)).await;
    check_receives(&mut session, push(1)).await;
    check_receives(&mut session, push(2)).await;
    check_receives(&mut session, request(1).reply(0, "ok")).await;
    session.send(request(2)).await;
    session.send(request(3)).await;
    let Event::Reconnecting { why, delay } = next(&mut session).await.unwrap() else { panic!("no break") };
    assert!(why.starts_with("the connection is lost: "), "{why}");
    assert!(delay <= Duration::from_millis(500), "{delay:?}");
    assert!(!session.is_connected());
    let Event::Resumed { resent: 1, lost: 0, replies_lost: 0, .. } = next(&mut session).await.unwrap() else {
        panic!("not resumed")
    };
    check_receives(&mut session, push(3)).await;
    check_receives(&mut session, request(2).reply(0, "ok")).await;
    check_receives(&mut session, request(3).reply(0, "ok")).await;
    session.send(request(4)).await;
    session.close().await;
    gateway.end().await;
}

#[tokio::test]
async fn packets_without_a_connection_wait_for_the_next_one_and_a_push_comes_only_once() {
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.send(&push(1)).await;
    });
    gateway.connection(async |mut peer: Peer| {
        peer.welcome_with(resumed("t2", 0)).await;
        peer.send(&push(1)).await;
        assert_eq!(peer.request().await, acknowledging(request(1), 1));
        peer.send(&push(2)).await;
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    check_receives(&mut session, push(1)).await;
    assert!(matches!(next(&mut session).await.unwrap(), Event::Reconnecting { .. }));
    session.send(request(1)).await;
    assert!(matches!(back(&mut session).await.0, Event::Resumed { resent: 1, .. }));
    check_receives(&mut session, push(2)).await;
    session.close().await;
    gateway.end().await;
}

#[tokio::test]
async fn after_the_window_the_session_is_new() {
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.send(&push(7)).await;
        peer.close(1001, "").await;
    });
    gateway.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws?resume=t1&seen=7&replies=0");
        peer.welcome_with(Welcome { session_id: "new".into(), ..welcome("t2") }).await;
        peer.send(&push(1)).await;
        assert_eq!(peer.request().await, acknowledging(request(2), 1));
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    check_receives(&mut session, push(7)).await;
    assert!(matches!(next(&mut session).await.unwrap(), Event::Reconnecting { .. }));
    session.send(request(1)).await;
    assert!(matches!(back(&mut session).await, (Event::New { seen: 7, lost: 1, .. }, 0)));
    assert_eq!(session.id(), "new");
    check_receives(&mut session, push(1)).await;
    session.send(request(2)).await;
    session.close().await;
    gateway.end().await;
}

#[tokio::test]
async fn a_gateway_that_stops_sends_its_clients_to_another_one() {
    let (mut first, mut second) = (scripts().await, scripts().await);
    let url = second.url().to_owned();
    first.connection(async move |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.send(&reconnect(&url, 0)).await;
        // With 1000 or 1001 the client would end its session.
        assert_eq!(peer.closed().await, Some(4000));
    });
    second.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws?resume=t1&seen=0&replies=0");
        peer.welcome_with(resumed("t2", 0)).await;
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&first).await;
    check_receives(&mut session, reconnect(second.url(), 0)).await;
    let Event::Reconnecting { why, .. } = next(&mut session).await.unwrap() else { panic!("no move") };
    assert_eq!(why, "the gateway stops, and has asked this client to reconnect");
    assert!(matches!(back(&mut session).await, (Event::Resumed { .. }, 0)));
    session.close().await;
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn a_refusal_is_tried_again_when_the_gateway_says() {
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| peer.welcome_with(welcome("t1")).await);
    gateway.response("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\nfull\n");
    gateway.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws?resume=t1&seen=0&replies=0");
        peer.welcome_with(resumed("t2", 0)).await;
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    assert!(matches!(next(&mut session).await.unwrap(), Event::Reconnecting { .. }));
    let Event::Reconnecting { why, delay } = next(&mut session).await.unwrap() else { panic!("not refused") };
    assert!(why.ends_with("refused the upgrade (HTTP 503): full"), "{why}");
    assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&delay), "{delay:?}");
    let Event::Resumed { away, .. } = next(&mut session).await.unwrap() else { panic!("not resumed") };
    assert!((delay..PATIENT).contains(&away), "{away:?}");
    session.close().await;
    gateway.end().await;
}

/// Checks that a session is over after its first connection has played this script.
async fn check_over<S>(reconnects: bool, script: impl FnOnce(Peer) -> S + Send + 'static, why: &str)
where
    S: Future<Output = ()> + Send + 'static,
{
    let mut gateway = scripts().await;
    gateway.connection(script);
    let mut session = Session::open(&target(gateway.url()), reconnects).await.unwrap();
    let error = next(&mut session).await.unwrap_err().to_string();
    assert!(error.starts_with(why), "{error}");
    assert_eq!(next(&mut session).await.unwrap_err().to_string(), "the session is over");
    session.close().await;
    gateway.end().await;
}

#[tokio::test]
async fn a_session_that_must_not_come_back_is_over() {
    let replaced = async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.close(4009, "bye").await;
    };
    let why = "the gateway closed the connection: 4009 another session of the user has begun: bye";
    check_over(true, replaced, why).await;
    // The token of this client cannot be renewed.
    let expired = async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.close(4001, "").await;
    };
    check_over(true, expired, "the gateway closed the connection: 4001").await;
}

#[tokio::test]
async fn a_session_that_does_not_reconnect_ends_with_its_connection() {
    let stops = async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.close(1001, "").await;
    };
    check_over(false, stops, "the gateway closed the connection: 1001 going away").await;
    let breaks = async |mut peer: Peer| peer.welcome_with(welcome("t1")).await;
    check_over(false, breaks, "the connection is lost: ").await;
}

#[tokio::test]
async fn a_server_that_is_no_gateway_is_refused() {
    let mut gateway = scripts().await;
    let no_welcome = async |mut peer: Peer| {
        peer.send(&Packet::push(ROUTE_SYSTEM, 1, "hi")).await;
        assert_eq!(peer.closed().await, Some(1000));
    };
    gateway.connection(no_welcome);
    gateway.connection(async |mut peer: Peer| peer.welcome_with(welcome("t1")).await);
    gateway.connection(no_welcome);
    let why = "the first packet is not the Welcome; is this a gateway?";
    let refused = Session::open(&target(gateway.url()), true).await.err().unwrap();
    assert_eq!(refused.to_string(), why);
    let mut session = session(&gateway).await;
    assert!(matches!(next(&mut session).await.unwrap(), Event::Reconnecting { .. }));
    assert_eq!(next(&mut session).await.unwrap_err().to_string(), why);
    gateway.end().await;
}

#[tokio::test]
async fn a_silent_connection_is_cut_but_pings_and_pongs_are_signs_of_life() {
    let silence = Duration::from_secs(2);
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| peer.welcome_with(welcome("t1")).await);
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(resumed("t2", 0)).await;
        // First the gateway pings and does not read, and then it only answers pings.
        for _ in 0..8 {
            tokio::time::sleep(silence / 5).await;
            peer.send_message(WebSocketMessage::Ping("?".into())).await;
        }
        peer.send(&push(1)).await;
        peer.quiet(silence * 2).await;
        peer.send(&push(2)).await;
        tokio::time::sleep(silence * 2).await;
        peer.cut().await;
    });
    gateway.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws?resume=t2&seen=2&replies=0");
        peer.welcome_with(resumed("t3", 0)).await;
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    session.silence = silence;
    assert!(matches!(back(&mut session).await.0, Event::Resumed { .. }));
    check_receives(&mut session, push(1)).await;
    check_receives(&mut session, push(2)).await;
    let Event::Reconnecting { why, .. } = next(&mut session).await.unwrap() else { panic!("no break") };
    assert_eq!(why, "the gateway has sent nothing for 2 s");
    let (Event::Resumed { away, .. }, 0) = back(&mut session).await else { panic!("not resumed") };
    // It is the time without a connection, not that of the session, which is more than 10 s old.
    assert!(away < silence * 3, "{away:?}");
    session.close().await;
    gateway.end().await;
}

#[tokio::test]
async fn a_packet_whose_sending_was_dropped_is_sent_before_the_session_is_closed() {
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        assert_eq!(peer.request().await, request(1));
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    session.state.sent.push(request(1));
    session.close().await;
    gateway.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_reconnect_stays_until_the_gateway_stops() {
    let moves = async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        peer.send(&reconnect("", 0)).await;
        peer.quiet(Duration::from_secs(1)).await;
        peer.close(1001, "").await;
    };
    let mut gateway = scripts().await;
    gateway.connection(moves);
    let mut session = Session::open(&target(gateway.url()), false).await.unwrap();
    check_receives(&mut session, reconnect("", 0)).await;
    let why = "the gateway closed the connection: 1001 going away (it is shutting down)";
    assert_eq!(next(&mut session).await.unwrap_err().to_string(), why);
    gateway.end().await;
}

#[test]
fn a_welcome_is_the_system_push_with_seq_0_and_a_session_id() {
    let packet = |seq| Packet::push(ROUTE_SYSTEM, seq, welcome("t").encode_to_vec());
    assert_eq!(super::welcome(&packet(0)), Some(welcome("t")));
    assert_eq!(super::welcome(&packet(1)), None);
    assert_eq!(super::welcome(&packet(0).reply(0, packet(0).payload)), None);
    assert_eq!(super::welcome(&packet(0).reply(4, packet(0).payload)), None);
    assert_eq!(super::welcome(&Packet::push(ROUTE_SYSTEM, 0, "")), None);
}

#[tokio::test]
async fn what_is_dropped_in_the_middle_is_not_lost() {
    let mut gateway = scripts().await;
    gateway.connection(async |mut peer: Peer| {
        peer.welcome_with(welcome("t1")).await;
        for seq in 1..=50 {
            peer.send(&push(seq)).await;
            assert_eq!(peer.request().await.payload, request(seq).payload);
        }
    });
    gateway.connection(async |mut peer: Peer| {
        assert_eq!(peer.path(), "/ws?resume=t1&seen=50&replies=0");
        peer.welcome_with(resumed("t2", 50)).await;
        assert_eq!(peer.closed().await, Some(1000));
    });
    let mut session = session(&gateway).await;
    let mut received = 0;
    let exchange = async {
        loop {
            // Most of these futures are dropped while they wait.
            match timeout(Duration::from_micros(50), session.next()).await {
                Err(_) => {}
                Ok(Ok(Event::Received(_))) => {
                    received += 1;
                    let _ = timeout(Duration::ZERO, session.send(request(received))).await;
                }
                Ok(Ok(Event::Reconnecting { .. })) => {}
                Ok(event) => return event.unwrap(),
            }
        }
    };
    let outcome = timeout(PATIENT, exchange).await.expect("a resume in time");
    assert!(matches!(outcome, Event::Resumed { resent: 0, .. }), "{outcome:?}");
    assert_eq!(received, 50);
    session.close().await;
    gateway.end().await;
}
