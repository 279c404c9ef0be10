//! The embedded bus, which runs inside the process. It is meant for first tries, for development, and for gateways with
//! plugins as backends.

use super::{
    batch::{Batch, Publication},
    health::{Direction, Health},
    intake::{Handler, Intake},
};
use bytes::Bytes;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The number of messages after which the task yields to other tasks.
const MAX_MESSAGES_PER_TURN: usize = 256;

/// Passes each publish to the plugins that subscribe to its topic, in the order of the queue.
pub(super) async fn run<H: Handler>(intake: &Intake<H>, health: Arc<Health>, stop: CancellationToken) {
    health.set(&Direction::Publish.into(), None);
    health.set(&Direction::Subscribe.into(), None);
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
            // The body is copied, so that a session that reads slowly does not keep the buffer of the publish alive.
            let subscribers = intake.handler.message(topic, &Bytes::copy_from_slice(body), origin);
            intake.taken(1);
            if subscribers == 0 {
                intake.unheard(&publication);
            }
            if i % MAX_MESSAGES_PER_TURN == MAX_MESSAGES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        tokio::task::yield_now().await;
    }
}
