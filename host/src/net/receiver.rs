//! From the bytes of a connection to messages: frames, fragments, and how much of both a client may send.
//!
//! Pure but for its share of the [`Budget`](crate::net::budget::Budget). What a message takes grows with what has arrived of it, never with
//! what its frames announce.

#[cfg(test)]
pub(super) mod tests;

use crate::{
    config, net::budget::Lease, net::violation::Violation, routing::payload_limits::PayloadLimits,
    sync::uptime::now_ms, telemetry::metrics::Metrics,
};
use bytes::Bytes;
use gateway_wire::{
    packet::{self, HEADER_LEN, Header},
    websocket::{self, Head, Opcode, ProtocolError, Sender},
};
use std::{mem, sync::Arc};

/// Fragments of at least so many bytes carry enough of a packet, and are not limited.
const SMALL_FRAGMENT_BYTES: u64 = 128;

/// For how many seconds a client may have saved up the frames that it may send.
const BURST_S: u64 = 10;

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A binary message.
    Packet(Bytes),
    /// A packet whose payload has more bytes than its route takes. The payload was not kept.
    TooLarge {
        /// The packet's header.
        header: Header,
        /// The bytes of its payload.
        bytes: usize,
        /// The bytes that the route takes.
        max: usize,
    },
    /// A message of text, which no client of the gateway sends.
    Text,
    /// To be answered with its payload.
    Ping(Bytes),
    /// A sign of life.
    Pong,
    /// The payload of the client's close frame, which was checked.
    Close(Bytes),
}

/// The state between the reads of one connection.
#[derive(Debug)]
pub struct Receiver {
    max_message_bytes: usize,
    control_frames_per_s: u32,
    metrics: Arc<Metrics>,
    lease: Lease,
    limits: Arc<PayloadLimits>,
    /// The frame of which a part has come.
    frame: Option<Frame>,
    /// The message that fragments have begun, [`Opcode::Text`] or [`Opcode::Binary`].
    message: Option<Opcode>,
    /// What has come of the message, or its packet header alone if the rest is not kept.
    payload: Vec<u8>,
    /// The bytes that have come of the message, whether they were kept or not.
    message_bytes: usize,
    /// What the message's route takes, if the message is larger.
    exceeded: Option<usize>,
    /// Payloads are not kept.
    discarding: bool,
    /// The client has sent a close frame or broken a rule.
    ended: bool,
    /// When the client has as many frames to send again as it may save up, in microseconds.
    frames_due_us: u64,
}

#[derive(Debug)]
struct Frame {
    head: Head,
    received: u64,
}

impl Receiver {
    /// The state of a connection on which nothing was received.
    #[must_use]
    pub fn new(config: &config::Server, lease: Lease, limits: Arc<PayloadLimits>, metrics: Arc<Metrics>) -> Self {
        Self {
            max_message_bytes: config.max_message_bytes,
            control_frames_per_s: config.control_frames_per_s,
            metrics,
            lease,
            limits,
            frame: None,
            message: None,
            payload: Vec::new(),
            message_bytes: 0,
            exceeded: None,
            discarding: false,
            ended: false,
            frames_due_us: 0,
        }
    }

    /// From now on messages are still told apart, but their payloads are dropped.
    pub fn discard(&mut self) {
        self.discarding = true;
        self.payload = Vec::new();
        // Less is never refused.
        let _ = self.lease.resize(0);
    }

    /// Takes the next message from the front of the bytes. Without one, what is left of them is the beginning of a frame, shorter than the largest
    /// control frame, and has to come again with more behind it.
    ///
    /// # Errors
    /// [`Violation`] if the client breaks a rule. Nothing can be read after that, nor after a close frame.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Violation> {
        if self.ended {
            return Err(ProtocolError::Rule("nothing comes after a close frame").into());
        }
        let message = self.advance(bytes);
        self.ended = matches!(message, Err(_) | Ok(Some(Message::Close(_))));
        message
    }

    fn advance(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Violation> {
        loop {
            if let Some(frame) = self.frame.take() {
                let Some(last) = self.continue_frame(frame, bytes)? else { return Ok(None) };
                if last {
                    return self.complete().map(Some);
                }
            }
            let Some(head) = Head::parse(bytes, Sender::Client)? else { return Ok(None) };
            if head.opcode.is_control() {
                // It has at most 125 bytes.
                let Some(payload) = bytes.get(head.size..head.size + head.len as usize) else { return Ok(None) };
                *bytes = &bytes[head.size + payload.len()..];
                return self.control(head, payload).map(Some);
            }
            *bytes = &bytes[head.size..];
            self.begin_frame(&head)?;
            self.frame = Some(Frame { head, received: 0 });
        }
    }

    fn begin_frame(&mut self, head: &Head) -> Result<(), Violation> {
        match (head.opcode, self.message) {
            (Opcode::Continuation, None) => return Err(ProtocolError::Rule("a fragment continues nothing").into()),
            (Opcode::Continuation, Some(_)) => {}
            (_, Some(_)) => return Err(ProtocolError::Rule("a message begins within another one").into()),
            (begins, None) => self.message = Some(begins),
        }
        let bytes = head.len.saturating_add(self.message_bytes as u64);
        if bytes > self.max_message_bytes as u64 {
            return Err(Violation::TooLarge { bytes, most: self.max_message_bytes });
        }
        if head.opcode == Opcode::Continuation || !head.last {
            self.metrics.fragments_received.inc();
            if head.len < SMALL_FRAGMENT_BYTES {
                self.spend()?;
            }
        }
        Ok(())
    }

    /// Adds what has come of a frame. Once it is whole, whether it is its message's last.
    fn continue_frame(&mut self, mut frame: Frame, bytes: &mut &[u8]) -> Result<Option<bool>, Violation> {
        let missing = frame.head.len - frame.received;
        let (part, rest) =
            bytes.split_at(usize::try_from(missing).map_or(bytes.len(), |missing| missing.min(bytes.len())));
        *bytes = rest;
        let missing = missing - part.len() as u64;
        self.message_bytes += part.len();
        if !self.discarding && self.exceeded.is_none() {
            self.append(part, &frame, missing as usize);
        }
        if missing == 0 && frame.head.last {
            return Ok(Some(true));
        }
        self.limit(missing as usize);
        self.lease.resize(self.payload.capacity())?;
        if missing == 0 {
            return Ok(Some(false));
        }
        frame.received += part.len() as u64;
        self.frame = Some(frame);
        Ok(None)
    }

    /// Grows with what has come, by half of it at a time, and not beyond the end of a message whose length is known.
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

    /// Stops keeping a packet that is larger than its route takes: it will be refused, whatever it says.
    fn limit(&mut self, missing: usize) {
        let Ok((header, _)) = packet::split(&self.payload) else { return };
        let max = self.limits.max(header.route);
        if self.message == Some(Opcode::Binary) && self.message_bytes + missing > max.saturating_add(HEADER_LEN) {
            self.exceeded = Some(max);
            self.payload = self.payload[..HEADER_LEN].to_vec();
        }
    }

    fn complete(&mut self) -> Result<Message, Violation> {
        let mut payload = mem::take(&mut self.payload);
        let message_bytes = mem::take(&mut self.message_bytes);
        let opcode = self.message.take();
        self.lease.resize(0)?;
        if let Some(max) = self.exceeded.take()
            && let Ok((header, _)) = packet::parse(payload.clone().into())
        {
            return Ok(Message::TooLarge { header, bytes: message_bytes - HEADER_LEN, max });
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
        self.spend()?;
        Ok(if head.opcode == Opcode::Ping { Message::Ping(payload.into()) } else { Message::Pong })
    }

    /// A frame that carries no packet: there may be only so many.
    fn spend(&mut self) -> Result<(), Violation> {
        let now_us = now_ms() * 1000;
        self.frames_due_us = self.frames_due_us.max(now_us) + 1_000_000 / u64::from(self.control_frames_per_s);
        if self.frames_due_us - now_us > BURST_S * 1_000_000 { Err(Violation::Flood) } else { Ok(()) }
    }
}
