//! The link of one direction to Redis. It connects, pauses between attempts, and reports whether the direction is
//! connected.

use super::{
    connection::Connection,
    error::{LinkError, within},
    place::{Finder, Switches},
};
use crate::{
    bus::{
        backoff::Backoff,
        health::{Health, Part},
    },
    config,
    sync::uptime,
    telemetry::metrics::Metrics,
};
use gateway_wire::resp::Frame;
use redis::ConnectionInfo;
use std::sync::Arc;
use tokio::time::{self, Instant};

/// The link of one direction to Redis.
pub(super) struct Link {
    config: config::Redis,
    health: Arc<Health>,
    part: Part,
    /// Finds the server. It is `None` until the first attempt.
    finder: Option<Finder>,
    switches: Switches,
    backoff: Backoff,
    /// When the current connection was made, if there is one.
    connected: Option<Instant>,
}

impl Link {
    pub(super) fn new(config: config::Redis, health: Arc<Health>, part: Part, switches: Switches) -> Self {
        Self { config, health, part, finder: None, switches, backoff: Backoff::default(), connected: None }
    }

    /// Tries to connect until an attempt succeeds. Each attempt except the first is preceded by a pause.
    pub(super) async fn connect(&mut self) -> Connection {
        loop {
            self.pause().await;
            match self.open().await {
                Ok(connection) => {
                    self.begun();
                    return connection;
                }
                Err(error) => self.down(&error),
            }
        }
    }

    /// Records that the direction is needed and not connected yet.
    pub(super) fn begin(&self) {
        self.health.begin(&self.part);
    }

    /// Waits before an attempt to connect.
    pub(super) async fn pause(&mut self) {
        time::sleep(self.backoff.pause()).await;
    }

    /// Records that an attempt has succeeded.
    pub(super) fn begun(&mut self) {
        self.connected = Some(Instant::now());
    }

    /// Records that the connection works, and that the direction waits for another one. So the error of its last connection
    /// does not hide what the other one reports.
    pub(super) fn waits(&self) {
        if self.health.is_down(&self.part) {
            self.health.begin(&self.part);
        }
    }

    async fn open(&mut self) -> Result<Connection, LinkError> {
        let (server, switches) = self.find().await?;
        Connection::open(&self.config, server, switches).await
    }

    /// Finds the server, with its user and password, and the switches that end connections to it.
    pub(super) async fn find(&mut self) -> Result<(ConnectionInfo, Switches), LinkError> {
        // A switch during the attempt ends the connection.
        self.switches.forget();
        let switches = self.switches.clone();
        let finder = match &mut self.finder {
            Some(finder) => finder,
            none => none.insert(Finder::new(&self.config)?),
        };
        Ok((finder.find(&switches, self.config.timeout).await?, switches))
    }

    /// Records that the connection is ready to publish, or that the topics are subscribed.
    pub(super) fn up(&self) {
        if self.health.is_down(&self.part) {
            tracing::info!(redis = %self.config.place, direction = ?self.part.direction, "bus connected");
            self.health.set(&self.part, None);
        }
    }

    pub(super) fn config(&self) -> &config::Redis {
        &self.config
    }

    /// Records that fewer replicas than this have what was published. [`Self::up`] or [`Self::down`] follows.
    pub(super) fn short(&self, replicas: u64) {
        let redis = &self.config.place;
        let why = format!("redis {redis}: fewer than {replicas} replicas confirm entries (`redis.stream_replicas`)");
        if self.health.metrics.log_limits.permit("too few replicas", self.part.direction.name()) {
            tracing::warn!(why, "entries of streams are refused");
        }
        self.health.set(&self.part, Some(why));
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.health.metrics
    }

    /// Records that Redis is late with an answer or a message. [`Self::up`] or [`Self::down`] follows.
    pub(super) fn late(&self, connection: &Connection) {
        let (redis, server, silence) = (&self.config.place, connection.address(), connection.last_read().elapsed());
        let since = time_of_day(uptime::unix_ms().saturating_sub(silence.as_millis() as u64));
        if self.health.metrics.log_limits.permit("bus late", self.part.direction.name()) {
            tracing::warn!(%redis, %server, direction = ?self.part.direction, since, "nothing has arrived from the bus");
        }
        let why = format!("redis {redis}: nothing has arrived from {server} since {since}, although an answer is due");
        self.health.set(&self.part, Some(why));
    }

    /// Waits for answers in the same way as [`Connection::frames`], but at most for the timeout. In its second half, the
    /// direction counts as not connected.
    pub(super) async fn answers(
        &self,
        connection: &mut Connection,
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<(), LinkError> {
        let timeout = connection.timeout();
        if let Ok(answered) = time::timeout(timeout / 2, connection.frames(&mut each)).await {
            return answered.map(drop);
        }
        self.late(connection);
        within(timeout / 2, timeout, connection.frames(each)).await?;
        self.up();
        Ok(())
    }

    /// Records that the connection broke or could not be made.
    pub(super) fn down(&mut self, error: &LinkError) {
        if let Some(connected) = self.connected.take() {
            self.backoff.ended_after(connected.elapsed());
            if error.is_found_by_probe() {
                self.health.metrics.bus_probe_failures.inc();
            }
        }
        let redis = &self.config.place;
        // The health comes first, so that a probe that follows the log line finds the reason.
        self.health.set(&self.part, Some(format!("redis {redis}: {error}")));
        if self.health.metrics.log_limits.permit("bus not connected", self.part.direction.name()) {
            tracing::warn!(%redis, direction = ?self.part.direction, %error, "bus not connected, trying again");
        }
    }
}

/// Returns the time of day, such as `14:03:59 UTC`.
fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_that_of_utc() {
        assert_eq!(time_of_day(0), "00:00:00 UTC");
        assert_eq!(time_of_day(1_000_000_000_999), "01:46:40 UTC");
        assert_eq!(time_of_day(86_399_999), "23:59:59 UTC");
    }
}
