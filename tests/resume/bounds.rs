//! Tests of what sessions may hold while their clients are away, and of the other limits on them.

use crate::{Player, not_resumed, resumes, sessions_are, setup, start};
use gateway_tests::{Client, Gateway, Setup};

#[tokio::test]
async fn a_session_that_misses_too_much_ends() {
    for bounds in ["messages: 4", "messages: 1000, bytes: 256"] {
        let gateway = start(bounds).await;
        let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
        player.leave(&gateway).await;
        // 4 messages, or 4 × (8 + 50) bytes, can wait.
        let texts = [(); 4].map(|()| "x".repeat(50));
        other.tell(7, &texts.each_ref().map(String::as_str)).await;
        gateway.metric_is("gateway_sessions_parked", 1.0).await;
        other.tell(7, &["y".repeat(50).as_str()]).await;
        gateway.metric_is(&not_resumed("full"), 1.0).await;
        sessions_are(&gateway, 1.0).await;
        drop(player.come_back(&gateway).await);
        assert!(!player.welcome().resumed);
        // All that waited is counted as lost, with the message that found no room.
        gateway.metric_is("gateway_messages_dropped_total{reason=\"session_ended\"}", 4.0).await;
        gateway.metric_is("gateway_messages_dropped_total{reason=\"send_queue_full\"}", 1.0).await;
    }
}

#[tokio::test]
async fn all_sessions_together_hold_no_more_than_the_bound_and_the_first_that_left_ends_first() {
    // Two sessions without messages fit.
    let gateway = start("bytes: 4096, total_bytes: 18000").await;
    let mut players = Vec::new();
    for user in 1..=3 {
        players.push(Player::begin(&gateway, user).await);
    }
    players[1].leave(&gateway).await;
    players[0].leave(&gateway).await;
    assert!(gateway.metric("gateway_sessions_parked_bytes").await >= 2.0 * 8192.0);
    players[2].client.cut().await;
    gateway.metric_is(&not_resumed("evicted"), 1.0).await;
    sessions_are(&gateway, 2.0).await;
    for (player, resumed) in players.iter_mut().zip([true, false, true]) {
        drop(player.come_back(&gateway).await);
        assert_eq!(player.welcome().resumed, resumed);
    }
    gateway.metric_is("gateway_sessions_parked_bytes", 0.0).await;
}

#[tokio::test]
async fn a_client_that_connects_again_ten_times_a_second_keeps_its_session() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    let id = player.welcome().session_id.clone();
    for seq in 1..=50 {
        other.tell(7, &["x"]).await;
        drop(player.come_back(&gateway).await);
        assert_eq!((player.welcome().resumed, &player.welcome().session_id), (true, &id));
        player.gets(seq, "x").await;
    }
    gateway.metric_is("gateway_sessions", 2.0).await;
    gateway.metric_is("gateway_connections_total", 52.0).await;
}

#[tokio::test]
async fn the_limit_on_handshakes_holds_for_clients_that_come_back() {
    let yaml = "resume: {}\nlimits: { handshakes_per_s_per_ip: 1 }\nplugins: { directory: plugins }";
    let gateway = Gateway::start(Setup { yaml: yaml.to_owned(), ..setup("") }).await;
    let mut player = Player::begin(&gateway, 7).await;
    let mut refused = 0;
    for _ in 0..10 {
        match Client::handshake(gateway.address, &player.path()).await {
            Ok(socket) => player.client = Client::welcomed(socket).await,
            Err(error) => {
                assert!(error.to_string().contains("429"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    // Who was refused has not lost the session.
    gateway.metric_is(&resumes("unknown"), 0.0).await;
}

#[tokio::test]
async fn a_session_that_is_closed_while_its_client_is_away_ends() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    player.leave(&gateway).await;
    let (status, sessions) = gateway.get("/api/sessions?user=7").await;
    assert!(status == 200 && sessions.contains("\"away\":true"), "{sessions}");
    other.ask("end user:7 4002 banned").await;
    gateway.metric_is(&not_resumed("closed"), 1.0).await;
    drop(player.come_back(&gateway).await);
    assert!(!player.welcome().resumed);
}

#[tokio::test]
async fn a_user_with_a_limit_of_one_session_can_begin_anew_while_the_old_session_waits() {
    for policy in ["close_oldest", "refuse"] {
        let limits = format!("limits: {{ sessions_per_user: 1, on_user_limit: {policy} }}");
        let yaml = format!("resume: {{}}\n{limits}\nplugins: {{ directory: plugins }}");
        let gateway = Gateway::start(Setup { yaml, ..setup("") }).await;
        let mut player = Player::begin(&gateway, 7).await;
        player.leave(&gateway).await;
        // The client has lost its token.
        let mut anew = Player::begin(&gateway, 7).await;
        gateway.metric_is(&not_resumed("closed"), 1.0).await;
        sessions_are(&gateway, 1.0).await;
        anew.client.assert_alive().await;
        drop(player.come_back(&gateway).await);
        assert!(!player.welcome().resumed);
    }
}
