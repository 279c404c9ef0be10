//! Fuzz targets for input that the gateway does not trust: packets, frames, handshakes, deliveries, gateway.yaml and
//! plugin files. No input may cause a panic, an endless loop, or a result that another parser contradicts.
//!
//! `cargo test` runs each target for a second with random input. `make fuzz FUZZ_SECONDS=600` runs each target for 600
//! seconds. `cargo bolero test -p gateway-fuzz frames` (with cargo-bolero) runs one target with coverage-guided input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bolero::{check, generator::produce};
use bytes::Bytes;
use chat_proto::chat::ChatResponse;
use gateway::{
    auth::Authenticator,
    config::{Config, Server},
    delivery::session::Session,
    net::{
        budget::Budget,
        handshake,
        receiver::{Message, Receiver},
    },
    plugin::{Compiler, Described},
    routing::payload_limits::PayloadLimits,
    telemetry::metrics::Metrics,
};
use gateway_plugin_sdk::protobuf::fields;
use gateway_wire::packet;
use prost::Message as _;
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{self, Runtime},
    time,
};

/// The maximum number of bytes that a receiver leaves unread: the head of a frame and the payload of a control frame.
const MAX_LEFT_BYTES: usize = 14 + 125;

/// The stack size of a thread that compiles a plugin, as in the process that judges plugin files.
const COMPILER_STACK_BYTES: usize = 4 << 20;

#[test]
fn header() {
    check!().for_each(|bytes: &[u8]| match packet::parse(Bytes::copy_from_slice(bytes)) {
        Ok((header, payload)) => assert_eq!([&header.encode()[..], &payload].concat(), bytes),
        Err(error) => assert!(error.0 == bytes.len() && bytes.len() < packet::HEADER_LEN),
    });
}

/// Returns the messages that a receiver finds in the bytes if they arrive in parts of at most `part` bytes. Stops at
/// the first violation of the protocol.
fn received(bytes: &[u8], part: usize) -> Vec<Message> {
    static CONFIG: LazyLock<Config> =
        LazyLock::new(|| Config::parse("plugins: { directory: . }\nserver: { max_message_bytes: 65536 }").unwrap());
    let metrics = Arc::new(Metrics::new());
    let session = Arc::new(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), Arc::clone(&CONFIG.server.outbox)));
    let budget = Arc::new(Budget::new(1 << 20, Arc::clone(&metrics)));
    let limits = Arc::<PayloadLimits>::default();
    let mut receiver = Receiver::new(&CONFIG.server, budget.lease(session), limits, metrics);
    let (mut kept, mut messages) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(part) {
        kept.extend_from_slice(piece);
        let mut left = &kept[..];
        loop {
            match receiver.next(&mut left) {
                // No route takes a payload in this test. The receiver reports such a packet as too large if its bytes
                // arrive in parts. If the packet arrives whole, routing would refuse it, so both count as the same.
                Ok(Some(Message::Packet(packet))) if packet.len() > packet::HEADER_LEN => {
                    let (header, payload) = packet::parse(packet).unwrap();
                    messages.push(Message::TooLarge { header, bytes: payload.len(), max: 0 });
                }
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
        assert!(left.len() < MAX_LEFT_BYTES, "{} bytes are left unread", left.len());
        kept = left.to_vec();
    }
    messages
}

#[test]
fn frames() {
    check!().with_generator((produce::<Vec<u8>>(), 1..64_usize)).for_each(|(bytes, part)| {
        let (cut, whole) = (received(bytes, *part), received(bytes, usize::MAX));
        assert_eq!(cut, whole, "the messages depend on where the bytes are cut");
    });
}

#[test]
fn handshake() {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| runtime::Builder::new_current_thread().enable_all().build().unwrap());
    static AUTH: LazyLock<Authenticator> = LazyLock::new(|| Authenticator::new(Arc::default()));
    static SERVER: LazyLock<Server> = LazyLock::new(|| {
        let keys = "allowed_origins: ['https://*.a'], subprotocols: [b], trusted_proxies: ['::/0', 0.0.0.0/0]";
        Config::parse(&format!("plugins: {{ directory: . }}\nserver: {{ {keys} }}")).unwrap().server
    });
    let valid = "GET /ws HTTP/1.1\r\nHost: a\r\nOrigin: https://a.a\r\nX-Forwarded-For: 1.2.3.4, [::1]:5\r\n\
                 Sec-WebSocket-Protocol: a, b, bearer.c\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    // Half of the inputs are a valid request in which some bytes are replaced.
    check!().with_generator((produce::<bool>(), produce::<Vec<u8>>(), 0..valid.len())).for_each(
        |(mutate, bytes, at)| {
            let mut request = bytes.clone();
            if *mutate {
                request = valid.into();
                let end = request.len().min(at + bytes.len());
                request.splice(*at..end, bytes.iter().copied());
            }
            RUNTIME.block_on(async {
                let (mut client, mut server) = tokio::io::duplex(64 << 10);
                let mut remote = SocketAddr::from(([127, 0, 0, 1], 1));
                let upgrade = async {
                    let is_upgraded =
                        match handshake::request(&mut server, &mut remote, true, &SERVER, &AUTH, |_| Ok(())).await {
                            Ok(request) => request.accept(&mut server).await.is_ok(),
                            Err(_) => false,
                        };
                    drop(server);
                    is_upgraded
                };
                let talk = async {
                    // The gateway may close the connection before it has read everything.
                    let _ = client.write_all(&request).await;
                    let _ = client.shutdown().await;
                    let mut answer = Vec::new();
                    let _ = client.read_to_end(&mut answer).await;
                    answer
                };
                let both = async { tokio::join!(upgrade, talk) };
                let (is_upgraded, answer) = time::timeout(Duration::from_secs(60), both).await.expect("an answer");
                assert_eq!(is_upgraded, answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
            });
        },
    );
}

#[test]
fn delivery() {
    check!().for_each(|bytes: &[u8]| {
        let (Ok(expected), Ok(read)) = (ChatResponse::decode(bytes), fields(bytes).collect::<Result<Vec<_>, _>>())
        else {
            return;
        };
        // Both parsers must find the same target. Input that only one of them accepts is skipped: the policies refuse
        // groups, which prost skips, and prost checks fields that the policies do not read.
        let (mut user, mut session) = (0, "");
        for field in read {
            match field.number {
                10 => user = field.int32().unwrap(),
                11 => session = field.string().unwrap(),
                _ => {}
            }
        }
        assert_eq!((user, session), (expected.target_user_id, &*expected.target_session_id));
    });
}

#[test]
fn configuration() {
    let valid = include_str!("../../../gateway.yaml");
    check!().with_generator((produce::<bool>(), produce::<Vec<u8>>(), 0..valid.len())).for_each(
        |(mutate, bytes, at)| {
            let mut text = if *mutate { valid.as_bytes().to_vec() } else { bytes.clone() };
            if *mutate {
                let end = text.len().min(at + bytes.len());
                text.splice(*at..end, bytes.iter().copied());
            }
            if let Err(errors) = Config::parse(&String::from_utf8_lossy(&text)) {
                assert!(!errors.is_empty());
            }
        },
    );
}

#[test]
fn plugin_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist/system.wasm");
    let valid = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error} (`make plugins`)", path.display()));
    static COMPILER: LazyLock<Compiler> = LazyLock::new(|| Compiler::new().unwrap());
    let mutations = (0..valid.len(), produce::<Vec<u8>>());
    check!().with_generator((produce::<bool>(), mutations)).for_each(|(mutate, (at, bytes))| {
        let mut file = bytes.clone();
        if *mutate {
            file = valid.clone();
            let end = file.len().min(at + bytes.len());
            file.splice(*at..end, bytes.iter().copied());
        }
        thread::scope(|scope| {
            let load = || Described::load(&COMPILER, &file, 64 << 20).map(drop);
            let loading = thread::Builder::new().stack_size(COMPILER_STACK_BYTES).spawn_scoped(scope, load).unwrap();
            if let Err(error) = loading.join().expect("no panic") {
                assert!(!error.to_string().is_empty());
            }
        });
    });
}
