//! Hostile clients. Each attack continues until its time is over, even if the gateway closes its connections.
//! Connections end with a TCP reset.

use bytes::Bytes;
use fastrand::Rng;
use gateway_tests::{
    chat_request, header,
    wire::{self, BINARY, CLOSE, PING, TEXT, UPGRADE, frame, frame_head},
};
use std::{future::Future, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};

/// The first byte of a frame that begins a fragmented binary message.
const BEGINS: u8 = 0x02;
/// The first byte of a frame that continues a fragmented message.
const CONTINUES: u8 = 0x00;
/// The largest message that a gateway accepts by default.
const MAX_MESSAGE: usize = 16 << 20;
/// A user id that no player has.
const USER: i32 = 1_000_000;
/// The pause after a burst. Hostile clients run on the same machine as the gateway and its players.
const BURST_PAUSE: Duration = Duration::from_millis(5);

/// What a hostile client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttackKind {
    HalfHandshakes,
    HeaderFlood,
    /// 14 bytes that announce a frame of 16 MiB.
    HugeFrameHeads,
    Fragments,
    PingFlood,
    Garbage,
    TextFrames,
    SlowReaders,
    ConnectAndReset,
    MalformedPackets,
    /// Chat requests of megabytes that consist of two-byte fields.
    HugeChat,
    /// A heartbeat and a close frame in the same write.
    CloseInTheSameWrite,
    /// More connections than the gateway has descriptors.
    Descriptors,
}

impl AttackKind {
    pub(crate) const ALL: [Self; 13] = [
        Self::HalfHandshakes,
        Self::HeaderFlood,
        Self::HugeFrameHeads,
        Self::Fragments,
        Self::PingFlood,
        Self::Garbage,
        Self::TextFrames,
        Self::SlowReaders,
        Self::ConnectAndReset,
        Self::MalformedPackets,
        Self::HugeChat,
        Self::CloseInTheSameWrite,
        Self::Descriptors,
    ];

    /// Returns the largest number of connections of such an attack.
    pub(crate) fn most_connections(self) -> usize {
        match self {
            Self::HalfHandshakes | Self::HugeFrameHeads => 100,
            Self::HugeChat => 3,
            Self::Descriptors => 600,
            _ => 10,
        }
    }
}

/// A number of hostile clients that do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attack {
    pub(crate) way: AttackKind,
    pub(crate) connections: usize,
    pub(crate) lasts: Duration,
    pub(crate) seed: u64,
}

/// Runs the attack until its time is over.
pub(crate) async fn attack(gateway: SocketAddr, attack: &Attack) {
    let mut rng = Rng::with_seed(attack.seed);
    let until = Instant::now() + attack.lasts;
    let mut clients = JoinSet::new();
    // This attack always has all its connections, since it has to exhaust the gateway's descriptors.
    let connections = if attack.way == AttackKind::Descriptors {
        AttackKind::Descriptors.most_connections()
    } else {
        attack.connections
    };
    for _ in 0..connections {
        clients.spawn(client(gateway, attack.way, rng.fork(), until));
    }
    clients.join_all().await;
}

/// Runs one hostile client, which connects again when its connection ends.
pub(crate) async fn client(gateway: SocketAddr, way: AttackKind, mut rng: Rng, until: Instant) {
    while Instant::now() < until {
        let _ = time::timeout_at(until, run_connection(gateway, way, &mut rng)).await;
        let _ = time::timeout_at(until, time::sleep(BURST_PAUSE)).await;
    }
}

/// Runs one connection.
async fn run_connection(gateway: SocketAddr, way: AttackKind, rng: &mut Rng) -> io::Result<()> {
    let mut stream = TcpStream::connect(gateway).await?;
    wire::reset(&stream);
    match way {
        AttackKind::HalfHandshakes => {
            stream.write_all(&UPGRADE.as_bytes()[..rng.usize(..UPGRADE.len())]).await?;
            wait(stream).await
        }
        AttackKind::HeaderFlood => {
            stream.write_all(b"GET /ws HTTP/1.1\r\n").await?;
            flood(stream, || b"X-Flood: 0123456789abcdef\r\n".repeat(64)).await
        }
        AttackKind::ConnectAndReset => stream.write_all(&UPGRADE.as_bytes()[..rng.usize(..=UPGRADE.len())]).await,
        _ => {
            upgrade(&mut stream).await?;
            session(stream, way, rng).await
        }
    }
}

/// Misbehaves on a connection that is upgraded.
async fn session(mut stream: TcpStream, way: AttackKind, rng: &mut Rng) -> io::Result<()> {
    match way {
        AttackKind::HugeFrameHeads => {
            stream.write_all(&[&frame_head(BINARY, 0x80, MAX_MESSAGE as u64)[..], &[0; 4]].concat()).await?;
            wait(stream).await
        }
        AttackKind::Fragments => {
            stream.write_all(&frame(BEGINS, b"x")).await?;
            flood(stream, || frame(CONTINUES, b"").repeat(128)).await
        }
        AttackKind::PingFlood => flood(stream, || frame(PING, b"ping").repeat(128)).await,
        AttackKind::Garbage => flood(stream, || (0..256).map(|_| rng.u8(..)).collect()).await,
        AttackKind::TextFrames => flood(stream, || frame(TEXT, b"hello")).await,
        AttackKind::SlowReaders => {
            let heartbeat = frame(BINARY, &[header(1, 3), vec![0; 64 << 10]].concat());
            loop {
                stream.write_all(&heartbeat).await?;
                time::sleep(BURST_PAUSE).await;
            }
        }
        AttackKind::MalformedPackets => flood(stream, || malformed(rng)).await,
        AttackKind::HugeChat => flood(stream, || huge_chat(rng)).await,
        AttackKind::CloseInTheSameWrite => {
            let heartbeat = frame(BINARY, &[&header(1, 3)[..], b"good-bye"].concat());
            stream.write_all(&[heartbeat, frame(CLOSE, &1000_u16.to_be_bytes())].concat()).await?;
            discard(&mut stream).await
        }
        _ => wait(stream).await,
    }
}

/// Sends these packets again and again for this long, and discards the replies.
pub(crate) async fn send_repeatedly(gateway: SocketAddr, packets: Vec<Bytes>, lasts: Duration) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        let visit = async {
            let mut stream = TcpStream::connect(gateway).await?;
            wire::reset(&stream);
            upgrade(&mut stream).await?;
            flood(stream, || packets.iter().flat_map(|packet| frame(BINARY, packet)).collect()).await
        };
        let _ = time::timeout_at(until, visit).await;
        let _ = time::timeout_at(until, time::sleep(BURST_PAUSE)).await;
    }
}

/// Returns packets that are too short, on routes that no plugin serves, or with payloads that cannot be decoded.
fn malformed(rng: &mut Rng) -> Vec<u8> {
    let mut packets = Vec::new();
    for _ in 0..16 {
        let packet = match rng.u8(..3) {
            0 => vec![0; rng.usize(..8)],
            1 => header(1, rng.u8(0x70..)),
            _ => [header(1, 1), (0..rng.usize(..64)).map(|_| rng.u8(..)).collect()].concat(),
        };
        packets.extend(frame(BINARY, &packet));
    }
    packets
}

fn huge_chat(rng: &mut Rng) -> Vec<u8> {
    let len = rng.usize(1 << 20..MAX_MESSAGE - 1024);
    // Field 8 is a varint of one byte, and is repeated.
    let fields = [0x40, 0x01].repeat(len / 2);
    frame(BINARY, &[header(1, 1), chat_request("mmo", USER, "huge"), fields].concat())
}

async fn upgrade(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(UPGRADE.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 101") { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// Writes bursts until the connection ends, and discards what the gateway sends.
async fn flood(stream: TcpStream, mut burst: impl FnMut() -> Vec<u8>) -> io::Result<()> {
    let (mut reader, mut writer) = split(stream);
    let writing = async {
        loop {
            writer.write_all(&burst()).await?;
            time::sleep(BURST_PAUSE).await;
        }
    };
    either(writing, discard(&mut reader)).await
}

async fn either(
    one: impl Future<Output = io::Result<()>>,
    other: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::select! {
        ended = one => ended,
        ended = other => ended,
    }
}

/// Waits until the gateway ends the connection.
async fn wait(mut stream: TcpStream) -> io::Result<()> {
    discard(&mut stream).await
}

async fn discard(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<()> {
    let mut chunk = vec![0; 4096];
    while reader.read(&mut chunk).await? > 0 {}
    Ok(())
}
