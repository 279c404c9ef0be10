//! The subscriber's confirmation that the answers of backends can arrive. Nothing is published without a valid
//! confirmation.
//!
//! The two connections to Redis break and reconnect independently. If the publisher published first, backends could
//! answer before the gateway has subscribed, and the answers would be lost unnoticed.
//!
//! So the publisher requests a confirmation with a new number each time it has connected and each time the topics have
//! changed, and waits for the confirmation. The subscriber subscribes to all fixed topics, and then sends a `PING` with
//! that number. The subscriber confirms when Redis has answered the ping. If the subscriber's connection is dead, the
//! ping gets no answer, even if the subscriber has not noticed the failure.
//!
//! On a new connection of the subscriber, the confirmation also covers the topics that are listened to. Later ones do
//! not: these topics change all the time, so all publishes would wait all the time. Only the publishes of the sessions
//! that begin to listen wait for them, in the queue.
//!
//! Streams need no confirmation, because nothing in them is missed after the reader has a position. All publishes wait
//! until it has a position in each stream that is wanted, or leaves it out. Streams are few, and this takes one answer of
//! Redis.

use crate::bus::{
    queue::ChangeNumber,
    topics::{Changes, Topics},
};
use std::{future, sync::Arc};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

/// The state that the subscriber reported last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    /// All fixed topics are subscribed to. The number is that of the publisher's request.
    Confirmed(u64),
    /// There is no subscription. `hangs` is true if that is because Redis did not answer in time.
    Lost { hangs: bool },
}

/// Returns the publisher's side and the subscriber's side, connected to each other.
pub(super) fn pair(topics: Arc<Topics>) -> (Asking, Confirming) {
    let (asked, asked_for) = watch::channel(0);
    let (subscription, state) = watch::channel(Subscription::Lost { hangs: false });
    let (fixed, streams) = (topics.fixed_changes(), topics.stream_changes());
    let asking = Asking { asked, state, fixed, streams, topics: Arc::clone(&topics), number: 0 };
    (asking, Confirming { asked_for, subscription, topics })
}

/// The publisher's side.
pub(super) struct Asking {
    asked: watch::Sender<u64>,
    state: watch::Receiver<Subscription>,
    fixed: watch::Receiver<()>,
    streams: watch::Receiver<()>,
    topics: Arc<Topics>,
    number: u64,
}

impl Asking {
    /// Requests a new confirmation and waits for it, and for a position in every stream that is wanted.
    pub(super) async fn confirmed(&mut self) {
        // The fixed topics are marked as seen before the request, so that the subscriber sees the same topics or newer ones.
        self.fixed.mark_unchanged();
        self.number += 1;
        self.asked.send_replace(self.number);
        let wanted = Subscription::Confirmed(self.number);
        if self.state.wait_for(|state| *state == wanted).await.is_err() {
            // The subscriber has ended. That ends this task as well, so this task only has to wait.
            future::pending().await
        }
        while !self.topics.are_streams_read() {
            if self.streams.changed().await.is_err() {
                future::pending().await
            }
        }
    }

    /// Returns whether the last confirmation is still valid. The check is cheap enough for each batch of publishes.
    pub(super) fn holds(&self) -> bool {
        // An error means that the fixed topics cannot change any more.
        *self.state.borrow() == Subscription::Confirmed(self.number)
            && !self.fixed.has_changed().unwrap_or(false)
            && self.topics.are_streams_read()
    }

    /// Waits until there is no subscription because Redis hangs.
    pub(super) fn hangs(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.clone();
        async move {
            if state.wait_for(|state| *state == Subscription::Lost { hangs: true }).await.is_err() {
                future::pending().await
            }
        }
    }
}

/// The subscriber's side.
pub(super) struct Confirming {
    asked_for: watch::Receiver<u64>,
    subscription: watch::Sender<Subscription>,
    topics: Arc<Topics>,
}

impl Confirming {
    /// Waits until the publisher requests a confirmation, or until there are changes and the time `not_before` has come.
    /// Returns the changes, and the number to confirm the fixed topics with. Cancel-safe.
    pub(super) async fn wanted(&mut self, not_before: Instant) -> (Changes, u64) {
        let Self { asked_for, topics, .. } = self;
        let changed = async {
            time::sleep_until(not_before).await;
            topics.changed().await;
        };
        tokio::select! {
            Ok(()) = asked_for.changed() => {}
            () = changed => {}
        }
        let number = *asked_for.borrow_and_update();
        (topics.take(), number)
    }

    /// Returns whether the topic is one that was subscribed to and is still wanted.
    pub(super) fn subscribes_to(&self, topic: &str) -> bool {
        self.topics.subscribes_to(topic)
    }

    /// Returns whether topics are wanted or subscribed to, apart from streams.
    pub(super) fn has_topics(&self) -> bool {
        self.topics.has_any()
    }

    /// Records since when messages may have been lost, or that the sessions were told.
    pub(super) fn set_gap(&self, since: Option<Instant>) {
        self.topics.set_gap(since);
    }

    /// Calls `visit` with the number of the last change of the topics. No change is made meanwhile.
    pub(super) fn with_last_change(&self, visit: impl FnOnce(ChangeNumber)) {
        self.topics.with_last(visit);
    }

    /// Reports that all fixed topics are subscribed to.
    pub(super) fn confirm(&self, number: u64) {
        self.subscription.send_replace(Subscription::Confirmed(number));
    }

    /// Reports that the connection is lost, and with it all subscriptions. `hangs` is true if that is because Redis did
    /// not answer in time.
    pub(super) fn lose(&self, hangs: bool) {
        self.subscription.send_replace(Subscription::Lost { hangs });
        self.topics.lost();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::{collections::BTreeSet, time::Duration};

    fn topics(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Returns all fixed topics if they are new to the connection, and the number of the request, if the subscriber
    /// does not have to wait.
    fn wanted(confirming: &mut Confirming) -> Option<(Option<BTreeSet<String>>, u64)> {
        let (changes, number) = confirming.wanted(Instant::now() - Duration::from_secs(1)).now_or_never()?;
        Some((changes.news, number))
    }

    #[tokio::test]
    async fn a_confirmation_is_valid_for_its_number_and_its_topics_alone() {
        let all = Arc::new(Topics::default());
        all.set_fixed(topics(&["a"]));
        let (mut asking, mut confirming) = pair(Arc::clone(&all));
        assert_eq!(wanted(&mut confirming), Some((Some(topics(&["a"])), 0)));
        confirming.confirm(0);
        assert_eq!(asking.confirmed().now_or_never(), None);
        assert_eq!(wanted(&mut confirming), Some((None, 1)));
        confirming.confirm(1);
        assert!(asking.holds());

        all.set_fixed(topics(&["a", "b"]));
        assert!(!asking.holds(), "other topics are wanted");
        assert_eq!(asking.confirmed().now_or_never(), None);
        assert_eq!(wanted(&mut confirming), Some((Some(topics(&["a", "b"])), 2)));
        confirming.confirm(2);
        assert!(asking.holds());
        assert_eq!(asking.hangs().now_or_never(), None);

        confirming.lose(true);
        assert!(!asking.holds());
        assert_eq!(asking.hangs().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn confirmed_waits_for_its_own_number() {
        let (mut asking, confirming) = pair(Arc::default());
        let mut confirmed = Box::pin(asking.confirmed());
        assert_eq!((&mut confirmed).now_or_never(), None);
        confirming.confirm(0);
        assert_eq!((&mut confirmed).now_or_never(), None, "an old confirmation");
        confirming.confirm(1);
        assert_eq!(confirmed.now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn listening_needs_no_confirmation_and_may_have_to_wait() {
        let all = Arc::new(Topics::default());
        let (mut asking, mut confirming) = pair(Arc::clone(&all));
        assert_eq!(asking.confirmed().now_or_never(), None);
        assert_eq!(wanted(&mut confirming), Some((Some(topics(&[])), 1)));
        confirming.confirm(1);
        all.add("a");
        assert!(asking.holds());
        let not_before = Instant::now() + Duration::from_millis(10);
        let (changes, number) = confirming.wanted(not_before).await;
        assert_eq!((changes.added, number), (vec!["a".into()], 1));
        assert!(Instant::now() >= not_before);
    }
}
