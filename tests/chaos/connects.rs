//! A test of clients that connect and reset the connection at once, again and again.

use crate::storm::returned;
use futures_util::{StreamExt, stream};
use gateway_tests::{
    Gateway, Setup, eventually,
    wire::{self, UPGRADE},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The number of connections.
const CONNECTS: usize = 60_000;
/// The number of clients that connect at the same time.
const CONCURRENT: usize = 50;

/// Connects and resets this many times. Every second client sends an upgrade before it resets.
async fn connect_and_reset(gateway: &Gateway, count: usize) {
    let connects = (0..count).map(async |number| {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        wire::reset(&stream);
        if number % 2 == 0 {
            stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        }
    });
    stream::iter(connects).buffer_unordered(CONCURRENT).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes many seconds: `make chaos` runs it"]
async fn sixty_thousand_connections_that_are_reset_at_once_leave_nothing_behind() {
    let gateway = Gateway::start(Setup::default()).await;
    let descriptors = gateway.descriptors();
    // The first connections warm up.
    connect_and_reset(&gateway, 2000).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    let before = gateway.resident_bytes();
    connect_and_reset(&gateway, CONNECTS).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    // The connection of the request for the metrics may still be open.
    eventually("the descriptors are closed", || async { (gateway.descriptors() <= descriptors + 1).then_some(()) })
        .await;
    eventually("the memory returns", || async { returned((before, gateway.resident_bytes())).then_some(()) }).await;
    gateway.client().await.assert_alive().await;
}
