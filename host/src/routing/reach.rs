//! Whether a message of the bus was for anybody on this gateway. One message may go to several plugins, and some of them
//! may be called on their offload threads. The message is counted once, when the last of them has decided.

use crate::telemetry::metrics::Metrics;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What a decision led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing, or only deliveries and endings whose targets have no session on this gateway.
    NotHere,
    /// Anything else.
    Here,
}

impl Reach {
    /// Returns what this and another decision or action led to.
    pub(super) fn or(self, other: Self) -> Self {
        if self == Self::Here { self } else { other }
    }

    fn count(self, metrics: &Metrics) {
        match self {
            Self::Here => metrics.heard_here.inc(),
            Self::NotHere => metrics.heard_not_here.inc(),
        };
    }
}

/// What one message has led to so far.
pub(super) struct Tally<'a> {
    metrics: &'a Arc<Metrics>,
    reach: Reach,
    shared: Option<Arc<Shared>>,
}

/// The part of a tally for decisions on offload threads. It counts the message when it is dropped, so a call that is
/// never made leaves no message uncounted.
pub(super) struct Shared {
    metrics: Arc<Metrics>,
    is_here: AtomicBool,
}

impl<'a> Tally<'a> {
    pub(super) fn new(metrics: &'a Arc<Metrics>) -> Self {
        Self { metrics, reach: Reach::NotHere, shared: None }
    }

    /// Adds what a plugin's decision has led to.
    pub(super) fn add(&mut self, reach: Reach) {
        self.reach = self.reach.or(reach);
    }

    /// Returns the part that a call on an offload thread adds to.
    pub(super) fn shared(&mut self) -> Arc<Shared> {
        let new = || Arc::new(Shared { metrics: Arc::clone(self.metrics), is_here: AtomicBool::new(false) });
        Arc::clone(self.shared.get_or_insert_with(new))
    }

    /// Counts the message, or leaves this to the last call on an offload thread.
    pub(super) fn count(self) {
        match self.shared {
            None => self.reach.count(self.metrics),
            Some(shared) => shared.add(self.reach),
        }
    }
}

impl Shared {
    /// Adds what a plugin's decision has led to.
    pub(super) fn add(&self, reach: Reach) {
        if reach == Reach::Here {
            self.is_here.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let reach = if *self.is_here.get_mut() { Reach::Here } else { Reach::NotHere };
        reach.count(&self.metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(metrics: &Metrics, here: u64, not_here: u64) {
        assert_eq!((metrics.heard_here.get(), metrics.heard_not_here.get()), (here, not_here));
    }

    #[test]
    fn a_message_is_counted_once_for_all_plugins() {
        let metrics = Arc::new(Metrics::new());
        for decisions in [&[][..], &[Reach::NotHere], &[Reach::Here, Reach::NotHere], &[Reach::NotHere, Reach::Here]] {
            let mut tally = Tally::new(&metrics);
            decisions.iter().for_each(|reach| tally.add(*reach));
            tally.count();
        }
        check(&metrics, 2, 2);
    }

    #[test]
    fn a_message_is_counted_when_the_last_offload_thread_has_decided() {
        let metrics = Arc::new(Metrics::new());
        let mut tally = Tally::new(&metrics);
        let (first, second) = (tally.shared(), tally.shared());
        tally.add(Reach::NotHere);
        tally.count();
        first.add(Reach::Here);
        drop(first);
        check(&metrics, 0, 0);
        second.add(Reach::NotHere);
        drop(second);
        check(&metrics, 1, 0);
        let mut tally = Tally::new(&metrics);
        let never_made = tally.shared();
        tally.count();
        drop(never_made);
        check(&metrics, 1, 1);
        let mut tally = Tally::new(&metrics);
        let offloaded = tally.shared();
        tally.add(Reach::Here);
        tally.count();
        drop(offloaded);
        check(&metrics, 2, 1);
    }
}
