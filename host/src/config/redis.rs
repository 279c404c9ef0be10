//! The section `redis`.

use super::{
    range::range,
    raw, secret,
    settings::{Redis, RedisPlace},
    streams::Streams,
};
use redis::{ConnectionAddr, IntoConnectionInfo};
use std::time::Duration;

/// Returns the settings of the section. Adds a line to `errors` for each value that is not valid.
pub(super) fn resolve(raw: raw::Redis, max_message_bytes: usize, errors: &mut Vec<String>) -> Redis {
    let place = match (raw.addr, raw.sentinel, raw.cluster) {
        (None, Some(sentinel), None) => sentinels(sentinel, errors),
        (None, None, Some(cluster)) => {
            RedisPlace::Cluster { urls: redis_urls("redis.cluster", &cluster.addrs, errors) }
        }
        (addr, None, None) => {
            RedisPlace::Server(redis_url("redis.addr", &addr.unwrap_or_else(|| "localhost:6379".to_owned()), errors))
        }
        _ => {
            errors.push("redis: more than one of `addr`, `sentinel` and `cluster` is set, keep one".to_owned());
            RedisPlace::Server(String::new())
        }
    };
    if !raw.username.is_empty() && raw.password.is_empty() && raw.password_file.is_none() {
        errors.push("redis.username: it needs redis.password or redis.password_file".to_owned());
    }
    range("redis.timeout_ms", raw.timeout_ms, 100, 60_000, errors);
    range("redis.probe_interval_ms", raw.probe_interval_ms, 100, 60_000, errors);
    let streams = Streams::resolve(&raw.streams, raw.stream_max_len, raw.stream_replicas, errors);
    range("redis.stream_max_len", raw.stream_max_len, 100, 100_000_000, errors);
    range("redis.stream_replicas", raw.stream_replicas, 0, 16, errors);
    Redis {
        place,
        username: given(raw.username),
        password: secret::resolve("redis.password", given(raw.password), raw.password_file, |_| None, errors),
        timeout: Duration::from_millis(raw.timeout_ms),
        probe_interval: Duration::from_millis(raw.probe_interval_ms),
        max_message_bytes,
        streams,
    }
}

fn sentinels(raw: raw::Sentinel, errors: &mut Vec<String>) -> RedisPlace {
    if raw.master.is_empty() {
        errors.push("redis.sentinel.master: the name of the master is required".to_owned());
    }
    if !raw.username.is_empty() && raw.password.is_empty() && raw.password_file.is_none() {
        errors.push("redis.sentinel.username: it needs password or password_file beside it".to_owned());
    }
    RedisPlace::Sentinel {
        urls: redis_urls("redis.sentinel", &raw.addrs, errors),
        master: raw.master,
        username: given(raw.username),
        password: secret::resolve("redis.sentinel.password", given(raw.password), raw.password_file, |_| None, errors),
    }
}

/// Returns the URLs in the list `addrs` of a section.
fn redis_urls(section: &str, addrs: &[String], errors: &mut Vec<String>) -> Vec<String> {
    if addrs.is_empty() {
        errors.push(format!("{section}.addrs: at least one address is required"));
    }
    let is_tls = |addr: &String| addr.starts_with("rediss://");
    if addrs.iter().any(is_tls) && !addrs.iter().all(is_tls) {
        errors.push(format!("{section}.addrs: either all or none are rediss://, as is the server that they name"));
    }
    let url = |(i, addr): (usize, &String)| {
        let key = format!("{section}.addrs[{i}]");
        if addr.starts_with("unix:") {
            errors.push(format!("{key}: only redis.addr may be a socket of this machine, write host:port"));
        }
        redis_url(&key, addr, errors)
    };
    addrs.iter().enumerate().map(url).collect()
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Returns the URL of a Redis server or a Sentinel.
fn redis_url(key: &str, addr: &str, errors: &mut Vec<String>) -> String {
    let url = if addr.contains("://") { addr.to_owned() } else { format!("redis://{addr}") };
    let wrong = match url.as_str().into_connection_info().map(|info| info.addr().clone()) {
        Err(error) => format!("neither host:port nor a redis:// or rediss:// URL: {error}"),
        Ok(ConnectionAddr::Tcp(_, 0) | ConnectionAddr::TcpTls { port: 0, .. }) => "port 0 is no port".to_owned(),
        Ok(ConnectionAddr::TcpTls { insecure: true, .. }) => {
            "the certificate of Redis is always checked, remove `#insecure`".to_owned()
        }
        Ok(_) => return url,
    };
    errors.push(format!("{key}: {wrong}"));
    url
}
