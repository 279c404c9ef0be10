//! A connection to Redis. All queued commands are one write. The frames of a read are passed on directly, without a
//! queue.

use super::{
    error::{CANNOT_SAVE, LinkError, for_log, within},
    place::Switches,
};
use crate::{config, tls_client};
use bytes::{Buf, BytesMut};
use gateway_wire::resp::{self, Frame, Parsed};
use redis::{ConnectionAddr, ConnectionInfo};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_rustls::rustls::pki_types::ServerName;

/// The number of bytes that a read has space for, and the number of queued bytes that causes a write.
const CHUNK: usize = 64 << 10;

/// The maximum number of bytes that a frame has in addition to its message: the topic, and the bytes that the protocol
/// adds.
const FRAME_OVERHEAD: usize = 64 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to Redis after a successful handshake.
///
/// A write may take the configured timeout, and so may the wait for an answer. A connection on which nothing is under way
/// is checked by probes.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    address: ConnectionAddr,
    switches: Switches,
    timeout: Duration,
    /// When bytes last arrived.
    last_read: Instant,
    /// The maximum size of a frame, in bytes. A larger frame is dropped as it arrives.
    max_frame_bytes: usize,
    input: BytesMut,
    /// The number of bytes of a dropped frame that have not arrived yet.
    to_skip: usize,
    output: Vec<u8>,
}

impl Connection {
    /// Connects to Redis, authenticates, and waits for the answer to a ping.
    pub(super) async fn open(
        config: &config::Redis,
        server: ConnectionInfo,
        switches: Switches,
    ) -> Result<Self, LinkError> {
        within(config.timeout, config.timeout, Self::handshake(config, server, switches)).await
    }

    async fn handshake(config: &config::Redis, server: ConnectionInfo, switches: Switches) -> Result<Self, LinkError> {
        let mut connection = Self {
            stream: connect(server.addr()).await?,
            address: server.addr().clone(),
            switches,
            timeout: config.timeout,
            last_read: Instant::now(),
            max_frame_bytes: config.max_message_bytes + FRAME_OVERHEAD,
            input: BytesMut::new(),
            to_skip: 0,
            output: Vec::new(),
        };
        let user = server.redis_settings().username().unwrap_or("default");
        match server.redis_settings().password() {
            Some(password) => connection.command(&[b"HELLO", b"3", b"AUTH", user.as_bytes(), password.as_bytes()]),
            None => connection.command(&[b"HELLO", b"3"]),
        }
        if connection.ask("HELLO 3").await?.is_replica {
            return Err(connection.is_replica());
        }
        // The user may have the right to say hello and no other right.
        connection.command(&[b"PING"]);
        connection.ask("PING").await?;
        Ok(connection)
    }

    /// Returns the maximum time of a write, and of the wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the address of the server.
    pub(super) fn address(&self) -> &ConnectionAddr {
        &self.address
    }

    /// Returns when bytes last arrived.
    pub(super) fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Returns the error for an answer that did not arrive in time.
    pub(super) fn timed_out(&self) -> LinkError {
        LinkError::Timeout(self.timeout)
    }

    /// Returns the error for a server that is a replica.
    pub(super) fn is_replica(&self) -> LinkError {
        LinkError::Replica(self.address.to_string())
    }

    /// Queues a command.
    pub(super) fn command(&mut self, parts: &[&[u8]]) {
        resp::command(&mut self.output, parts);
    }

    /// Queues a publish. Writes all queued commands if they have reached [`CHUNK`] bytes.
    pub(super) async fn publish(&mut self, topic: &str, body: &[u8]) -> Result<(), LinkError> {
        resp::publish(&mut self.output, topic.as_bytes(), body);
        self.flush_if_large().await
    }

    /// Queues a command that may be large. Writes all queued commands if they have reached [`CHUNK`] bytes.
    pub(super) async fn large_command(&mut self, parts: &[&[u8]]) -> Result<(), LinkError> {
        self.command(parts);
        self.flush_if_large().await
    }

    async fn flush_if_large(&mut self) -> Result<(), LinkError> {
        if self.output.len() >= CHUNK { self.flush().await } else { Ok(()) }
    }

    /// Writes all queued commands.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        let Self { stream, output, timeout, .. } = self;
        let write = async {
            stream.write_all(output).await?;
            Ok(stream.flush().await?)
        };
        within(*timeout, *timeout, write).await?;
        output.clear();
        // Releases the memory that a large message has taken.
        output.shrink_to(2 * CHUNK);
        Ok(())
    }

    /// Waits for frames, and passes each complete frame to `each`. Cancel-safe.
    ///
    /// Returns the number of frames that were dropped because they are too large.
    pub(super) async fn frames(&mut self, mut each: impl FnMut(Frame<'_>)) -> Result<usize, LinkError> {
        loop {
            let (read, dropped) = self.parse(&mut each)?;
            if read > 0 || dropped > 0 {
                return Ok(dropped);
            }
            if self.input.is_empty() && self.input.capacity() > 2 * CHUNK {
                // Releases the memory that a large message has taken.
                self.input = BytesMut::new();
            }
            self.input.reserve(CHUNK);
            let read = tokio::select! {
                read = self.stream.read_buf(&mut self.input) => read?,
                master = self.switches.left(&self.address) => return Err(LinkError::Moved(master)),
            };
            self.last_read = Instant::now();
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
            }
        }
    }

    /// Passes each complete frame of the input to `each`. Returns the size of these frames in bytes, and the number of
    /// dropped frames.
    fn parse(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<(usize, usize), LinkError> {
        let skipped = self.to_skip.min(self.input.len());
        self.input.advance(skipped);
        self.to_skip -= skipped;
        let mut read = 0;
        let missing = loop {
            match resp::parse(&self.input[read..])? {
                Parsed::Whole(frame, len) => {
                    each(frame);
                    read += len;
                }
                Parsed::Partial { missing } => break missing,
            }
        };
        self.input.advance(read);
        if self.input.len() + missing <= self.max_frame_bytes {
            return Ok((read, 0));
        }
        // A message is the last string of its frame, so the missing bytes of the string are all the missing bytes of
        // the frame.
        self.to_skip = missing;
        self.input = BytesMut::new();
        Ok((read, 1))
    }

    /// Writes the queued command and waits for its answer. If Redis refuses the command, the error contains the name
    /// `command`.
    async fn ask(&mut self, command: &'static str) -> Result<Answer, LinkError> {
        self.flush().await?;
        let mut answer = Ok(Answer { is_replica: false });
        let each = |frame: Frame<'_>| match frame {
            Frame::Error(why) if why.starts_with(CANNOT_SAVE) => {}
            Frame::Error(why) => answer = Err(LinkError::Refused { command, why: for_log(why) }),
            Frame::List(fields) => {
                let is_replica = |field: &[Frame<'_>]| matches!(field, [Frame::Text(b"role"), Frame::Text(b"replica")]);
                answer = Ok(Answer { is_replica: fields.chunks(2).any(is_replica) });
            }
            _ => {}
        };
        self.frames(each).await?;
        answer
    }
}

/// The answer to a command of the handshake.
struct Answer {
    /// Whether the server says that it is a replica, which only the answer to `HELLO` does.
    is_replica: bool,
}

async fn connect(address: &ConnectionAddr) -> Result<Box<dyn Stream>, LinkError> {
    match address {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(host, *port).await?)),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            let name = ServerName::try_from(host.clone()).map_err(|error| LinkError::Address(error.to_string()))?;
            Ok(Box::new(tls_client::connector().await?.connect(name, tcp(host, *port).await?).await?))
        }
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => Err(LinkError::Address("use redis://, unix://, or rediss:// without `#insecure`".to_owned())),
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
