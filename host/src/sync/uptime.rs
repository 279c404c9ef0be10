//! A clock that fits into an atomic.

use std::{sync::LazyLock, time::Instant};

/// Milliseconds since some moment before the first call; never 0, so that 0 may mean never.
#[must_use]
pub fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
