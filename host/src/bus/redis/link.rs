//! The link of one direction to Redis. It connects, pauses between attempts, and reports whether the direction is
//! connected.

use super::{
    connection::Connection,
    error::LinkError,
    place::{Finder, Switches},
};
use crate::{
    bus::{
        backoff::Backoff,
        health::{Direction, Health},
    },
    config,
};
use std::sync::Arc;
use tokio::time::{self, Instant};

/// The link of one direction to Redis.
pub(super) struct Link {
    config: config::Redis,
    health: Arc<Health>,
    direction: Direction,
    /// Finds the server. It is `None` until the first attempt.
    finder: Option<Finder>,
    switches: Switches,
    backoff: Backoff,
    /// When the current connection was made, if there is one.
    connected: Option<Instant>,
}

impl Link {
    pub(super) fn new(config: config::Redis, health: Arc<Health>, direction: Direction, switches: Switches) -> Self {
        Self { config, health, direction, finder: None, switches, backoff: Backoff::default(), connected: None }
    }

    /// Tries to connect until an attempt succeeds. Each attempt except the first is preceded by a pause.
    pub(super) async fn connect(&mut self) -> Connection {
        loop {
            time::sleep(self.backoff.pause()).await;
            match self.open().await {
                Ok(connection) => {
                    self.connected = Some(Instant::now());
                    return connection;
                }
                Err(error) => self.down(&error),
            }
        }
    }

    async fn open(&mut self) -> Result<Connection, LinkError> {
        // A switch during the attempt ends the connection.
        self.switches.forget();
        let switches = self.switches.clone();
        let finder = match &mut self.finder {
            Some(finder) => finder,
            none => none.insert(Finder::new(&self.config)?),
        };
        let server = finder.find(self.config.timeout).await?;
        Connection::open(&self.config, server, switches).await
    }

    /// Records that the connection is ready to publish, or that the topics are subscribed.
    pub(super) fn up(&self) {
        if self.health.is_down(self.direction) {
            tracing::info!(redis = %self.config.place, direction = ?self.direction, "bus connected");
            self.health.set(self.direction, None);
        }
    }

    /// Records that the connection broke or could not be made.
    pub(super) fn down(&mut self, error: &LinkError) {
        if let Some(connected) = self.connected.take() {
            self.backoff.ended_after(connected.elapsed());
        }
        let redis = &self.config.place;
        // The health comes first, so that a probe that follows the log line finds the reason.
        self.health.set(self.direction, Some(format!("redis {redis}: {error}")));
        if self.health.metrics.log_limits.permit("bus not connected", self.direction.name()) {
            tracing::warn!(%redis, direction = ?self.direction, %error, "bus not connected, trying again");
        }
    }
}
