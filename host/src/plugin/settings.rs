//! The operator's settings for one plugin.

use super::limits::Limits;

/// The settings of one plugin from gateway.yaml, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The routes that the plugin serves.
    pub routes: Vec<u8>,
    /// The limits of the plugin's instances and of its calls.
    pub limits: Limits,
    /// The maximum payload of a packet on the plugin's routes, in bytes.
    pub max_payload: usize,
    /// The JSON text that is passed to `configure`.
    pub json: String,
}
