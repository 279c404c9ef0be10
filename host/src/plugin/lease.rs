//! One call of a plugin, with an instance that is leased for it.

use super::{
    bindings::{Absence, Admission, Arrival, Batch, Connection, Decision, Denial, Departure, Packet},
    fault::Fault,
    instance::Instance,
    pool::Held,
    start::Starter,
    usage::Usage,
};
use crate::{sync::moment::Moment, traces::OpenSpan};

/// A call that was made.
pub struct Called<R> {
    /// The plugin's answer, or why there is none.
    pub answer: Result<R, Fault>,
    /// What the call used.
    pub usage: Usage,
}

/// An instance that is leased for one call.
pub struct Lease<'a> {
    starter: &'a Starter,
    slot: Held<'a>,
    is_muted: bool,
}

impl<'a> Lease<'a> {
    pub(super) fn new(starter: &'a Starter, slot: Held<'a>) -> Self {
        Self { starter, slot, is_muted: false }
    }

    /// Keeps what the plugin logs during the call out of the log. [`Usage::wanted_to_log`] says whether there was anything.
    #[must_use]
    pub fn muted(self) -> Self {
        Self { is_muted: true, ..self }
    }

    /// Gives the call its span. The plugin may put the call into another trace, and then the span is another one:
    /// [`Usage::trace`]. A call that has to start its instance first is not recorded.
    pub fn begin_trace(&mut self, span: OpenSpan) {
        if let Some(instance) = &mut *self.slot {
            instance.begin_trace(Box::new(span));
        }
    }

    /// Asks the plugin for a decision on a packet. The call is measured from `began`.
    pub fn on_packet(self, began: Moment, packet: Packet, payload: &[u8]) -> Called<Decision> {
        self.call(began, payload.len(), |instance| instance.on_packet(packet, payload))
    }

    /// Asks the plugin for decisions on packets of one session.
    pub fn on_packets(self, began: Moment, batch: &Batch) -> Called<Vec<Decision>> {
        self.call(began, batch.payloads.len(), |instance| instance.on_packets(batch))
    }

    /// Asks the plugin for a decision on a bus message. The time is in milliseconds since 1970.
    pub fn on_message(self, began: Moment, topic: &str, payload: &[u8], now: u64) -> Called<Decision> {
        self.call(began, payload.len(), |instance| instance.on_message(topic, payload, now))
    }

    /// Asks the plugin whether a session may begin.
    pub fn on_connect(self, began: Moment, connection: &Connection) -> Called<Result<Admission, Denial>> {
        self.call(began, 0, |instance| instance.on_connect(connection))
    }

    /// Tells the plugin that a session has ended.
    pub fn on_disconnect(self, began: Moment, departure: &Departure) -> Called<Decision> {
        self.call(began, 0, |instance| instance.on_disconnect(departure))
    }

    /// Tells the plugin that the client of a session is away.
    pub fn on_away(self, began: Moment, absence: Absence) -> Called<Decision> {
        self.call(began, 0, |instance| instance.on_away(absence))
    }

    /// Tells the plugin that the client of a session is back.
    pub fn on_back(self, began: Moment, arrival: Arrival) -> Called<Decision> {
        self.call(began, 0, |instance| instance.on_back(arrival))
    }

    /// Tells the plugin that a timer is due. The time is in milliseconds since 1970.
    pub fn on_wake(self, began: Moment, key: u64, now: u64) -> Called<Decision> {
        self.call(began, 0, |instance| instance.on_wake(key, now))
    }

    /// Makes a call, and returns the instance to its slot only if the instance answered.
    fn call<R>(
        mut self,
        began: Moment,
        copied: usize,
        call: impl FnOnce(&mut Instance) -> Result<R, Fault>,
    ) -> Called<R> {
        let mut instance = match self.slot.take() {
            Some(instance) => instance,
            None => match self.starter.instance() {
                Ok(instance) => Box::new(instance),
                Err(fault) => {
                    let usage = Usage { elapsed_ns: began.elapsed_ns(), ..Usage::default() };
                    return Called { answer: Err(fault), usage };
                }
            },
        };
        if self.is_muted {
            instance.mute();
        }
        let answer = call(&mut instance);
        let mut usage = Usage::new(instance.busy(), copied, instance.take_reads());
        usage.has_read = instance.has_read();
        usage.trace = instance.end_trace();
        usage.wanted_to_log = self.is_muted && instance.unmute();
        if answer.is_ok() {
            *self.slot = Some(instance);
        }
        usage.elapsed_ns = began.elapsed_ns();
        Called { answer, usage }
    }
}
