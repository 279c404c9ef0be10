use super::*;
use std::{task::Waker, thread};

const LIMITS: Limits =
    Limits { messages: 2, bytes: 100, close_when_full: false, batch_bytes: 1000, max_delay: Duration::from_secs(60) };

#[track_caller]
fn drained(outbox: &Outbox) -> (Vec<u32>, Option<u16>) {
    let mut batch = VecDeque::new();
    match outbox.poll_drain(&Context::from_waker(Waker::noop()), &mut batch) {
        Poll::Ready(closing) => (batch.iter().map(|out| out.header.seq).collect(), closing.map(|closing| closing.code)),
        Poll::Pending => (Vec::new(), None),
    }
}

fn push(outbox: &Outbox, len: usize) -> Outcome {
    outbox.push(1, Bytes::from(vec![0; len]))
}

fn closing(code: u16) -> Closing {
    Closing { code, reason: String::new(), cause: "test" }
}

#[test]
fn a_full_queue_drops_and_leaves_a_gap_in_the_numbers() {
    let outbox = Outbox::new(LIMITS);
    let all = [push(&outbox, 1), push(&outbox, 1), push(&outbox, 1), push(&outbox, 1)];
    assert_eq!(all, [Outcome::Queued, Outcome::Queued, Outcome::Full, Outcome::Full]);
    assert_eq!(drained(&outbox), (vec![1, 2], None));
    outbox.announce_drain();
    push(&outbox, 1);
    assert_eq!(drained(&outbox), (vec![5], None));
}

#[test]
fn the_bytes_of_a_queue_are_bounded() {
    let outbox = Outbox::new(LIMITS);
    assert_eq!(push(&outbox, 92), Outcome::Queued);
    assert_eq!(push(&outbox, 0), Outcome::Full);
    assert_eq!(drained(&outbox), (vec![1], None));
    outbox.announce_drain();
    assert_eq!(push(&outbox, 93), Outcome::Full);
}

#[test]
fn messages_that_are_being_written_count_against_the_bounds() {
    let outbox = Outbox::new(Limits { messages: 4, ..LIMITS });
    assert_eq!([push(&outbox, 32), push(&outbox, 32)], [Outcome::Queued; 2]);
    assert_eq!(drained(&outbox), (vec![1, 2], None));
    // 80 of the 100 bytes are being written.
    assert_eq!([push(&outbox, 13), push(&outbox, 12)], [Outcome::Full, Outcome::Queued]);
    // The receiver asks for more, so the first two messages have been written.
    assert_eq!(drained(&outbox), (vec![4], None));
    assert_eq!([push(&outbox, 32), push(&outbox, 32)], [Outcome::Queued; 2]);
    let outbox = Outbox::new(LIMITS);
    assert_eq!([push(&outbox, 0), push(&outbox, 0)], [Outcome::Queued; 2]);
    assert_eq!(drained(&outbox), (vec![1, 2], None));
    assert_eq!(push(&outbox, 0), Outcome::Full);
}

#[test]
fn a_queue_is_taken_in_batches_of_bounded_size_and_in_order() {
    let outbox = Outbox::new(Limits { messages: 100, bytes: 10_000, batch_bytes: 30, ..LIMITS });
    for len in [2, 2, 2, 2, 500, 2] {
        push(&outbox, len);
    }
    assert!(outbox.is_congested());
    outbox.close(closing(1001));
    assert_eq!(drained(&outbox), (vec![1, 2, 3], None));
    assert_eq!(drained(&outbox), (vec![4, 5], None));
    // The last message comes with the close code.
    assert_eq!(drained(&outbox), (vec![6], Some(1001)));
}

#[test]
fn a_closing_queue_is_sent_and_takes_no_more_messages() {
    let outbox = Outbox::new(LIMITS);
    push(&outbox, 0);
    assert!(!outbox.is_congested());
    outbox.close(closing(1001));
    outbox.close(closing(1013));
    // A closing session serves no further packet, however few bytes are queued.
    assert!(outbox.is_congested());
    assert_eq!(push(&outbox, 0), Outcome::Closed);
    assert_eq!(drained(&outbox), (vec![1], Some(1001)));
    assert_eq!(outbox.end(), 0);
}

#[test]
fn an_ended_queue_takes_nothing_and_returns_the_number_of_lost_messages() {
    let outbox = Outbox::new(LIMITS);
    push(&outbox, 0);
    push(&outbox, 0);
    assert_eq!(outbox.end(), 2);
    assert_eq!(push(&outbox, 0), Outcome::Closed);
    assert_eq!(outbox.end(), 0);
    assert!(drained(&outbox).0.is_empty());
}

#[test]
fn a_full_queue_closes_if_that_is_configured() {
    let outbox = Outbox::new(Limits { messages: 1, close_when_full: true, ..LIMITS });
    let cx = Context::from_waker(Waker::noop());
    assert_eq!(push(&outbox, 1), Outcome::Queued);
    assert!(outbox.poll_abort(&cx).is_pending());
    assert_eq!(push(&outbox, 1), Outcome::Full);
    assert!(outbox.poll_abort(&cx).is_ready());
    assert_eq!(drained(&outbox), (Vec::new(), Some(1013)));
    assert_eq!(outbox.end(), 1);
}

#[test]
fn a_queue_from_which_messages_are_taken_too_slowly_closes() {
    let max_delay = Duration::from_millis(20);
    let outbox = Outbox::new(Limits { messages: 100, bytes: 10_000, batch_bytes: 10, max_delay, ..LIMITS });
    for _ in 0..4 {
        push(&outbox, 2);
    }
    assert_eq!(drained(&outbox), (vec![1], None));
    assert_eq!(drained(&outbox), (vec![2], None));
    thread::sleep(max_delay * 2);
    assert_eq!(drained(&outbox), (vec![3], Some(1013)));
    assert_eq!(outbox.end(), 1);

    // A queue that is never empty is not closed as long as its messages move on.
    let max_delay = Duration::from_secs(3600);
    let outbox = Outbox::new(Limits { messages: 100, bytes: 10_000, batch_bytes: 10, max_delay, ..LIMITS });
    push(&outbox, 2);
    for seq in 1..100 {
        push(&outbox, 2);
        assert_eq!(drained(&outbox), (vec![seq], None));
    }
}
