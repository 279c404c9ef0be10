//! The slots of a Cluster, and the question which master each of them belongs to.

use crate::{
    bus::redis::{
        error::{LinkError, for_log, within},
        place::with_user,
        slot,
    },
    config::{self, RedisPlace},
    telemetry::text,
};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, Value};
use std::{collections::BTreeSet, sync::Arc};

/// Which master each slot belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// The address of each slot's master as `host:port`.
    masters: Vec<Option<Arc<str>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { masters: vec![None; slot::COUNT.into()] }
    }
}

impl Slots {
    /// Reads the answer to `CLUSTER SLOTS` of the node at `asked`, which is a host. Returns `None` if it is malformed.
    fn parse(answer: &Value, asked: &str) -> Option<Self> {
        let Value::Array(shards) = answer else { return None };
        let mut slots = Self::default();
        for shard in shards {
            let Value::Array(parts) = shard else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &parts[..] else { return None };
            let [host, Value::Int(port), ..] = &master[..] else { return None };
            let host = match host {
                Value::BulkString(host) => str::from_utf8(host).ok()?,
                Value::SimpleString(host) => host,
                Value::Nil => "",
                _ => return None,
            };
            let host = match host {
                // The node does not know its own address.
                "" => asked,
                // The node does not know the name that the Cluster prefers.
                "?" => continue,
                host => host,
            };
            let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let range = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
            slots.masters.get_mut(range)?.fill(Some(address.into()));
        }
        Some(slots)
    }

    #[cfg(test)]
    pub(super) fn from_ranges<'m>(
        ranges: impl IntoIterator<Item = (std::ops::RangeInclusive<usize>, &'m str)>,
    ) -> Self {
        let mut slots = Self::default();
        for (range, master) in ranges {
            slots.masters[range].fill(Some(master.into()));
        }
        slots
    }

    /// Takes over what the master `asked` says about its own slots, and about those that have no master or one that is
    /// away. What it says about the slots of others may be out of date, and they know it when a slot of theirs has
    /// moved.
    pub(super) fn learn(&mut self, view: &Self, asked: &str, is_away: impl Fn(&str) -> bool) {
        for (known, said) in self.masters.iter_mut().zip(&view.masters) {
            if known.as_deref().is_none_or(|master| master == asked || is_away(master)) {
                known.clone_from(said);
            }
        }
    }

    /// Returns the address of the master of a slot.
    pub(super) fn master_of(&self, slot: u16) -> Option<&Arc<str>> {
        self.masters.get(usize::from(slot))?.as_ref()
    }

    /// Returns the addresses of all masters that have slots.
    pub(super) fn masters(&self) -> BTreeSet<&Arc<str>> {
        self.masters.iter().flatten().collect()
    }
}

/// The nodes that can be asked for the masters.
#[derive(Clone)]
pub(super) struct Directory {
    config: config::Redis,
    /// Whether the nodes are reached over TLS.
    is_tls: bool,
}

impl Directory {
    pub(super) fn new(mut config: config::Redis) -> Self {
        let RedisPlace::Cluster { urls } = &config.place else { unreachable!("the place is a Cluster") };
        let is_tls = urls.iter().any(|url| url.starts_with("rediss://"));
        // The user in the first URL is that of all nodes.
        if let Some(Ok(first)) = urls.first().map(|url| url.as_str().into_connection_info()) {
            let settings = first.redis_settings();
            config.username = config.username.or_else(|| settings.username().map(str::to_owned));
            config.password = config.password.or_else(|| settings.password().map(str::to_owned));
        }
        Self { config, is_tls }
    }

    /// Returns the configuration for the connections to one node.
    pub(super) fn config_of(&self, address: &str) -> config::Redis {
        config::Redis { place: RedisPlace::Server(self.url_of(address)), ..self.config.clone() }
    }

    /// Returns the configuration, with the user of all nodes.
    pub(super) fn config(&self) -> &config::Redis {
        &self.config
    }

    /// Returns the configured place of the Cluster.
    pub(super) fn place(&self) -> &RedisPlace {
        &self.config.place
    }

    fn url_of(&self, address: &str) -> String {
        format!("{}://{address}", if self.is_tls { "rediss" } else { "redis" })
    }

    /// Asks one node after another for the masters until one answers: first the nodes at these addresses, then the
    /// configured ones. Returns which one has answered.
    ///
    /// # Errors
    /// Returns the last error if no node answers.
    pub(super) async fn ask(self, addresses: Vec<Arc<str>>) -> Result<(Arc<str>, Slots), LinkError> {
        let RedisPlace::Cluster { urls } = &self.config.place else { unreachable!("the place is a Cluster") };
        let known = addresses.into_iter().map(|address| (self.url_of(&address), address));
        let configured = urls.iter().map(|url| (url.clone(), url.as_str().into()));
        let mut answer = Err(LinkError::Address("no node of the Cluster is configured".to_owned()));
        for (url, address) in known.chain(configured) {
            answer = self.ask_one(&url).await.map(|slots| (address, slots));
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    async fn ask_one(&self, url: &str) -> Result<Slots, LinkError> {
        let info: ConnectionInfo = url.into_connection_info()?;
        let host = match info.addr() {
            redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => host.clone(),
            _ => return Err(LinkError::Address("a node of a Cluster has a host and a port".to_owned())),
        };
        let config::Redis { username, password, timeout, .. } = &self.config;
        let settings = with_user(info.redis_settings().clone(), username.as_deref(), password.as_deref());
        let client = Client::open(info.set_redis_settings(settings))?;
        let refused =
            |error: redis::RedisError| LinkError::Refused { command: "CLUSTER SLOTS", why: text::bounded(error) };
        let ask = async {
            let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
            let mut node = client.get_multiplexed_async_connection_with_config(&settings).await.map_err(refused)?;
            redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut node).await.map_err(refused)
        };
        // One node that hangs must not keep the others from being asked for long.
        let answer = within(*timeout / 2, *timeout, ask).await?;
        let slots = Slots::parse(&answer, &host).ok_or_else(|| LinkError::Refused {
            command: "CLUSTER SLOTS",
            why: for_log(format!("an answer that the gateway does not understand: {answer:?}").as_bytes()),
        })?;
        if slots == Slots::default() {
            let why = "no slot has a master yet".to_owned();
            return Err(LinkError::Refused { command: "CLUSTER SLOTS", why });
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(first: i64, last: i64, host: &str, port: i64) -> Value {
        let node = |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node(host, port), node("replica", 1)])
    }

    #[test]
    fn masters_are_found_by_slot() {
        let answer = Value::Array(vec![shard(8192, 16383, "::1", 2), shard(0, 99, "", 1), shard(101, 200, "?", 3)]);
        let slots = Slots::parse(&answer, "asked").unwrap();
        let master = |slot| slots.master_of(slot).map(|master| &**master);
        assert_eq!((master(0), master(99), master(100), master(150)), (Some("asked:1"), Some("asked:1"), None, None));
        assert_eq!((master(8191), master(8192), master(16383)), (None, Some("[::1]:2"), Some("[::1]:2")));
        assert_eq!(slots.masters().len(), 2);
        for wrong in [Value::Nil, Value::Array(vec![Value::Nil]), Value::Array(vec![shard(-1, 5, "a", 1)])] {
            assert_eq!(Slots::parse(&wrong, "asked"), None);
        }
        assert_eq!(Slots::parse(&Value::Array(vec![shard(0, 16384, "a", 1)]), "asked"), None);
    }

    #[test]
    fn a_master_is_believed_about_its_own_slots_and_those_of_masters_that_are_away() {
        let view = |shards: &[(i64, i64, i64)]| {
            let shards = shards.iter().map(|(first, last, port)| shard(*first, *last, "h", *port));
            Slots::parse(&Value::Array(shards.collect()), "").unwrap()
        };
        let mut slots = Slots::default();
        slots.learn(&view(&[(0, 9, 1), (10, 19, 2), (20, 29, 3)]), "any", |_| false);
        // Master 1 has given slot 5 to master 2, which has given slot 15 to master 3, and master 1 does not know it.
        slots.learn(&view(&[(0, 9, 1), (10, 14, 2), (15, 29, 3)]), "h:2", |_| false);
        slots.learn(&view(&[(0, 4, 1), (5, 19, 2), (6, 9, 1), (20, 30, 3)]), "h:1", |_| false);
        let master = |slots: &Slots, slot| slots.master_of(slot).map(ToString::to_string).unwrap_or_default();
        assert_eq!([5, 6, 15, 30].map(|slot| master(&slots, slot)), ["h:2", "h:1", "h:3", "h:3"]);
        slots.learn(&view(&[(0, 29, 4)]), "h:1", |address| address == "h:3");
        assert_eq!([0, 5, 12, 15, 25, 30].map(|slot| master(&slots, slot)), ["h:4", "h:2", "h:2", "h:4", "h:4", ""]);
    }
}
