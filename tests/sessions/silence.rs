//! Pings, and the end of sessions that do not answer them.

use gateway_tests::{
    Gateway, Setup,
    wire::{CLOSE, PING, PONG, Wire, frame},
};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

async fn start() -> Gateway {
    Gateway::start(Setup::server("ping_interval_s: 1, idle_timeout_s: 2")).await
}

#[tokio::test]
async fn a_session_that_is_silent_ends_after_idle_timeout_s() {
    let gateway = start().await;
    let began = Instant::now();
    let mut silent = Wire::upgraded(gateway.address).await;
    let mut pings = 0;
    let code = loop {
        match silent.frame().await.expect("a frame") {
            (PING, _) => pings += 1,
            (CLOSE, payload) => break u16::from_be_bytes(*payload.first_chunk().unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let lived = began.elapsed();
    assert_eq!((code, pings), (1001, 1));
    assert!((SECOND * 2..SECOND * 4).contains(&lived), "it ended after {lived:?}");
    drop(silent);
    gateway.metric_is("gateway_disconnections_total{reason=\"idle\"}", 1.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn the_gateway_pings_at_ping_interval_s_and_a_session_that_answers_lives_on() {
    let gateway = start().await;
    let began = Instant::now();
    let mut wire = Wire::upgraded(gateway.address).await;
    for i in 1..=5 {
        let (first, payload) = wire.frame().await.expect("a ping");
        assert_eq!(first, PING);
        let due = SECOND * i;
        let came = began.elapsed();
        assert!(came >= due && came < due + SECOND, "ping {i} came after {came:?}");
        wire.send(&frame(PONG, &payload)).await;
    }
    // Twice the idle timeout and more.
    assert!(began.elapsed() > SECOND * 4);
    gateway.metric_is("gateway_sessions", 1.0).await;
}

#[tokio::test]
async fn any_message_of_the_client_is_a_sign_of_life() {
    let gateway = start().await;
    let mut pings_only = Wire::upgraded(gateway.address).await;
    let mut last = Instant::now();
    let began = last;
    while began.elapsed() < SECOND * 4 {
        // Its own pings, but never a pong.
        match pings_only.frame().await.expect("the session lives") {
            (PING, _) => pings_only.send(&frame(PING, b"I live")).await,
            (PONG, payload) => {
                assert_eq!(payload, "I live");
                last = Instant::now();
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(last.duration_since(began) > SECOND * 2, "the last sign of life was answered after {:?}", last - began);
    gateway.metric_is("gateway_sessions", 1.0).await;
}
