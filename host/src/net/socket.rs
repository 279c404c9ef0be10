//! A WebSocket, driven by the one task that owns the connection: messages in, packets and control frames out.

use crate::{
    delivery::outbox::Outgoing,
    net::receiver::{Message, Receiver},
    net::violation::Violation,
    net::wire::Wire,
};
use gateway_wire::websocket::{self, Opcode};
use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::net::TcpStream;

/// Why there are no more messages.
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
    /// What the connection has not taken yet, behind `written` bytes that it has.
    out: Vec<u8>,
    written: usize,
    /// How much is gathered before it is written.
    batch_bytes: usize,
}

impl Socket {
    /// A WebSocket on which nothing was read or written yet.
    #[must_use]
    pub fn new(wire: Wire, receiver: Receiver, batch_bytes: usize) -> Self {
        Self { wire, receiver, out: Vec::new(), written: 0, batch_bytes }
    }

    /// The connection below. What was not taken or written yet is lost.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.wire.into_stream()
    }

    /// For how long nothing was received.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.wire.silence()
    }

    /// Takes a time during which nobody read out of the silence.
    pub fn excuse(&mut self, time: Duration) {
        self.wire.excuse(time);
    }

    /// How many bytes the connection has taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.wire.written()
    }

    /// From now on the payloads of messages are not kept.
    pub fn discard(&mut self) {
        self.receiver.discard();
    }

    /// The next message. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn message(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The next message, if it has been received already.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn received_message(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| match self.poll_message(cx) {
            Poll::Ready(message) => Poll::Ready(Some(message)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Whether no message can be there: the last read took all that had been received, and all of that was used.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.wire.is_drained()
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        if self.wire.has_rest()
            && let Some(message) = self.wire.take_rest(|bytes| self.receiver.next(bytes))?
        {
            return Poll::Ready(Ok(message));
        }
        loop {
            if let Some(message) = ready!(self.wire.poll_receive(cx, |bytes| self.receiver.next(bytes)))?? {
                return Poll::Ready(Ok(message));
            }
        }
    }

    /// Queues a control frame. The next write writes it.
    pub fn put_control(&mut self, opcode: Opcode, payload: &[u8]) {
        websocket::put_control(opcode, payload, &mut self.out);
    }

    /// Writes what is queued, and then the packets.
    ///
    /// # Errors
    /// Why nothing can be written any more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut impl Iterator<Item = Outgoing>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.out.len() < self.batch_bytes {
                let Some(packet) = packets.next() else { return self.poll_flush(cx) };
                put_packet(&packet, &mut self.out);
            }
            ready!(self.poll_flush(cx))?;
        }
    }

    /// Writes what is queued and a close frame, and says that nothing more will be written.
    ///
    /// # Errors
    /// Why nothing can be written any more.
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
        Poll::Ready(Ok(()))
    }
}

/// Appends the frame of a packet.
pub fn put_packet(packet: &Outgoing, out: &mut Vec<u8>) {
    out.reserve(packet.packet_len() + websocket::MAX_SERVER_HEAD_BYTES);
    websocket::put_head(Opcode::Binary, packet.packet_len(), out);
    out.extend_from_slice(&packet.header.encode());
    out.extend_from_slice(&packet.payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::receiver::tests::{receiver, said};
    use proptest::{collection::vec, prelude::*};
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
        task, time,
    };

    /// Reads as a session does.
    async fn read(socket: &mut Socket, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(socket.message().await.unwrap());
            while !socket.is_drained()
                && let Some(message) = socket.received_message().await
            {
                messages.push(message.unwrap());
            }
        }
        messages
    }

    async fn come_out(bytes: Vec<u8>, expected: Vec<Message>, chunks: &[usize], early: usize, read_bytes: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (early, mut rest) = bytes.split_at(early.min(bytes.len()));
        let wire = Wire::new(stream, early.to_vec(), read_bytes);
        let mut socket = Socket::new(wire, receiver("max_message_bytes: 16777216"), 8192);
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
        assert!(messages.expect("a message does not come out") == expected, "other messages came out");
        assert!(socket.received_message().await.is_none());
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
            let (bytes, messages): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(come_out(bytes.concat(), messages.concat(), &chunks, early, read_bytes));
        }
    }
}
