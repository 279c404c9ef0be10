//! The bus in the process itself: for a first try, for development, and for a gateway whose backends are plugins.

use super::{
    Direction, Handler, Health, Intake,
    batch::{Batch, Publication},
};
use bytes::Bytes;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Messages that are carried before others get their turn on the thread.
const BATCH: usize = 256;

/// Hands each publish to those who subscribe to its topic, in order.
pub(super) async fn run<H: Handler>(intake: &Intake<H>, health: Arc<Health>, stop: CancellationToken) {
    health.set(Direction::Publish, None);
    health.set(Direction::Subscribe, None);
    let mut batch = Batch::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !intake.queue.is_closed() => {
                intake.queue.close();
                continue;
            }
            () = intake.queue.take(&mut batch) => {}
        }
        if batch.is_empty() {
            return;
        }
        for (i, publication) in batch.iter().enumerate() {
            let Publication { topic, body, origin } = publication;
            // A copy, since a session that reads slowly shall not keep what it was published from.
            let heard = intake.handler.message(topic, &Bytes::copy_from_slice(body), origin);
            intake.taken(1);
            if heard == 0 {
                intake.unheard(&publication);
            }
            if i % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
        }
        tokio::task::yield_now().await;
    }
}
