//! Clocks in milliseconds, which fit into an atomic.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Returns the milliseconds since a moment before the first call. The result is never 0, so 0 may mean "never".
#[must_use]
pub fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Returns the milliseconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // `as_millis` would compute with 128 bits.
    now.as_secs() * 1000 + u64::from(now.subsec_millis())
}
