//! Tests of the limits on the number of sessions and handshakes.

use crate::{ask, ask_from, assert_over_limit, change, limits, refused};
use gateway_tests::{
    Certificates, Gateway, Setup, eventually,
    wire::{UPGRADE, Wire},
};
use std::net::Ipv4Addr;

const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn reasons_exist_from_the_start_at_0() {
    let gateway = Gateway::start(Setup::default()).await;
    let (_, text) = gateway.get("/metrics").await;
    for reason in ["sessions", "sessions_per_ip", "sessions_per_user", "handshakes_per_ip", "handshake_evicted"] {
        assert!(text.contains(&format!("{} 0\n", refused(reason))), "{reason}: {text}");
    }
    for reason in ["rate", "sessions_per_user"] {
        assert!(text.contains(&format!("gateway_disconnections_total{{reason={reason:?}}} 0\n")), "{reason}: {text}");
    }
}

#[tokio::test]
async fn a_session_over_sessions_is_refused_with_503_until_another_one_ends() {
    let gateway = Gateway::start(limits("sessions: 2")).await;
    let [mut first, second] = [gateway.client().await, gateway.client().await];
    for _ in 0..3 {
        assert_over_limit(&ask(&gateway, UPGRADE).await, 503, "the gateway is full");
    }
    gateway.metric_is(&refused("sessions"), 3.0).await;
    let line = gateway.logged("handshake refused: the gateway is full (section `limits`)").await;
    assert_eq!((&line["level"], &line["fields"]["reason"]), (&"WARN".into(), &"sessions".into()));
    assert!(line["fields"]["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    first.assert_alive().await;
    drop(second);
    gateway.metric_is("gateway_sessions", 1.0).await;
    gateway.client().await.assert_alive().await;
    gateway.metric_is("gateway_connections_total", 3.0).await;
}

#[tokio::test]
async fn a_session_over_sessions_per_ip_is_refused_with_429_and_other_addresses_get_in() {
    let gateway = Gateway::start(limits("sessions_per_ip: 2")).await;
    let [mut first, second] = [gateway.client().await, gateway.client().await];
    assert_over_limit(&ask(&gateway, UPGRADE).await, 429, "too many sessions from this address");
    let neighbour = ask_from(&gateway, NEIGHBOUR).await;
    assert_eq!(neighbour.1.status, 101);
    gateway.metric_is(&refused("sessions_per_ip"), 1.0).await;
    gateway.logged("\"reason\":\"sessions_per_ip\"").await;
    drop(second);
    gateway.metric_is("gateway_sessions", 2.0).await;
    let _again = gateway.client().await;
    assert_over_limit(&ask(&gateway, UPGRADE).await, 429, "too many sessions from this address");
    first.assert_alive().await;
}

#[tokio::test]
async fn the_addresses_of_a_64_count_as_one_and_those_of_a_48_as_sixteen() {
    let server = "trusted_proxies: [127.0.0.0/8]".to_owned();
    let gateway = Gateway::start(Setup { server, ..limits("sessions_per_ip: 2") }).await;
    let gateway = &gateway;
    let from = async |address: &str| {
        ask(gateway, &UPGRADE.replace("\r\nHost", &format!("\r\nX-Forwarded-For: {address}\r\nHost"))).await
    };
    let mut sessions = Vec::new();
    // The limit of the /48 is 2 * 16.
    for network in 1..=16 {
        for host in [":1", "ffff:ffff:ffff:ffff"] {
            let (wire, response) = from(&format!("2001:db8:0:{network}:{host}")).await;
            assert_eq!(response.status, 101, "{network} {host}: {response:?}");
            sessions.push(wire);
        }
        if network == 1 {
            assert_over_limit(&from("2001:db8:0:1::2").await, 429, "too many sessions from this address");
        }
    }
    assert_over_limit(&from("2001:db8:0:17::1").await, 429, "too many sessions from this address");
    assert_eq!(from("2001:db8:1:1::1").await.1.status, 101);
    gateway.metric_is(&refused("sessions_per_ip"), 2.0).await;
}

#[tokio::test]
async fn handshakes_over_the_rate_of_an_address_are_refused_with_429() {
    let gateway = Gateway::start(limits("handshakes_per_s_per_ip: 1")).await;
    let (mut upgraded, mut over) = (Vec::new(), 0);
    for _ in 0..40 {
        match ask(&gateway, UPGRADE).await {
            (wire, response) if response.status == 101 => upgraded.push(wire),
            answer => {
                assert_over_limit(&answer, 429, "too many handshakes from this address");
                over += 1;
            }
        }
    }
    // The burst is 2, and on a slow machine the rate permits some more.
    assert!((2..20).contains(&upgraded.len()), "{} of 40 handshakes got in", upgraded.len());
    let neighbour = ask_from(&gateway, NEIGHBOUR).await;
    assert_eq!(neighbour.1.status, 101);
    gateway.metric_is(&refused("handshakes_per_ip"), f64::from(over)).await;
    gateway.logged("\"reason\":\"handshakes_per_ip\"").await;
}

/// Begins this many TLS handshakes, and returns how many succeed. No request is sent.
async fn tls_handshakes(count: usize, more: &str) -> (usize, Gateway) {
    let certificates = Certificates::generate().await;
    let (cert, key) = (certificates.server(), certificates.server_key());
    let server = format!("tls: {{ cert: {cert:?}, key: {key:?} }}{more}");
    let gateway = Gateway::start(Setup { server, ..limits("handshakes_per_s_per_ip: 1") }).await;
    let mut finished = Vec::new();
    for _ in 0..count {
        finished.extend(certificates.connect(gateway.address).await.ok());
    }
    (finished.len(), gateway)
}

#[tokio::test]
async fn tls_handshakes_over_twice_the_rate_are_closed_without_an_answer() {
    let (finished, gateway) = tls_handshakes(40, "").await;
    // The burst is 4, and on a slow machine the rate permits some more.
    assert!((4..20).contains(&finished), "{finished} of 40 TLS handshakes were finished");
    gateway.metric_is(&refused("handshakes_per_ip"), (40 - finished) as f64).await;
    gateway.logged("\"reason\":\"handshakes_per_ip\"").await;
    let (finished, _gateway) = tls_handshakes(40, ", trusted_proxies: [127.0.0.1]").await;
    assert_eq!(finished, 40, "the connections of a proxy are those of many clients");
}

#[tokio::test]
async fn requests_that_are_refused_for_another_reason_count_as_handshakes() {
    let too_large = UPGRADE.replace("/ws", &"x".repeat(20_000));
    for (request, status) in [(&*UPGRADE.replace("/ws", "/other"), 404), ("no HTTP\r\n\r\n", 400), (&too_large, 431)] {
        let gateway = Gateway::start(limits("handshakes_per_s_per_ip: 1")).await;
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(ask(&gateway, request).await.1.status);
        }
        assert_eq!(statuses[..2], [status; 2]);
        assert!(statuses.iter().filter(|other| **other == status).count() < 20, "{statuses:?}");
        assert!(statuses.iter().all(|other| [status, 429].contains(other)), "{statuses:?}");
    }
}

#[tokio::test]
async fn clients_for_which_there_is_no_room_do_not_use_up_the_rate_of_new_sessions() {
    let gateway = Gateway::start(limits("sessions_per_ip: 1, new_sessions_per_s: 2")).await;
    let mut first = gateway.client().await;
    for _ in 0..20 {
        assert_over_limit(&ask(&gateway, UPGRADE).await, 429, "too many sessions from this address");
    }
    assert_eq!(ask_from(&gateway, NEIGHBOUR).await.1.status, 101);
    gateway.metric_is(&refused("new_sessions"), 0.0).await;
    first.assert_alive().await;
}

#[tokio::test]
async fn new_limits_hold_from_the_next_handshake_on_and_close_nobody() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut clients = [gateway.client().await, gateway.client().await, gateway.client().await];
    change(&gateway, &limits("sessions: 1")).await;
    assert_over_limit(&ask(&gateway, UPGRADE).await, 503, "the gateway is full");
    change(&gateway, &limits("sessions: 4, sessions_per_ip: 3")).await;
    // The sessions that began without a limit count.
    assert_over_limit(&ask(&gateway, UPGRADE).await, 429, "too many sessions from this address");
    change(&gateway, &limits("handshakes_per_s_per_ip: 1000")).await;
    let mut late = gateway.client().await;
    late.assert_alive().await;
    change(&gateway, &Setup::default()).await;
    for client in &mut clients {
        client.assert_alive().await;
    }
    gateway.metric_is("gateway_sessions", 4.0).await;
    // A wrong file changes nothing.
    let lines = gateway.log_lines().len();
    gateway.reconfigure(&limits("sessions: 0"));
    let line = gateway.logged_after(lines, "configuration rejected").await;
    assert!(line.to_string().contains("limits.sessions: 0 is not within 1 to 100000000"), "{line}");
    let _more = gateway.client().await;
}

#[tokio::test]
async fn more_sessions_than_open_files_allow_is_a_warning_with_both_numbers() {
    let setup = limits("sessions: 100000, handshakes: 64");
    let gateway = Gateway::start(Setup { open_files: Some(256), ..setup }).await;
    let line = gateway.logged("limits.sessions is 100000").await;
    assert_eq!(line["level"], "WARN");
    let message = line["fields"]["message"].as_str().unwrap();
    let expected = "limits.sessions is 100000, but the limit of open files, 256, allows 128 sessions next to 64 \
                    handshakes (limits.handshakes): raise it (ulimit -n), or lower limits.sessions";
    assert_eq!(message, expected);
    gateway.client().await.assert_alive().await;
    let fits = limits("sessions: 128, handshakes: 64");
    let gateway = Gateway::start(Setup { open_files: Some(256), ..fits }).await;
    assert!(!gateway.log_lines().iter().any(|line| line.to_string().contains("limits.sessions is")));
}

#[tokio::test]
async fn a_refused_client_that_does_not_hang_up_holds_no_session() {
    let gateway = Gateway::start(limits("sessions: 1, sessions_per_ip: 1")).await;
    let first = gateway.client().await;
    let held: Vec<(Wire, _)> = vec![ask(&gateway, UPGRADE).await, ask(&gateway, UPGRADE).await];
    drop(first);
    eventually("a session while the refused clients are still connected", || async {
        let (wire, response) = ask(&gateway, UPGRADE).await;
        (response.status == 101).then_some(wire)
    })
    .await;
    drop(held);
}
