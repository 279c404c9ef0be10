//! The messages of one session that its client may need again after its connection broke.
//!
//! A message that was written may be lost with the connection. So it is kept until the client acknowledges it, or until
//! the bounds are exceeded. The client says which messages it has, so exactly the missing ones are sent again. If one of
//! the missing pushes is no longer kept, none is sent again.

use super::queue::{Outgoing, Size};
use crate::delivery::parking::Place;
use std::collections::VecDeque;

/// The bounds on the messages that are kept for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayLimits {
    /// The number of messages.
    pub messages: u32,
    /// Their bytes with headers.
    pub bytes: u32,
}

impl From<ReplayLimits> for Size {
    fn from(limits: ReplayLimits) -> Self {
        Self { messages: limits.messages as usize, bytes: limits.bytes as usize }
    }
}

/// What a client says that it has received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The delivery number of the last push, or 0. It is `None` if the client has sent something that is no number.
    pub push: Option<u32>,
    /// The number of replies, or `None` if the client does not count them.
    pub replies: Option<u64>,
}

/// The messages of a session on the way from one gateway to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moving {
    /// The delivery number of the last push.
    pub pushes: u32,
    /// The delivery number of the last push that the client has, and the number of replies that it has.
    pub received: (u32, u64),
    /// The messages that wait, the oldest first.
    pub waiting: VecDeque<Outgoing>,
}

impl Moving {
    /// Drops what the client has received. Returns the number of missing replies that are not among the messages, or
    /// `None` in the cases in which a session cannot be resumed.
    #[must_use]
    pub fn claim(self, received: Received) -> Option<(Self, u64)> {
        let Self { pushes, received: (floor, gone_replies), waiting } = self;
        let mut replay = Replay { sent: waiting, ..Replay::after((floor, gone_replies)) };
        let (waiting, lost) = replay.take_missing(received)?;
        Some((Self { pushes, received: replay.received(), waiting }, lost))
    }
}

/// The messages that were written and not acknowledged, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Replay {
    sent: VecDeque<Outgoing>,
    bytes: usize,
    /// The delivery number of the last push that is no longer kept, or 0.
    floor: u32,
    /// The number of replies that are no longer kept.
    gone_replies: u64,
    /// The number of missing replies that are no longer kept and that the client has not been told of yet.
    lost_replies: u64,
    /// Whether the client gets what it has missed. Until all that waits is written, as much more may wait as may be kept.
    pub(super) is_catching_up: bool,
    /// The place of the session while its client is away.
    pub(super) place: Option<Place>,
}

impl Replay {
    pub(super) fn size(&self) -> Size {
        Size { messages: self.sent.len(), bytes: self.bytes }
    }

    /// Keeps a message that is about to be written.
    pub(super) fn keep(&mut self, outgoing: Outgoing, limits: ReplayLimits) {
        if outgoing.is_for_this_connection() {
            return;
        }
        self.bytes += outgoing.packet_len();
        self.sent.push_back(outgoing);
        self.shrink(limits.into());
    }

    /// Drops the oldest messages until no more than `max` are kept.
    pub(super) fn shrink(&mut self, max: Size) {
        while (self.sent.len() > max.messages || self.bytes > max.bytes) && self.forget_oldest() {}
    }

    /// Drops the messages up to the push with a number that ends with these 16 bits. If several do, takes the oldest.
    pub(super) fn acknowledge(&mut self, low_bits: u16) {
        let is_meant = |outgoing: &Outgoing| {
            outgoing.delivery_number().is_some_and(|number| number & 0xffff == u32::from(low_bits))
        };
        if let Some(index) = self.sent.iter().position(is_meant) {
            (0..=index).for_each(|_| _ = self.forget_oldest());
        }
    }

    /// Takes the messages that the client has not received. Returns them with the number of missing replies that are no
    /// longer kept, those of earlier claims that were given up included. Returns `None` if a missing push is no longer
    /// kept, or if the client claims to have received what was never sent.
    pub(super) fn take_missing(&mut self, received: Received) -> Option<(VecDeque<Outgoing>, u64)> {
        let last = received.push?;
        // The client has received everything before its last push.
        let after = match self.sent.iter().position(|outgoing| outgoing.delivery_number() == Some(last)) {
            Some(index) => index + 1,
            None if last == self.floor => 0,
            None => return None,
        };
        let kept_replies = self.sent.iter().filter(|outgoing| outgoing.is_reply()).count() as u64;
        if received.replies.is_some_and(|count| count > self.gone_replies + kept_replies) {
            return None;
        }
        self.lost_replies += received.replies.map_or(0, |count| self.gone_replies.saturating_sub(count));
        let mut reply = self.gone_replies;
        let mut missing = VecDeque::new();
        for (index, outgoing) in std::mem::take(&mut self.sent).into_iter().enumerate() {
            let is_missing = if outgoing.is_reply() {
                reply += 1;
                received.replies.map_or(index >= after, |count| reply > count)
            } else {
                index >= after
            };
            if is_missing {
                missing.push_back(outgoing);
            }
        }
        self.bytes = 0;
        self.floor = last;
        // From here on, the replies are counted as the client counts them.
        let missing_replies = missing.iter().filter(|outgoing| outgoing.is_reply()).count() as u64;
        self.gone_replies = received.replies.unwrap_or(reply - missing_replies);
        Some((missing, self.lost_replies))
    }

    /// Records that the client is back, and has been told of the replies that it has lost.
    pub(super) fn resumed(&mut self) {
        self.place = None;
        self.lost_replies = 0;
    }

    /// Returns the number of the last push and the number of replies that the client has, if nothing is kept.
    pub(super) fn received(&self) -> (u32, u64) {
        (self.floor, self.gone_replies)
    }

    /// Returns what the client has if it has none of the messages that are kept, and these messages. Replies that were lost
    /// to a claim that was given up count as received here, so that the next claim finds them missing again.
    pub(super) fn into_sent(self) -> ((u32, u64), VecDeque<Outgoing>) {
        ((self.floor, self.gone_replies + self.lost_replies), self.sent)
    }

    /// Returns what is kept for a client that has received this and gets the rest now: nothing.
    pub(super) fn after((floor, gone_replies): (u32, u64)) -> Self {
        Self { floor, gone_replies, is_catching_up: true, ..Self::default() }
    }

    /// Drops the oldest message. Returns false if there is none.
    fn forget_oldest(&mut self) -> bool {
        let Some(outgoing) = self.sent.pop_front() else { return false };
        self.bytes -= outgoing.packet_len();
        self.gone_replies += u64::from(outgoing.is_reply());
        self.floor = outgoing.delivery_number().unwrap_or(self.floor);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outbox::Keep;
    use bytes::Bytes;
    use gateway_wire::packet::{Header, ROUTE_CONTROL};

    const LIMITS: ReplayLimits = ReplayLimits { messages: 8, bytes: 1000 };

    fn outgoing(header: Header) -> Outgoing {
        Outgoing { header, payload: Bytes::from_static(b"12"), keep: Keep::Always }
    }

    fn number(number: u32) -> Outgoing {
        outgoing(Header::push(1, number))
    }

    fn reply(seq: u32) -> Outgoing {
        outgoing(Header::request(seq, 3).reply(0))
    }

    fn kept(messages: impl IntoIterator<Item = Outgoing>) -> Replay {
        let mut replay = Replay::default();
        messages.into_iter().for_each(|outgoing| replay.keep(outgoing, LIMITS));
        replay
    }

    /// Returns the seq of each missing message, those of replies as negative numbers, and the lost replies.
    fn missing(replay: &mut Replay, push: u32, replies: Option<u64>) -> Option<(Vec<i64>, u64)> {
        let (missing, lost) = replay.take_missing(Received { push: Some(push), replies })?;
        let seq = |outgoing: &Outgoing| {
            let seq = i64::from(outgoing.header.seq);
            if outgoing.is_reply() { -seq } else { seq }
        };
        Some((missing.iter().map(seq).collect(), lost))
    }

    #[test]
    fn exactly_the_missing_pushes_are_sent_again() {
        for (seen, expected) in [(0, vec![1, 2, 4]), (1, vec![2, 4]), (2, vec![4]), (4, vec![])] {
            // Push 3 was dropped because the queue was full, so the client has seen the gap or is going to see it.
            let mut replay = kept([1, 2, 4].map(number));
            assert_eq!(missing(&mut replay, seen, None), Some((expected, 0)));
            assert_eq!(replay.size(), Size::default());
        }
    }

    #[test]
    fn a_number_that_was_never_sent_or_is_no_longer_kept_is_refused() {
        let with_ten = || kept((1..=10).map(number));
        assert_eq!(missing(&mut with_ten(), 11, None), None);
        assert_eq!(missing(&mut with_ten(), 1, None), None, "push 2 is no longer kept");
        assert_eq!(missing(&mut with_ten(), 2, None), Some(((3..=10).collect(), 0)));
        assert_eq!(with_ten().take_missing(Received::default()), None, "not a number");
        assert_eq!(missing(&mut kept([]), 1, None), None);
        assert_eq!(missing(&mut kept([]), 0, Some(1)), None);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let large = || Outgoing { payload: Bytes::from(vec![0; 600]), ..number(1) };
        let mut replay = kept([large(), Outgoing { header: Header::push(1, 2), ..large() }]);
        assert_eq!(replay.size(), Size { messages: 1, bytes: 608 });
        assert_eq!(missing(&mut replay, 1, None), Some((vec![2], 0)));
        // A message that is too large by itself is kept by nobody.
        let mut replay = kept([Outgoing { payload: Bytes::from(vec![0; 2000]), ..number(1) }]);
        assert_eq!(replay.size(), Size::default());
        assert_eq!(missing(&mut replay, 0, None), None);
        assert_eq!(missing(&mut replay, 1, None), Some((vec![], 0)));
    }

    #[test]
    fn replies_are_counted_so_that_each_comes_exactly_once() {
        let sent = || kept([reply(1), number(1), reply(2), reply(3), number(2), reply(4)]);
        assert_eq!(missing(&mut sent(), 1, Some(1)), Some((vec![-2, -3, 2, -4], 0)));
        assert_eq!(missing(&mut sent(), 1, Some(3)), Some((vec![2, -4], 0)));
        assert_eq!(missing(&mut sent(), 2, Some(4)), Some((vec![], 0)));
        assert_eq!(missing(&mut sent(), 2, Some(5)), None, "one reply more than were sent");
        // A client that does not count them gets those after its last push.
        assert_eq!(missing(&mut sent(), 1, None), Some((vec![-2, -3, 2, -4], 0)));
        // After a resume, both sides count on.
        let mut replay = sent();
        assert_eq!(missing(&mut replay, 1, Some(2)), Some((vec![-3, 2, -4], 0)));
        [reply(3), number(2), reply(4), reply(5)].into_iter().for_each(|outgoing| replay.keep(outgoing, LIMITS));
        assert_eq!(missing(&mut replay, 2, Some(4)), Some((vec![-5], 0)));
    }

    #[test]
    fn replies_that_are_no_longer_kept_are_reported() {
        let sent = || kept((1..=10).map(reply));
        assert_eq!(missing(&mut sent(), 0, Some(2)), Some(((3..=10).map(|seq: i64| -seq).collect(), 0)));
        assert_eq!(missing(&mut sent(), 0, Some(0)), Some(((3..=10).map(|seq: i64| -seq).collect(), 2)));
        let mut replay = sent();
        assert!(missing(&mut replay, 0, Some(0)).is_some());
        replay.resumed();
        // The client has counted the eight that came again, and not the two that were lost.
        (3..=10).for_each(|seq| replay.keep(reply(seq), LIMITS));
        assert_eq!(missing(&mut replay, 0, Some(8)), Some((vec![], 0)));
    }

    #[test]
    fn an_acknowledgement_drops_what_came_before() {
        let mut replay = kept([reply(1), number(65_535), number(65_536), number(65_537), reply(2)]);
        replay.acknowledge(0);
        assert_eq!(replay.size().messages, 2);
        replay.acknowledge(7);
        assert_eq!(replay.size().messages, 2, "no push ends with these bits");
        assert_eq!(missing(&mut replay, 65_536, Some(1)), Some((vec![65_537, -2], 0)));
    }

    #[test]
    fn the_pushes_of_the_gateway_itself_have_no_number() {
        let control = || outgoing(Header::push(ROUTE_CONTROL, 0));
        let mut replay = kept([number(1), control()]);
        replay.acknowledge(0);
        assert_eq!(replay.size().messages, 2);
        assert_eq!(missing(&mut replay, 1, None), Some((vec![0], 0)));
        let mut replay = kept((1..=8).map(number).chain([control()]));
        replay.shrink(Size { messages: 1, bytes: 1000 });
        assert_eq!(missing(&mut replay, 8, None), Some((vec![0], 0)));
    }

    #[test]
    fn the_numbers_may_wrap() {
        let mut replay = kept([u32::MAX - 1, u32::MAX, 1, 2].map(number));
        assert_eq!(missing(&mut replay, u32::MAX, None), Some((vec![1, 2], 0)));
    }
}
