use super::*;
use gateway_wire::packet::{FLAG_REPLACES, FLAG_REPLY};
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
    thread,
};

const LIMITS: Limits = Limits {
    messages: 2,
    bytes: 100,
    close_when_full: false,
    batch_bytes: 1000,
    max_delay: Duration::from_secs(60),
    replay: None,
};

#[track_caller]
fn drained(outbox: &Outbox) -> (Vec<u32>, Option<u16>) {
    let (batch, code) = batch(outbox);
    (batch.iter().map(|outgoing| outgoing.header.seq).collect(), code)
}

fn batch(outbox: &Outbox) -> (VecDeque<Outgoing>, Option<u16>) {
    let mut batch = VecDeque::new();
    match outbox.poll_drain(&Context::from_waker(Waker::noop()), &mut batch, &mut None) {
        Poll::Ready(closing) => (batch, closing.map(|closing| closing.code)),
        Poll::Pending => (batch, None),
    }
}

fn push(outbox: &Outbox, len: usize) -> Outcome {
    push_as(outbox, len, Keep::Always)
}

fn push_as(outbox: &Outbox, len: usize, keep: Keep) -> Outcome {
    outbox.push(1, Bytes::from(vec![0; len]), keep)
}

fn latest(key: u64) -> Keep {
    Keep::Latest { owner: 1, key }
}

fn closing(code: u16) -> Closing {
    Closing { code, reason: String::new(), cause: "test" }
}

#[test]
fn a_full_queue_drops_and_leaves_a_gap_in_the_numbers() {
    let outbox = Outbox::new(LIMITS);
    let all = [push(&outbox, 1), push(&outbox, 1), push(&outbox, 1), push(&outbox, 1)];
    assert_eq!(all, [Outcome::Queued, Outcome::Queued, Outcome::Full, Outcome::Full]);
    assert_eq!(outbox.waiting(), (2, 18));
    assert_eq!(drained(&outbox), (vec![1, 2], None));
    assert_eq!(outbox.waiting(), (2, 18), "messages that are being written count");
    outbox.announce_drain();
    assert_eq!(outbox.waiting(), (0, 0));
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
    assert_eq!(outbox.queued(), Some(6 * HEADER_LEN + 510));
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
    assert_eq!(outbox.queued(), Some(HEADER_LEN));
    assert!(outbox.close_first(closing(1001)));
    assert!(!outbox.close_first(closing(1013)));
    // A closing session serves no further packet, however few bytes are queued.
    assert_eq!(outbox.queued(), None);
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

#[test]
fn the_newest_push_takes_the_place_and_the_number_of_a_waiting_one() {
    let outbox = Outbox::new(Limits { messages: 4, ..LIMITS });
    push_as(&outbox, 1, latest(1));
    push_as(&outbox, 2, latest(2));
    push_as(&outbox, 3, Keep::Latest { owner: 2, key: 1 });
    push(&outbox, 4);
    // The queue is full, but a replacement needs no further place.
    assert_eq!(outbox.push(9, Bytes::from_static(b"new"), latest(1)), Outcome::Replaced);
    assert_eq!(outbox.push(7, Bytes::from_static(b"newest"), latest(1)), Outcome::Replaced);
    let (batch, _) = batch(&outbox);
    let seen: Vec<_> = batch.iter().map(|out| (out.header.seq, out.header.flags, out.payload.len())).collect();
    assert_eq!(seen, [(1, FLAG_REPLACES, 6), (2, 0, 2), (3, 0, 3), (4, 0, 4)]);
    assert_eq!((batch[0].header.route, &batch[0].payload[..]), (7, &b"newest"[..]));

    // A push that is being written is not replaced.
    outbox.announce_drain();
    assert_eq!([push_as(&outbox, 0, latest(1)), push_as(&outbox, 0, latest(1))], [Outcome::Queued, Outcome::Replaced]);
    assert_eq!(drained(&outbox), (vec![5], None));
    assert_eq!(push_as(&outbox, 0, latest(1)), Outcome::Queued);
    outbox.close(closing(1001));
    assert_eq!(push_as(&outbox, 0, latest(1)), Outcome::Closed);
    assert_eq!(drained(&outbox), (vec![6], Some(1001)));
}

#[test]
fn the_bytes_of_a_replacement_are_counted() {
    let outbox = Outbox::new(Limits { messages: 9, ..LIMITS });
    assert_eq!([push_as(&outbox, 12, latest(1)), push(&outbox, 12)], [Outcome::Queued; 2]);
    assert_eq!(push_as(&outbox, 72, latest(1)), Outcome::Replaced);
    assert_eq!(push_as(&outbox, 0, Keep::MayDrop), Outcome::Full);
    assert_eq!(push_as(&outbox, 12, latest(1)), Outcome::Replaced);
    assert_eq!(push(&outbox, 52), Outcome::Queued);
    // This replacement does not fit, so the old push is dropped as well. That leaves one gap, at number 1.
    assert_eq!(push_as(&outbox, 13, latest(1)), Outcome::Full);
    assert_eq!(push(&outbox, 12), Outcome::Queued);
    assert_eq!(drained(&outbox), (vec![2, 4, 5], None));
}

#[test]
fn the_oldest_droppable_pushes_make_room_for_a_message_that_is_kept() {
    let outbox = Outbox::new(Limits { messages: 5, close_when_full: true, ..LIMITS });
    push(&outbox, 2);
    push_as(&outbox, 2, Keep::MayDrop);
    push_as(&outbox, 2, latest(1));
    push_as(&outbox, 2, Keep::MayDrop);
    push_as(&outbox, 2, latest(2));
    // A droppable push never makes room for itself, and does not close the session.
    assert_eq!([push_as(&outbox, 2, Keep::MayDrop), push_as(&outbox, 2, latest(3))], [Outcome::Full; 2]);
    assert_eq!(push(&outbox, 2), Outcome::Evicted(1));
    let request = Header::request(77, 1);
    // The queue has 50 of its 100 bytes. The reply needs 65.
    assert_eq!(outbox.reply(request.reply(0), Bytes::from(vec![0; 57])), Outcome::Evicted(2));
    assert_eq!(drained(&outbox), (vec![1, 5, 8, 77], None));
}

#[test]
fn nothing_is_dropped_if_that_would_not_make_enough_room() {
    let outbox = Outbox::new(LIMITS);
    assert_eq!([push(&outbox, 60), push_as(&outbox, 2, Keep::MayDrop)], [Outcome::Queued; 2]);
    assert_eq!(push(&outbox, 25), Outcome::Full);
    assert_eq!(push(&outbox, 24), Outcome::Evicted(1));
    assert_eq!(drained(&outbox), (vec![1, 4], None));
    // Messages that are being written are not dropped.
    let outbox = Outbox::new(LIMITS);
    assert_eq!([push_as(&outbox, 2, Keep::MayDrop), push_as(&outbox, 2, Keep::MayDrop)], [Outcome::Queued; 2]);
    assert_eq!(drained(&outbox), (vec![1, 2], None));
    assert_eq!(push(&outbox, 2), Outcome::Full);

    let outbox = Outbox::new(Limits { close_when_full: true, ..LIMITS });
    assert_eq!([push(&outbox, 60), push_as(&outbox, 2, Keep::MayDrop)], [Outcome::Queued; 2]);
    assert_eq!(push(&outbox, 25), Outcome::Full);
    assert_eq!(drained(&outbox), (Vec::new(), Some(1013)));
    assert_eq!(outbox.end(), 2);
}

#[test]
fn the_same_message_is_measured_after_others_were_dropped() {
    /// Three messages wait, of which the last is measured. Three more follow, and two are dropped.
    #[track_caller]
    fn check(before: Keep, after: Keep, expected: (Vec<u32>, Option<u16>)) {
        let max_delay = Duration::from_millis(20);
        let outbox = Outbox::new(Limits { messages: 6, bytes: 10_000, batch_bytes: 10, max_delay, ..LIMITS });
        for keep in [Keep::Always, before, before, Keep::Always] {
            push_as(&outbox, 2, keep);
        }
        assert_eq!(drained(&outbox), (vec![1], None));
        outbox.announce_drain();
        for keep in [after, after, Keep::Always] {
            push_as(&outbox, 2, keep);
        }
        assert_eq!([push(&outbox, 2), push(&outbox, 2)], [Outcome::Evicted(1); 2]);
        thread::sleep(max_delay * 2);
        assert_eq!(drained(&outbox), expected);
    }
    // The measured message is the first that is taken, so it waits no longer.
    check(Keep::MayDrop, Keep::Always, (vec![4], None));
    // The measured message waits behind two others.
    check(Keep::Always, Keep::MayDrop, (vec![2], Some(1013)));
}

#[test]
fn a_reply_has_room_in_a_full_queue_and_closes_no_session() {
    let outbox = Outbox::new(Limits { close_when_full: true, ..LIMITS });
    assert_eq!(push(&outbox, LIMITS.bytes - HEADER_LEN), Outcome::Queued);
    let request = Header::request(77, 1);
    assert_eq!(outbox.reply(request.reply(0), Bytes::from(vec![0; 57])), Outcome::Queued);
    assert_eq!(outbox.ever_queued() as usize, LIMITS.bytes + HEADER_LEN + 57);
    assert_eq!(drained(&outbox), (vec![1, 77], None));
}

/// One step of a test with random steps.
#[derive(Clone, Debug)]
enum Step {
    Push(Keep, usize),
    Reply(usize),
    Drain,
    AnnounceDrain,
}

fn step() -> impl Strategy<Value = Step> {
    let keep = prop_oneof![
        Just(Keep::Always),
        Just(Keep::MayDrop),
        (1..3_u32, 0..3_u64).prop_map(|(owner, key)| Keep::Latest { owner, key }),
    ];
    prop_oneof![
        6 => (keep, 0..50_usize).prop_map(|(keep, len)| Step::Push(keep, len)),
        1 => (0..50_usize).prop_map(Step::Reply),
        2 => Just(Step::Drain),
        1 => Just(Step::AnnounceDrain),
    ]
}

/// What a client saw of its pushes.
#[derive(Default)]
struct Client {
    numbers: Vec<u32>,
    replacing: usize,
}

impl Client {
    fn receive(&mut self, outbox: &Outbox) {
        let (batch, _) = batch(outbox);
        for outgoing in batch.iter().filter(|outgoing| outgoing.header.flags & FLAG_REPLY == 0) {
            self.numbers.push(outgoing.header.seq);
            self.replacing += usize::from(outgoing.header.flags & FLAG_REPLACES != 0);
        }
    }
}

proptest! {
    #[test]
    fn a_gap_in_the_numbers_is_a_dropped_push_and_nothing_else(steps in prop::collection::vec(step(), 0..60)) {
        let limits = Limits { messages: 6, bytes: 150, batch_bytes: 60, ..LIMITS };
        let outbox = Outbox::new(limits);
        let (mut client, mut dropped, mut replaced, mut replies) = (Client::default(), 0, 0, Size::default());
        for step in steps {
            let outcome = match step {
                Step::Push(keep, len) => {
                    let outcome = push_as(&outbox, len, keep);
                    dropped += usize::from(outcome == Outcome::Full);
                    outcome
                }
                Step::Reply(len) => {
                    replies.messages += 1;
                    replies.bytes += HEADER_LEN + len;
                    outbox.reply(Header::request(0, 1).reply(0), Bytes::from(vec![0; len]))
                }
                Step::Drain => {
                    client.receive(&outbox);
                    continue;
                }
                Step::AnnounceDrain => {
                    outbox.announce_drain();
                    continue;
                }
            };
            match outcome {
                Outcome::Evicted(count) => dropped += count,
                Outcome::Replaced => replaced += 1,
                Outcome::Queued | Outcome::Unannounced | Outcome::Full => {}
                Outcome::Closed => prop_assert!(false, "nothing closes the queue"),
            }
            let state = outbox.state();
            let (queued, in_flight) = (state.queue.size(), state.in_flight);
            prop_assert!(queued.messages + in_flight.messages <= limits.messages + replies.messages);
            prop_assert!(queued.bytes + in_flight.bytes <= limits.bytes + replies.bytes);
        }
        // The queue is empty after so many batches. The last push makes gaps at the end visible.
        (0..=limits.messages + replies.messages).for_each(|_| client.receive(&outbox));
        let state = outbox.state();
        prop_assert_eq!((state.queue.size(), state.queue.droppable), (Size::default(), 0));
        drop(state);
        prop_assert_eq!(push(&outbox, 0), Outcome::Queued);
        client.receive(&outbox);

        prop_assert!(client.numbers.is_sorted_by(|earlier, later| earlier < later));
        let last = *client.numbers.last().unwrap() as usize;
        prop_assert_eq!(last - client.numbers.len(), dropped);
        prop_assert!(client.replacing <= replaced);
    }
}
