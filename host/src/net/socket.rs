//! A WebSocket: the library knows the protocol, and the one task that owns the connection drives it.
//!
//! Not tokio-tungstenite's stream: for a reader and a writer in different tasks it keeps wakers of its own between the connection and the
//! task, and they cost as much as the rest of a small message's way through it.

use crate::{
    config,
    net::wire::{Progress, Wire},
};
use std::{
    future::poll_fn,
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

/// What the library takes from a connection at a time. It keeps a buffer of this size for each, busy or not; what is read from the
/// socket at once is the connection's own business.
const SIP: usize = 512;

/// The server's side of an upgraded connection.
pub struct Socket {
    protocol: WebSocketContext,
    wire: Wire,
    /// The bytes that the library was given and that are not of a message yet: never too few, and exact where every message is one frame with
    /// its length written in the shortest way.
    held: usize,
    /// The connection did not take all of what the library has to write.
    blocked: bool,
}

impl Socket {
    /// A connection on which `early` came behind the upgrade's request.
    #[must_use]
    pub fn new(wire: Wire, early: Vec<u8>, config: &config::Server) -> Self {
        let limits = WebSocketConfig::default()
            .read_buffer_size(SIP)
            .write_buffer_size(config.write_buffer_bytes)
            .max_message_size(Some(config.max_message_bytes))
            .max_frame_size(Some(config.max_message_bytes));
        let held = early.len();
        let protocol = WebSocketContext::from_partially_read(early, Role::Server, Some(limits));
        Self { protocol, wire, held, blocked: false }
    }

    /// What has moved on the connection.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.wire.progress()
    }

    /// The connection below.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The next message. Nothing is lost where this is given up.
    ///
    /// # Errors
    /// Why there will be no more.
    pub async fn message(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The next message, if it is there already.
    ///
    /// # Errors
    /// Why there will be no more.
    pub async fn message_at_hand(&mut self) -> Option<Result<Message, Error>> {
        if self.is_drained() {
            return None;
        }
        poll_fn(|cx| match self.poll_library(cx) {
            Poll::Ready(message) => Poll::Ready(Some(message)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Writes messages, all of them into the library's buffer, and that out, with answers to pings that may be in it.
    ///
    /// # Errors
    /// Why nothing can be written any more.
    pub async fn write(&mut self, mut messages: impl Iterator<Item = Message>) -> Result<(), Error> {
        poll_fn(|cx| self.poll_write(cx, &mut messages)).await
    }

    /// Whether all that was received has become messages. To ask the library would be in vain then, and it takes its time.
    fn is_drained(&self) -> bool {
        self.held == 0 && self.wire.is_drained()
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        if self.is_drained() {
            ready!(self.wire.poll_read_ready(cx))?;
        }
        self.poll_library(cx)
    }

    fn poll_library(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        let mut io = Io { wire: &mut self.wire, cx, read: 0 };
        let read = self.protocol.read(&mut io);
        self.held += io.read;
        if let Ok(message) = &read {
            self.held = self.held.saturating_sub(frame_header(message.len()) + message.len());
        }
        pending_if_blocked(read)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut impl Iterator<Item = Message>,
    ) -> Poll<Result<(), Error>> {
        loop {
            if self.blocked {
                ready!(self.poll_flush(cx))?;
            }
            let Some(message) = messages.next() else { return self.poll_flush(cx) };
            // Blocked or not, the library has taken it.
            let written = self.protocol.write(&mut Io { wire: &mut self.wire, cx, read: 0 }, message);
            self.blocked = matches!(pending_if_blocked(written)?, Poll::Pending);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = pending_if_blocked(self.protocol.flush(&mut Io { wire: &mut self.wire, cx, read: 0 }));
        self.blocked = flushed.is_pending();
        match ready!(flushed) {
            // The answer to the other side's close frame was the last that there was to write.
            Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            flushed => Poll::Ready(flushed),
        }
    }
}

/// The length that the header of a client's frame with such a payload has at least (RFC 6455, section 5.2), its mask included. Fragments have
/// more than that together.
fn frame_header(payload: usize) -> usize {
    match payload {
        0..126 => 6,
        126..=0xffff => 8,
        _ => 14,
    }
}

fn pending_if_blocked<T>(result: Result<T, Error>) -> Poll<Result<T, Error>> {
    match result {
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// The connection as the library wants it, for one poll: what cannot be done at once would block, and wakes the task up when it can.
struct Io<'a, 'b> {
    wire: &'a mut Wire,
    cx: &'a mut Context<'b>,
    /// What was read.
    read: usize,
}

impl Read for Io<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        would_block(Pin::new(&mut *self.wire).poll_read(self.cx, &mut buffer))?;
        self.read += buffer.filled().len();
        Ok(buffer.filled().len())
    }
}

impl Write for Io<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.wire).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        would_block(Pin::new(&mut *self.wire).poll_flush(self.cx))
    }
}

fn would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*, sample::Index};
    use std::time::Duration;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
        time,
    };

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// A client's frame whose length takes as many bytes as that of a frame of at least `longest`.
    fn frame(opcode: u8, last: bool, payload: &[u8], longest: usize) -> Vec<u8> {
        let mut frame = vec![opcode | if last { 0x80 } else { 0 }];
        let len = payload.len();
        match len.max(longest) {
            0..126 => frame.push(0x80 | u8::try_from(len).unwrap()),
            126..=0xffff => frame.extend([&[0xfe][..], &u16::try_from(len).unwrap().to_be_bytes()].concat()),
            _ => frame.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// What is said in one message: its payload, where it is cut into fragments, each of which is followed by a ping, and how its lengths are
    /// written.
    type Said = (Vec<u8>, Vec<Index>, usize);

    fn said() -> impl Strategy<Value = Said> {
        let len = prop_oneof![8 => 0..200_usize, 2 => 0..9000_usize, 1 => 60_000..70_000_usize];
        let payload = len.prop_map(|len| vec![b'x'; len]);
        let longest = prop_oneof![4 => Just(0_usize), 1 => Just(126), 1 => Just(1 << 16)];
        (payload, vec(any::<Index>(), 0..3), longest)
    }

    fn frames((payload, cuts, longest): &Said) -> (Vec<u8>, usize) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut bytes, mut from, mut opcode) = (Vec::new(), 0, 2);
        for cut in &cuts {
            bytes.extend(frame(opcode, false, &payload[from..*cut], *longest));
            bytes.extend(frame(9, true, b"ping", 0));
            (from, opcode) = (*cut, 0);
        }
        bytes.extend(frame(opcode, true, &payload[from..], *longest));
        (bytes, cuts.len())
    }

    /// Reads as a session does.
    async fn read(socket: &mut Socket, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(socket.message().await.unwrap());
            while let Some(message) = socket.message_at_hand().await {
                messages.push(message.unwrap());
            }
        }
        messages
    }

    async fn come_out(all: &[Said], chunks: &[usize], early: usize, read_bytes: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (mut bytes, mut pings) = (Vec::new(), 0);
        for said in all {
            let (more, between) = frames(said);
            bytes.extend(more);
            pings += between;
        }
        let rest = bytes.split_off(early.min(bytes.len()));
        let config = Config::parse("plugins: { directory: . }").unwrap().server;
        let mut socket = Socket::new(Wire::new(stream, read_bytes), bytes, &config);
        let writing = async {
            let mut rest = &rest[..];
            for chunk in chunks.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(rest.len().min(*chunk));
                client.write_all(now).await.unwrap();
                tokio::task::yield_now().await;
                rest = later;
            }
        };
        let reading = time::timeout(Duration::from_secs(10), read(&mut socket, all.len() + pings));
        let (messages, ()) = tokio::join!(reading, writing);
        let data = messages.expect("a message is held back").into_iter().filter(Message::is_binary);
        let payloads: Vec<_> = data.map(Message::into_data).collect();
        let expected: Vec<_> = all.iter().map(|(payload, ..)| Bytes::from(payload.clone())).collect();
        assert!(payloads == expected, "the payloads are not those that were sent");
        assert!(socket.message_at_hand().await.is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 8, ..ProptestConfig::default() })]

        #[test]
        fn messages_come_out_however_they_are_cut(
            all in vec(said(), 1..20),
            chunks in vec(prop_oneof![1..20_usize, 1..2000_usize, 1..100_000_usize], 1..8),
            early in prop_oneof![Just(0), 0..300_usize],
            read_bytes in prop_oneof![Just(8192), 64..600_usize],
        ) {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(come_out(&all, &chunks, early, read_bytes));
        }
    }
}
