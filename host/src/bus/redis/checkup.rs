//! Looks whether Redis can be reached, and whether it is set up for the bus. `gateway check` does this before the
//! gateway runs.
//!
//! A Redis that cannot be reached is a warning, because the gateway waits for it. What no waiting mends is an error.

mod server;

use super::{
    error::within,
    place::{Finder, Switches, with_user},
};
use crate::{
    config::{self, RedisPlace},
    finding::Finding,
    telemetry::text,
};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    aio::MultiplexedConnection,
};
use server::{Facts, judge};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Looks at every server that the configuration names: the server, the master of the Sentinels, or the nodes of the
/// Cluster.
pub(crate) async fn examine(config: &config::Redis) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &config.place {
        RedisPlace::Server(_) => examine_found("redis.addr", config, &mut findings).await,
        RedisPlace::Sentinel { .. } => examine_found("redis.sentinel", config, &mut findings).await,
        RedisPlace::Cluster { urls } => {
            for (i, url) in urls.iter().enumerate() {
                let place = format!("redis.cluster.addrs[{i}]");
                match node(config, url) {
                    Ok(info) => examine_server(&place, config, info, &mut findings).await,
                    Err(error) => findings.push(Finding::error(place, text::bounded(error))),
                }
            }
        }
    }
    findings
}

/// Looks at the server at an address, or at the master that the Sentinels name.
async fn examine_found(place: &str, config: &config::Redis, findings: &mut Vec<Finding>) {
    let switches = Switches::of_slot(watch::channel(None).1);
    let found = async { Finder::new(config)?.find(&switches, config.timeout).await };
    match found.await {
        Ok(info) => examine_server(place, config, info, findings).await,
        Err(error) => findings.push(Finding::warning(
            place,
            format!("no master is known ({}): start the Sentinels, or correct the addresses", text::bounded(error)),
        )),
    }
}

/// Returns the address of a node of the Cluster, with its user and password.
fn node(config: &config::Redis, url: &str) -> Result<ConnectionInfo, RedisError> {
    let info = url.into_connection_info()?;
    let own = with_user(info.redis_settings().clone(), config.username.as_deref(), config.password.as_deref());
    Ok(info.set_redis_settings(own))
}

async fn examine_server(place: &str, config: &config::Redis, info: ConnectionInfo, findings: &mut Vec<Finding>) {
    let address = info.addr().to_string();
    let look = async { Ok(look(info).await) };
    match within(config.timeout, config.timeout, look).await {
        Ok(Ok(facts)) => findings.extend(judge(place, &address, config, &facts)),
        Ok(Err(error)) => findings.push(unusable(place, &address, &error)),
        Err(_) => findings.push(Finding::warning(
            place,
            format!(
                "{address} does not answer within redis.timeout_ms, {} ms: start it, or correct the address",
                config.timeout.as_millis()
            ),
        )),
    }
}

fn unusable(place: &str, address: &str, error: &RedisError) -> Finding {
    let why = text::bounded(error);
    if error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) {
        return Finding::error(place, format!("{address} refuses the login ({why}): correct the username or password"));
    }
    if error.code() == Some("NOPERM") {
        let remedy = "allow this user INFO, CONFIG GET and TIME, or ignore this";
        return Finding::warning(place, format!("{address} cannot be examined ({why}): {remedy}"));
    }
    Finding::warning(place, format!("{address} cannot be reached ({why}): start Redis, or correct the address"))
}

/// Asks the server for what [`judge`] needs.
async fn look(info: ConnectionInfo) -> Result<Facts, RedisError> {
    // The caller bounds the whole look.
    let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = Client::open(info)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
    let info: String = redis::cmd("INFO").arg("all").query_async(&mut connection).await?;
    let before = SystemTime::now();
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
    let clock = Duration::from_secs(seconds) + Duration::from_micros(micros);
    Ok(Facts {
        clock,
        asked: before..SystemTime::now(),
        buffer_limit: setting(&mut connection, "client-output-buffer-limit").await,
        fsync: setting(&mut connection, "appendfsync").await,
        info,
    })
}

/// Returns a setting of the server, or `None` if the user may not read it. Redis in a cloud often forbids it.
async fn setting(connection: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let answer = redis::cmd("CONFIG").arg("GET").arg(name).query_async::<Vec<String>>(connection).await.ok()?;
    answer.into_iter().nth(1)
}
