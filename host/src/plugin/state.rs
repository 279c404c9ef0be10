//! What the host keeps for one instance: its limits, and the way of its log lines.

use super::bindings::{Level, LogHost};
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// The bytes of a log line that are kept.
const LINE_BYTES: usize = 4096;

/// Table elements that an instance may have: those of the largest guests seen (interpreters of JavaScript and Python) are a tenth.
const TABLE_ELEMENTS: usize = 1_000_000;

/// What belongs to an instance's store.
pub(super) struct State {
    plugin: Arc<str>,
    memory_bytes: usize,
    memory_used: usize,
    memory_refused: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl State {
    /// The state of a fresh instance that may use `memory_bytes` of linear memory.
    pub(super) fn new(plugin: Arc<str>, memory_bytes: usize) -> Self {
        Self { plugin, memory_bytes, memory_used: 0, memory_refused: false, stdout: Vec::new(), stderr: Vec::new() }
    }

    /// Whether the instance asked for more memory than it may have.
    pub(super) fn memory_refused(&self) -> bool {
        self.memory_refused
    }

    /// What a guest wrote to stdout or stderr: a log line for each of its lines.
    pub(super) fn stdio(&mut self, error: bool, bytes: &[u8]) {
        let level = if error { Level::Warn } else { Level::Info };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = if error { &mut self.stderr } else { &mut self.stdout };
            let room = LINE_BYTES.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let whole = std::mem::take(line);
                write_line(&self.plugin, level, String::from_utf8_lossy(&whole).trim_end());
            }
        }
    }

    /// Logs what a guest wrote without an end of line, before its instance goes.
    pub(super) fn flush_stdio(&mut self) {
        for (error, rest) in [(false, !self.stdout.is_empty()), (true, !self.stderr.is_empty())] {
            if rest {
                self.stdio(error, b"\n");
            }
        }
    }
}

impl LogHost for State {
    fn write(&mut self, level: Level, message: String) {
        let end = message.floor_char_boundary(LINE_BYTES);
        write_line(&self.plugin, level, &message[..end]);
    }
}

fn write_line(plugin: &str, level: Level, line: &str) {
    // The formatter escapes control characters, so a plugin cannot forge the lines of others.
    match level {
        Level::Error => tracing::error!(target: "plugin", plugin, line),
        Level::Warn => tracing::warn!(target: "plugin", plugin, line),
        Level::Info => tracing::info!(target: "plugin", plugin, line),
        Level::Debug => tracing::debug!(target: "plugin", plugin, line),
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.memory_used + (desired - current);
        if used > self.memory_bytes {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory_used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}
