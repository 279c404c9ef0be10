//! A WebSocket that is driven by the one task that owns it. It reads messages, and writes packets and control frames.

use crate::{
    delivery::outbox::{Outgoing, Writer},
    net::receiver::{Message, Receiver},
    net::stream::Stream,
    net::violation::Violation,
    net::wire::Wire,
};
use gateway_wire::websocket::{self, Opcode};
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
/// Why a socket returns no more messages.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client broke a rule.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The connection broke, or ended without a close frame.
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// The server's side of an upgraded connection.
pub struct Socket {
    wire: Wire,
    receiver: Receiver,
    /// The messages that were looked at before their turn.
    #[allow(clippy::box_collection, reason = "a box keeps sockets without such messages small")]
    ahead: Option<Box<VecDeque<Result<Message, Error>>>>,
    /// The bytes to send. The connection has taken the first `written` of them.
    out: Vec<u8>,
    written: usize,
}

impl Socket {
    /// Returns a WebSocket on which nothing was read or written yet.
    #[must_use]
    pub fn new(wire: Wire, receiver: Receiver) -> Self {
        Self { wire, receiver, ahead: None, out: Vec::new(), written: 0 }
    }

    /// Returns the stream. Received messages and bytes that were not returned, and unwritten bytes, are lost.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.wire.into_stream()
    }

    /// Returns for how long nothing was received.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.wire.silence()
    }

    /// Subtracts the time `time`, in which the gateway did not read, from the silence.
    pub fn subtract_from_silence(&mut self, time: Duration) {
        self.wire.subtract_from_silence(time);
    }

    /// Returns the number of bytes that the system has taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.wire.written()
    }

    /// Drops the payloads of all messages from now on.
    pub fn discard(&mut self) {
        self.receiver.discard();
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// Returns an [`Error`] that says why there are no more messages.
    pub async fn message(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// Returns the next message if it has already been received.
    ///
    /// # Errors
    /// Returns an [`Error`] that says why there are no more messages.
    pub fn received_message(&mut self) -> Option<Result<Message, Error>> {
        match self.poll_message(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => Some(message),
            Poll::Pending => None,
        }
    }

    /// Returns the next messages that were received by the last read, at most `max` of them, in the order in which they
    /// will be returned. An error is the last one.
    pub fn look_ahead(&mut self, max: usize) -> impl Iterator<Item = &Result<Message, Error>> {
        let Self { wire, receiver, ahead, .. } = self;
        let may_follow = |ahead: &VecDeque<_>| ahead.len() < max && !matches!(ahead.back(), Some(Err(_)));
        while wire.has_unused() && ahead.as_deref().is_none_or(may_follow) {
            let Some(message) = wire.use_unused(|bytes| receiver.next(bytes)).transpose() else { break };
            let ahead = ahead.get_or_insert_with(|| Box::new(VecDeque::with_capacity(max)));
            ahead.push_back(message.map_err(Error::from));
        }
        ahead.iter().flat_map(|ahead| ahead.iter()).take(max)
    }

    /// Returns whether no message can be waiting: the last read got all received bytes, and messages have used all of
    /// them.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ahead.is_none() && self.wire.is_drained()
    }

    /// Returns the next message, once it has been received.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        if let Some(mut ahead) = self.ahead.take()
            && let Some(message) = ahead.pop_front()
        {
            self.ahead = Some(ahead).filter(|ahead| !ahead.is_empty());
            return Poll::Ready(message);
        }
        if self.wire.has_unused()
            && let Some(message) = self.wire.use_unused(|bytes| self.receiver.next(bytes))?
        {
            return Poll::Ready(Ok(message));
        }
        loop {
            if let Some(message) = ready!(self.wire.poll_receive(cx, |bytes| self.receiver.next(bytes)))?? {
                return Poll::Ready(Ok(message));
            }
        }
    }

    /// Queues bytes that the client gets before any frame.
    pub fn put_answer(&mut self, answer: Vec<u8>) {
        self.out = answer;
    }

    /// Queues a control frame for the next write.
    pub fn put_control(&mut self, opcode: Opcode, payload: &[u8]) {
        websocket::put_control(opcode, payload, &mut self.out);
    }

    /// Takes the sending side out of the connection, if nothing is to be written. Returns `None` under TLS, too.
    pub fn lend(&mut self) -> Option<Writer> {
        if self.out.is_empty() { self.wire.lend().map(Writer::new) } else { None }
    }

    /// Takes the sending side back. What it has not written is queued for the next write.
    pub fn take_back(&mut self, writer: Writer) {
        let (write, unwritten) = writer.into_parts();
        self.out = unwritten;
        self.wire.take_back(write);
    }

    /// Writes the queued bytes, and then the packets. `batch_bytes` bytes are gathered before they are written.
    ///
    /// # Errors
    /// Returns the error of the connection. After it, nothing can be written.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        batch_bytes: usize,
        packets: &mut impl Iterator<Item = Outgoing>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.out.len() < batch_bytes {
                let Some(packet) = packets.next() else { return self.poll_flush(cx) };
                packet.put_frame(&mut self.out);
            }
            ready!(self.poll_flush(cx))?;
        }
    }

    /// Writes the queued bytes and a close frame, and then closes the sending side of the connection.
    ///
    /// # Errors
    /// Returns the error of the connection. After it, nothing can be written.
    pub async fn close(&mut self, payload: &[u8]) -> io::Result<()> {
        self.put_control(Opcode::Close, payload);
        poll_fn(|cx| self.poll_flush(cx)).await?;
        self.wire.shutdown().await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            self.written += ready!(self.wire.poll_write(cx, &self.out[self.written..]))?;
        }
        // A session with nothing to write holds no buffer.
        (self.out, self.written) = (Vec::new(), 0);
        self.wire.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{
        receiver::tests::{packet_bytes_and_messages, receiver},
        tcp::Tcp,
    };
    use proptest::{collection::vec, prelude::*};
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
        task, time,
    };

    /// Reads `count` messages in the way that a session reads them.
    async fn read(socket: &mut Socket, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(socket.message().await.unwrap());
            // What is seen before its turn is the same at its turn.
            let ahead: Vec<_> = socket.look_ahead(messages.len() % 4).map(|it| it.as_ref().unwrap().clone()).collect();
            for message in ahead {
                assert!(!socket.is_drained());
                messages.push(socket.received_message().unwrap().unwrap());
                assert!(messages.last() == Some(&message), "a message has changed");
            }
            while !socket.is_drained()
                && let Some(message) = socket.received_message()
            {
                messages.push(message.unwrap());
            }
        }
        messages
    }

    async fn assert_received(
        bytes: Vec<u8>,
        expected: Vec<Message>,
        chunks: &[usize],
        early: usize,
        read_bytes: usize,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (early, mut rest) = bytes.split_at(early.min(bytes.len()));
        let wire = Wire::new(Stream::Plain(Tcp::new(stream)), early.to_vec(), read_bytes);
        let mut socket = Socket::new(wire, receiver("max_message_bytes: 16777216"));
        let writing = async {
            for chunk in chunks.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(rest.len().min(*chunk));
                client.write_all(now).await.unwrap();
                task::yield_now().await;
                rest = later;
            }
        };
        let reading = time::timeout(Duration::from_secs(20), read(&mut socket, expected.len()));
        let (messages, ()) = tokio::join!(reading, writing);
        assert!(
            messages.expect("a message was not received within 20 s") == expected,
            "the received messages differ from the sent ones"
        );
        assert!(socket.received_message().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 8, ..ProptestConfig::default() })]

        #[test]
        fn messages_are_received_however_the_bytes_are_split(
            all in vec(packet_bytes_and_messages(), 1..20),
            chunks in vec(prop_oneof![1..20_usize, 1..2000_usize, 1..100_000_usize], 1..8),
            early in prop_oneof![Just(0), 0..300_usize],
            read_bytes in prop_oneof![Just(8192), 64..600_usize],
        ) {
            let (bytes, messages): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(assert_received(bytes.concat(), messages.concat(), &chunks, early, read_bytes));
        }
    }
}
