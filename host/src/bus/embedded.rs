//! The bus in the process itself: for a first try, for development, and for a gateway whose backends are plugins.

use super::{Deliver, Direction, Health, Intake, Origin};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Messages that are carried before others get their turn on the thread.
const BATCH: usize = 256;

/// Hands each publish to those who subscribe to its topic, in order.
pub(super) async fn run<O: Origin>(
    mut intake: Intake<O>,
    deliver: Deliver,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    intake.set_away(false);
    health.set(Direction::Publish, None);
    health.set(Direction::Subscribe, None);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            taken = intake.take(&mut batch, BATCH) => if taken == 0 { return },
            () = stop.cancelled() => {
                intake.receiver.close();
                if intake.receiver.is_empty() { return }
            }
        }
        for publication in batch.drain(..) {
            let heard = deliver(&publication.topic, &publication.body);
            intake.metrics.published.inc();
            if heard == 0 {
                intake.metrics.unheard.inc();
            }
        }
        tokio::task::yield_now().await;
    }
}
