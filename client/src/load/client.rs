//! One client of the load: its session's outlet, what it sends and what it gets.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::bus::DELIVERIES;
use super::plan::Way;
use super::socket::Outlet;
use super::stream::Stream;
use super::template::{Payload, Template};
use super::{frame, message, resp};
use crate::packet::{ROUTE_CHAT, ROUTE_SYSTEM};

/// The length of the request that binds a session to its user: enough for the longest game id.
const BINDING_BYTES: usize = 128;

/// One client. The messages that it sends or that are sent to it are numbered, in one stream.
pub(super) struct Client {
    pub(super) script: Script,
    pub(super) outlet: Outlet,
    pub(super) stream: Mutex<Stream>,
    /// The gateway knows whose session it is.
    pub(super) bound: AtomicBool,
}

/// What the messages of one client look like.
pub(super) struct Script {
    /// What is sent: by the client, or (deliver) by the backend.
    message: Template,
    /// What it makes the gateway publish.
    pub(super) published: Option<Payload>,
    /// What the backend answers to that (loop).
    pub(super) answer: Option<Template>,
    /// What the client gets in the end.
    pub(super) received: Option<Payload>,
    /// What the client sends beforehand, to get anything at all (deliver).
    pub(super) binding: Option<Template>,
}

impl Script {
    /// An error if the payload is too small for such messages.
    pub(super) fn new(way: &Way, user_id: i32, payload: usize) -> anyhow::Result<Self> {
        Ok(match way {
            Way::Request(bus) => {
                let request = message::request(&bus.game, user_id, payload)?;
                Self { published: Some(request.clone()), ..Self::sending(frame::packet(ROUTE_CHAT, &request)) }
            }
            Way::Deliver(bus) => {
                let response = message::response(user_id, payload)?;
                let binding = message::request(&bus.game, user_id, BINDING_BYTES)?;
                Self {
                    binding: Some(frame::packet(ROUTE_CHAT, &binding)),
                    published: Some(binding),
                    received: Some(response.clone()),
                    ..Self::sending(resp::publish(DELIVERIES, &response))
                }
            }
            Way::Ping => {
                let heartbeat = message::heartbeat(user_id, payload);
                Self { received: Some(heartbeat.clone()), ..Self::sending(frame::packet(ROUTE_SYSTEM, &heartbeat)) }
            }
            Way::Loop(bus) => {
                let request = message::request(&bus.game, user_id, payload)?;
                let response = message::response(user_id, payload)?;
                Self {
                    published: Some(request.clone()),
                    answer: Some(resp::publish(DELIVERIES, &response)),
                    received: Some(response),
                    ..Self::sending(frame::packet(ROUTE_CHAT, &request))
                }
            }
        })
    }

    /// Appends the messages with these numbers.
    pub(super) fn append(&self, numbers: Range<u64>, out: &mut Vec<u8>) {
        numbers.for_each(|number| self.message.append(number, out));
    }

    fn sending(message: Template) -> Self {
        Self { message, published: None, answer: None, received: None, binding: None }
    }
}

impl Client {
    /// With a window as [`Stream::new`] takes it.
    pub(super) fn new(script: Script, outlet: Outlet, window: u64) -> Self {
        Self { script, outlet, stream: Mutex::new(Stream::new(window)), bound: AtomicBool::new(false) }
    }
}
