//! A single instance outside a running gateway, for the `gateway plugin` commands and for benchmarks.

use super::{
    bindings::Packet,
    described::Described,
    fault::Fault,
    instance::{Decision, Instance},
    limits::Limits,
};
use std::sync::Arc;

/// An instance that serves no players.
pub struct Trial(Instance);

impl Trial {
    /// Starts an instance that is not configured yet.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the instance fails to start.
    pub fn new(described: &Described, limits: Limits) -> Result<Self, Fault> {
        Instance::new(&described.linked, Arc::clone(&described.name), limits, None).map(Self)
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

    /// Calls `on-message`.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the call fails.
    pub fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<Decision, Fault> {
        self.0.on_message(topic, payload)
    }
}
