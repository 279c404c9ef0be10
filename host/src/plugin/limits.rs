//! The limits of an instance and of its calls.

use std::time::Duration;

/// The maximum processor time of each step of loading: instantiation, `describe` and `configure`.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The additional processor time of a call for each KiB that the host copied into the plugin. A payload of protobuf
/// fields of 2 bytes takes the shipped policies 4.3 ms to read for each MiB. This constant allows twice that time.
const TIME_PER_COPIED_KIB: Duration = Duration::from_micros(9);

/// Returns the additional processor time of a call for the bytes that the host copied into the plugin.
pub(super) fn allowance(copied: usize) -> Duration {
    TIME_PER_COPIED_KIB * u32::try_from(copied >> 10).unwrap_or(u32::MAX)
}

/// The limits of an instance and of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum processor time of a call. A call with a large payload gets more time.
    pub call_timeout: Duration,
    /// The maximum linear memory of an instance, in bytes.
    pub memory: usize,
    /// The maximum number of elements in all tables of an instance together. The largest known guests are interpreters,
    /// and they use a tenth of the default.
    pub table_elements: usize,
    /// The maximum number of resource handles that an instance may hold. The resources may be the host's or its own.
    pub handles: usize,
    /// The maximum size of the result of one call in the host's memory, in bytes.
    pub result: usize,
    /// The maximum number of actions in the answer of one call.
    pub actions: usize,
    /// The maximum number of messages that the deliveries of one call may put into send queues. A call with a single
    /// delivery has no limit.
    pub pushes: usize,
    /// The maximum size of the plugin's state, in bytes. All instances share the state.
    pub state: usize,
    /// The maximum length of a log line, in bytes. Longer lines are cut.
    pub log_line: usize,
    /// The maximum number of log lines that the instances of a plugin may write together in one second.
    pub log_lines_per_s: u32,
}
