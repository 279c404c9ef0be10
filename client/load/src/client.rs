//! One client of the load: its session, the messages that it sends and the messages that it gets.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use gateway_wire::packet::{ROUTE_CHAT, ROUTE_SYSTEM};

use crate::bus::DELIVERIES;
use crate::plan::{Relay, Source, Way};
use crate::socket::Outlet;
use crate::stream::Stream;
use crate::template::{Form, Payload, Template};
use crate::{frame, message, resp};

/// The length in bytes of the request that binds a session to its user. It is enough for the longest game id.
const BINDING_BYTES: usize = 128;

/// The user of all sessions that get the same messages.
const EVERYBODY: i32 = 1;

/// One client. The messages that it sends, or that are sent to it, are numbered in one stream.
pub(crate) struct Client {
    pub(crate) script: Script,
    pub(crate) outlet: Outlet,
    pub(crate) stream: Mutex<Stream>,
    /// Whether the gateway has bound the session to its user.
    pub(crate) bound: AtomicBool,
}

/// The messages of one client.
pub(crate) struct Script {
    /// The message that the client sends. In the modes `deliver` and `fanout` it is the message that the backend or one
    /// more client sends.
    message: Template,
    /// The payload that the gateway publishes for the message.
    pub(crate) published: Option<Payload>,
    /// The backend's answer to the published payload, in the mode `loop`.
    pub(crate) answer: Option<Template>,
    /// The payload that the client gets in the end.
    pub(crate) received: Option<Payload>,
    /// The request that binds the session to its user or lets it join the others, in the modes `deliver` and `fanout`.
    /// Without it the client gets nothing.
    pub(crate) binding: Option<Template>,
}

impl Script {
    /// Builds the messages. Fails if the payload is too small for them.
    pub(crate) fn new(way: &Way, user_id: i32, payload: usize) -> anyhow::Result<Self> {
        Ok(match way {
            Way::Request(bus) => {
                let request = message::request(&bus.game, user_id, payload)?;
                Self { published: Some(request.clone()), ..Self::sending(frame::packet(ROUTE_CHAT, &request)) }
            }
            Way::Deliver(bus) | Way::Fanout(Source::Backend(bus)) => {
                let user_id = if let Way::Fanout(_) = way { EVERYBODY } else { user_id };
                let response = message::response(user_id, payload)?;
                let binding = message::request(&bus.game, user_id, BINDING_BYTES)?;
                Self {
                    binding: Some(frame::packet(ROUTE_CHAT, &binding)),
                    published: Some(binding),
                    received: Some(response.clone()),
                    ..Self::sending(resp::publish(DELIVERIES, &response))
                }
            }
            Way::Fanout(Source::Client(Relay { route, join, before })) => {
                let text = message::text(payload)?;
                let join = Payload { bytes: join.clone().into_bytes(), number_at: None, form: Form::Letters };
                let bytes = [before.as_bytes(), &text.bytes].concat();
                let sent = Payload { bytes, number_at: text.number_at.map(|at| before.len() + at), form: text.form };
                Self {
                    binding: Some(frame::packet(*route, &join)),
                    received: Some(text),
                    ..Self::sending(frame::packet(*route, &sent))
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
    pub(crate) fn append(&self, numbers: Range<u64>, out: &mut Vec<u8>) {
        numbers.for_each(|number| self.message.append(number, out));
    }

    fn sending(message: Template) -> Self {
        Self { message, published: None, answer: None, received: None, binding: None }
    }
}

impl Client {
    /// Makes a client whose window is as [`Stream::new`] takes it.
    pub(crate) fn new(script: Script, outlet: Outlet, window: u64) -> Self {
        Self { script, outlet, stream: Mutex::new(Stream::new(window)), bound: AtomicBool::new(false) }
    }
}
