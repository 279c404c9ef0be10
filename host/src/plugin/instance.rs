//! One instance of a plugin. Each instance has its own store, and is discarded after its first fault.

use super::{
    bindings::{Absence, Admission, Arrival, Batch, Connection, Decision, Denial, Departure, Manifest, Packet},
    clock::Clock,
    component::Linked,
    decisions,
    fault::{Fault, fault},
    handover::hand_over,
    interface::Exports,
    kept::Kept,
    limits::{LOAD_TIMEOUT, Limits, allowance},
    state::{Simulated, State},
    store::Reads,
};
use crate::{telemetry::metrics::PluginMetrics, traces::OpenSpan};
use prometheus_client::metrics::gauge::Gauge;
use std::{sync::Arc, time::Duration};
use wasmtime::{Store, Trap, UpdateDeadline};

/// A closure that calls one export of a plugin.
trait Call<R>: FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<R> {}

impl<R, F: FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<R>> Call<R> for F {}

/// A live instance.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    limits: Limits,
    clock: Arc<Clock>,
    gauge: Gauge,
}

impl Instance {
    /// Starts an instance that is not configured yet. `kept` is what the instance may read, with the format of its state.
    pub(super) fn new(
        linked: &Linked,
        name: Arc<str>,
        limits: Limits,
        metrics: Option<&PluginMetrics>,
        kept: Option<(Arc<Kept>, u32)>,
    ) -> Result<Self, Fault> {
        let (gauge, memory) = metrics.map_or_else(Default::default, |m| (m.instances.clone(), m.memory.clone()));
        let mut store = linked.interface().store(State::new(name, limits, memory, kept));
        store.limiter(|state| state);
        let clock = Arc::clone(linked.clock());
        store.epoch_deadline_callback(move |mut store| {
            // The clock must not stop while a call runs.
            clock.call_begins();
            if store.data_mut().deadline().is_over() {
                Err(Trap::Interrupt.into())
            } else {
                hand_over();
                Ok(UpdateDeadline::Continue(1))
            }
        });
        store.set_hostcall_fuel(limits.result);
        store.set_max_component_handles(limits.handles);
        start_deadline(&mut store, linked.clock(), LOAD_TIMEOUT, 0);
        match linked.interface().instantiate(&mut store) {
            Ok(exports) => {
                gauge.inc();
                Ok(Self { store, exports, limits, clock: Arc::clone(linked.clock()), gauge })
            }
            Err(error) => Err(fault(&error, &store, limits, Fault::Loading)),
        }
    }

    pub(super) fn describe(&mut self) -> Result<Manifest, Fault> {
        self.load(|exports, store| exports.describe(store))
    }

    pub(super) fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, Fault> {
        self.load(|exports, store| exports.configure(store, settings))
    }

    /// Makes the clocks and random numbers of WASI reproducible.
    pub(super) fn simulate(&mut self, now_ms: u64, seed: u64) {
        self.store.data_mut().simulate(Simulated { now_ms, seed });
    }

    pub(super) fn on_packet(&mut self, packet: Packet, payload: &[u8]) -> Result<Decision, Fault> {
        self.call(payload.len(), packet.now, |exports, store| exports.on_packet(store, packet, payload))
    }

    /// Makes one call for several packets. Returns a decision on each of them.
    pub(super) fn on_packets(&mut self, batch: &Batch) -> Result<Vec<Decision>, Fault> {
        let call = |exports: &Exports, store: &mut Store<State>| exports.on_packets(store, batch);
        let decisions = self.call(batch.payloads.len(), batch.now, call)?;
        decisions::split(decisions, batch.seqs.len()).map_err(Fault::Answer)
    }

    pub(super) fn on_message(&mut self, topic: &str, payload: &[u8], now: u64) -> Result<Decision, Fault> {
        self.call(payload.len(), now, |exports, store| exports.on_message(store, topic, payload, now))
    }

    pub(super) fn on_connect(&mut self, connection: &Connection) -> Result<Result<Admission, Denial>, Fault> {
        self.call(0, connection.now, |exports, store| exports.on_connect(store, connection))
    }

    pub(super) fn on_disconnect(&mut self, departure: &Departure) -> Result<Decision, Fault> {
        self.call(0, departure.now, |exports, store| exports.on_disconnect(store, departure).map(Ok))
    }

    pub(super) fn on_away(&mut self, absence: Absence) -> Result<Decision, Fault> {
        self.call(0, absence.now, |exports, store| exports.on_away(store, absence).map(Ok))
    }

    pub(super) fn on_back(&mut self, arrival: Arrival) -> Result<Decision, Fault> {
        self.call(0, arrival.now, |exports, store| exports.on_back(store, arrival).map(Ok))
    }

    pub(super) fn on_wake(&mut self, key: u64, now: u64) -> Result<Decision, Fault> {
        self.call(0, now, |exports, store| exports.on_wake(store, key, now).map(Ok))
    }

    /// Keeps what the plugin logs out of the log, until [`unmute`](Self::unmute).
    pub(super) fn mute(&mut self) {
        self.store.data_mut().mute();
    }

    /// Returns whether the plugin has tried to log something since [`mute`](Self::mute).
    pub(super) fn unmute(&mut self) -> bool {
        self.store.data_mut().unmute()
    }

    /// Gives the next call its span.
    pub(super) fn begin_trace(&mut self, span: Box<OpenSpan>) {
        self.store.data_mut().tracing().span = Some(span);
    }

    /// Returns the span of the last call, if it is recorded.
    pub(super) fn end_trace(&mut self) -> Option<Box<OpenSpan>> {
        let tracing = self.store.data_mut().tracing();
        tracing.has_joined = false;
        tracing.span.take()
    }

    /// Returns what the last call has read.
    pub(super) fn take_reads(&mut self) -> Reads {
        self.store.data_mut().reading().map_or_else(Reads::default, |reading| reading.reads.take())
    }

    /// Returns whether the last call has read anything.
    pub(super) fn has_read(&mut self) -> bool {
        self.store.data_mut().reading().is_some_and(|reading| reading.count > 0)
    }

    /// Returns the processor time of the last call, without the time before its first tick. It is 0 if the call saw too
    /// few ticks.
    pub(super) fn busy(&mut self) -> Duration {
        self.store.data_mut().deadline().busy()
    }

    fn load<R>(&mut self, call: impl Call<R>) -> Result<R, Fault> {
        start_deadline(&mut self.store, &self.clock, LOAD_TIMEOUT, 0);
        call(&self.exports, &mut self.store).map_err(|error| fault(&error, &self.store, self.limits, Fault::Loading))
    }

    fn call<R>(&mut self, copied: usize, now: u64, call: impl Call<R>) -> Result<R, Fault> {
        start_deadline(&mut self.store, &self.clock, self.limits.call_timeout, copied);
        if let Some(reading) = self.store.data_mut().reading() {
            (reading.count, reading.now, reading.is_open) = (0, now, true);
        }
        call(&self.exports, &mut self.store).map_err(|error| {
            let too_late = Fault::Deadline(self.limits.call_timeout + allowance(copied));
            fault(&error, &self.store, self.limits, too_late)
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn start_deadline(store: &mut Store<State>, clock: &Clock, timeout: Duration, copied: usize) {
    store.data_mut().begin_call();
    store.data_mut().deadline().set(timeout, copied);
    store.set_epoch_deadline(1);
    // The next tick has to find the deadline set.
    clock.call_begins();
}
