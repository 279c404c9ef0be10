//! A connection to Redis: what is queued is one write, and what one read brings is handed over without a queue between.

use super::resp::{self, Frame, Malformed};
use crate::config;
use bytes::{Buf, BytesMut};
use redis::{ConnectionAddr, IntoConnectionInfo};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

/// How long Redis may take to accept a connection, to take what is written, or to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What is read at once, and what is gathered before it is written.
const CHUNK: usize = 64 << 10;

/// Why there is no connection any more, or none yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its address cannot be used: {0}")]
    Address(String),
    #[error("it does not answer within {TIMEOUT:?}")]
    Timeout,
    #[error("it refused {command}: {why}")]
    Refused { command: &'static str, why: String },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<time::error::Elapsed> for LinkError {
    fn from(_: time::error::Elapsed) -> Self {
        Self::Timeout
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that has been let in.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: Vec<u8>,
}

impl Connection {
    /// Connects and introduces itself.
    pub(super) async fn open(config: &config::Redis) -> Result<Self, LinkError> {
        let info = config.url.as_str().into_connection_info().map_err(|error| LinkError::Address(error.to_string()))?;
        let stream = time::timeout(TIMEOUT, connect(info.addr())).await??;
        let mut connection = Self { stream, input: BytesMut::new(), output: Vec::new() };
        let user = info.redis_settings().username().unwrap_or("default");
        match config.password.as_deref().or(info.redis_settings().password()) {
            Some(password) => connection.command(&[b"HELLO", b"3", b"AUTH", user.as_bytes(), password.as_bytes()]),
            None => connection.command(&[b"HELLO", b"3"]),
        }
        connection.ask("HELLO 3").await?;
        connection.ping().await?;
        Ok(connection)
    }

    /// Queues a command.
    pub(super) fn command(&mut self, parts: &[&[u8]]) {
        resp::command(&mut self.output, parts);
    }

    /// Queues a publish, and writes what is queued where that has become much.
    pub(super) async fn publish(&mut self, topic: &str, body: &[u8]) -> Result<(), LinkError> {
        resp::publish(&mut self.output, topic.as_bytes(), body);
        if self.output.len() >= CHUNK { self.flush().await } else { Ok(()) }
    }

    /// Writes what is queued.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        time::timeout(TIMEOUT, self.stream.write_all(&self.output)).await??;
        time::timeout(TIMEOUT, self.stream.flush()).await??;
        self.output.clear();
        // What a large message took is given back.
        self.output.shrink_to(2 * CHUNK);
        Ok(())
    }

    /// Waits for frames and hands all that are whole over. Nothing is lost where this is given up half-way.
    pub(super) async fn frames(&mut self, mut each: impl FnMut(Frame<'_>)) -> Result<(), LinkError> {
        loop {
            let mut read = 0;
            while let Some((frame, len)) = resp::parse(&self.input[read..])? {
                each(frame);
                read += len;
            }
            self.input.advance(read);
            if read > 0 {
                return Ok(());
            }
            if self.input.is_empty() {
                // What a large message took is given back.
                self.input =
                    if self.input.capacity() > 2 * CHUNK { BytesMut::new() } else { std::mem::take(&mut self.input) };
            }
            self.input.reserve(CHUNK);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
            }
        }
    }

    /// The same, but not for longer than Redis may take to answer.
    pub(super) async fn answers(&mut self, each: impl FnMut(Frame<'_>)) -> Result<(), LinkError> {
        time::timeout(TIMEOUT, self.frames(each)).await?
    }

    /// Whether it still answers. Nothing else may be under way.
    pub(super) async fn ping(&mut self) -> Result<(), LinkError> {
        self.command(&[b"PING"]);
        self.ask("PING").await
    }

    async fn ask(&mut self, command: &'static str) -> Result<(), LinkError> {
        self.flush().await?;
        let mut refused = None;
        self.answers(|frame| {
            if let Frame::Error(why) = frame {
                refused = Some(String::from_utf8_lossy(why).into_owned());
            }
        })
        .await?;
        refused.map_or(Ok(()), |why| Err(LinkError::Refused { command, why }))
    }
}

async fn connect(address: &ConnectionAddr) -> Result<Box<dyn Stream>, LinkError> {
    match address {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(host, *port).await?)),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            let name = ServerName::try_from(host.clone()).map_err(|error| LinkError::Address(error.to_string()))?;
            Ok(Box::new(tls()?.connect(name, tcp(host, *port).await?).await?))
        }
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => {
            Err(LinkError::Address("it is not redis://, rediss:// with a certificate to trust, or unix://".to_owned()))
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Trusts whom the system trusts.
fn tls() -> Result<TlsConnector, LinkError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
