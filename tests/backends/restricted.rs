//! Tests of a gateway that reaches Redis over TLS, as a user with no more rights than docs/security.md lists.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected, streams};
use gateway_tests::{Certificates, Client, Cluster, Gateway, Redis, ReservedPort, Setup, chat_request, root};
use std::fs;

const LOGIN: &str = "username: gateway, password: SECRET";

/// Returns the rules for the gateway's user in docs/security.md: the line with this beginning.
fn documented(beginning: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with(beginning)).expect("the rules in docs/security.md");
    line.split_whitespace().map(str::to_owned).collect()
}

/// Returns the rules that every gateway needs, and those of a line with this beginning.
fn rules(more: Option<&str>) -> Vec<String> {
    let mut rules = documented("user gateway ").split_off(2);
    rules.extend(more.map(documented).into_iter().flatten());
    rules
}

async fn add_user(redis: &Redis, rules: &[String]) {
    redis.run(redis::cmd("ACL").arg("SETUSER").arg("gateway").arg(rules)).await;
}

/// Starts a gateway with this section `redis`, whose system trusts the authority of the tests.
async fn gateway(certificates: &Certificates, redis: String) -> Gateway {
    let authority = fs::read(certificates.authority()).unwrap();
    connected(Setup {
        yaml: format!("games: [{{ id: mmo }}]\n{redis}"),
        files: vec![("authority.pem", authority)],
        env: vec![("SSL_CERT_FILE", "plugins/authority.pem")],
        ..Setup::default()
    })
    .await
}

/// A Redis with a second port for TLS, and a user with the rules that are documented.
async fn server(certificates: &Certificates, tls: &ReservedPort, more: Option<&str>) -> Redis {
    let port = tls.number().to_string();
    let (certificate, key) = (certificates.server(), certificates.server_key());
    let files = ["--tls-cert-file", certificate.to_str().unwrap(), "--tls-key-file", key.to_str().unwrap()];
    let redis =
        Redis::start_with_arguments(&[&["--tls-port", &port, "--tls-auth-clients", "no"][..], &files].concat()).await;
    add_user(&redis, &rules(more)).await;
    redis
}

/// Asserts that nothing was refused, and that no connection broke.
async fn nothing_was_refused(gateway: &Gateway, redis: &[Redis]) {
    let lines = gateway.log_lines();
    let is_bad = |line: &&serde_json::Value| {
        let text = line.to_string();
        text.contains("refused") || text.contains("bus not connected")
    };
    assert_eq!(lines.iter().find(is_bad), None);
    for server in redis {
        let mut connection = server.connection().await;
        let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut connection).await.unwrap();
        // The client library tells its name, and does not care whether it may.
        let log: Vec<_> = log.into_iter().map(|entry| format!("{entry:?}")).collect();
        assert!(log.iter().all(|entry| entry.contains("client|setinfo")), "{log:#?}");
    }
}

/// Lets the gateway probe twice at least, so that everything was asked for once.
async fn probes(gateway: &Gateway, redis: &Redis) {
    let before = redis.calls("role").await;
    gateway_tests::eventually("two more probes", || async { (redis.calls("role").await >= before + 2).then_some(()) })
        .await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_need_no_more_rights_than_are_documented() {
    let (certificates, tls) = (Certificates::generate().await, ReservedPort::reserve());
    let redis = server(&certificates, &tls, None).await;
    let mut heard = redis.subscribe(REQUESTS).await;
    let gateway =
        gateway(&certificates, format!("redis: {{ addr: \"rediss://localhost:{}\", {LOGIN} }}", tls.number())).await;
    let mut client = gateway.client().await;
    let request = chat_request("mmo", 7, "hi");
    client.send(CHAT, &request).await;
    assert_eq!(heard.next().await, request);
    for topic in [BROADCAST, "broadcast:user:7"] {
        assert_eq!(redis.publish(topic, &broadcast(7, 1)).await, 1);
    }
    for seq in 1..=2 {
        assert_pushed(&mut client, seq, &broadcast(7, 1)).await;
    }
    probes(&gateway, &redis).await;
    nothing_was_refused(&gateway, &[redis]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_need_no_more_rights_than_are_documented() {
    let (certificates, tls) = (Certificates::generate().await, ReservedPort::reserve());
    let redis = server(&certificates, &tls, Some("~game:request:* ")).await;
    let (addr, keys) = (format!("rediss://localhost:{}", tls.number()), streams::STREAMS);
    let gateway = gateway(&certificates, format!("redis: {{ addr: \"{addr}\", {LOGIN}, {keys} }}")).await;
    let mut client = gateway.client_of(7).await;
    client.send(CHAT, &streams::request(1)).await;
    gateway.metric_is("gateway_bus_published_total", 2.0).await;
    assert_eq!(streams::requests(&redis).await, (vec![1], 0));
    streams::add(&redis, &broadcast(7, 1)).await;
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
    probes(&gateway, &redis).await;
    nothing_was_refused(&gateway, std::slice::from_ref(&redis)).await;
    // The reader finds its place again after a break.
    let reader = streams::reader(&redis).await;
    redis.run(redis::cmd("CLIENT").arg("KILL").arg("ID").arg(reader)).await;
    streams::add(&redis, &broadcast(7, 2)).await;
    assert_pushed(&mut client, 2, &broadcast(7, 2)).await;
    assert_eq!(gateway.metric(streams::LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_needs_no_more_rights_than_are_documented() {
    let certificates = Certificates::generate().await;
    let cluster = Cluster::start_over_tls(&certificates).await;
    for server in &cluster.servers {
        add_user(server, &rules(Some("+spublish "))).await;
    }
    let gateway = gateway(&certificates, cluster.yaml(&format!(", {LOGIN}"))).await;
    let mut requests = cluster.subscribe(REQUESTS).await;
    for user in 1..=10 {
        let mut client = gateway.client().await;
        let request = chat_request("mmo", user, "hi");
        client.send(CHAT, &request).await;
        assert_eq!(requests.next().await, request);
        carries(&cluster, &mut client, user).await;
    }
    for server in &cluster.servers {
        probes(&gateway, server).await;
    }
    nothing_was_refused(&gateway, &cluster.servers).await;
}

/// Asserts that messages reach the client on both topics.
async fn carries(cluster: &Cluster, client: &mut Client, user: i32) {
    for (seq, topic) in [(1, BROADCAST), (2, &format!("broadcast:user:{user}"))] {
        cluster.is_heard(topic).await;
        assert_eq!(cluster.publish(topic, &broadcast(user, 1)).await, Some(1), "{topic}");
        assert_pushed(client, seq, &broadcast(user, 1)).await;
    }
}

/// Stops the first gateway, and asserts that the second one goes on with the session of the client.
async fn goes_on(mut old: Gateway, new: &Gateway) {
    let client = old.client().await;
    old.signal("TERM").await;
    assert_eq!(old.exit().await.code(), Some(0));
    let path = format!("/ws?resume={}&seen=0", client.welcome.resume_token);
    let client = Client::connect_to(new.address, &path).await;
    assert!(client.welcome.resumed, "{:?}", old.log_lines());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_wait_need_no_more_rights_than_are_documented() {
    let (certificates, tls) = (Certificates::generate().await, ReservedPort::reserve());
    let redis = server(&certificates, &tls, Some("~gateway:session:* ")).await;
    let yaml = format!("redis: {{ addr: \"rediss://localhost:{}\", {LOGIN} }}\nresume: {{}}", tls.number());
    let old = gateway(&certificates, yaml.clone()).await;
    let new = gateway(&certificates, yaml).await;
    goes_on(old, &new).await;
    nothing_was_refused(&new, &[redis]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_wait_in_a_cluster_need_no_more_rights_than_are_documented() {
    let certificates = Certificates::generate().await;
    let cluster = Cluster::start_over_tls(&certificates).await;
    let rules = [rules(Some("+spublish ")), documented("~gateway:session:* ")].concat();
    for server in &cluster.servers {
        add_user(server, &rules).await;
    }
    let yaml = format!("{}\nresume: {{}}", cluster.yaml(&format!(", {LOGIN}")));
    let old = gateway(&certificates, yaml.clone()).await;
    let new = gateway(&certificates, yaml).await;
    goes_on(old, &new).await;
    nothing_was_refused(&new, &cluster.servers).await;
}
