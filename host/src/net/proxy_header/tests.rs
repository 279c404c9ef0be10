use super::*;
use crate::config::{Config, Server};
use proptest::prelude::*;
use std::sync::Arc;
use tokio::{io::AsyncWriteExt, runtime};

const PEER: &str = "10.0.0.1:4711";

/// Returns a header of version 2 with this command and family, and with this body.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &len, body].concat()
}

/// The addresses 203.0.113.7:56324 and 10.0.0.9:8080, as a header of version 2 has them.
const IPV4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 9, 0xdc, 0x04, 0x1f, 0x90];

/// The addresses [2001:db8::7]:56324 and [::1]:8080.
fn ipv6() -> Vec<u8> {
    let mut body = vec![0; 36];
    body[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    (body[15], body[31]) = (7, 1);
    body[32..].copy_from_slice(&IPV4[8..]);
    body
}

fn valid() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let tlvs = [&IPV4[..], &[0x01, 0, 2, b'h', b'2'], &[0xee; 900]].concat();
    let mapped = [&[0; 10][..], &[0xff, 0xff, 203, 0, 113, 7], &ipv6()[16..]].concat();
    vec![
        (b"PROXY TCP4 203.0.113.7 10.0.0.9 56324 8080\r\n".to_vec(), Some("203.0.113.7:56324")),
        (b"PROXY TCP6 2001:db8::7 ::1 56324 8080\r\n".to_vec(), Some("[2001:db8::7]:56324")),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 56324 8080\r\n".to_vec(), Some("203.0.113.7:56324")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), None),
        (v2(0x21, 0x11, &IPV4), Some("203.0.113.7:56324")),
        (v2(0x21, 0x21, &ipv6()), Some("[2001:db8::7]:56324")),
        (v2(0x21, 0x21, &mapped), Some("203.0.113.7:56324")),
        (v2(0x21, 0x11, &tlvs), Some("203.0.113.7:56324")),
        (v2(0x21, 0x11, &[&IPV4[..], &[0; MAX_V2_BYTES - 28]].concat()), Some("203.0.113.7:56324")),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x31, &[b'x'; 216]), None),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &IPV4), None),
        (v2(0x20, 0x11, &[]), None),
    ]
}

/// Reads a header from bytes. Returns it, and the bytes that were not read.
async fn read_from(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, Invalid>, Vec<u8>) {
    (read(&mut bytes).await, bytes.to_vec())
}

#[tokio::test]
async fn a_header_names_the_client_and_not_one_byte_after_it_is_read() {
    for (header, client) in valid() {
        let sent = [&header[..], b"\r\nGET /ws"].concat();
        let (found, left) = read_from(&sent).await;
        assert_eq!(found.unwrap().map(|client| client.to_string()).as_deref(), client, "{header:?}");
        assert_eq!(left, b"\r\nGET /ws", "{header:?}");
    }
}

#[tokio::test]
async fn a_header_may_arrive_byte_by_byte() {
    for (header, client) in valid() {
        let (mut proxy, mut gateway) = tokio::io::duplex(1);
        let (sent, found) = tokio::join!(proxy.write_all(&header), read(&mut gateway));
        sent.unwrap();
        assert_eq!(found.unwrap().map(|client| client.to_string()).as_deref(), client, "{header:?}");
    }
}

#[tokio::test]
async fn a_header_that_ends_too_early_is_truncated() {
    for (header, _) in valid() {
        for len in (1..header.len()).filter(|len| *len < 130 || len % 1000 == 0) {
            let found = read_from(&header[..len]).await.0;
            assert!(matches!(found, Err(Invalid::Truncated)), "{:?}: {found:?}", &header[..len]);
        }
    }
    assert!(matches!(read_from(b"").await.0, Err(Invalid::Gone(_))));
}

#[tokio::test]
async fn anything_else_is_refused() {
    let malformed = "the PROXY header is malformed";
    let missing = "the connection does not begin with a PROXY header";
    let long = "the PROXY header is over 107 bytes (version 1) or 16384 bytes (version 2)";
    let cases: [(&[u8], &str); 23] = [
        (b"GET /ws HTTP/1.1\r\n\r\n", missing),
        (&[0x16, 3, 1, 2, 0], missing),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", missing),
        (b"PROXYxUNKNOWN\r\n", missing),
        (b"\r\n\r\nGET /ws HTTP/1.1\r\n\r\n", missing),
        (b"PROXY \r\n          ", malformed),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", malformed),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", malformed),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", malformed),
        (b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n", malformed),
        (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", malformed),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", malformed),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", malformed),
        (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", malformed),
        (b"PROXY UNKNOWN a\rb\r\n", malformed),
        (&[b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat(), long),
        (&[b"PROXY TCP4 ", &[b'1'; 200][..]].concat(), long),
        (&v2(0x11, 0x11, &IPV4), malformed),
        (&v2(0x22, 0x11, &IPV4), malformed),
        (&v2(0x21, 0x41, &IPV4), malformed),
        (&v2(0x21, 0x11, &IPV4[..11]), malformed),
        (&v2(0x21, 0x21, &ipv6()[..35]), malformed),
        (&v2(0x21, 0x11, &[0; MAX_V2_BYTES - 15]), long),
    ];
    for (sent, because) in cases {
        let found = read_from(sent).await.0.map_err(|error| error.to_string());
        assert_eq!(found, Err(because.to_owned()), "{:?}", String::from_utf8_lossy(sent));
    }
}

fn server(keys: &str) -> Server {
    let text = format!("plugins: {{ directory: . }}\nserver: {{ {keys} }}");
    Config::parse(&text).unwrap().server
}

#[tokio::test]
async fn refused_headers_are_counted_by_reason() {
    let server = server("trusted_proxies: [10.0.0.0/8], proxy_protocol: true");
    for (sent, reason) in [(&b"GET"[..], "proxy_header"), (b"PROXY", "proxy_header"), (b"", "gone")] {
        let (metrics, mut bytes) = (Arc::new(Metrics::new()), sent);
        assert_eq!(client(&mut bytes, PEER.parse().unwrap(), &server, &metrics).await, None);
        let line = format!("gateway_handshakes_refused_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.encode().unwrap().contains(&line), "{line}");
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_is_asked_for_a_header_and_only_if_it_is_configured() {
    let sent = b"PROXY TCP4 203.0.113.7 10.0.0.9 56324 8080\r\n";
    let cases = [
        ("trusted_proxies: [10.0.0.0/8], proxy_protocol: true", PEER, "203.0.113.7:56324", 0),
        ("trusted_proxies: [10.0.0.0/8], proxy_protocol: true", "[::ffff:10.0.0.1]:1", "203.0.113.7:56324", 0),
        ("trusted_proxies: [10.0.0.0/8], proxy_protocol: true", "11.0.0.1:1", "11.0.0.1:1", sent.len()),
        ("trusted_proxies: [10.0.0.0/8]", PEER, PEER, sent.len()),
        ("", PEER, PEER, sent.len()),
        ("", "[::ffff:10.0.0.1]:1", "10.0.0.1:1", sent.len()),
    ];
    for (keys, peer, expected, left) in cases {
        let mut bytes = &sent[..];
        let found = client(&mut bytes, peer.parse().unwrap(), &server(keys), &Metrics::new()).await;
        let expected = Client { address: expected.parse().unwrap(), may_be_forwarded: true };
        assert_eq!((found, bytes.len()), (Some(expected), left), "{keys} {peer}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_fail_otherwise_or_read_too_much(
        begin in 0..3_usize,
        change in any::<prop::sample::Index>(),
        to in any::<u8>(),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let begins = [b"PROXY TCP4 203.0.113.7 10.0.0.9 56324 8080\r\n".to_vec(), v2(0x21, 0x11, &IPV4), Vec::new()];
        let mut sent = [&begins[begin][..], &rest].concat();
        if !sent.is_empty() {
            let at = change.index(sent.len());
            sent[at] = to;
        }
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let (found, left) = runtime.block_on(read_from(&sent));
        if found.is_ok() {
            // The header alone gives the same result, and is complete.
            let header = &sent[..sent.len() - left.len()];
            let (again, nothing) = runtime.block_on(read_from(header));
            prop_assert_eq!(again.unwrap(), found.unwrap());
            prop_assert!(nothing.is_empty());
            prop_assert!(matches!(runtime.block_on(read_from(&header[..header.len() - 1])).0, Err(Invalid::Truncated)));
        }
    }
}
