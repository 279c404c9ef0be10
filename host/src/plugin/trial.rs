//! A single instance outside a running gateway, for the `gateway plugin` commands and for benchmarks.

use super::{
    bindings::{Absence, Admission, Arrival, Batch, Connection, Decision, Denial, Departure, Packet},
    described::Described,
    fault::Fault,
    instance::Instance,
    kept::Kept,
    limits::Limits,
};
use std::sync::Arc;

/// An instance that serves no players.
pub struct Trial(Instance);

impl Trial {
    /// Starts an instance that is not configured yet, and that reads what is in `kept`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the instance fails to start.
    pub fn new(described: &Described, limits: Limits, kept: Arc<Kept>) -> Result<Self, Fault> {
        kept.store.set_format(described.state_format);
        let kept = Some((kept, described.state_format));
        Instance::new(&described.linked, Arc::clone(&described.name), limits, None, kept).map(Self)
    }

    /// Stops the instance's clock at `now_ms`, in milliseconds since 1970, and makes its random numbers the same in
    /// each run.
    pub fn simulate(&mut self, now_ms: u64) {
        self.0.simulate(now_ms, 0);
    }

    /// Calls `configure`. The inner error is the plugin's refusal of its settings.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, Fault> {
        self.0.configure(settings)
    }

    /// Calls `on-packet`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_packet(&mut self, packet: Packet, payload: &[u8]) -> Result<Decision, Fault> {
        self.0.on_packet(packet, payload)
    }

    /// Calls `on-packets`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_packets(&mut self, batch: &Batch) -> Result<Vec<Decision>, Fault> {
        self.0.on_packets(batch)
    }

    /// Calls `on-message`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_message(&mut self, topic: &str, payload: &[u8], now: u64) -> Result<Decision, Fault> {
        self.0.on_message(topic, payload, now)
    }

    /// Calls `on-connect`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_connect(&mut self, connection: &Connection) -> Result<Result<Admission, Denial>, Fault> {
        self.0.on_connect(connection)
    }

    /// Calls `on-disconnect`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_disconnect(&mut self, departure: &Departure) -> Result<Decision, Fault> {
        self.0.on_disconnect(departure)
    }

    /// Calls `on-away`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_away(&mut self, absence: Absence) -> Result<Decision, Fault> {
        self.0.on_away(absence)
    }

    /// Calls `on-back`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_back(&mut self, arrival: Arrival) -> Result<Decision, Fault> {
        self.0.on_back(arrival)
    }

    /// Calls `on-wake`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_wake(&mut self, key: u64, now: u64) -> Result<Decision, Fault> {
        self.0.on_wake(key, now)
    }
}
