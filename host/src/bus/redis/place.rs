//! Finds the Redis server to connect to: always the same server, the master that Sentinels name, or the master of a slot
//! of a Cluster.
//!
//! A master that lost its place may keep its connections open and answer pings. So Sentinels are asked before each
//! connection, and their message about a new master ends the connections to the old one.

use super::error::{LinkError, within};
use crate::{
    config::{self, RedisPlace},
    telemetry::text,
};
use futures_util::StreamExt;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsMode,
    sentinel::{Sentinel, SentinelNodeConnectionInfo},
};
use std::{future, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet, time};

/// The channel on which a Sentinel publishes that a master has a new address.
const SWITCH_MASTER: &str = "+switch-master";

/// The pause before a lost subscription at a Sentinel is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// The address of a server: its host and its port.
pub(super) type Address = (String, u16);

/// Finds the server to connect to.
pub(super) enum Finder {
    /// The configuration names the server.
    Server(ConnectionInfo),
    /// Sentinels name the server.
    Sentinel {
        /// The connections to the Sentinels.
        sentinel: Box<Sentinel>,
        /// The name of the master.
        master: String,
        /// The user, the password and the TLS mode of the master.
        node: SentinelNodeConnectionInfo,
    },
    /// The nodes of a Cluster name the master of a slot.
    Slot {
        /// Whether the nodes are reached over TLS.
        is_tls: bool,
        /// The user and the password of the nodes.
        settings: RedisConnectionInfo,
    },
}

impl Finder {
    /// # Errors
    /// Returns an error if an address cannot be used.
    pub(super) fn new(config: &config::Redis) -> Result<Self, LinkError> {
        let own = |settings: &RedisConnectionInfo| {
            with_user(settings.clone(), config.username.as_deref(), config.password.as_deref())
        };
        Ok(match &config.place {
            RedisPlace::Server(url) => {
                let info = url.as_str().into_connection_info()?;
                let settings = own(info.redis_settings());
                Self::Server(info.set_redis_settings(settings))
            }
            RedisPlace::Cluster { urls } => Self::Slot {
                is_tls: urls.iter().any(|url| url.starts_with("rediss://")),
                settings: own(&RedisConnectionInfo::default()),
            },
            RedisPlace::Sentinel { master, .. } => {
                let sentinels = sentinels(&config.place)?;
                let is_tls =
                    matches!(sentinels[..], [ref first, ..] if matches!(first.addr(), ConnectionAddr::TcpTls { .. }));
                let node = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(own(&RedisConnectionInfo::default()));
                Self::Sentinel {
                    sentinel: Box::new(Sentinel::build(sentinels)?),
                    master: master.clone(),
                    node: if is_tls { node.set_tls_mode(TlsMode::Secure) } else { node },
                }
            }
        })
    }

    /// Returns the address of the server, and its user and password.
    pub(super) async fn find(&mut self, switches: &Switches, timeout: Duration) -> Result<ConnectionInfo, LinkError> {
        match self {
            Self::Server(info) => Ok(info.clone()),
            Self::Sentinel { sentinel, master, node } => {
                let find = async {
                    let client = sentinel.async_master_for(master, Some(node)).await;
                    client.map_err(|error| LinkError::NoMaster(text::bounded(error)))
                };
                let client = within(timeout, timeout, find).await?;
                Ok(client.get_connection_info().clone())
            }
            Self::Slot { is_tls, settings } => {
                let mut master = switches.0.clone();
                let found = time::timeout(timeout, master.wait_for(Option::is_some)).await;
                let address = found.ok().and_then(|address| address.ok()?.clone());
                let (host, port) = address.ok_or(LinkError::NoMasterOfSlot)?;
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                let url = format!("{}://{host}:{port}", if *is_tls { "rediss" } else { "redis" });
                Ok(url.into_connection_info()?.set_redis_settings(settings.clone()))
            }
        }
    }
}

/// Returns the addresses of the Sentinels. It is empty if there are none.
fn sentinels(place: &RedisPlace) -> Result<Vec<ConnectionInfo>, LinkError> {
    let RedisPlace::Sentinel { urls, username, password, .. } = place else { return Ok(Vec::new()) };
    let info = |url: &String| {
        let info = url.as_str().into_connection_info()?;
        let settings = with_user(info.redis_settings().clone(), username.as_deref(), password.as_deref());
        Ok(info.set_redis_settings(settings))
    };
    urls.iter().map(info).collect()
}

pub(super) fn with_user(
    mut settings: RedisConnectionInfo,
    user: Option<&str>,
    password: Option<&str>,
) -> RedisConnectionInfo {
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    settings
}

/// The addresses of the master, as the Sentinels publish them, or those of the master of a slot of a Cluster.
#[derive(Clone)]
pub(super) struct Switches(watch::Receiver<Option<Address>>);

impl Switches {
    /// Subscribes at all Sentinels, in tasks of `tasks`. The tasks never end.
    ///
    /// # Errors
    /// Returns an error if an address cannot be used.
    pub(super) fn follow(place: &RedisPlace, tasks: &mut JoinSet<()>) -> Result<Self, LinkError> {
        let (addresses, switches) = watch::channel(None);
        let addresses = Arc::new(addresses);
        if let RedisPlace::Sentinel { master, .. } = place {
            for sentinel in sentinels(place)? {
                let (client, master, addresses) = (Client::open(sentinel)?, master.clone(), Arc::clone(&addresses));
                tasks.spawn(async move {
                    loop {
                        // Without this Sentinel, the others publish it, or the connection to the old master breaks.
                        if let Err(error) = listen(&client, &master, &addresses).await {
                            tracing::debug!(error = text::bounded(error), "no subscription at a Sentinel");
                        }
                        time::sleep(PAUSE).await;
                    }
                });
            }
        }
        Ok(Self(switches))
    }

    /// Follows nothing, for a connection that is found again whenever it breaks.
    pub(super) fn none() -> Self {
        Self(watch::channel(None).1)
    }

    /// Follows the master of a slot of a Cluster.
    pub(super) fn of_slot(master: watch::Receiver<Option<Address>>) -> Self {
        Self(master)
    }

    /// Forgets the addresses that were published so far.
    pub(super) fn forget(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until the master has another address than `current`, and returns it.
    pub(super) async fn left(&mut self, current: &ConnectionAddr) -> String {
        loop {
            if self.0.changed().await.is_err() {
                // There are no Sentinels and no slots.
                return future::pending().await;
            }
            let address = self.0.borrow_and_update();
            if let Some((host, port)) = &*address
                && !matches!(current, ConnectionAddr::Tcp(h, p) | ConnectionAddr::TcpTls { host: h, port: p, .. } if (h, p) == (host, port))
            {
                return text::bounded(format_args!("{host}:{port}"));
            }
        }
    }
}

/// Subscribes at a Sentinel, and publishes the new addresses of the master in `addresses` until the connection breaks.
async fn listen(client: &Client, master: &str, addresses: &watch::Sender<Option<Address>>) -> Result<(), RedisError> {
    let mut subscriber = client.get_async_pubsub().await?;
    subscriber.subscribe(SWITCH_MASTER).await?;
    // The master may have changed while there was no subscription.
    let mut connection = client.get_multiplexed_async_connection().await?;
    let ask = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned();
    if let Some(address) = ask.query_async::<Option<Address>>(&mut connection).await? {
        addresses.send_replace(Some(address));
    }
    drop(connection);
    let mut messages = subscriber.into_on_message();
    while let Some(message) = messages.next().await {
        let switch: String = message.get_payload()?;
        if let Some(address) = new_address(&switch, master) {
            addresses.send_replace(Some(address));
        }
    }
    Ok(())
}

/// Reads a message of the form `MASTER OLD-HOST OLD-PORT NEW-HOST NEW-PORT`. Returns the new address, if the message is
/// about this master.
fn new_address(switch: &str, master: &str) -> Option<Address> {
    let mut words = switch.split(' ');
    let (name, host, port) = (words.next()?, words.nth(2)?, words.next()?);
    (name == master).then_some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_of_the_own_master_has_an_address() {
        let address = |switch| new_address(switch, "main");
        assert_eq!(address("main 10.0.0.1 6379 10.0.0.2 6380"), Some(("10.0.0.2".to_owned(), 6380)));
        for other in ["other 10.0.0.1 6379 10.0.0.2 6380", "main 10.0.0.1 6379 10.0.0.2", "main 1 2 3 port", ""] {
            assert_eq!(address(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn only_another_address_is_a_switch() {
        let (addresses, switches) = watch::channel(None);
        let mut switches = Switches(switches);
        let current = ConnectionAddr::Tcp("a".to_owned(), 1);
        addresses.send_replace(Some(("a".to_owned(), 1)));
        assert!(time::timeout(Duration::from_millis(20), switches.left(&current)).await.is_err());
        addresses.send_replace(Some(("a".to_owned(), 2)));
        assert_eq!(switches.left(&current).await, "a:2");
    }
}
