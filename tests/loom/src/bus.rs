//! The bus queue, with access to the operations that only the bus may use.

#[path = "../../../host/src/bus/batch.rs"]
mod batch;
#[path = "../../../host/src/bus/queue.rs"]
mod queue;

pub use queue::{Load, Queue, Share};

/// Closes the queue.
pub fn close(queue: &Queue<usize>) {
    queue.close();
}

/// Records that Redis has carried out this change of the subscriptions.
pub fn set_carried_out(queue: &Queue<usize>, change: u64) {
    queue.set_carried_out(change);
}

/// Takes a batch, and returns the origins of its publishes. The result is empty only after the queue was closed.
pub async fn take(queue: &Queue<usize>) -> Vec<usize> {
    let mut batch = batch::Batch::default();
    queue.take(&mut batch).await;
    batch.iter().filter_map(|publication| publication.origin.copied()).collect()
}
