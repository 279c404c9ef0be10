//! Takes messages out of the queue: the session's task does, or a thread that has queued them.

use super::{Closing, Outbox, Outgoing, Size, State, Writer};
use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

impl Outbox {
    /// Moves the next batch of messages into `batch`, which must be empty. Waits until there are messages or the
    /// session is to end. If the session is to end, returns the closing together with the last queued messages.
    ///
    /// While this waits, the outbox has the `writer`, if there is one. It comes back with bytes that are to be written
    /// before the batch.
    pub fn poll_drain(
        &self,
        cx: &Context<'_>,
        batch: &mut VecDeque<Outgoing>,
        writer: &mut Option<Writer>,
    ) -> Poll<Option<Box<Closing>>> {
        let mut state = self.state();
        if writer.is_none() {
            *writer = state.writer.take();
        }
        let has_unwritten = writer.as_ref().is_some_and(Writer::has_unwritten);
        if has_unwritten && state.closing.is_none() {
            // These bytes are still in flight.
            state.receiver.announce_drain();
            return Poll::Ready(None);
        }
        if state.queue.is_empty() && state.closing.is_none() && !state.client.is_away() {
            state.in_flight = Size::default();
            state.receiver.wait(cx);
            state.writer = writer.take();
            return Poll::Pending;
        }
        state.receiver.announce_drain();
        Poll::Ready(self.take(&mut state, batch))
    }

    /// Moves a batch of the messages that are queued now into `batch`, without waiting. Returns the closing as
    /// [`Self::poll_drain`] does.
    pub fn drain(&self, batch: &mut VecDeque<Outgoing>) -> Option<Box<Closing>> {
        self.take(&mut self.state(), batch)
    }

    fn take(&self, state: &mut State, batch: &mut VecDeque<Outgoing>) -> Option<Box<Closing>> {
        if state.client.is_away() {
            return Some(state.closing.clone().unwrap_or_else(|| Box::new(state.client.closing())));
        }
        state.in_flight = state.queue.take(self.limits.batch_bytes, batch);
        if let Some(limits) = self.limits.replay
            && !batch.is_empty()
        {
            let replay = state.replay.get_or_insert_default();
            batch.iter().for_each(|outgoing| replay.keep(outgoing.clone(), limits));
            replay.is_catching_up &= !state.queue.is_empty();
        }
        if state.queue.is_overdue(self.limits.max_delay) {
            self.begin_aborting(state, Closing::send_timeout());
        }
        self.store_load(state);
        if state.queue.is_empty() { state.closing.clone() } else { None }
    }

    /// Tells the queue that the last batch has been written and that a drain will follow. The receiver calls this
    /// before its own task may queue messages. Until the drain, new messages do not wake the receiver. Returns the sending
    /// side of the connection, if the outbox has it.
    pub fn announce_drain(&self) -> Option<Writer> {
        let mut state = self.state();
        state.receiver.announce_drain();
        let writer = state.writer.take();
        if !writer.as_ref().is_some_and(Writer::has_unwritten) {
            state.in_flight = Size::default();
        }
        writer
    }

    /// Waits until the session has to end without sending its queue, and returns the closing.
    pub fn poll_abort(&self, cx: &Context<'_>) -> Poll<Closing> {
        let mut state = self.state();
        if let Some(closing) = state.closing.as_ref().filter(|_| state.aborted) {
            return Poll::Ready((**closing).clone());
        }
        if state.client.is_away() {
            return Poll::Ready(state.client.closing());
        }
        state.receiver.wait(cx);
        Poll::Pending
    }

    /// Leaves what waits to the receiver, which is woken up.
    pub fn leave_to_receiver(&self) {
        let mut state = self.state();
        state.receiver.recall();
        state.receiver.wake();
    }

    /// Writes what waits, if the outbox has the sending side of the connection. What the connection does not take at
    /// once is left to the receiver. Returns the number of messages that were taken from the queue.
    pub fn flush(&self) -> usize {
        let mut state = self.state();
        let state = &mut *state;
        // Otherwise the receiver is at work or was woken up, and looks at the queue.
        let Some(mut writer) = state.writer.take_if(|writer| !writer.has_unwritten()) else { return 0 };
        let mut batch = VecDeque::new();
        if state.closing.is_none() && !state.client.is_away() {
            let _ = self.take(state, &mut batch);
            writer.write(&batch);
        }
        let has_work = !state.queue.is_empty() || state.closing.is_some() || state.client.is_away();
        let is_done = !has_work && !writer.has_unwritten();
        state.writer = Some(writer);
        state.receiver.recall();
        if is_done {
            state.in_flight = Size::default();
        } else {
            state.receiver.wake();
        }
        batch.len()
    }
}

#[cfg(test)]
mod tests;
