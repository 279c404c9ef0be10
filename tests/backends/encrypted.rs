//! Tests of the connection to Redis over TLS.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed};
use chat_proto::chat::MessageBroadcast;
use gateway_tests::{Certificates, Gateway, Redis, ReservedPort, Setup, chat_request};
use prost::Message;
use std::fs;

/// A Redis with a second port for TLS.
struct Encrypted {
    redis: Redis,
    reserved: ReservedPort,
    certificates: Certificates,
}

impl Encrypted {
    async fn start() -> Self {
        let (certificates, reserved) = (Certificates::generate().await, ReservedPort::reserve());
        let port = reserved.number().to_string();
        let (server, key) = (certificates.server(), certificates.server_key());
        let files = ["--tls-cert-file", server.to_str().unwrap(), "--tls-key-file", key.to_str().unwrap()];
        // The gateway has no client certificate, so Redis must not require one.
        let tls = ["--tls-port", &port, "--tls-auth-clients", "no"];
        let redis = Redis::start_with_arguments(&[&tls[..], &files].concat()).await;
        Self { redis, reserved, certificates }
    }

    /// Returns the setup of a gateway that connects to this Redis by the name `host`. The gateway's system trusts the
    /// certificate authority of the tests if `trusted` is true.
    fn setup(&self, host: &str, trusted: bool) -> Setup {
        let addr = format!("rediss://{host}:{}", self.reserved.number());
        let authority = fs::read(self.certificates.authority()).unwrap();
        Setup {
            yaml: format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"{addr}\" }}"),
            files: vec![("authority.pem", authority), ("nobody.pem", Vec::new())],
            env: vec![("SSL_CERT_FILE", if trusted { "plugins/authority.pem" } else { "plugins/nobody.pem" })],
            ..Setup::default()
        }
    }
}

#[tokio::test]
async fn messages_pass_both_ways_over_tls_if_the_system_trusts_the_certificate_of_redis() {
    let encrypted = Encrypted::start().await;
    let mut heard = encrypted.redis.subscribe(REQUESTS).await;
    let gateway = super::connected(encrypted.setup("localhost", true)).await;
    let mut client = gateway.client().await;
    // The content does not fit in one TLS record, which holds at most 16 KiB. So it is split into several records.
    let content = "x".repeat(40_000);
    let request = chat_request("mmo", 7, &content);
    client.send(CHAT, &request).await;
    assert_eq!(heard.next().await, request);
    let delivery = MessageBroadcast { content, target_user_id: 7, ..Default::default() }.encode_to_vec();
    assert_eq!(encrypted.redis.publish(BROADCAST, &delivery).await, 1);
    assert_pushed(&mut client, 1, &delivery).await;
    client.assert_alive().await;
}

#[tokio::test]
async fn a_redis_with_an_untrusted_certificate_is_not_connected_and_readiness_says_why() {
    let encrypted = Encrypted::start().await;
    let gateway = Gateway::start(encrypted.setup("localhost", false)).await;
    let line = gateway.logged("bus not connected").await;
    assert!(line["fields"]["error"].to_string().contains("UnknownIssuer"), "{line}");
    let (status, report) = gateway.get("/readyz").await;
    assert!(status == 503 && report.contains("rediss://localhost") && report.contains("UnknownIssuer"), "{report}");
    let mut client = gateway.client().await;
    assert_eq!(client.request(CHAT, &chat_request("mmo", 7, "hi")).await.status, 5);
    assert_eq!(gateway.metric("gateway_bus_connected").await, 0.0);
    encrypted.redis.subscribers_are(BROADCAST, 0).await;
}

#[tokio::test]
async fn a_redis_with_a_certificate_for_another_name_is_not_connected() {
    let encrypted = Encrypted::start().await;
    // The certificate is valid for `localhost` only.
    let gateway = Gateway::start(encrypted.setup("127.0.0.1", true)).await;
    let line = gateway.logged("bus not connected").await;
    assert!(line["fields"]["error"].to_string().contains("not valid for name"), "{line}");
    assert_eq!(gateway.metric("gateway_bus_connected").await, 0.0);
}
