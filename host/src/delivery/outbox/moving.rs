//! The messages of a session that goes on at another gateway.
//!
//! The session is claimed at the one gateway before its messages are taken, so nothing of it is being written. At the
//! other gateway, it begins as a claimed session, to which messages may be queued before those of the first gateway have
//! arrived. They then get the numbers after those.

use super::{
    Closing, Outbox,
    client::{Client, Secret},
    queue::{Keep, Outgoing, Queue},
    replay::{Moving, Replay},
};
use std::mem;

impl Outbox {
    /// Makes the outbox that of a session that comes from another gateway. Its messages wait until
    /// [`take_back`](Self::take_back).
    pub fn begin_moving_in(&self) {
        let mut state = self.state();
        state.client = Client::Claimed;
        self.store_load(&mut state);
    }

    /// Puts the messages from the other gateway in front of those that were queued here since
    /// [`begin_moving_in`](Self::begin_moving_in), and numbers these on.
    pub fn move_in(&self, moving: Moving) {
        let mut state = self.state();
        let state = &mut *state;
        let mut queued = mem::take(&mut state.queue).into_messages();
        for outgoing in &mut queued {
            if let Some(number) = outgoing.delivery_number() {
                outgoing.header.seq = plus(moving.pushes, number);
            }
        }
        state.pushes = plus(moving.pushes, state.pushes);
        state.replay = Some(Box::new(Replay::after(moving.received)));
        state.queue = Queue::default();
        state.queue.put_back(queued);
        state.queue.put_back(moving.waiting);
        self.store_load(state);
    }

    /// Takes the messages of a claimed session, which ends here because it goes on at another gateway. Returns `None` if
    /// the session is not claimed, or still serves its old connection.
    pub fn move_out(&self) -> Option<Moving> {
        let mut state = self.state();
        let state = &mut *state;
        if state.client != Client::Claimed || state.closing.is_some() {
            return None;
        }
        let mut waiting = mem::take(&mut state.queue).into_messages();
        waiting.iter_mut().for_each(forget_key);
        let received = state.replay.take().map(|replay| replay.received()).unwrap_or_default();
        // The one who has claimed it does not come back here.
        state.client = Client::Ended;
        self.begin_closing(state, Closing::handed_over());
        state.receiver.wake();
        Some(Moving { pushes: state.pushes, received, waiting })
    }

    /// Takes all messages of a session whose client is away, and ends the session here, because its gateway stops. Returns
    /// what the client needs to claim it, the messages, and how many of them were never written. Returns `None` if the
    /// client is about to come back, or if the session ends anyway.
    pub fn store(&self) -> Option<(Secret, Moving, usize)> {
        let mut state = self.state();
        let state = &mut *state;
        let Client::Away(secret) = state.client else { return None };
        if state.closing.is_some() {
            return None;
        }
        let (received, mut waiting) = state.replay.take().map(|replay| replay.into_sent()).unwrap_or_default();
        let queued = mem::take(&mut state.queue).into_messages();
        let unwritten = queued.len();
        waiting.extend(queued);
        waiting.iter_mut().for_each(forget_key);
        self.begin_closing(state, Closing::stored());
        Some((secret, Moving { pushes: state.pushes, received, waiting }, unwritten))
    }

    /// Returns whether the session is claimed and does not serve its old connection any more.
    #[must_use]
    pub fn can_move_out(&self) -> bool {
        self.state().client == Client::Claimed
    }
}

/// Makes a push that replaces others one that may be dropped, because its key means nothing at another gateway.
fn forget_key(outgoing: &mut Outgoing) {
    if let Keep::Latest { .. } = outgoing.keep {
        outgoing.keep = Keep::MayDrop;
    }
}

/// Returns the delivery number that comes `count` after `number`. After the largest number comes 1.
fn plus(number: u32, count: u32) -> u32 {
    match number.overflowing_add(count) {
        (sum, false) => sum,
        (sum, true) => sum + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outbox::{Limits, Received, ReplayLimits};
    use bytes::Bytes;
    use gateway_wire::packet::Header;
    use std::{
        collections::VecDeque,
        task::{Context, Poll, Waker},
    };

    fn outbox() -> Outbox {
        Outbox::new(Limits { replay: Some(ReplayLimits { messages: 8, bytes: 1000 }), ..Limits::of(8, 1000) })
    }

    fn push(outbox: &Outbox) {
        outbox.push(1, Bytes::new(), Keep::Always);
    }

    fn written(outbox: &Outbox) -> Vec<u32> {
        let mut batch = VecDeque::new();
        let outcome = outbox.poll_drain(&Context::from_waker(Waker::noop()), &mut batch, &mut None);
        assert!(outcome.is_pending() || matches!(outcome, Poll::Ready(None)), "{outcome:?}");
        batch.iter().map(|outgoing| outgoing.header.seq).collect()
    }

    /// Returns a session whose client has received one of two pushes and claims it, and which got a third one.
    fn claimed(parks: bool) -> Outbox {
        let outbox = outbox();
        outbox.admit_claims([1; 16]);
        push(&outbox);
        push(&outbox);
        assert_eq!(written(&outbox), [1, 2]);
        assert_eq!(outbox.claim(&[1; 16], Received { push: Some(1), replies: Some(0) }), Ok(0));
        if parks {
            assert_eq!(outbox.park(std::sync::Arc::<crate::delivery::parking::Parking>::default().enter().0), Ok(0));
        }
        push(&outbox);
        outbox
    }

    #[test]
    fn a_session_goes_on_at_another_gateway() {
        let old = claimed(true);
        let new = outbox();
        new.begin_moving_in();
        // What the new gateway hears before the messages of the old one have arrived.
        push(&new);
        new.reply(Header::request(9, 3).reply(0), Bytes::new());
        push(&new);
        let moving = old.move_out().unwrap();
        assert_eq!((moving.pushes, moving.received), (3, (1, 0)));
        new.move_in(moving);
        push(&new);
        new.take_back();
        assert_eq!(written(&new), [2, 3, 4, 9, 5, 6]);
        // The client can be away once more.
        new.admit_claims([2; 16]);
        assert_eq!(new.claim(&[2; 16], Received { push: Some(4), replies: Some(0) }), Ok(0));
        assert_eq!(new.park(std::sync::Arc::<crate::delivery::parking::Parking>::default().enter().0), Ok(0));
        new.take_back();
        assert_eq!(written(&new), [9, 5, 6]);
    }

    #[test]
    fn the_new_gateway_knows_what_the_client_has_before_it_has_sent_anything() {
        let new = outbox();
        new.begin_moving_in();
        new.move_in(Moving { waiting: VecDeque::new(), ..claimed(true).move_out().unwrap() });
        new.take_back();
        new.admit_claims([2; 16]);
        assert_eq!(new.claim(&[2; 16], Received { push: Some(1), replies: Some(0) }), Ok(0));
    }

    #[test]
    fn the_old_gateway_keeps_nothing() {
        let old = claimed(true);
        assert!(old.can_move_out() && old.move_out().is_some());
        assert!(old.move_out().is_none());
        assert_eq!(old.waiting(), (0, 0));
        let closing = old.poll_away(&Context::from_waker(Waker::noop())).map(|closing| closing.cause);
        assert_eq!(closing, Poll::Ready(Closing::HANDED_OVER));
        assert_eq!(old.end(), 0, "nothing is lost");
    }

    #[test]
    fn a_session_that_still_has_its_old_connection_does_not_move() {
        let old = claimed(false);
        assert!(!old.can_move_out() && old.move_out().is_none());
        assert!(outbox().move_out().is_none());
    }

    /// Returns a session whose client is away. It was sent three pushes and a reply, and two pushes wait.
    fn away() -> Outbox {
        let outbox = outbox();
        outbox.admit_claims([1; 16]);
        (0..3).for_each(|_| push(&outbox));
        outbox.reply(Header::request(9, 3).reply(0), Bytes::new());
        outbox.control_here(Bytes::new());
        assert_eq!(written(&outbox), [1, 2, 3, 9, 0]);
        assert_eq!(outbox.park(std::sync::Arc::<crate::delivery::parking::Parking>::default().enter().0), Ok(0));
        push(&outbox);
        outbox.push(1, Bytes::new(), Keep::Latest { owner: 1, key: 2 });
        outbox
    }

    #[test]
    fn a_stored_session_has_all_that_its_client_may_miss() {
        let old = away();
        let (secret, moving, unwritten) = old.store().unwrap();
        assert_eq!((secret, moving.pushes, moving.received, unwritten), ([1; 16], 5, (0, 0), 2));
        let seqs: Vec<_> = moving.waiting.iter().map(|outgoing| outgoing.header.seq).collect();
        assert_eq!(seqs, [1, 2, 3, 9, 4, 5]);
        assert_eq!(moving.waiting[5].keep, Keep::MayDrop);
        assert!(old.store().is_none(), "only once");
        let closing = old.poll_away(&Context::from_waker(Waker::noop())).map(|closing| closing.cause);
        assert_eq!(closing, Poll::Ready(Closing::STORED));
        let received = |push, replies| Received { push: Some(push), replies: Some(replies) };
        for wrong in [received(6, 0), received(3, 2), Received::default()] {
            assert_eq!(moving.clone().claim(wrong), None, "{wrong:?}");
        }
        let (missing, lost) = moving.claim(received(2, 1)).unwrap();
        assert_eq!((missing.received, lost), ((2, 1), 0));
        let new = outbox();
        new.begin_moving_in();
        new.move_in(missing);
        push(&new);
        new.take_back();
        assert_eq!(written(&new), [3, 4, 5, 6]);
    }

    #[test]
    fn a_session_is_stored_only_while_its_client_is_away() {
        assert!(outbox().store().is_none());
        assert!(claimed(true).store().is_none() && claimed(false).store().is_none());
        let closed = away();
        closed.close(Closing::going_away());
        assert!(closed.store().is_none());
    }

    #[test]
    fn the_numbers_go_on_after_the_largest() {
        assert_eq!([plus(0, 0), plus(0, 1), plus(5, 2)], [0, 1, 7]);
        assert_eq!([plus(u32::MAX - 1, 1), plus(u32::MAX, 1), plus(u32::MAX, 2)], [u32::MAX, 1, 2]);
    }
}
