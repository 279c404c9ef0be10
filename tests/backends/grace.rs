//! The grace period, in which the gateway keeps requests while Redis is away. A busy machine may need longer than that to
//! start Redis again, so the tests make several attempts.

use gateway_tests::Gateway;
use std::time::Duration;
use tokio::time::Instant;

/// The grace period, as in host/src/bus/redis/publisher.rs. No request is refused if the outage is shorter.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Makes attempts until one returns true. An attempt returns false if its outage was longer than the grace period, as it
/// may be on a busy machine. Such an attempt proves nothing.
pub(super) async fn in_grace<F: Future<Output = bool>>(attempt: impl Fn() -> F) {
    for _ in 0..5 {
        if attempt().await {
            return;
        }
    }
    panic!("in five attempts, no outage was shorter than the grace period");
}

/// Waits until the gateway is connected again. Returns whether this took no longer than the grace period since `began`.
/// Then the gateway has refused nothing because of the outage.
pub(super) async fn is_back_in_grace(gateway: &Gateway, began: Instant) -> bool {
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    began.elapsed() <= GRACE
}
