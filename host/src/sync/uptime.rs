//! A clock that fits into an atomic.

use std::{sync::LazyLock, time::Instant};

/// Returns the milliseconds since a moment before the first call. The result is never 0, so 0 may mean "never".
#[must_use]
pub fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
