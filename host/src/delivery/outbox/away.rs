//! A session whose client is away: its connection broke, and the client may come back over another one.
//!
//! Meanwhile, pushes are numbered and wait, within the bounds of [`ReplayLimits`](super::ReplayLimits). One client can
//! claim the session, with the secret of its last connection. From then on the old connection gets nothing more, even if
//! it has not noticed that it is broken.

use super::{
    Outbox, State,
    client::{Client, Secret, Unclaimed, is_same},
    closing::Closing,
    queue::Size,
    replay::Received,
};
use crate::delivery::parking::Place;
use std::task::{Context, Poll};

impl Outbox {
    /// Lets the client of a new connection claim the session later with this secret. Does nothing if sessions end with
    /// their connections.
    pub fn admit_claims(&self, secret: Secret) {
        let mut state = self.state();
        if self.limits.replay.is_none() || state.client != Client::Bound {
            return;
        }
        if state.is_dismissed {
            state.client = Client::Dismissed(secret);
            self.store_load(&mut state);
            state.receiver.wake();
        } else {
            state.client = Client::Here(secret);
        }
    }

    /// Drops what the client no longer needs, up to the push whose number ends with these 16 bits.
    pub fn acknowledge(&self, low_bits: u16) {
        if let Some(replay) = &mut self.state().replay {
            replay.acknowledge(low_bits);
        }
    }

    /// Claims the session for another connection. What the client misses is queued first, and everything else waits
    /// until [`Self::take_back`]. Returns the number of replies that cannot be sent again.
    ///
    /// # Errors
    /// Returns an [`Unclaimed`].
    pub fn claim(&self, secret: &Secret, received: Received) -> Result<u64, Unclaimed> {
        let mut state = self.state();
        let state = &mut *state;
        let is_right = |known: &Secret| is_same(known, secret);
        let next = match &state.client {
            Client::Here(known) if is_right(known) => Client::Leaving(None),
            Client::Leaving(Some(known)) | Client::Dismissed(known) if is_right(known) => Client::Leaving(None),
            Client::Away(known) if is_right(known) => Client::Claimed,
            _ => return Err(Unclaimed::Unknown),
        };
        if state.closing.is_some() {
            return Err(Unclaimed::Unknown);
        }
        let Some((missing, lost)) = state.replay.get_or_insert_default().take_missing(received) else {
            self.begin_closing(state, Closing::unresumed("missed"));
            state.receiver.wake();
            return Err(Unclaimed::Missed);
        };
        state.client = next;
        if let Some(replay) = &mut state.replay {
            replay.is_catching_up = true;
        }
        state.in_flight = Size::default();
        state.queue.put_back(missing);
        self.store_load(state);
        state.receiver.wake();
        Ok(lost)
    }

    /// Ends the connection because the gateway stops, now or as soon as its client can claim the session. Returns false
    /// if sessions end with their connections, or if the session ends anyway.
    pub fn dismiss(&self) -> bool {
        let mut state = self.state();
        if self.limits.replay.is_none() || state.closing.is_some() {
            return false;
        }
        state.is_dismissed = true;
        if let Client::Here(secret) = state.client {
            state.client = Client::Dismissed(secret);
            self.store_load(&mut state);
            state.receiver.wake();
        }
        true
    }

    /// Gives a claim up, so that the client can claim the session again with the same secret.
    pub fn unclaim(&self, secret: Secret) {
        let mut state = self.state();
        state.client = match state.client {
            Client::Leaving(None) => Client::Leaving(Some(secret)),
            Client::Claimed => Client::Away(secret),
            _ => return,
        };
    }

    /// Lets the messages wait, because the connection broke. Returns how many of them were dropped, because fewer may wait
    /// now.
    ///
    /// # Errors
    /// Returns why the session has to end instead, or `None` if its client cannot claim it.
    pub fn park(&self, place: Place) -> Result<usize, Option<Closing>> {
        let mut state = self.state();
        let state = &mut *state;
        state.queue.leave_connection();
        let max = self.limits.replay.map(Size::from).unwrap_or_default();
        let queued = state.queue.size();
        let mut excess = Size {
            messages: queued.messages.saturating_sub(max.messages),
            bytes: queued.bytes.saturating_sub(max.bytes),
        };
        if state.client.is_about_to_return() {
            excess = Size::default();
        }
        if let Some(closing) = &state.closing {
            return Err(Some((**closing).clone()));
        }
        let next = match state.client {
            Client::Here(secret) | Client::Leaving(Some(secret)) | Client::Dismissed(secret) => Client::Away(secret),
            Client::Leaving(None) => Client::Claimed,
            _ => return Err(None),
        };
        let mut dropped = 0;
        if excess != Size::default() {
            dropped = state.queue.evict(excess).ok_or_else(|| Some(Closing::replay_full()))?;
        }
        state.client = next;
        state.in_flight = Size::default();
        state.replay.get_or_insert_default().place = Some(place);
        self.store_load(state);
        Ok(dropped)
    }

    /// Returns whether the session is being left in Redis for its client.
    #[must_use]
    pub fn is_being_stored(&self) -> bool {
        self.state().closing.as_ref().is_some_and(|closing| closing.cause == Closing::STORED)
    }

    /// Waits until the session has to end although its client is away, or until [`Self::wake`].
    pub fn poll_away(&self, cx: &Context<'_>) -> Poll<Closing> {
        let mut state = self.state();
        state.receiver.wait(cx);
        state.closing.as_deref().cloned().map_or(Poll::Pending, Poll::Ready)
    }

    /// Wakes the session's task up.
    pub fn wake(&self) {
        self.state().receiver.wake();
    }

    /// Ends the session because its client has been away for too long. Returns false if the client is about to come
    /// back, or if the session ends for another reason.
    pub fn give_up(&self, closing: Closing) -> bool {
        let mut state = self.state();
        let is_given_up = !state.client.is_about_to_return() && state.closing.is_none();
        if is_given_up {
            self.begin_closing(&mut state, closing);
        }
        is_given_up
    }

    /// Returns whether the client is away.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.state().client.is_away()
    }

    /// Returns whether the session was claimed and still waits for its new connection.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.state().client.is_about_to_return()
    }

    /// Ends the wait for another connection, which is there.
    pub fn take_back(&self) {
        let mut state = self.state();
        state.client = Client::Bound;
        if let Some(replay) = &mut state.replay {
            replay.resumed();
        }
        self.store_load(&mut state);
    }

    /// Lets what was sent before make room for what waits, and records how much the session holds.
    pub(super) fn keep_place(&self, state: &mut State) {
        let queued = state.queue.size();
        let (Some(limits), Some(replay)) = (self.limits.replay, &mut state.replay) else { return };
        let max = Size::from(limits);
        replay.shrink(Size {
            messages: max.messages.saturating_sub(queued.messages),
            bytes: max.bytes.saturating_sub(queued.bytes),
        });
        let kept = replay.size();
        if let Some(place) = &replay.place {
            place.set(queued.messages + kept.messages, queued.bytes + kept.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
