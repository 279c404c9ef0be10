//! Finds loops over the bus. In a loop, a plugin receives a message and publishes on a topic that leads back to the
//! topic of that message.
//!
//! After one message, such a plugin would keep the bus busy forever, alone or with the same plugin on another gateway.
//! A hop count was rejected, because it would have to travel in messages that belong to backends. So the gateway
//! remembers which topics caused publishes on which other topics. A publish that closes a cycle of topics is allowed
//! at a low rate only.

use crate::sync::rate_limit::RateLimit;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

/// The maximum number of publishes in cycles that one plugin may make per second. One burst may have the same number.
const MAX_LOOPED_PUBLISHES_PER_S: u32 = 100;

/// The maximum number of topic pairs that are remembered. With one more pair, all are forgotten.
const MAX_PAIRS: usize = 4096;

/// The limit of one plugin on its publishes in cycles.
#[derive(Debug)]
pub struct LoopLimit(RateLimit);

impl Default for LoopLimit {
    fn default() -> Self {
        Self(RateLimit::new(MAX_LOOPED_PUBLISHES_PER_S))
    }
}

impl LoopLimit {
    /// Returns whether the plugin may make one more publish in a cycle now.
    pub(super) fn permit(&self) -> bool {
        self.0.permit()
    }
}

/// The remembered pairs of topics. A message on the first topic of a pair caused a publish on the second.
#[derive(Default)]
pub(super) struct Causes(Mutex<Pairs>);

#[derive(Default)]
struct Pairs {
    /// For each causing topic, the topics of the publishes that it caused, and whether the pair is part of a cycle.
    caused: HashMap<String, HashMap<String, bool>>,
    count: usize,
}

impl Causes {
    /// Records that a message on `heard` caused a publish on `published`. Returns whether the publish may lead back to
    /// `heard`.
    pub(super) fn closes_cycle(&self, heard: &str, published: &str) -> bool {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pairs.caused.get(heard).and_then(|caused| caused.get(published)).copied();
        known.unwrap_or_else(|| pairs.add(heard, published))
    }

    /// Forgets all pairs, because other plugins serve now.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Pairs::default();
    }
}

impl Pairs {
    fn add(&mut self, heard: &str, published: &str) -> bool {
        if self.count >= MAX_PAIRS {
            // Plugins may listen to any number of topics, so most pairs are of no interest any more. A loop is found
            // again with its next messages.
            *self = Self::default();
        }
        self.count += 1;
        let reached = self.reached_from(published);
        let is_cycle = reached.contains(heard);
        self.caused.entry(heard.to_owned()).or_default().insert(published.to_owned(), is_cycle);
        if is_cycle {
            self.mark(&reached, heard);
        }
        is_cycle
    }

    /// Returns all topics that a message on this topic may cause messages on, including the topic itself.
    fn reached_from(&self, topic: &str) -> HashSet<String> {
        let mut reached = HashSet::from([topic.to_owned()]);
        let mut open = vec![topic.to_owned()];
        while let Some(topic) = open.pop() {
            for next in self.caused.get(&topic).into_iter().flat_map(HashMap::keys) {
                if reached.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        reached
    }

    /// Marks the pairs that lie on a path from the reached topics back to `heard`.
    fn mark(&mut self, reached: &HashSet<String>, heard: &str) {
        let leads_back: HashSet<_> =
            reached.iter().filter(|topic| self.reached_from(topic).contains(heard)).cloned().collect();
        for (from, caused) in &mut self.caused {
            for (to, is_cycle) in caused {
                *is_cycle |= leads_back.contains(from) && leads_back.contains(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_of_a_cycle_are_found() {
        let causes = Causes::default();
        let is_cycle = |heard, published| causes.closes_cycle(heard, published);
        assert!(!is_cycle("request", "broadcast"));
        assert!(!is_cycle("broadcast", "statistics"));
        assert!(is_cycle("self", "self"));
        assert!(!is_cycle("request", "broadcast"));
        assert!(is_cycle("broadcast", "request"));
        assert!(is_cycle("request", "broadcast"), "it is part of the cycle now");
        assert!(!is_cycle("broadcast", "statistics"));
        causes.clear();
        assert!(!is_cycle("broadcast", "request"));
    }

    #[test]
    fn a_loop_is_found_again_after_other_pairs_have_filled_the_memory() {
        let causes = Causes::default();
        let cycles = (0..MAX_PAIRS + 10).filter(|i| causes.closes_cycle("a", &format!("b{i}"))).count();
        assert_eq!(cycles, 0);
        assert!(!causes.closes_cycle("x", "y"));
        assert!(causes.closes_cycle("y", "x"));
        assert!(causes.closes_cycle("x", "y"));
    }

    #[test]
    fn publishes_in_cycles_are_limited() {
        let limit = LoopLimit::default();
        let permitted = (0..10_000).filter(|_| limit.permit()).count();
        assert!((100..1000).contains(&permitted), "{permitted}");
    }
}
