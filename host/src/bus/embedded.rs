//! The embedded bus, which runs inside the process. It is meant for first tries, for development, and for gateways with
//! plugins as backends.

use super::{
    batch::{Batch, Publication},
    health::{Direction, Health},
    intake::{Handler, Intake, Message, NotTaken},
};
use bytes::Bytes;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The number of messages that are handled together. After them the task yields to other tasks.
const MESSAGES_PER_TURN: usize = 256;

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
        let mut waiting = batch.iter();
        loop {
            let turn = waiting.clone();
            let messages: Vec<_> = waiting.by_ref().take(MESSAGES_PER_TURN).map(message).collect();
            if messages.is_empty() {
                break;
            }
            let taken = messages.len();
            let unheard = intake.handler.messages(messages).await;
            intake.taken(taken);
            for Message { topic, body, cause, .. } in &unheard {
                intake.unheard(&Publication { topic, body, origin: cause.as_ref(), trace: None });
            }
            for publication in turn.take(taken).filter(|publication| publication.trace.is_some()) {
                // Either all messages on a topic are heard or none.
                let is_heard = unheard.iter().all(|message| message.topic != publication.topic);
                Intake::<H>::end_trace(&publication, (!is_heard).then_some(&NotTaken::Unheard(publication.topic)));
            }
            tokio::task::yield_now().await;
        }
    }
}

fn message<O: Copy>(Publication { topic, body, origin, .. }: Publication<'_, O>) -> Message<O> {
    // The body is copied, so that a session that reads slowly does not keep the buffer of the publish alive.
    Message { topic: topic.to_owned(), body: Bytes::copy_from_slice(body), cause: origin.copied(), is_entry: false }
}
