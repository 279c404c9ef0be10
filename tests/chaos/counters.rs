//! The gateway's own counters, scraped all the time, so that the ledger knows when each counter was incremented.

use crate::journal::{At, Journal, Sample};
use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// The time between two scrapes.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a scrape may take. While the gateway has no descriptor left, it cannot be scraped.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The counters that account for messages.
const WANTED: [&str; 3] =
    ["gateway_messages_dropped_total{", "gateway_deliveries_total{", "gateway_plugin_calls_total{plugin=\"chat\""];
/// A gauge that accounts for messages as well. The gauge is recorded as incremented while it is not 0.
const GAUGE: &str = "gateway_plugin_quarantined{plugin=\"chat\"}";

/// Follows the counters of a gateway that has just started, until the future is dropped.
pub(crate) async fn follow(admin: SocketAddr, journal: Journal) {
    let mut last = (At::ZERO, BTreeMap::new());
    loop {
        let asked = journal.now();
        if let Ok(Ok(text)) = time::timeout(TIMEOUT, scrape(admin)).await {
            let values = read(&text);
            let (from, before) = &last;
            let sample = Sample { from: *from, to: journal.now(), moved: moved(before, &values) };
            journal.book().samples.push(sample);
            last = (asked, values);
        }
        time::sleep(PERIOD).await;
    }
}

async fn scrape(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

fn read(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter(|line| line.starts_with(GAUGE) || WANTED.iter().any(|name| line.starts_with(name)));
    let values = lines.filter_map(|line| line.rsplit_once(' '));
    values.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

fn moved(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let moved = now.iter().map(|(name, value)| {
        let was = before.get(name).copied().unwrap_or_default();
        let by = if name == GAUGE { was.max(*value) } else { value.saturating_sub(was) };
        (name.clone(), by)
    });
    moved.filter(|(_, by)| *by > 0).collect()
}
