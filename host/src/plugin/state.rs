//! The host's state for one instance: the use of memory and its limits, the deadline of the current call, and the log.

use super::{
    bindings::Level,
    clock::Deadline,
    kept::{Kept, Reading},
    limits::Limits,
    log::Log,
    store::Reads,
};
use crate::traces::OpenSpan;
use prometheus_client::metrics::gauge::Gauge;
use std::{mem, sync::Arc};
use wasmtime::ResourceLimiter;

/// The maximum number of linear memories in one plugin. Each memory reserves 4 GiB of address space and may hold a file
/// descriptor. Languages that compile to components use one or two memories.
pub(super) const MAX_MEMORIES: usize = 16;

/// The maximum number of tables in one plugin. The setting `table_elements` limits the number of their elements.
pub(super) const MAX_TABLES: usize = 64;

/// The maximum number of core instances in one plugin. An interpreter with native extensions as separate
/// modules has about a hundred.
const MAX_INSTANCES: usize = 1024;

/// The host's state in the store of one instance.
pub(super) struct State {
    limits: Limits,
    memory_used: usize,
    table_elements: usize,
    memory_gauge: Gauge,
    refused: Option<Refused>,
    deadline: Deadline,
    /// `None` for an instance that only describes its plugin.
    reading: Option<Reading>,
    simulated: Option<Simulated>,
    tracing: Tracing,
    log: Log,
    /// If nothing may be logged, whether the plugin has tried to.
    muted: Option<bool>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// The clock and the random numbers of an instance that runs test vectors.
pub(super) struct Simulated {
    /// The time, in milliseconds since 1970. It does not pass.
    pub(super) now_ms: u64,
    /// The state of the generator.
    pub(super) seed: u64,
}

impl Simulated {
    /// Returns the next number of the sequence (SplitMix64, by Steele, Lea and Flood, 2014).
    pub(super) fn next_u64(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The trace of the current call.
#[derive(Default)]
pub(super) struct Tracing {
    /// The span of the call, if it is recorded.
    pub(super) span: Option<Box<OpenSpan>>,
    /// Whether the plugin has named the trace. It does so once in a call.
    pub(super) has_joined: bool,
}

/// A resource of which an instance requested more than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Memory,
    Tables,
}

impl State {
    /// Returns the state of a new instance.
    pub(super) fn new(plugin: Arc<str>, limits: Limits, memory_gauge: Gauge, kept: Option<(Arc<Kept>, u32)>) -> Self {
        let lines = kept.as_ref().map_or_else(Arc::default, |(kept, _)| Arc::clone(&kept.lines));
        let reading =
            kept.map(|(kept, format)| Reading { kept, reads: Reads::new(format), count: 0, now: 0, is_open: false });
        let log = Log::new(plugin, limits.log_lines_per_s, lines);
        Self {
            limits,
            memory_used: 0,
            table_elements: 0,
            memory_gauge,
            refused: None,
            deadline: Deadline::default(),
            reading,
            simulated: None,
            tracing: Tracing::default(),
            log,
            muted: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Returns the deadline of the current call.
    pub(super) fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    /// Returns the limits of the instance.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns what the instance reads, if it may read.
    pub(super) fn reading(&mut self) -> Option<&mut Reading> {
        self.reading.as_mut()
    }

    /// Returns the trace of the current call.
    pub(super) fn tracing(&mut self) -> &mut Tracing {
        &mut self.tracing
    }

    /// Makes the clocks and random numbers of WASI reproducible, for a run of test vectors.
    pub(super) fn simulate(&mut self, simulated: Simulated) {
        self.simulated = Some(simulated);
    }

    /// Returns the reproducible clock and random numbers, if the instance has them.
    pub(super) fn simulated(&mut self) -> Option<&mut Simulated> {
        self.simulated.as_mut()
    }

    /// Forgets what was refused to the instance in earlier calls.
    pub(super) fn begin_call(&mut self) {
        self.refused = None;
    }

    /// Returns the last resource that was refused to the instance in this call, if there was one.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Keeps what the plugin logs out of the log, until [`unmute`](Self::unmute).
    pub(super) fn mute(&mut self) {
        self.muted = Some(false);
    }

    /// Returns whether the plugin has tried to log something since [`mute`](Self::mute).
    pub(super) fn unmute(&mut self) -> bool {
        self.muted.take().unwrap_or(false)
    }

    /// Writes a line to the log, cut to the maximum length of a line.
    pub(super) fn write(&mut self, level: Level, message: &str) {
        if let Some(has_tried) = &mut self.muted {
            *has_tried = true;
            return;
        }
        let end = message.floor_char_boundary(self.limits.log_line);
        self.log.write(level, &message[..end]);
    }

    /// Logs the bytes that a guest wrote to stdout or stderr, as one log line for each line of the guest. Bytes after
    /// the last end of line are buffered.
    pub(super) fn stdio(&mut self, error: bool, bytes: &[u8]) {
        if let Some(has_tried) = &mut self.muted {
            *has_tried = true;
            return;
        }
        let level = if error { Level::Warn } else { Level::Info };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = if error { &mut self.stderr } else { &mut self.stdout };
            let free = self.limits.log_line.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(free)]);
            if piece.ends_with(b"\n") {
                let whole = mem::take(line);
                self.log.write(level, String::from_utf8_lossy(&whole).trim_end());
            }
        }
    }

    /// Logs the buffered output that has no end of line, before the instance is dropped.
    fn flush_stdio(&mut self) {
        for (error, rest) in [(false, !self.stdout.is_empty()), (true, !self.stderr.is_empty())] {
            if rest {
                self.stdio(error, b"\n");
            }
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.flush_stdio();
        self.memory_gauge.dec_by(signed(self.memory_used));
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if is_over(desired, maximum) {
            return Ok(false);
        }
        let Some(used) = grown(self.memory_used, (current, desired), self.limits.memory) else {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        };
        self.memory_gauge.inc_by(signed(used - self.memory_used));
        self.memory_used = used;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if is_over(desired, maximum) {
            return Ok(false);
        }
        let Some(used) = grown(self.table_elements, (current, desired), self.limits.table_elements) else {
            self.refused = Some(Refused::Tables);
            return Ok(false);
        };
        self.table_elements = used;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// Returns whether a growth is over the maximum that the memory or the table declares. wasmtime refuses such a growth,
/// but only after it was counted.
fn is_over(desired: usize, maximum: Option<usize>) -> bool {
    maximum.is_some_and(|maximum| desired > maximum)
}

/// Returns what an instance uses after a growth, or `None` if that is over its limit. A guest may ask for almost the
/// whole address space.
fn grown(used: usize, (from, to): (usize, usize), limit: usize) -> Option<usize> {
    used.checked_add(to.checked_sub(from)?).filter(|used| *used <= limit)
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::described::DESCRIBE_LIMITS;

    const PAGE: usize = 64 << 10;

    #[test]
    fn a_growth_is_counted_only_if_it_is_within_the_limit_and_the_maximum() {
        let limits = Limits { memory: 2 * PAGE, ..DESCRIBE_LIMITS };
        let mut state = State::new("a".into(), limits, Gauge::default(), None);
        assert!(state.memory_growing(0, PAGE, None).unwrap());
        assert!(!state.memory_growing(PAGE, 2 * PAGE, Some(PAGE)).unwrap());
        assert_eq!((state.memory_used, state.refused()), (PAGE, None), "it is over its own maximum");
        // 64-bit memories ask for up to the end of the address space.
        for desired in [usize::MAX - PAGE + 1, usize::MAX] {
            assert!(!state.memory_growing(0, desired, None).unwrap());
            assert_eq!((state.memory_used, state.refused()), (PAGE, Some(Refused::Memory)));
        }
        state.begin_call();
        assert_eq!(state.refused(), None);
        assert!(state.memory_growing(PAGE, 2 * PAGE, Some(2 * PAGE)).unwrap());
        assert!(!state.memory_growing(2 * PAGE, 2 * PAGE + 1, None).unwrap());
    }
}
