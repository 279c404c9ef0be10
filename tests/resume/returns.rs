//! Tests of clients that come back: what they get, and what their session still has.

use crate::{Player, ROUTE, not_resumed, resumes, sessions_are, start};
use gateway_tests::{Client, Gateway, Setup};
use tokio_tungstenite::tungstenite::{protocol::CloseFrame, protocol::frame::coding::CloseCode};

#[tokio::test]
async fn a_client_that_comes_back_gets_exactly_what_it_missed_and_then_what_is_new() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    let id = player.welcome().session_id.clone();
    player.ask("join 5; tag 3").await;
    other.tell(7, &["a", "b", "c", "d"]).await;
    player.gets(1, "a").await;
    player.gets(2, "b").await;
    // The pushes 3 and 4 were sent, but the client has not read them.
    player.leave(&gateway).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"gone\"}", 1.0).await;
    sessions_are(&gateway, 2.0).await;
    other.tell(7, &["e", "f"]).await;
    drop(player.come_back(&gateway).await);
    assert!(player.welcome().resumed && player.welcome().resume_window_ms == 30_000, "{:?}", player.welcome());
    assert_eq!((player.welcome().session_id.as_str(), player.welcome().packets_received), (id.as_str(), 1));
    for (seq, text) in [(3, "c"), (4, "d"), (5, "e"), (6, "f")] {
        player.gets(seq, text).await;
    }
    other.ask("deliver group:5 always g").await;
    player.gets(7, "g").await;
    assert_eq!(player.ask("say $session $user $tag").await, format!("{id} 7 3"));
    gateway.metric_is(&resumes("resumed"), 1.0).await;
    gateway.metric_is("gateway_sessions_parked", 0.0).await;
    gateway.metric_is("gateway_sessions_parked_bytes", 0.0).await;
    gateway.metric_is("gateway_connections_total", 3.0).await;
}

#[tokio::test]
async fn a_client_may_come_back_again_and_again() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    for round in 0..20 {
        let texts: Vec<_> = (0..5).map(|i| format!("{round}.{i}")).collect();
        other.tell(7, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
        // Each time, the client has read some of them.
        let read = round % 6;
        for (i, text) in (1..).zip(&texts[..read]) {
            player.gets(u32::try_from(round * 5 + i).unwrap(), text).await;
        }
        player.return_after_break(&gateway).await;
        assert!(player.welcome().resumed);
        for (i, text) in (1..).zip(&texts).skip(read) {
            player.gets(u32::try_from(round * 5 + i).unwrap(), text).await;
        }
    }
    player.client.assert_alive().await;
    gateway.metric_is(&resumes("resumed"), 20.0).await;
}

#[tokio::test]
async fn a_new_connection_closes_the_old_one_which_the_gateway_took_for_alive() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    other.tell(7, &["a", "b"]).await;
    player.gets(1, "a").await;
    // The second push has arrived, but the client has not got round to it.
    assert_eq!(player.client.receive_any().await.seq, 2);
    let mut old = player.come_back(&gateway).await;
    assert!(player.welcome().resumed);
    player.gets(2, "b").await;
    other.tell(7, &["c"]).await;
    player.gets(3, "c").await;
    let frame = old.closed().await.unwrap();
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4010, "the session goes on over another connection"));
    gateway.metric_is("gateway_disconnections_total{reason=\"moved\"}", 1.0).await;
    player.client.assert_alive().await;
}

#[tokio::test]
async fn each_reply_arrives_once_and_the_client_learns_what_was_not_received() {
    let gateway = start("").await;
    let mut player = Player::begin(&gateway, 7).await;
    for seq in 1..=4 {
        assert_eq!(player.client.send(ROUTE, format!("say {seq}").as_bytes()).await, seq);
    }
    player.gets_reply(1, "1").await;
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"ok\"}", 5.0).await;
    player.return_after_break(&gateway).await;
    assert_eq!((player.welcome().packets_received, player.welcome().replies_lost), (4, 0));
    for seq in 2..=4 {
        player.gets_reply(seq, &seq.to_string()).await;
    }
    assert_eq!(player.ask("say 5").await, "5");
    player.return_after_break(&gateway).await;
    assert_eq!((player.welcome().packets_received, player.welcome().replies_lost), (5, 0));
    player.client.assert_last_alive().await;
}

#[tokio::test]
async fn replies_that_are_no_longer_kept_are_reported() {
    let gateway = start("messages: 4").await;
    let mut player = Player::begin(&gateway, 7).await;
    for seq in 1..=10 {
        player.client.send(ROUTE, format!("say {seq}").as_bytes()).await;
    }
    gateway.metric_is("gateway_messages_sent_total", 11.0).await;
    player.gets_reply(1, "1").await;
    player.return_after_break(&gateway).await;
    assert!(player.welcome().resumed);
    assert_eq!((player.welcome().packets_received, player.welcome().replies_lost), (10, 5));
    for seq in 7..=10 {
        player.gets_reply(seq, &seq.to_string()).await;
    }
    player.return_after_break(&gateway).await;
    assert_eq!((player.welcome().packets_received, player.welcome().replies_lost), (10, 0));
    player.client.assert_last_alive().await;
}

#[tokio::test]
async fn a_client_that_leaves_for_good_ends_its_session_at_once() {
    let gateway = start("").await;
    let mut left = 0.0;
    for code in [Some(1000), Some(1001), None] {
        let mut player = Player::begin(&gateway, 7).await;
        let frame = code.map(|code| CloseFrame { code: CloseCode::from(code), reason: "".into() });
        player.client.socket.close(frame).await.unwrap();
        assert!(player.client.closed().await.is_none_or(|frame| Some(u16::from(frame.code)) == code));
        sessions_are(&gateway, 0.0).await;
        left += 1.0;
        gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", left).await;
        drop(player.come_back(&gateway).await);
        assert!(!player.welcome().resumed, "{code:?}");
        player.client.socket.close(None).await.unwrap();
        sessions_are(&gateway, 0.0).await;
        left += 1.0;
    }
    let mut player = Player::begin(&gateway, 7).await;
    let cut = CloseFrame { code: CloseCode::from(4000), reason: "this connection seems dead".into() };
    player.client.socket.close(Some(cut)).await.unwrap();
    gateway.metric_is("gateway_sessions_parked", 1.0).await;
    drop(player.come_back(&gateway).await);
    assert!(player.welcome().resumed);
}

#[tokio::test]
async fn a_plugin_hears_of_the_end_when_the_session_ends_and_not_when_the_client_is_away() {
    let gateway = start("window_s: 2").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    other.ask("put on-disconnect deliver user:8 always %user left: %cause").await;
    player.return_after_break(&gateway).await;
    // The plugin would have heard of an end by now, as it is called before the reply.
    other.ask("say x").await;
    player.leave(&gateway).await;
    other.gets(1, "7 left: gone").await;
    gateway.metric_is(&not_resumed("window"), 1.0).await;
    drop(player.come_back(&gateway).await);
    assert!(!player.welcome().resumed);
}

#[tokio::test]
async fn a_packet_that_a_slow_plugin_serves_is_answered_over_the_next_connection() {
    let yaml = "resume: {}\nplugins: { directory: plugins, settings: { probe: { call_timeout_ms: 5000 } } }";
    let files = vec![("probe.wasm", gateway_tests::probe())];
    let gateway = Gateway::start(Setup { yaml: yaml.to_owned(), files, ..Setup::default() }).await;
    let mut player = Player::begin(&gateway, 7).await;
    // Slow calls move the plugin to its offload thread.
    for seq in 1..=6 {
        player.client.send(ROUTE, format!("spin 100; say {seq}").as_bytes()).await;
    }
    player.gets_reply(1, "1").await;
    player.client.cut().await;
    drop(player.come_back(&gateway).await);
    let received = u32::try_from(player.welcome().packets_received).unwrap();
    for seq in 2..=received {
        player.gets_reply(seq, &seq.to_string()).await;
    }
    player.client.assert_last_alive().await;
}

#[tokio::test]
async fn a_client_that_comes_back_while_its_session_is_closed_gets_what_waits_and_the_close_code() {
    let yaml = "resume: {}\nplugins: { directory: plugins, settings: { probe: { call_timeout_ms: 5000 } } }";
    let files = vec![("probe.wasm", gateway_tests::probe())];
    let gateway = Gateway::start(Setup { yaml: yaml.to_owned(), files, ..Setup::default() }).await;
    let mut player = Player::begin(&gateway, 7).await;
    // Slow calls move the plugin to its offload thread. There, the last one closes the session after the client is back.
    for _ in 0..4 {
        player.ask("spin 100").await;
    }
    player.client.send(ROUTE, b"spin 1000; deliver user:7 always bye; end user:7 4003 banned").await;
    // The gateway has taken the packet.
    gateway.metric_is("gateway_messages_received_total{route=\"112\"}", 5.0).await;
    player.client.cut().await;
    drop(player.come_back(&gateway).await);
    assert!(player.welcome().resumed);
    player.gets_reply(5, "").await;
    player.gets(1, "bye").await;
    let close = player.client.closed().await.unwrap();
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Library(4003), "banned"));
    sessions_are(&gateway, 0.0).await;
}

#[tokio::test]
async fn an_acknowledgement_makes_room() {
    let gateway = start("messages: 4").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    other.tell(7, &["1", "2", "3", "4"]).await;
    for seq in 1..=4 {
        player.gets(seq, &seq.to_string()).await;
    }
    // A heartbeat with the flag and the number of the last push.
    player.client.send_message(&[0, 0, 0, 9, 3, 4, 0, 4][..]).await;
    assert_eq!(player.receive().await.seq, 9);
    player.leave(&gateway).await;
    let before = gateway.metric("gateway_sessions_parked_bytes").await;
    assert!((8192.0..8192.0 + 2.0 * 80.0).contains(&before), "{before}: only the reply is kept");
    drop(player.come_back(&gateway).await);
    assert!(player.welcome().resumed);
    player.client.assert_alive().await;
}

#[tokio::test]
async fn without_the_section_nothing_is_kept() {
    let gateway =
        Gateway::start(Setup { files: vec![("probe.wasm", gateway_tests::probe())], ..Setup::default() }).await;
    let client = gateway.client().await;
    assert_eq!((client.welcome.resume_token.as_str(), client.welcome.resume_window_ms), ("", 0));
    drop(client);
    sessions_are(&gateway, 0.0).await;
    let token = "0".repeat(64);
    let mut client = Client::connect_to(gateway.address, &format!("/ws?resume={token}&seen=0")).await;
    assert!(!client.welcome.resumed);
    client.assert_alive().await;
}

#[tokio::test]
async fn a_gateway_that_stops_does_not_wait_for_clients_that_are_away() {
    let mut gateway = start("window_s: 3600").await;
    let (mut player, _other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    player.leave(&gateway).await;
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(gateway.log_lines().iter().all(|line| !line.to_string().contains("cut off")));
}
