//! The end of a connection: the close frame, and the wait until the client has it.

use super::{receiver::Message, socket::Socket};
use crate::telemetry::metrics::Metrics;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{self, Instant},
};

/// Closes a connection. If the client does not answer in time, the connection is closed all the same.
pub(super) async fn close_by(deadline: Instant, socket: Socket, payload: &[u8], metrics: &Metrics) {
    let _ = time::timeout_at(deadline, close_handshake(socket, payload, metrics)).await;
}

/// Sends the close frame and reads until the client closes its side. If the gateway closed with unread bytes, the
/// system would reset the connection, and the close frame could be lost. Packets that arrive now are dropped and
/// counted.
async fn close_handshake(mut socket: Socket, payload: &[u8], metrics: &Metrics) {
    // An error means that the connection broke.
    if socket.close(payload).await.is_err() {
        return;
    }
    while let Ok(message) = socket.message().await {
        if matches!(message, Message::Packet(_) | Message::TooLarge { .. }) {
            metrics.dropped("after_close", 1);
        }
    }
    linger(&mut socket.into_stream()).await;
}

/// Ends a connection such that the written bytes still arrive. The caller sets a timeout.
pub(super) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.shutdown().await.is_ok() {
        // A vector, because an array would take up space in the future of every session.
        let mut rest = vec![0; 4096];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}
