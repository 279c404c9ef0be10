//! A client that sends to a healthy route at a steady rate. The client must not notice what happens on other routes.

use futures_util::{SinkExt, StreamExt};
use gateway_tests::{Client, Gateway, header};
use gateway_wire::packet::{Header, ROUTE_SYSTEM};
use std::time::Duration;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_tungstenite::tungstenite::Message;

/// The time between two heartbeats.
const PERIOD: Duration = Duration::from_millis(5);

/// A client that sends heartbeats until it is stopped. A heartbeat's latency is measured from the time at which the
/// heartbeat was due.
pub(crate) struct Bystander {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    pub(crate) async fn start(gateway: &Gateway) -> Self {
        let client = gateway.client().await;
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(beat(client, stopped)) }
    }

    /// Stops the client and returns the sorted latencies. Fails if a heartbeat was lost, duplicated, reordered or
    /// refused.
    pub(crate) async fn finish(self) -> Vec<Duration> {
        self.stop.send(()).unwrap();
        let mut latencies = self.task.await.expect("no heartbeat was lost");
        latencies.sort();
        latencies
    }
}

/// Returns the value below which this percentage of the sorted latencies lies.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

async fn beat(client: Client, mut stopped: oneshot::Receiver<()>) -> Vec<Duration> {
    let (mut sink, mut stream) = client.socket.split();
    let mut ticks = time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut due, mut latencies) = (Vec::<Instant>::new(), Vec::new());
    let mut stopping = false;
    while !stopping || latencies.len() < due.len() {
        tokio::select! {
            at = ticks.tick(), if !stopping => {
                due.push(at);
                let seq = u32::try_from(due.len()).unwrap();
                sink.send(Message::Binary(header(seq, 3).into())).await.unwrap();
            }
            message = time::timeout(gateway_tests::PATIENCE, stream.next()) => {
                let Message::Binary(reply) = message.expect("a heartbeat was lost").unwrap().unwrap() else { continue };
                let seq = u32::try_from(latencies.len() + 1).unwrap();
                assert_eq!(reply[..], Header::request(seq, ROUTE_SYSTEM).reply(0).encode());
                latencies.push(due[latencies.len()].elapsed());
            }
            _ = &mut stopped, if !stopping => stopping = true,
        }
    }
    latencies
}
