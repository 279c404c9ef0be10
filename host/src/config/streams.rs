//! The topics that are streams of Redis instead of channels.

use crate::plugin::HOST_TOPIC;
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

/// The end of a name that stands for all topics with the same beginning.
const ANY: char = '*';

/// The beginning of the topics on which gateways send probes, and messages to each other. These topics are channels.
const OWN: &str = "gateway:";

/// The topics that are streams, and the rules for writing to them. A copy is cheap.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    names: Arc<Names>,
    /// The number of entries that a stream keeps at least. Redis removes older entries.
    pub max_len: u64,
    /// The number of replicas that have to have an entry before it counts as accepted.
    pub replicas: u64,
}

#[derive(Debug, Default)]
struct Names {
    exact: BTreeSet<String>,
    /// The beginnings of names that end with [`ANY`].
    beginnings: Vec<String>,
}

impl Streams {
    /// Returns whether no topic is a stream.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.exact.is_empty() && self.names.beginnings.is_empty()
    }

    /// Returns whether a topic is a stream.
    #[must_use]
    pub fn contains(&self, topic: &str) -> bool {
        let Names { exact, beginnings } = &*self.names;
        exact.contains(topic) || beginnings.iter().any(|beginning| topic.starts_with(beginning))
    }

    /// Returns these topics as streams.
    #[cfg(test)]
    pub(crate) fn of(topics: &[&str]) -> Self {
        let exact = topics.iter().map(|&topic| topic.to_owned()).collect();
        Self { names: Arc::new(Names { exact, beginnings: Vec::new() }), max_len: 1000, replicas: 0 }
    }

    /// Checks the names of `redis.streams`, and that `redis.stream_replicas` is not there without them.
    pub(super) fn resolve(written: &[String], max_len: u64, replicas: u64, errors: &mut Vec<String>) -> Self {
        const KEY: &str = "redis.streams";
        let (mut names, mut seen) = (Names::default(), HashSet::new());
        for name in written {
            let beginning = name.strip_suffix(ANY);
            let is_own = beginning.map_or(name.starts_with(HOST_TOPIC), |beginning| {
                beginning.starts_with(OWN) || OWN.starts_with(beginning)
            });
            if name.is_empty() || beginning.unwrap_or(name).contains(ANY) {
                errors.push(format!("{KEY}: {name:?} is not a topic: write its name, or its beginning and one `*`"));
            } else if !seen.insert(name) {
                errors.push(format!("{KEY}: {name:?} is a duplicate"));
            } else if is_own {
                errors.push(format!(
                    "{KEY}: {name:?} covers topics that gateways use themselves, which begin with {OWN}"
                ));
            }
            match beginning {
                Some(beginning) => names.beginnings.push(beginning.to_owned()),
                None => drop(names.exact.insert(name.clone())),
            }
        }
        if replicas > 0 && written.is_empty() {
            errors.push(format!(
                "redis.stream_replicas: it does nothing without streams, list topics in {KEY} or remove it"
            ));
        }
        Self { names: Arc::new(names), max_len, replicas }
    }
}
