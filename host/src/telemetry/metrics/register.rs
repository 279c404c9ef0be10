//! Registers metrics, and their known labels at 0, so that a rate can be computed from the first event on.

use super::{
    count::Count,
    labels::{Outcome, Reason},
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Registers a metric under its name.
pub(super) fn register<M: Default + Clone + prometheus_client::registry::Metric>(
    r: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    r.register(name, help, metric.clone());
    metric
}

/// Registers a counter for each known reason at 0, so that a rate can be computed from the first event on.
pub(super) fn known<const N: usize>(
    r: &mut Registry,
    name: &str,
    help: &str,
    reasons: [&'static str; N],
) -> Family<Reason, Counter> {
    let family = register::<Family<Reason, Counter>>(r, name, help);
    for reason in reasons {
        drop(family.get_or_create(&Reason { reason }));
    }
    family
}

/// Registers a counter for each outcome at 0.
pub(super) fn outcomes<const N: usize>(
    r: &mut Registry,
    name: &str,
    help: &str,
    outcomes: [&'static str; N],
) -> [Count; N] {
    let family = register::<Family<Outcome, Count>>(r, name, help);
    outcomes.map(|outcome| family.get_or_create(&Outcome { outcome }).clone())
}

/// Registers a counter of rare events for each known outcome at 0.
pub(super) fn known_outcomes<const N: usize>(
    r: &mut Registry,
    name: &str,
    help: &str,
    outcomes: [&'static str; N],
) -> Family<Outcome, Counter> {
    let family = register::<Family<Outcome, Counter>>(r, name, help);
    for outcome in outcomes {
        drop(family.get_or_create(&Outcome { outcome }));
    }
    family
}
