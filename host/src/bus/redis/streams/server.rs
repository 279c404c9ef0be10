//! The connections of the reader, and the commands on them.

use crate::{
    bus::redis::{
        error::{LinkError, forbids_command, within},
        place::Switches,
    },
    telemetry::text,
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, RedisError, Value,
    aio::MultiplexedConnection,
};
use std::{io, time::Duration};

/// The time between two attempts to end a wait.
const UNBLOCK_INTERVAL: Duration = Duration::from_millis(5);

/// An entry: its id and its fields, each with its value.
pub(super) type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// Entries of several streams, each with the stream's name.
pub(super) type Entries = Vec<(String, Vec<Entry>)>;

/// What Redis says about a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// The number of entries that the stream has.
    pub(super) len: u64,
    /// The id of the last entry that was added.
    pub(super) last_id: String,
    /// The number of entries that were ever added. It is `None` before Redis 7.
    pub(super) added: Option<u64>,
}

impl Info {
    /// Returns the number of entries that were removed.
    pub(super) fn removed(&self) -> Option<u64> {
        self.added.map(|added| added.saturating_sub(self.len))
    }
}

/// The connections to one server. One waits for entries, and the other one can end this wait.
pub(super) struct Server {
    reading: MultiplexedConnection,
    asking: MultiplexedConnection,
    /// The number of the connection that waits for entries, if the user may ask for it.
    number: Option<u64>,
    address: ConnectionAddr,
    switches: Switches,
    timeout: Duration,
}

impl Server {
    /// Connects to a server.
    ///
    /// # Errors
    /// Returns an error if it does not answer in time, refuses the user, or is a replica.
    pub(super) async fn open(info: ConnectionInfo, switches: Switches, timeout: Duration) -> Result<Self, LinkError> {
        let address = info.addr().clone();
        let client = Client::open(info)?;
        // The time to wait for an answer differs, so it is measured here.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(None);
        let connect = async || {
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            within(timeout, timeout, async { connection.await.map_err(|error| failed("the connection", error)) }).await
        };
        let (reading, asking) = (connect().await?, connect().await?);
        let mut server = Self { reading, asking, number: None, address, switches, timeout };
        server.check_role().await?;
        server.number = server.ask(redis::cmd("CLIENT").arg("ID"), "CLIENT ID").await.ok();
        Ok(server)
    }

    /// Checks that the server is a master.
    ///
    /// # Errors
    /// Returns an error if it is a replica, or if the connection breaks.
    pub(super) async fn check_role(&mut self) -> Result<(), LinkError> {
        let fields: Vec<(String, Value)> = self.ask(&redis::cmd("HELLO"), "HELLO").await?;
        let is_replica = |(name, value): &(String, Value)| {
            name == "role" && matches!(value, Value::BulkString(role) if role == b"replica")
        };
        if fields.iter().any(is_replica) {
            return Err(LinkError::Replica(self.address.to_string()));
        }
        Ok(())
    }

    /// Returns what Redis says about a stream, or `None` if there is no such stream.
    pub(super) async fn info(&mut self, stream: &str) -> Result<Option<Info>, LinkError> {
        let mut command = redis::cmd("XINFO");
        command.arg("STREAM").arg(stream);
        let fields: Vec<(String, Value)> = match self.ask(&command, "XINFO").await {
            Err(LinkError::Refused { why, .. }) if why.contains("no such key") => return Ok(None),
            answer => answer?,
        };
        let mut info = Info::default();
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("length", Value::Int(len)) => info.len = u64::try_from(len).unwrap_or(0),
                ("last-generated-id", Value::BulkString(id)) => {
                    info.last_id = String::from_utf8_lossy(&id).into_owned()
                }
                ("entries-added", Value::Int(added)) => info.added = u64::try_from(added).ok(),
                _ => {}
            }
        }
        Ok(Some(info))
    }

    /// Returns the ids of at most `count` entries up to `last`, the newest one first.
    pub(super) async fn ids_before(
        &mut self,
        stream: &str,
        last: &str,
        count: usize,
    ) -> Result<Vec<String>, LinkError> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(stream).arg(last).arg("-").arg("COUNT").arg(count);
        let entries: Vec<Entry> = self.ask(&command, "XREVRANGE").await?;
        Ok(entries.into_iter().map(|(id, _)| id).collect())
    }

    /// Returns the first of the ids that the stream has.
    pub(super) async fn first_existing<'i>(
        &mut self,
        stream: &str,
        ids: &[&'i str],
    ) -> Result<Option<&'i str>, LinkError> {
        let mut commands = redis::pipe();
        for id in ids {
            commands.cmd("XRANGE").arg(stream).arg(id).arg(id);
        }
        let Self { reading, timeout, .. } = self;
        let answers =
            async { commands.query_async::<Vec<Vec<Entry>>>(reading).await.map_err(|error| failed("XRANGE", error)) };
        let answers = within(*timeout, *timeout, answers).await?;
        Ok(ids.iter().zip(answers).find(|(_, entries)| !entries.is_empty()).map(|(id, _)| *id))
    }

    /// Waits for entries after the given ids of the streams: at most `count` of each, and for at most `block`. Ends early
    /// and without entries when `interrupted` is ready.
    ///
    /// # Errors
    /// Returns an error if there is no answer in time, if the connection breaks, or if another server is the master.
    pub(super) async fn read(
        &mut self,
        positions: impl Iterator<Item = (&str, &str)>,
        count: usize,
        block: Duration,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Entries, LinkError> {
        let (streams, ids): (Vec<_>, Vec<_>) = positions.unzip();
        let Self { reading, asking, number, address, switches, timeout } = self;
        if streams.is_empty() {
            return tokio::select! {
                () = interrupted => Ok(Vec::new()),
                () = tokio::time::sleep(block) => Ok(Vec::new()),
                master = switches.left(address) => Err(LinkError::Moved(master)),
            };
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(count).arg("BLOCK").arg(block.as_millis().max(1) as u64);
        command.arg("STREAMS").arg(streams).arg(ids);
        let entries = async {
            let entries = command.query_async::<Option<Entries>>(reading).await;
            Ok(entries.map_err(|error| failed("XREAD", error))?.unwrap_or_default())
        };
        let entries = within(block + *timeout, *timeout, entries);
        let unblock = async {
            interrupted.await;
            if let Some(number) = number {
                let command = redis::cmd("CLIENT").arg("UNBLOCK").arg(*number).to_owned();
                // The answer is 0 if the wait has not begun yet. If the command fails, the wait ends a little later.
                while let Ok(0) = command.query_async::<u64>(asking).await {
                    tokio::time::sleep(UNBLOCK_INTERVAL).await;
                }
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            entries = entries => entries,
            () = unblock => Ok(Vec::new()),
            master = switches.left(address) => Err(LinkError::Moved(master)),
        }
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd, name: &'static str) -> Result<T, LinkError> {
        let Self { reading, timeout, .. } = self;
        let answer = async { command.query_async(reading).await.map_err(|error| failed(name, error)) };
        within(*timeout, *timeout, answer).await
    }
}

/// Returns the error for a command that failed.
fn failed(command: &'static str, error: RedisError) -> LinkError {
    let is_broken = error.is_io_error() || error.is_connection_dropped();
    let code = error.code().map(str::to_owned);
    let why = text::bounded(error);
    let is_unreadable = match code.as_deref() {
        Some("WRONGTYPE") => true,
        Some("NOPERM") => !forbids_command(why.as_bytes()),
        _ => false,
    };
    match (is_broken, is_unreadable) {
        (true, _) => LinkError::Io(io::Error::other(why)),
        (_, true) => LinkError::Unreadable { command, why },
        _ => LinkError::Refused { command, why },
    }
}
