//! Publishes that wait for the bus: many senders, one receiver, bounded in number and in bytes.
//!
//! Not a channel of tokio's: what waits lies in a few buffers that the receiver takes whole, so that a publish of the usual size costs no
//! allocation and frees nothing on another thread, and a thousand publishes are one step.

use crate::sync::wakeup::Wakeup;
use bytes::Bytes;
use std::{
    borrow::Cow,
    future::poll_fn,
    mem, slice,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

/// Publishes that may wait,
const MOST: usize = 16 * 1024;
/// and the bytes of which no more are queued.
const MOST_BYTES: usize = 64 << 20;
/// A body of this size is shared with whoever has it; a smaller one is copied.
const LARGE: usize = 4096;
/// What an empty batch may keep of its buffers.
const KEPT: usize = 1 << 20;

/// What waits for the bus. `O` is where a publish came from.
#[derive(Debug)]
pub struct Queue<O>(Mutex<State<O>>);

#[derive(Debug)]
struct State<O> {
    waiting: Batch<O>,
    receiver: Wakeup,
    away: bool,
    closed: bool,
}

impl<O> Default for Queue<O> {
    fn default() -> Self {
        Self(Mutex::new(State { waiting: Batch::default(), receiver: Wakeup::default(), away: false, closed: false }))
    }
}

impl<O> Queue<O> {
    /// Room for `count` publishes, if there is. The bus sees nothing before it is given up, and until then nobody else publishes.
    pub fn room(&self, count: usize) -> Option<Room<'_, O>> {
        if count == 0 {
            return Some(Room(None));
        }
        let state = self.state();
        let State { waiting, closed, .. } = &*state;
        let fits = !closed && waiting.len() + count <= MOST && waiting.bytes < MOST_BYTES;
        fits.then_some(Room(Some(state)))
    }

    /// Publishes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what is queued may have to wait for long.
    pub(super) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.receiver.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until there is something, and moves all of it into the batch, which is emptied before. It stays empty only where the queue is
    /// closed and empty as well.
    pub(super) async fn take(&self, batch: &mut Batch<O>) {
        batch.clear();
        poll_fn(|cx| {
            let mut state = self.state();
            if state.waiting.is_empty() && !state.closed {
                state.receiver.wait(cx);
                return Poll::Pending;
            }
            state.receiver.attend();
            mem::swap(&mut state.waiting, batch);
            Poll::Ready(())
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State<O>> {
        // No code under the lock panics half-way through a change, so a poisoned state is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room in a queue, which nobody else uses meanwhile.
#[derive(Debug)]
pub struct Room<'a, O>(Option<MutexGuard<'a, State<O>>>);

impl<O> Room<'_, O> {
    /// Queues one of the publishes that there is room for.
    pub fn publish(&mut self, topic: &str, body: Cow<'_, Bytes>, origin: Option<O>) {
        if let Some(state) = &mut self.0 {
            // What may wait for long shall not keep the whole read buffer that it is a slice of.
            let body = if state.away { Cow::Owned(Bytes::copy_from_slice(&body)) } else { body };
            state.waiting.push(topic, body, origin);
        }
    }
}

impl<O> Drop for Room<'_, O> {
    fn drop(&mut self) {
        if let Some(state) = &mut self.0 {
            state.receiver.wake();
        }
    }
}

/// Publishes, one behind the other.
#[derive(Debug)]
pub(super) struct Batch<O> {
    entries: Vec<Entry<O>>,
    topics: String,
    copies: Vec<u8>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<O> {
    /// The length of its topic.
    topic: usize,
    body: Body,
    origin: Option<O>,
}

#[derive(Debug)]
enum Body {
    /// So many bytes of the copies.
    Copied(usize),
    Shared(Bytes),
}

/// What is left to be seen of a batch.
#[derive(Debug)]
pub(super) struct Publications<'a, O> {
    entries: slice::Iter<'a, Entry<O>>,
    topics: &'a str,
    copies: &'a [u8],
}

/// One of it.
#[derive(Debug)]
pub(super) struct Publication<'a, O> {
    pub(super) topic: &'a str,
    pub(super) body: &'a [u8],
    /// Who is told where the bus does not take it.
    pub(super) origin: Option<&'a O>,
}

impl<O> Default for Batch<O> {
    fn default() -> Self {
        Self { entries: Vec::new(), topics: String::new(), copies: Vec::new(), bytes: 0 }
    }
}

impl<O> Batch<O> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of it, in the order in which it was queued.
    pub(super) fn iter(&self) -> Publications<'_, O> {
        Publications { entries: self.entries.iter(), topics: &self.topics, copies: &self.copies }
    }

    fn push(&mut self, topic: &str, body: Cow<'_, Bytes>, origin: Option<O>) {
        self.bytes += topic.len() + body.len();
        self.topics.push_str(topic);
        let body = if body.len() < LARGE {
            self.copies.extend_from_slice(&body);
            Body::Copied(body.len())
        } else {
            Body::Shared(body.into_owned())
        };
        self.entries.push(Entry { topic: topic.len(), body, origin });
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.topics.clear();
        self.copies.clear();
        self.bytes = 0;
        // What a burst took is given back.
        self.entries.shrink_to(KEPT / size_of::<Entry<O>>());
        self.topics.shrink_to(KEPT);
        self.copies.shrink_to(KEPT);
    }
}

impl<'a, O> Iterator for Publications<'a, O> {
    type Item = Publication<'a, O>;

    fn next(&mut self) -> Option<Self::Item> {
        let Entry { topic, body, origin } = self.entries.next()?;
        let (topic, topics) = self.topics.split_at(*topic);
        self.topics = topics;
        let body = match body {
            Body::Shared(body) => body,
            Body::Copied(len) => {
                let (body, copies) = self.copies.split_at(*len);
                self.copies = copies;
                body
            }
        };
        Some(Publication { topic, body, origin: origin.as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn taken(queue: &Queue<u32>) -> Vec<(String, Vec<u8>, Option<u32>)> {
        let mut batch = Batch::default();
        queue.take(&mut batch).now_or_never();
        batch.iter().map(|it| (it.topic.to_owned(), it.body.to_owned(), it.origin.copied())).collect()
    }

    fn publish(queue: &Queue<u32>, count: usize, body: &Bytes) -> bool {
        let Some(mut room) = queue.room(count) else { return false };
        (0..count).for_each(|_| room.publish("t", Cow::Borrowed(body), Some(1)));
        true
    }

    #[test]
    fn publishes_come_out_as_they_went_in_whatever_their_size() {
        let queue = Queue::default();
        let bodies = [0, 1, LARGE - 1, LARGE, 3, 3 * LARGE, 5].map(|len| Bytes::from(vec![b'x'; len]));
        let topics = ["a", "bcd", "", "ü", "e", "f", "g"];
        let publishes = || topics.into_iter().zip(&bodies);
        let mut room = queue.room(topics.len()).unwrap();
        publishes().for_each(|(topic, body)| room.publish(topic, Cow::Borrowed(body), Some(7)));
        drop(room);
        queue.room(1).unwrap().publish(topics[0], Cow::Borrowed(&bodies[0]), None);
        let all: Vec<_> = publishes().map(|(topic, body)| (topic.to_owned(), body.to_vec(), Some(7))).collect();
        let last = (topics[0].to_owned(), Vec::new(), None);
        assert_eq!(taken(&queue), [all, vec![last]].concat());
        assert_eq!(taken(&queue), []);
    }

    #[test]
    fn what_has_no_room_is_not_queued_in_part() {
        let queue = Queue::default();
        assert!(publish(&queue, MOST - 1, &Bytes::new()));
        assert!(!publish(&queue, 2, &Bytes::new()));
        assert!(publish(&queue, 1, &Bytes::new()));
        assert_eq!(taken(&queue).len(), MOST);
        let large = Bytes::from(vec![0; MOST_BYTES / 4]);
        assert!(publish(&queue, 4, &large));
        assert!(!publish(&queue, 1, &Bytes::new()));
        assert_eq!(taken(&queue).len(), 4);
        assert!(publish(&queue, 1, &large));
    }

    #[test]
    fn what_waits_when_it_is_closed_is_taken_and_then_nothing() {
        let queue = Queue::default();
        assert!(publish(&queue, 1, &Bytes::new()));
        queue.close();
        assert!(!publish(&queue, 1, &Bytes::new()));
        assert_eq!(taken(&queue).len(), 1);
        assert!(queue.take(&mut Batch::default()).now_or_never().is_some());
    }
}
