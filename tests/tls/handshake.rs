//! Tests of TLS handshakes that fail or never end, and of clients that speak the wrong protocol.

use crate::start;
use futures_util::future::join_all;
use gateway_tests::{
    Certificates, Gateway, Setup,
    certificates::connect,
    eventually, in_time,
    wire::{UPGRADE, Wire},
};
use std::{process::Stdio, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};
use tokio_rustls::rustls::{
    ClientConnection,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};

/// The type of a record with an alert.
const ALERT: u8 = 0x15;

/// Returns the counter of connections that were refused for this reason.
fn refused(reason: &str) -> String {
    format!("gateway_handshakes_refused_total{{reason=\"{reason}\"}}")
}

/// Returns the first bytes that a TLS client sends.
fn hello(certificates: &Certificates) -> Vec<u8> {
    let config = Arc::new(certificates.client(&[&TLS13, &TLS12]));
    let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Sends bytes and returns everything that the gateway answers until it ends the connection.
async fn answer(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(bytes).await;
    let mut answer = Vec::new();
    in_time("the end of the connection", wire.stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_to_use_tls() {
    let (gateway, certificates) = start("").await;
    let expected = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Length: 46\r\n\r\nthis port speaks TLS: use wss:// or https://\n";
    let expected = expected.replace("46", &"this port speaks TLS: use wss:// or https://\n".len().to_string());
    for bytes in [UPGRADE.as_bytes(), b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01\x03\x01", b"\0"] {
        assert_eq!(String::from_utf8(answer(&gateway, bytes).await).unwrap(), expected, "{bytes:?}");
    }
    gateway.metric_is(&refused("tls_required"), 4.0).await;
    certificates.client_of(&gateway).await.assert_alive().await;
}

#[tokio::test]
async fn tls_on_a_plain_port_is_no_http_and_the_log_says_that_it_is_tls() {
    let certificates = Certificates::generate().await;
    let gateway = Gateway::start(Setup { env: vec![("RUST_LOG", "gateway=debug")], ..Setup::default() }).await;
    connect(certificates.client(&[&TLS13]), gateway.address).await.unwrap_err();
    gateway.metric_is(&refused("not_http"), 1.0).await;
    gateway.logged("this port does not speak TLS: use ws://, or set server.tls").await;
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn a_hello_that_is_no_hello_gets_an_alert() {
    let (gateway, certificates) = start("").await;
    // A record may have 2^14 bytes and a little more, and a hello of 2^24 bytes would fit in no buffer.
    let oversized_record = [0x16, 3, 1, 0xff, 0xff].to_vec();
    let mut oversized_hello = [0x16, 3, 1, 0x40, 0x00, 1, 0xff, 0xff, 0xff].to_vec();
    oversized_hello.resize(5 + 0x4000, 0);
    let mut damaged = hello(&certificates);
    let extensions = damaged.len() - 60;
    damaged[extensions..].fill(0xff);
    let other_message = [0x16, 3, 1, 0, 4, 20, 0, 0, 0].to_vec();
    for bytes in [oversized_record, damaged, other_message] {
        let answer = answer(&gateway, &bytes).await;
        assert_eq!(answer.first(), Some(&ALERT), "{bytes:?}: {answer:?}");
    }
    // The library has no alert for this one.
    answer(&gateway, &oversized_hello).await;
    gateway.metric_is(&refused("tls_failed"), 4.0).await;
    certificates.client_of(&gateway).await.assert_alive().await;
}

#[tokio::test]
async fn a_hello_that_is_cut_off_is_gone_or_times_out() {
    let (gateway, certificates) = start(", handshake_timeout_s: 5").await;
    let hello = hello(&certificates);
    let mut gone = Wire::connect(gateway.address).await;
    gone.send(&hello[..hello.len() / 2]).await;
    gone.stream.shutdown().await.unwrap();
    gateway.metric_is(&refused("gone"), 1.0).await;
    let mut rest = Vec::new();
    in_time("the end", gone.stream.read_to_end(&mut rest)).await.unwrap();
    // A client without a hello, one with half of it, and one that never finishes the handshake.
    let unfinished = [0, hello.len() / 2, hello.len()].map(|sent| answer(&gateway, &hello[..sent]));
    // And one that finishes the handshake, and sends no request.
    let silent = async {
        let mut silent = certificates.connect(gateway.address).await.unwrap();
        let _ = in_time("the end", silent.read(&mut [0])).await;
    };
    tokio::join!(join_all(unfinished), silent);
    gateway.metric_is(&refused("timeout"), 4.0).await;
    certificates.client_of(&gateway).await.assert_alive().await;
}

#[tokio::test]
async fn a_good_client_connects_among_500_handshakes_that_stop_half_way() {
    let (gateway, certificates) = start(", handshake_timeout_s: 3600").await;
    let hello = hello(&certificates);
    let mut stopped = Vec::new();
    for i in 0..500 {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(&hello[..hello.len() * (i % 3) / 2]).await;
        stopped.push(wire);
    }
    certificates.client_of(&gateway).await.assert_alive().await;
    assert!((0.0..=f64::EPSILON).contains(&gateway.metric(&refused("timeout")).await));
    drop(stopped);
    gateway.metric_is(&refused("gone"), 500.0).await;
}

/// Runs `openssl s_client` with these arguments and this input. Returns whether it succeeded, and what it printed.
async fn s_client(gateway: &Gateway, certificates: &Certificates, arguments: &str, input: &[u8]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &gateway.address.to_string(), "-servername", "localhost"]);
    command.arg("-CAfile").arg(certificates.authority()).arg("-verify_return_error");
    command.args(arguments.split_whitespace()).kill_on_drop(true);
    let mut client =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl starts");
    // The input stays open, because openssl leaves at its end.
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    let output = in_time("the end of openssl", client.wait_with_output()).await.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

#[tokio::test]
async fn openssl_connects_with_tls_1_2_and_1_3_and_is_refused_with_1_0_and_1_1() {
    let (gateway, certificates) = start("").await;
    // An upgrade, and a close frame with an empty mask.
    let input = [UPGRADE.as_bytes(), &[0x88, 0x80, 0, 0, 0, 0]].concat();
    for version in ["-tls1_2", "-tls1_3"] {
        let (succeeded, printed) =
            s_client(&gateway, &certificates, &format!("{version} -quiet -verify_quiet"), &input).await;
        assert!(succeeded && printed.contains("101 Switching Protocols"), "{version}: {printed}");
    }
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 2.0).await;
    for version in ["-tls1", "-tls1_1"] {
        let arguments = format!("{version} -cipher DEFAULT@SECLEVEL=0");
        let (succeeded, printed) = s_client(&gateway, &certificates, &arguments, b"").await;
        assert!(!succeeded && printed.contains("alert handshake failure"), "{version}: {printed}");
    }
    gateway.metric_is(&refused("tls_failed"), 2.0).await;
}

#[tokio::test]
async fn a_renegotiation_is_refused() {
    let (gateway, certificates) = start("").await;
    let (succeeded, printed) = s_client(&gateway, &certificates, "-tls1_2", b"R\n").await;
    assert!(printed.contains("RENEGOTIATING") && printed.contains("no renegotiation"), "{printed}");
    assert!(!succeeded, "{printed}");
    eventually("the end of the connection", || async {
        (gateway.metric(&refused("gone")).await + gateway.metric(&refused("tls_failed")).await > 0.0).then_some(())
    })
    .await;
    certificates.client_of(&gateway).await.assert_alive().await;
}
