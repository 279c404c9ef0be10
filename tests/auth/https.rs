//! Keys that are fetched over HTTPS.

use crate::{answer, claims, key_set};
use gateway_tests::{Certificates, Gateway, Issuer, Setup, eventually, in_time};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// An HTTPS server for a key set. It is openssl, and not the TLS library of the gateway.
struct Server {
    port: String,
    certificates: Certificates,
    _child: Child,
}

impl Server {
    async fn start(document: &str) -> Self {
        let certificates = Certificates::generate().await;
        let folder = certificates.server().parent().unwrap().to_owned();
        let length = document.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{document}");
        fs::write(folder.join("keys.json"), answer).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-HTTP", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key", "server.key"]);
        let openssl = openssl.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = openssl.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("openssl listens");
                if let Some(port) = line.strip_prefix("ACCEPT 127.0.0.1:") {
                    return port.to_owned();
                }
            }
        };
        let port = in_time("openssl", listening).await;
        // Openssl prints each request, and would fail if nobody read that.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { port, certificates, _child: child }
    }

    /// Starts a gateway that fetches the keys from this server by the name `host`. The gateway's system trusts this
    /// authority alone.
    async fn gateway(&self, host: &str, authority: &Path) -> Gateway {
        let mut setup = crate::setup(&format!("jwks_url: \"https://{host}:{}/keys.json\"", self.port));
        setup.files.push(("authorities.pem", fs::read(authority).unwrap()));
        let env = vec![("SSL_CERT_FILE", "plugins/authorities.pem"), ("SSL_CERT_DIR", "")];
        Gateway::start(Setup { env, ..setup }).await
    }

    /// Asserts that the gateway has no keys, and that it says why in its log, in its readiness and to nobody else.
    async fn assert_refused(&self, gateway: &Gateway, host: &str, why: &str) {
        let error = format!(
            "the TLS handshake failed: invalid peer certificate: {why}: the server needs a certificate for its host \
             from an authority that the system or the file in SSL_CERT_FILE has"
        );
        let line = gateway.logged("keys of tokens not loaded, trying again").await;
        assert_eq!(line["fields"]["error"], error, "{line}");
        let (status, body) = gateway.get("/readyz").await;
        let report: Value = serde_json::from_str(&body).unwrap();
        let source = format!("auth.jwks_url {host}:{}", self.port);
        assert_eq!(status, 503, "{body}");
        assert_eq!(report["auth"]["keys"][0], json!({ "source": source, "keys": 0, "error": error }));
        let text = "the token cannot be checked, because its key is not loaded yet: try again later\n";
        let mut issuer = Issuer::start().await;
        issuer.key("other", "p256").await;
        let token = issuer.sign("ES256", "other", &claims()).await;
        assert_eq!(answer(gateway, &token).await, (503, text.to_owned()));
    }
}

/// Waits until a client with this token gets a session.
async fn accepts(gateway: &Gateway, token: &str) {
    eventually("a session", || async { (answer(gateway, token).await.0 == 101).then_some(()) }).await;
}

#[tokio::test]
async fn keys_are_fetched_over_https_if_the_system_trusts_the_authority() {
    let mut issuer = Issuer::start().await;
    let server = Server::start(&key_set(&[issuer.key("a", "p256").await])).await;
    let gateway = server.gateway("localhost", &server.certificates.authority()).await;
    accepts(&gateway, &issuer.sign("ES256", "a", &claims()).await).await;
    gateway.metric_is("gateway_auth_jwks_fetches_total{outcome=\"ok\"}", 1.0).await;
    gateway.metric_is("gateway_auth_jwks_fetches_total{outcome=\"failed\"}", 0.0).await;
}

#[tokio::test]
async fn keys_of_an_untrusted_server_are_not_loaded_until_the_system_trusts_its_authority() {
    let mut issuer = Issuer::start().await;
    let server = Server::start(&key_set(&[issuer.key("a", "p256").await])).await;
    let stranger = Certificates::generate().await;
    let gateway = server.gateway("localhost", &stranger.authority()).await;
    // The other authority has the same name, and another key.
    server.assert_refused(&gateway, "localhost", "BadSignature").await;
    // The authorities are read for each fetch, so the gateway needs no restart.
    fs::copy(server.certificates.authority(), gateway.plugins().join("authorities.pem")).unwrap();
    accepts(&gateway, &issuer.sign("ES256", "a", &claims()).await).await;
}

#[tokio::test]
async fn keys_of_a_server_with_a_certificate_for_another_host_are_not_loaded() {
    let server = Server::start("{}").await;
    let gateway = server.gateway("127.0.0.1", &server.certificates.authority()).await;
    let why = "certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"localhost\")";
    server.assert_refused(&gateway, "127.0.0.1", why).await;
}

#[tokio::test]
async fn a_system_that_trusts_nobody_is_told_what_is_missing() {
    let server = Server::start("{}").await;
    let gateway = server.gateway("localhost", Path::new("/dev/null")).await;
    gateway.logged("no certificate authority is trusted: install ca-certificates, or set SSL_CERT_FILE").await;
}
