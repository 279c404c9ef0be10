//! The way to Redis of one direction: it connects, pauses between attempts, and says how it is.

use super::connection::{Connection, LinkError};
use crate::{
    bus::{Direction, Health, backoff::Backoff},
    config,
};
use std::sync::Arc;
use tokio::time::{self, Instant};

/// One direction's way to Redis.
pub(super) struct Link {
    config: config::Redis,
    health: Arc<Health>,
    direction: Direction,
    backoff: Backoff,
    /// When the connection was made, while there is one.
    connected: Option<Instant>,
}

impl Link {
    pub(super) fn new(config: config::Redis, health: Arc<Health>, direction: Direction) -> Self {
        Self { config, health, direction, backoff: Backoff::default(), connected: None }
    }

    /// Tries until it is connected. There is a pause before each attempt but the first.
    pub(super) async fn connect(&mut self) -> Connection {
        loop {
            time::sleep(self.backoff.pause()).await;
            match Connection::open(&self.config).await {
                Ok(connection) => {
                    self.connected = Some(Instant::now());
                    return connection;
                }
                Err(error) => self.down(&error),
            }
        }
    }

    /// To be called when the connection carries what it is for.
    pub(super) fn up(&self) {
        if self.health.is_down(self.direction) {
            tracing::info!(redis = self.config.shown(), direction = ?self.direction, "bus connected");
            self.health.set(self.direction, None);
        }
    }

    /// To be called when the connection is broken, or could not be made.
    pub(super) fn down(&mut self, error: &LinkError) {
        if let Some(connected) = self.connected.take() {
            self.backoff.ended_after(connected.elapsed());
        }
        let redis = self.config.shown();
        if self.health.metrics.log_limits.permit("bus not connected", self.direction.name()) {
            tracing::warn!(redis, direction = ?self.direction, %error, "bus not connected, trying again");
        }
        self.health.set(self.direction, Some(format!("redis {redis}: {error}")));
    }
}
