//! One session with the gateway: the upgrade, the welcome, and the answers to pings and close frames.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use gateway_connection::{self as connection, Ended, Target, text};
use gateway_wire::packet::{self, ROUTE_SYSTEM};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::frame::{self, Frame};
use crate::socket::{Outlet, Reader, receive};
use crate::tls::Tls;

/// The time that TCP, TLS, the upgrade and the welcome may take together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that the gateway may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of sessions that are opened at a time. It is enough to keep a gateway busy, and no more than its listener
/// queues.
const OPENING: usize = 32;

/// The longest head of an answer to the upgrade, in bytes. A gateway's is far shorter.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// A session that has got its welcome.
pub(crate) struct Session {
    pub(crate) reader: Reader,
    pub(crate) outlet: Outlet,
}

impl Session {
    fn new(tcp: TcpStream, tls: Option<Arc<Tls>>, received: Vec<u8>) -> Self {
        let (half, write) = tcp.into_split();
        Self { reader: Reader { half, tls: tls.clone(), received }, outlet: Outlet::new(write, tls) }
    }
}

/// The address of the gateway, the rules of TLS and the upgrade request, made once for all sessions.
pub(crate) struct Dialer {
    target: Target,
    address: SocketAddr,
    tls: Option<connection::Tls>,
    upgrade: Vec<u8>,
}

impl Dialer {
    /// Looks up the address, and reads the certificates to trust.
    pub(crate) async fn new(target: Target) -> anyhow::Result<Self> {
        let url = &target.url;
        let address = lookup_host(url.address())
            .await
            .with_context(|| format!("cannot look up {url}"))?
            .next()
            .with_context(|| format!("{url} has no address"))?;
        let upgrade = upgrade_request(&target)?;
        let tls = connection::Tls::new(&target)?;
        Ok(Self { target, address, tls, upgrade })
    }

    /// Opens a session.
    pub(crate) async fn open(&self) -> anyhow::Result<Session> {
        let url = &self.target.url;
        match timeout(OPEN_TIMEOUT, self.try_open()).await {
            Ok(outcome) => outcome.with_context(|| format!("no session with {url}")),
            Err(_) => bail!("no session with {url} within {} s; is this a gateway?", OPEN_TIMEOUT.as_secs()),
        }
    }

    async fn try_open(&self) -> anyhow::Result<Session> {
        let mut tcp = TcpStream::connect(self.address).await.map_err(|error| match error.kind() {
            ErrorKind::AddrNotAvailable => {
                anyhow!("{error}; all local ports are in use (net.ipv4.ip_local_port_range)")
            }
            _ => anyhow!("{error}; is the gateway running?"),
        })?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            let received = self.begin(&mut tcp).await?;
            return Ok(Session::new(tcp, None, received));
        };
        let mut stream = tls.connect(tcp).await?;
        let mut received = self.begin(&mut stream).await?;
        let (tcp, connection) = stream.into_inner();
        let tls = Tls::new(connection);
        received.extend(tls.open(&[])?);
        Ok(Session::new(tcp, Some(Arc::new(tls)), received))
    }

    /// Asks for the upgrade, and waits for the welcome. Returns the bytes that have arrived behind it.
    async fn begin(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> anyhow::Result<Vec<u8>> {
        stream.write_all(&self.upgrade).await?;
        stream.flush().await?;
        let mut received = Vec::new();
        let head = receive(stream, &mut received, upgraded).await?;
        received.drain(..head);
        let first = receive(stream, &mut received, welcome).await?;
        received.drain(..first);
        Ok(received)
    }
}

/// Opens this many sessions, and hands over each with the nanoseconds that it took to open.
pub(crate) async fn open_all(
    dialer: &Dialer,
    sessions: usize,
    mut opened: impl FnMut(Session, u64),
) -> anyhow::Result<()> {
    let open = async || {
        let clock = Clock::new();
        let session = dialer.open().await?;
        anyhow::Ok((session, clock.now()))
    };
    let mut opening = stream::iter((0..sessions).map(|_| open())).buffer_unordered(OPENING);
    while let Some((session, took)) = opening.try_next().await? {
        opened(session, took);
    }
    Ok(())
}

/// Closes sessions with code 1000, and waits until the tasks that read from them have ended.
pub(crate) async fn close_all(outlets: impl Iterator<Item = &Outlet>, tasks: &mut JoinSet<anyhow::Error>) {
    let close = frame::close();
    for outlet in outlets {
        outlet.finish(&close);
    }
    let _ = timeout(CLOSE_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
}

/// The request of RFC 6455, section 4.1. The answer to its key is not checked, since the welcome shows that a gateway
/// answers.
fn upgrade_request(target: &Target) -> anyhow::Result<Vec<u8>> {
    let (host, port) = target.url.address();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let path = target.url.uri().path_and_query().map_or("/", |path| path.as_str());
    let authorization = match &target.token {
        Some(token) if token.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => {
            format!("Authorization: Bearer {token}\r\n")
        }
        Some(_) => bail!("--token: it holds a character that no HTTP header can carry"),
        None => String::new(),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{authorization}\r\n"
    );
    Ok(request.into_bytes())
}

/// The length of the head of the answer, or `None` if the head is not whole yet. Fails if the upgrade is refused.
fn upgraded(received: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        ensure!(received.len() < MAX_HEAD_BYTES, "what answers is no gateway");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&received[..end]);
    let status = head.lines().next().unwrap_or_default();
    if status.split_ascii_whitespace().nth(1) != Some("101") {
        let hint = if status.contains(" 401") { "; does it ask for another --token?" } else { "" };
        bail!("the upgrade was refused: {}{hint}", text::clean(status));
    }
    Ok(Some(end + 4))
}

/// The length of the frame with the welcome, or `None` if the frame is not whole yet. Fails if it carries no welcome.
fn welcome(received: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some((frame, length)) = frame::parse(received)? else { return Ok(None) };
    if let Frame::Binary(message) = frame
        && let Ok((header, _)) = packet::split(message)
        && header.route == ROUTE_SYSTEM
        && header.seq == 0
        && !header.is_reply()
    {
        return Ok(Some(length));
    }
    Err(anyhow!("the first packet is not the Welcome; is this a gateway?"))
}

/// The message in a frame, or `None` if the frame is a ping or a pong. Answers pings. Answers a close frame as well,
/// and then fails.
pub(crate) fn message<'a>(frame: &Frame<'a>, outlet: &Outlet) -> anyhow::Result<Option<&'a [u8]>> {
    match *frame {
        Frame::Binary(message) => return Ok(Some(message)),
        Frame::Ping(payload) => outlet.send(&frame::pong(payload))?,
        Frame::Pong => {}
        Frame::Close(reason) => {
            outlet.finish(&frame::close());
            return Err(Ended::Closed(reason.map(|(code, reason)| (code, reason.to_owned()))).into());
        }
    }
    Ok(None)
}
