//! Finds loops over the bus. In a loop, a plugin receives a message and publishes on a topic that leads back to the
//! topic of that message.
//!
//! After one message, such a plugin would keep the bus busy forever, alone or with the same plugin on another gateway.
//! A hop count was rejected, because it would have to travel in messages that belong to backends. So the gateway
//! remembers which topics caused publishes on which other topics. A publish that closes a cycle of topics is allowed
//! at a low rate only.

use crate::sync::rate_limit::RateLimit;
use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

/// The maximum number of publishes in cycles that one plugin may make per second. One burst may have the same number.
const MAX_LOOPED_PUBLISHES_PER_S: u32 = 100;

/// The maximum number of topic pairs that are remembered. With one more pair, all are forgotten.
const MAX_PAIRS: usize = 4096;

/// The limit of one plugin on its publishes in cycles.
#[derive(Debug, Default)]
pub struct LoopLimit(RateLimit);

impl LoopLimit {
    /// Returns whether the plugin may make one more publish in a cycle now.
    pub(super) fn permit(&self) -> bool {
        self.0.permit(MAX_LOOPED_PUBLISHES_PER_S)
    }
}

/// The remembered pairs of topics. A message on the first topic of a pair caused a publish on the second.
#[derive(Default)]
pub(super) struct Causes(Mutex<Pairs>);

#[derive(Default)]
struct Pairs {
    /// The number of each topic.
    topics: HashMap<String, usize>,
    /// For each topic, the topics of the publishes that it caused, and whether the pair is part of a cycle.
    caused: Vec<HashMap<usize, bool>>,
    /// For each topic, the topics whose messages caused a publish on it.
    causes: Vec<Vec<usize>>,
    count: usize,
}

impl Causes {
    /// Records that a message on `heard` caused a publish on `published`. Returns whether the publish may lead back to
    /// `heard`.
    pub(super) fn closes_cycle(&self, heard: &str, published: &str) -> bool {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.known(heard, published).unwrap_or_else(|| pairs.add(heard, published))
    }

    /// Forgets all pairs, because other plugins serve now.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Pairs::default();
    }
}

impl Pairs {
    /// Returns whether a pair is part of a cycle, if it is remembered.
    fn known(&self, heard: &str, published: &str) -> Option<bool> {
        let (heard, published) = (*self.topics.get(heard)?, *self.topics.get(published)?);
        self.caused[heard].get(&published).copied()
    }

    /// Adds a pair. Returns whether it is part of a cycle.
    fn add(&mut self, heard: &str, published: &str) -> bool {
        if self.count >= MAX_PAIRS {
            // Plugins may listen to any number of topics, so most pairs are of no interest any more. A loop is found
            // again with its next messages.
            *self = Self::default();
        }
        self.count += 1;
        let (heard, published) = (self.number(heard), self.number(published));
        self.caused[heard].insert(published, false);
        self.causes[published].push(heard);
        let reached = self.walk(published, |topic| self.caused[topic].keys());
        if !reached[heard] {
            return false;
        }
        // The new cycles consist of the topics between the two.
        let leading = self.walk(heard, |topic| self.causes[topic].iter());
        let is_between = |topic: usize| reached[topic] && leading[topic];
        for (_, caused) in self.caused.iter_mut().enumerate().filter(|(from, _)| is_between(*from)) {
            for (to, is_cycle) in caused {
                *is_cycle |= is_between(*to);
            }
        }
        true
    }

    /// Returns the number of a topic, which gets one now if it has none.
    fn number(&mut self, topic: &str) -> usize {
        if let Some(number) = self.topics.get(topic) {
            return *number;
        }
        self.topics.insert(topic.to_owned(), self.caused.len());
        self.caused.push(HashMap::new());
        self.causes.push(Vec::new());
        self.caused.len() - 1
    }

    /// Returns for each topic whether these steps lead to it from a topic. They lead to the topic itself.
    fn walk<'t, I: Iterator<Item = &'t usize>>(&self, topic: usize, steps: impl Fn(usize) -> I) -> Vec<bool> {
        let mut reached = vec![false; self.caused.len()];
        let mut open = vec![topic];
        reached[topic] = true;
        while let Some(topic) = open.pop() {
            for next in steps(topic) {
                if !mem::replace(&mut reached[*next], true) {
                    open.push(*next);
                }
            }
        }
        reached
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
    fn a_topic_may_be_in_many_cycles() {
        // Looking at all paths between two topics would take minutes here.
        let causes = Causes::default();
        assert!((0..2000).all(|i| !causes.closes_cycle("queue", &format!("session:{i}"))));
        assert!((0..2000).all(|i| causes.closes_cycle(&format!("session:{i}"), "queue")));
        assert!((0..2000).all(|i| causes.closes_cycle("queue", &format!("session:{i}"))));
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
