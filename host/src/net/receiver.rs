//! Turns the bytes of one connection into messages. Parses frames, joins fragments, and enforces the limits on clients.
//!
//! A receiver does no I/O. The buffer of a message grows with the bytes that have arrived, never with the length that
//! its frames announce. All connections share one [`Budget`](crate::net::budget::Budget) for these buffers.

#[cfg(test)]
pub(super) mod tests;

use crate::{
    config,
    net::{budget::Lease, violation::Violation},
    routing::payload_limits::PayloadLimits,
    sync::{moment::Moment, token_bucket::TokenBucket},
    telemetry::metrics::Metrics,
};
use bytes::Bytes;
use gateway_wire::{
    packet::{self, HEADER_LEN, Header},
    websocket::{self, Head, Opcode, ProtocolError, Sender},
};
use std::{mem, sync::Arc};

/// The smallest fragment in bytes that is not limited, because it carries enough of a packet. Smaller fragments are
/// limited like control frames.
const MIN_UNCOUNTED_FRAGMENT_BYTES: u64 = 128;

/// The length of a burst: a client may send the limited frames of this many seconds at once.
const BURST_S: u64 = 10;

/// A message from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A binary message, which is a packet.
    Packet(Bytes),
    /// A packet with a larger payload than its route takes. The payload was not kept.
    TooLarge {
        /// The packet's header.
        header: Header,
        /// The length of the packet's payload in bytes.
        bytes: usize,
        /// The largest payload in bytes that the route takes.
        max: usize,
    },
    /// A text message. No client of the gateway should send one.
    Text,
    /// A ping. The pong that answers it carries the same payload.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// A close frame. Its payload has been checked.
    Close(Bytes),
}

/// The state of one connection between its reads.
#[derive(Debug)]
pub struct Receiver {
    max_message_bytes: usize,
    control_frames_per_s: u32,
    /// The limited frames that the client may send now.
    frames: TokenBucket<BURST_S>,
    metrics: Arc<Metrics>,
    lease: Lease,
    limits: Arc<PayloadLimits>,
    /// The message of which only a part has arrived. The box keeps connections between two messages small.
    partial: Option<Box<Partial>>,
    /// Whether payloads are dropped.
    discarding: bool,
    /// Whether the client has sent a close frame or broken a rule.
    ended: bool,
}

/// What has arrived of a message.
#[derive(Debug, Default)]
struct Partial {
    /// The frame of which only a part has arrived.
    frame: Option<Frame>,
    /// The type of the message, [`Opcode::Text`] or [`Opcode::Binary`], or `None` if no message has begun.
    opcode: Option<Opcode>,
    /// The buffered bytes of the message. If the message is too large for its route, only its packet header is buffered.
    payload: Vec<u8>,
    /// The number of bytes of the message that have arrived, kept or not.
    bytes: usize,
    /// The largest payload that the message's route takes, if the message is larger.
    exceeded_max_payload: Option<usize>,
}

#[derive(Debug)]
struct Frame {
    head: Head,
    received: u64,
}

impl Receiver {
    /// Returns the state of a connection on which nothing has arrived.
    #[must_use]
    pub fn new(config: &config::Server, lease: Lease, limits: Arc<PayloadLimits>, metrics: Arc<Metrics>) -> Self {
        Self {
            max_message_bytes: config.max_message_bytes,
            control_frames_per_s: config.control_frames_per_s,
            frames: TokenBucket::default(),
            metrics,
            lease,
            limits,
            partial: None,
            discarding: false,
            ended: false,
        }
    }

    /// Drops all payloads from now on. The receiver still finds the end of each message.
    pub fn discard(&mut self) {
        self.discarding = true;
        if let Some(partial) = &mut self.partial {
            partial.payload = Vec::new();
        }
        // A smaller size is never refused.
        let _ = self.lease.resize(0);
    }

    /// Takes the next message from the front of `bytes`. If there is no complete message, the remaining bytes begin a
    /// frame header or a control frame, and are fewer than the largest control frame has. The caller must pass the
    /// remaining bytes again, together with the bytes that follow.
    ///
    /// # Errors
    /// Returns a [`Violation`] if the client breaks a rule. After a violation or a close frame, every call fails.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Violation> {
        if self.ended {
            return Err(ProtocolError::Rule("nothing comes after a close frame").into());
        }
        let message = self.advance(bytes);
        self.ended = matches!(message, Err(_) | Ok(Some(Message::Close(_))));
        message
    }

    fn advance(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Violation> {
        let mut partial = self.partial.take().map_or_else(Partial::default, |partial| *partial);
        let message = self.advance_with(&mut partial, bytes)?;
        if partial.opcode.is_some() {
            self.partial = Some(Box::new(partial));
        }
        Ok(message)
    }

    fn advance_with(&mut self, partial: &mut Partial, bytes: &mut &[u8]) -> Result<Option<Message>, Violation> {
        loop {
            if let Some(frame) = partial.frame.take() {
                let Some(last) = self.continue_frame(partial, frame, bytes)? else { return Ok(None) };
                if last {
                    return self.complete(mem::take(partial)).map(Some);
                }
            }
            let Some(head) = Head::parse(bytes, Sender::Client)? else { return Ok(None) };
            if head.opcode.is_control() {
                // A control frame has at most 125 bytes, so the cast is safe.
                let Some(payload) = bytes.get(head.size..head.size + head.len as usize) else { return Ok(None) };
                *bytes = &bytes[head.size + payload.len()..];
                return self.control(head, payload).map(Some);
            }
            *bytes = &bytes[head.size..];
            self.begin_frame(partial, &head)?;
            partial.frame = Some(Frame { head, received: 0 });
        }
    }

    fn begin_frame(&mut self, partial: &mut Partial, head: &Head) -> Result<(), Violation> {
        match (head.opcode, partial.opcode) {
            (Opcode::Continuation, None) => return Err(ProtocolError::Rule("a fragment continues nothing").into()),
            (Opcode::Continuation, Some(_)) => {}
            (_, Some(_)) => return Err(ProtocolError::Rule("a message begins within another one").into()),
            (begins, None) => partial.opcode = Some(begins),
        }
        let bytes = head.len.saturating_add(partial.bytes as u64);
        if bytes > self.max_message_bytes as u64 {
            return Err(Violation::TooLarge { bytes, most: self.max_message_bytes });
        }
        if head.opcode == Opcode::Continuation || !head.last {
            self.metrics.fragments_received.inc();
            if head.len < MIN_UNCOUNTED_FRAGMENT_BYTES {
                self.count_limited_frame()?;
            }
        }
        Ok(())
    }

    /// Adds the received part of a frame to its message. Returns `None` until the frame is complete, and then whether
    /// it is the last frame of its message.
    fn continue_frame(
        &mut self,
        partial: &mut Partial,
        mut frame: Frame,
        bytes: &mut &[u8],
    ) -> Result<Option<bool>, Violation> {
        let missing = frame.head.len - frame.received;
        let (part, rest) =
            bytes.split_at(usize::try_from(missing).map_or(bytes.len(), |missing| missing.min(bytes.len())));
        *bytes = rest;
        let missing = missing - part.len() as u64;
        partial.bytes += part.len();
        if !self.discarding && partial.exceeded_max_payload.is_none() {
            partial.append(part, &frame, missing as usize);
        }
        if missing == 0 && frame.head.last {
            return Ok(Some(true));
        }
        partial.drop_if_too_large(missing as usize, &self.limits);
        self.lease.resize(partial.payload.capacity())?;
        if missing == 0 {
            return Ok(Some(false));
        }
        frame.received += part.len() as u64;
        partial.frame = Some(frame);
        Ok(None)
    }

    fn complete(&mut self, message: Partial) -> Result<Message, Violation> {
        let Partial { opcode, mut payload, bytes, exceeded_max_payload, .. } = message;
        self.lease.resize(0)?;
        if let Some(max) = exceeded_max_payload
            && let Ok((header, _)) = packet::parse(payload.clone().into())
        {
            return Ok(Message::TooLarge { header, bytes: bytes - HEADER_LEN, max });
        }
        if opcode == Some(Opcode::Text) {
            return std::str::from_utf8(&payload).map_err(|_| ProtocolError::NotUtf8.into()).map(|_| Message::Text);
        }
        payload.shrink_to_fit();
        Ok(Message::Packet(payload.into()))
    }

    fn control(&mut self, head: Head, payload: &[u8]) -> Result<Message, Violation> {
        let mut payload = payload.to_vec();
        websocket::apply_mask(&mut payload, head.mask, 0);
        match head.opcode {
            Opcode::Close => {
                websocket::parse_close(&payload)?;
                return Ok(Message::Close(payload.into()));
            }
            Opcode::Ping => &self.metrics.pings_received,
            _ => &self.metrics.pongs_received,
        }
        .inc();
        self.count_limited_frame()?;
        Ok(if head.opcode == Opcode::Ping { Message::Ping(payload.into()) } else { Message::Pong })
    }

    /// Counts a control frame or a small fragment against the client's limit.
    fn count_limited_frame(&mut self) -> Result<(), Violation> {
        let now_ns = Moment::now().monotonic_ns();
        self.frames.take(now_ns, self.control_frames_per_s, 1).then_some(()).ok_or(Violation::Flood)
    }
}

impl Partial {
    /// Appends a part to the buffer. The buffer grows by half of its size at a time, or more if the part needs more. It
    /// does not grow beyond the end of a message of known length.
    fn append(&mut self, part: &[u8], frame: &Frame, missing: usize) {
        let (len, capacity) = (self.payload.len(), self.payload.capacity());
        if capacity - len < part.len() {
            let most = if frame.head.last { len + part.len() + missing } else { usize::MAX };
            let wanted = (capacity + capacity / 2).min(most);
            self.payload.reserve_exact(wanted.saturating_sub(len).max(part.len()));
        }
        self.payload.extend_from_slice(part);
        websocket::apply_mask(&mut self.payload[len..], frame.head.mask, frame.received);
    }

    /// Drops the payload of a packet that is larger than its route takes. Its route refuses such a packet in any case.
    fn drop_if_too_large(&mut self, missing: usize, limits: &PayloadLimits) {
        let Ok((header, _)) = packet::split(&self.payload) else { return };
        let max = limits.max(header.route);
        if self.opcode == Some(Opcode::Binary) && self.bytes + missing > max.saturating_add(HEADER_LEN) {
            self.exceeded_max_payload = Some(max);
            self.payload = self.payload[..HEADER_LEN].to_vec();
        }
    }
}
