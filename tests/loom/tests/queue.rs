//! Tests that in every interleaving the receiver of the bus queue is woken up, and that no publish is lost, duplicated
//! or reordered.

use bytes::Bytes;
use gateway_loom::bus::{Load, Queue, Share, close, set_carried_out, take};
use loom::{future::block_on, model, sync::Arc, thread};
use std::borrow::Cow;

/// Publishes once, with the number as the origin. Returns whether the queue accepted the publish.
fn publish(queue: &Queue<usize>, number: usize) -> bool {
    publish_after(queue, 0, number)
}

/// Does the same as [`publish`], for a publish that waits for a change of the subscriptions.
fn publish_after(queue: &Queue<usize>, change: u64, number: usize) -> bool {
    let share = Share::default();
    let Ok(permit) = queue.reserve(&share, Load { publishes: 1, bytes: 1 }) else { return false };
    permit.commit(change, std::iter::once(("t", Cow::Owned(Bytes::new()), Some(number))));
    true
}

#[test]
fn the_receiver_gets_every_publish_of_two_senders() {
    model(|| {
        let queue = Arc::new(Queue::default());
        let senders = [1, 2].map(|number| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || publish(&queue, number))
        });
        let mut taken = block_on(take(&queue));
        while taken.len() < 2 {
            taken.extend(block_on(take(&queue)));
        }
        for sender in senders {
            assert!(sender.join().is_ok_and(|is_taken| is_taken));
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn the_publishes_of_one_sender_keep_their_order() {
    model(|| {
        let queue = Arc::new(Queue::default());
        let sender = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || assert!((1..=3).all(|number| publish(&queue, number))))
        };
        let mut taken = Vec::new();
        while taken.len() < 3 {
            taken.extend(block_on(take(&queue)));
        }
        assert_eq!(taken, [1, 2, 3]);
        assert!(sender.join().is_ok());
    });
}

#[test]
fn a_publish_that_waits_for_a_subscription_is_queued_when_it_is_carried_out() {
    model(|| {
        let queue = Arc::new(Queue::default());
        set_carried_out(&queue, 0);
        let sender = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || assert!(publish_after(&queue, 1, 1)))
        };
        let subscriber = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || set_carried_out(&queue, 1))
        };
        assert_eq!(block_on(take(&queue)), [1]);
        assert!(sender.join().is_ok() && subscriber.join().is_ok());
    });
}

#[test]
fn a_close_loses_no_publish_that_the_queue_has_accepted() {
    model(|| {
        let queue = Arc::new(Queue::default());
        let sender = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || publish(&queue, 1))
        };
        let closer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || close(&queue))
        };
        let mut taken = Vec::new();
        loop {
            let batch = block_on(take(&queue));
            if batch.is_empty() {
                break;
            }
            taken.extend(batch);
        }
        let accepted = sender.join().is_ok_and(|accepted| accepted);
        assert_eq!(taken.len(), usize::from(accepted));
        assert!(closer.join().is_ok());
    });
}

#[test]
fn a_permit_that_is_dropped_after_the_close_ends_the_wait() {
    model(|| {
        let queue = Arc::new(Queue::<usize>::default());
        let sender = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || drop(queue.reserve(&Share::default(), Load { publishes: 1, bytes: 1 })))
        };
        let closer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || close(&queue))
        };
        assert!(block_on(take(&queue)).is_empty());
        assert!(sender.join().is_ok() && closer.join().is_ok());
    });
}
