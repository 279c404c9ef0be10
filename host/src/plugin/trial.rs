//! A single instance outside of any gateway, for those who write plugins.

use super::{Decision, Described, Fault, Instance, Limits, Packet};
use std::sync::Arc;

/// An instance that serves nobody.
pub struct Trial(Instance);

impl Trial {
    /// A fresh instance, not configured.
    ///
    /// # Errors
    /// [`Fault`] where it fails at its start.
    pub fn new(described: &Described, limits: Limits) -> Result<Self, Fault> {
        Instance::new(&described.linked, Arc::clone(&described.name), limits, None).map(Self)
    }

    /// Calls `configure`.
    ///
    /// # Errors
    /// [`Fault`] where it fails; the inner error is its refusal.
    pub fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, Fault> {
        self.0.configure(settings)
    }

    /// Calls `on-packet`.
    ///
    /// # Errors
    /// [`Fault`] where it fails.
    pub fn on_packet(&mut self, packet: Packet, payload: &[u8]) -> Result<Decision, Fault> {
        self.0.on_packet(packet, payload)
    }

    /// Calls `on-message`.
    ///
    /// # Errors
    /// [`Fault`] where it fails.
    pub fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<Decision, Fault> {
        self.0.on_message(topic, payload)
    }
}
