use super::*;
use crate::delivery::{
    outbox::{Keep, Limits, Outcome, ReplayLimits},
    parking::Parking,
};
use bytes::Bytes;
use gateway_wire::packet::Header;
use std::{collections::VecDeque, sync::Arc, task::Waker};

const SECRET: Secret = [1; 16];

fn outbox() -> Outbox {
    let replay = Some(ReplayLimits { messages: 4, bytes: 1000 });
    let limits = Limits { replay, ..Limits::of(8, 1000) };
    let outbox = Outbox::new(limits);
    outbox.admit_claims(SECRET);
    outbox
}

fn push(outbox: &Outbox) -> Outcome {
    outbox.push(1, Bytes::from_static(b"12"), Keep::Always)
}

fn written(outbox: &Outbox) -> (Vec<u32>, Option<u16>) {
    let mut batch = VecDeque::new();
    let closing = match outbox.poll_drain(&Context::from_waker(Waker::noop()), &mut batch, &mut None) {
        Poll::Ready(closing) => closing,
        Poll::Pending => None,
    };
    (batch.iter().map(|outgoing| outgoing.header.seq).collect(), closing.map(|closing| closing.code))
}

fn parking() -> Arc<Parking> {
    let parking = Arc::<Parking>::default();
    parking.set_max_bytes(1 << 20);
    parking
}

fn park(outbox: &Outbox) -> bool {
    outbox.park(parking().enter().0).is_ok()
}

fn closing(outbox: &Outbox) -> Option<&'static str> {
    match outbox.poll_away(&Context::from_waker(Waker::noop())) {
        Poll::Ready(closing) => Some(closing.cause),
        Poll::Pending => None,
    }
}

fn seen(push: u32) -> Received {
    Received { push: Some(push), replies: None }
}

#[test]
fn a_client_that_comes_back_gets_what_was_sent_and_what_came_meanwhile() {
    let outbox = outbox();
    push(&outbox);
    push(&outbox);
    assert_eq!(written(&outbox), (vec![1, 2], None));
    assert!(park(&outbox));
    push(&outbox);
    assert_eq!(outbox.claim(&SECRET, seen(1)), Ok(0));
    push(&outbox);
    outbox.take_back();
    push(&outbox);
    assert_eq!(written(&outbox), (vec![2, 3, 4, 5], None));
}

#[test]
fn the_old_connection_gets_nothing_more_after_a_claim() {
    let outbox = outbox();
    push(&outbox);
    assert_eq!(written(&outbox), (vec![1], None));
    push(&outbox);
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    assert_eq!(outbox.queued(), None, "and no packet of it is read");
    assert_eq!(written(&outbox), (vec![], Some(4010)));
    let mut batch = VecDeque::new();
    assert_eq!((outbox.drain(&mut batch).map(|closing| closing.code), batch.len()), (Some(4010), 0));
    assert!(park(&outbox));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![1, 2], None));
}

#[test]
fn a_secret_is_good_for_one_claim() {
    let outbox = outbox();
    assert_eq!(outbox.claim(&[2; 16], seen(0)), Err(Unclaimed::Unknown));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Err(Unclaimed::Unknown));
    assert!(park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Err(Unclaimed::Unknown));
    outbox.take_back();
    assert_eq!(outbox.claim(&SECRET, seen(0)), Err(Unclaimed::Unknown));
    outbox.admit_claims([3; 16]);
    assert_eq!(outbox.claim(&SECRET, seen(0)), Err(Unclaimed::Unknown));
    assert_eq!(outbox.claim(&[3; 16], seen(0)), Ok(0));
}

#[test]
fn a_client_learns_of_lost_replies_although_its_first_claim_was_given_up() {
    let outbox = outbox();
    for seq in 1..=6 {
        outbox.reply(Header::request(seq, 1).reply(0), Bytes::new());
    }
    assert_eq!(written(&outbox).0, [1, 2, 3, 4, 5, 6]);
    let received = Received { push: Some(0), replies: Some(1) };
    assert_eq!(outbox.claim(&SECRET, received), Ok(1), "the second one is no longer kept");
    assert!(park(&outbox));
    outbox.unclaim(SECRET);
    assert_eq!(outbox.claim(&SECRET, received), Ok(1));
    outbox.unclaim(SECRET);
    // The session may go on at another gateway meanwhile.
    let (_, moving, _) = outbox.store().unwrap();
    let (_, lost) = moving.claim(received).unwrap();
    assert_eq!(lost, 1);
}

#[test]
fn what_a_client_has_missed_does_not_count_against_the_send_queue() {
    let replay = Some(ReplayLimits { messages: 4, bytes: 1000 });
    // The client is away before, or its connection still looks alive.
    for is_away in [true, false] {
        let outbox = Outbox::new(Limits { replay, ..Limits::of(2, 1000) });
        outbox.admit_claims(SECRET);
        for number in 1..=4 {
            push(&outbox);
            assert_eq!(written(&outbox), (vec![number], None));
        }
        assert!(!is_away || park(&outbox));
        assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
        assert_eq!([push(&outbox), push(&outbox)], [Outcome::Queued; 2]);
        if !is_away {
            assert_eq!(written(&outbox), (vec![], Some(4010)));
            assert!(park(&outbox));
        }
        outbox.take_back();
        assert_eq!([push(&outbox), push(&outbox)], [Outcome::Full; 2]);
        assert_eq!(written(&outbox), (vec![1, 2, 3, 4, 5, 6], None));
        outbox.announce_drain();
        // From now on it is the send queue of any session.
        assert_eq!([push(&outbox), push(&outbox), push(&outbox)], [Outcome::Queued, Outcome::Queued, Outcome::Full]);
    }
}

#[test]
fn a_claim_that_is_given_up_can_be_made_again() {
    // It is given up before or after the old connection has noticed it.
    for parks_first in [true, false] {
        let outbox = outbox();
        push(&outbox);
        push(&outbox);
        assert_eq!(written(&outbox), (vec![1, 2], None));
        assert_eq!(outbox.claim(&SECRET, seen(1)), Ok(0));
        assert!(outbox.is_claimed());
        if parks_first {
            assert!(park(&outbox));
        }
        outbox.unclaim(SECRET);
        if !parks_first {
            assert_eq!(written(&outbox), (vec![], Some(4010)), "the old connection is given up all the same");
            assert!(park(&outbox));
        }
        assert!(!outbox.is_claimed());
        assert_eq!(outbox.claim(&SECRET, seen(1)), Ok(0));
        outbox.take_back();
        assert_eq!(written(&outbox), (vec![2], None));
    }
}

#[test]
fn a_session_that_cannot_be_kept_whole_ends() {
    let outbox = outbox();
    push(&outbox);
    assert_eq!(written(&outbox), (vec![1], None));
    assert!(park(&outbox));
    // What was sent makes room first, and then what may be dropped.
    assert_eq!([(); 3].map(|()| push(&outbox)), [Outcome::Queued; 3]);
    assert_eq!(outbox.push(1, Bytes::new(), Keep::MayDrop), Outcome::Queued);
    assert_eq!(push(&outbox), Outcome::Evicted(1));
    assert_eq!(outbox.push(1, Bytes::new(), Keep::MayDrop), Outcome::Full);
    assert_eq!(closing(&outbox), None);
    assert_eq!(push(&outbox), Outcome::Full);
    assert_eq!(closing(&outbox), Some("full"));
    assert_eq!(outbox.claim(&SECRET, seen(1)), Err(Unclaimed::Unknown));
}

#[test]
fn what_is_dropped_when_a_session_is_parked_is_counted() {
    let outbox = outbox();
    push(&outbox);
    (0..5).for_each(|_| _ = outbox.push(1, Bytes::new(), Keep::MayDrop));
    assert_eq!(outbox.park(parking().enter().0), Ok(2));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![1, 4, 5, 6], None));
}

#[test]
fn a_session_with_too_much_to_send_is_not_parked() {
    let outbox = outbox();
    (0..5).for_each(|_| _ = push(&outbox));
    assert_eq!(outbox.park(parking().enter().0), Err(Some(Closing::replay_full())));
    // If its client has already come back, as much may wait as ever.
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    assert_eq!(push(&outbox), Outcome::Queued);
    assert!(park(&outbox));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![1, 2, 3, 4, 5, 6], None));
}

#[test]
fn a_wrong_number_ends_the_session() {
    let outbox = outbox();
    push(&outbox);
    assert_eq!(written(&outbox), (vec![1], None));
    assert!(park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(2)), Err(Unclaimed::Missed));
    assert_eq!(closing(&outbox), Some("missed"));
    assert_eq!(outbox.claim(&SECRET, seen(1)), Err(Unclaimed::Unknown));
}

#[test]
fn the_end_of_the_window_and_a_claim_exclude_each_other() {
    let late = outbox();
    assert!(park(&late) && late.give_up(Closing::window_passed()));
    assert_eq!(late.claim(&SECRET, seen(0)), Err(Unclaimed::Unknown));
    let in_time = outbox();
    assert!(park(&in_time));
    assert_eq!(in_time.claim(&SECRET, seen(0)), Ok(0));
    assert!(!in_time.give_up(Closing::window_passed()));
    in_time.unclaim(SECRET);
    assert!(in_time.give_up(Closing::window_passed()));
    // It ends for another reason, which counts.
    assert!(!in_time.give_up(Closing::evicted()));
}

#[test]
fn a_session_that_is_to_end_is_neither_parked_nor_claimed() {
    let outbox = outbox();
    outbox.close(Closing::another_session());
    assert!(!park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Err(Unclaimed::Unknown));
}

#[test]
fn sessions_that_end_with_their_connections_keep_nothing() {
    let limits = Limits::of(8, 1000);
    let outbox = Outbox::new(limits);
    outbox.admit_claims(SECRET);
    push(&outbox);
    assert_eq!(written(&outbox), (vec![1], None));
    assert!(outbox.state().replay.is_none());
    assert_eq!(outbox.claim(&SECRET, seen(1)), Err(Unclaimed::Unknown));
    assert!(!park(&outbox));
}

#[test]
fn the_place_tells_how_much_the_session_holds() {
    let (outbox, parking) = (outbox(), parking());
    let empty = {
        let (_place, _evicted) = parking.enter();
        parking.usage().1
    };
    push(&outbox);
    assert_eq!(written(&outbox), (vec![1], None));
    assert_eq!(outbox.park(parking.enter().0), Ok(0));
    let one = parking.usage().1 - empty;
    assert!(one >= 10, "a header and two bytes, and not {one}");
    push(&outbox);
    assert_eq!(parking.usage(), (1, empty + 2 * one));
    assert_eq!(outbox.claim(&SECRET, seen(1)), Ok(0));
    assert_eq!(parking.usage(), (1, empty + one), "the client has the first one");
    outbox.take_back();
    assert_eq!(parking.usage(), (0, 0));
    outbox.admit_claims(SECRET);
    assert_eq!(outbox.park(parking.enter().0), Ok(0));
    outbox.end();
    assert_eq!(parking.usage(), (0, 0));
}

#[test]
fn the_delivery_counter_goes_on_with_1_after_its_largest_number() {
    let outbox = outbox();
    outbox.state().pushes = u32::MAX - 1;
    push(&outbox);
    push(&outbox);
    assert_eq!(written(&outbox), (vec![u32::MAX, 1], None));
    assert!(park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(u32::MAX)), Ok(0));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![1], None));
}

#[test]
fn what_is_for_one_connection_is_not_sent_over_the_next() {
    let outbox = outbox();
    outbox.control_here(Bytes::from_static(b"reconnect"));
    outbox.control(Bytes::from_static(b"gap"));
    assert_eq!(written(&outbox), (vec![0, 0], None));
    push(&outbox);
    outbox.control_here(Bytes::from_static(b"reconnect"));
    assert!(park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![0, 1], None));
    // Nor is it if the gateway takes the old connection for alive.
    outbox.admit_claims([2; 16]);
    outbox.control_here(Bytes::from_static(b"reconnect"));
    push(&outbox);
    assert_eq!(outbox.claim(&[2; 16], seen(1)), Ok(0));
    assert!(park(&outbox));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![2], None));
}

#[test]
fn a_connection_ends_when_the_gateway_stops_and_the_session_waits() {
    let outbox = outbox();
    push(&outbox);
    assert!(outbox.dismiss());
    assert_eq!(written(&outbox), (vec![], Some(1001)));
    assert!(outbox.dismiss(), "it is away already");
    assert!(park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    outbox.take_back();
    assert_eq!(written(&outbox), (vec![1], None));
    // The gateway still stops, so this connection ends as well, once the client can claim the session again.
    outbox.admit_claims(SECRET);
    assert_eq!(written(&outbox), (vec![], Some(1001)));
    assert!(park(&outbox));
    assert_eq!(outbox.claim(&SECRET, seen(1)), Ok(0));
}

#[test]
fn a_connection_that_begins_while_the_gateway_stops_ends_when_the_client_can_claim_the_session() {
    let limits = Limits { replay: Some(ReplayLimits { messages: 4, bytes: 1000 }), ..Limits::of(8, 1000) };
    let outbox = Outbox::new(limits);
    assert!(outbox.dismiss());
    assert_eq!(written(&outbox), (vec![], None));
    outbox.admit_claims(SECRET);
    assert_eq!(written(&outbox), (vec![], Some(1001)));
    assert!(!Outbox::new(Limits::of(8, 1000)).dismiss(), "it ends with its connection");
}

#[test]
fn a_client_can_come_back_before_its_old_connection_has_ended() {
    let outbox = outbox();
    assert!(outbox.dismiss());
    assert_eq!(outbox.claim(&SECRET, seen(0)), Ok(0));
    assert!(park(&outbox) && outbox.is_claimed());
}
