//! Values that one gateway leaves in Redis for another, each for a limited time.
//!
//! They are rare, and not on the path of packets or messages. So the connection is that of the client library. It is
//! made when the first value is written or read.

use super::{
    error::{LinkError, within},
    place::{Finder, Switches, with_user},
};
use crate::{
    config::{self, RedisPlace},
    telemetry::text,
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisConnectionInfo, aio::MultiplexedConnection,
    cluster::ClusterClient, cluster_async::ClusterConnection,
};
use std::{io, time::Duration};
use tokio::sync::Mutex;

/// The values that gateways leave for each other.
pub struct Keys {
    config: config::Redis,
    kept: Mutex<Kept>,
}

/// The connection that all commands share.
#[derive(Default)]
struct Kept {
    /// The connection, from its first use until it breaks.
    connection: Option<Connection>,
    /// The number of connections that were made.
    made: u64,
}

/// The shared connection, for one command.
struct Lent {
    connection: Connection,
    number: u64,
    is_new: bool,
}

/// A value that waits in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes that were written.
    pub bytes: Vec<u8>,
    /// The time until Redis removes it.
    pub left: Duration,
}

/// Why a value could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("Redis: {0}")]
pub struct Failed(#[from] LinkError);

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Keys {
    /// Returns the values at this Redis. Connects later.
    #[must_use]
    pub fn new(config: config::Redis) -> Self {
        Self { config, kept: Mutex::default() }
    }

    /// Writes a value, which Redis removes after the time `lives`.
    ///
    /// # Errors
    /// Returns an error if Redis does not confirm it in time.
    pub async fn set(&self, key: &str, value: &[u8], lives: Duration) -> Result<(), Failed> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(value).arg("PX").arg(milliseconds(lives));
        self.ask(&command, "SET").await
    }

    /// Reads a value. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer in time.
    pub async fn get(&self, key: &str) -> Result<Option<Value>, Failed> {
        let Some(bytes) = self.ask(redis::cmd("GET").arg(key), "GET").await? else { return Ok(None) };
        let left: i64 = self.ask(redis::cmd("PTTL").arg(key), "PTTL").await?;
        // A negative number says that the value was removed in between.
        Ok(u64::try_from(left).ok().map(|left| Value { bytes, left: Duration::from_millis(left) }))
    }

    /// Reads a value and removes it, in one step. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer in time. Then the value may have been removed.
    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, Failed> {
        self.ask(redis::cmd("GETDEL").arg(key), "GETDEL").await
    }

    /// Sends a command, over a new connection if the last one is broken or leads to a server that is no master.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd, name: &'static str) -> Result<T, Failed> {
        let Lent { mut connection, number, is_new } = self.connection(0).await?;
        match self.send(&mut connection, command, name).await {
            Err(LinkError::Io(_) | LinkError::Timeout(_) | LinkError::Demoted(_)) if !is_new => {
                let Lent { mut connection, .. } = self.connection(number).await?;
                Ok(self.send(&mut connection, command, name).await?)
            }
            outcome => Ok(outcome?),
        }
    }

    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
        command: &Cmd,
        name: &'static str,
    ) -> Result<T, LinkError> {
        let answer = async {
            let answer = match connection {
                Connection::Server(server) => command.query_async(server).await,
                Connection::Cluster(cluster) => command.query_async(cluster).await,
            };
            answer.map_err(|error| match error.code() {
                Some("READONLY" | "MASTERDOWN" | "LOADING") => LinkError::Demoted(text::bounded(error)),
                Some(_) => LinkError::Refused { command: name, why: text::bounded(error) },
                // No server has answered.
                None => LinkError::Io(io::Error::other(text::bounded(error))),
            })
        };
        within(self.config.timeout, self.config.timeout, answer).await
    }

    /// Returns the connection. Makes a new one if there is none, or if its number is `broken`. Another command may have
    /// made a new one since.
    async fn connection(&self, broken: u64) -> Result<Lent, LinkError> {
        // The lock is held while it connects, so that many sessions that are stored at the same time share a connection.
        let mut kept = self.kept.lock().await;
        if let Some(connection) = &kept.connection
            && kept.made != broken
        {
            return Ok(Lent { connection: connection.clone(), number: kept.made, is_new: false });
        }
        kept.connection = None;
        let connection = within(self.config.timeout, self.config.timeout, self.connect()).await?;
        kept.made += 1;
        kept.connection = Some(connection.clone());
        Ok(Lent { connection, number: kept.made, is_new: true })
    }

    async fn connect(&self) -> Result<Connection, LinkError> {
        let config::Redis { place, username, password, timeout, .. } = &self.config;
        if let RedisPlace::Cluster { urls } = place {
            let own = with_user(RedisConnectionInfo::default(), username.as_deref(), password.as_deref());
            let mut client = ClusterClient::builder(urls.iter().map(String::as_str))
                .connection_timeout(*timeout)
                .response_timeout(*timeout);
            if let Some(username) = own.username() {
                client = client.username(username);
            }
            if let Some(password) = own.password() {
                client = client.password(password);
            }
            return Ok(Connection::Cluster(client.build()?.get_async_connection().await?));
        }
        let info = Finder::new(&self.config)?.find(&Switches::none(), *timeout).await?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(*timeout)).set_response_timeout(Some(*timeout));
        let client = Client::open(info)?;
        Ok(Connection::Server(client.get_multiplexed_async_connection_with_config(&config).await?))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
