//! The subscriber's confirmation that answers can arrive. Without it nothing is published.
//!
//! The two connections to Redis break and come back by themselves. If the publishing one is first, what was queued would be answered before
//! anybody subscribes, and the answers would be lost unseen. So each time the publisher has connected, and each time the topics have changed, it
//! asks for a confirmation with a new number, and waits. The subscriber subscribes to all wanted topics, sends a `PING` with that number behind the
//! subscriptions, and confirms when Redis has answered it. A subscription that is dead without knowing it cannot confirm.

use std::{collections::BTreeSet, future};
use tokio::sync::watch;

/// The topics that the plugins want to hear.
pub(super) type Topics = watch::Receiver<BTreeSet<String>>;

/// What the subscriber has said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    /// The wanted topics are subscribed to, as asked for with this number.
    Confirmed(u64),
    /// There is no subscription. `hangs`: Redis did not answer in time, rather than close the connection.
    Lost { hangs: bool },
}

/// Connects the publisher's side to the subscriber's side.
pub(super) fn pair(topics: Topics) -> (Asking, Confirming) {
    let (asked, asked_for) = watch::channel(0);
    let (subscription, state) = watch::channel(Subscription::Lost { hangs: false });
    let asking = Asking { asked, state, topics: topics.clone(), number: 0 };
    (asking, Confirming { asked_for, subscription, topics })
}

/// The publisher's side.
pub(super) struct Asking {
    asked: watch::Sender<u64>,
    state: watch::Receiver<Subscription>,
    topics: Topics,
    number: u64,
}

impl Asking {
    /// Asks for a new confirmation and waits for it.
    pub(super) async fn confirmed(&mut self) {
        // Seen before it is asked: the subscriber then sees these topics or newer ones.
        self.topics.mark_unchanged();
        self.number += 1;
        self.asked.send_replace(self.number);
        let wanted = Subscription::Confirmed(self.number);
        if self.state.wait_for(|state| *state == wanted).await.is_err() {
            // The subscriber has ended, which ends this task as well.
            future::pending().await
        }
    }

    /// Whether the last confirmation still holds. Cheap enough for each batch of publishes.
    pub(super) fn holds(&self) -> bool {
        // An error means that nobody can change the topics any more.
        *self.state.borrow() == Subscription::Confirmed(self.number) && !self.topics.has_changed().unwrap_or(false)
    }

    /// Waits until there is no subscription since Redis hangs.
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
    topics: Topics,
}

impl Confirming {
    /// To be called with a new connection: everything is wanted from the beginning.
    pub(super) fn restart(&mut self) {
        self.asked_for.mark_changed();
    }

    /// Waits until something is wanted: the topics, and the number to confirm them with.
    pub(super) async fn wanted(&mut self) -> (BTreeSet<String>, u64) {
        tokio::select! {
            Ok(()) = self.asked_for.changed() => {}
            Ok(()) = self.topics.changed() => {}
            else => future::pending().await
        }
        let number = *self.asked_for.borrow_and_update();
        (self.topics.borrow_and_update().clone(), number)
    }

    pub(super) fn set(&self, subscription: Subscription) {
        self.subscription.send_replace(subscription);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn topics(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_confirmation_is_valid_for_its_number_and_its_topics_alone() {
        let (wanted, receiver) = watch::channel(topics(&["a"]));
        let (mut asking, mut confirming) = pair(receiver);
        confirming.restart();
        assert_eq!(confirming.wanted().now_or_never(), Some((topics(&["a"]), 0)));
        confirming.set(Subscription::Confirmed(0));
        assert_eq!(asking.confirmed().now_or_never(), None);
        assert_eq!(confirming.wanted().now_or_never(), Some((topics(&["a"]), 1)));
        confirming.set(Subscription::Confirmed(1));
        assert!(asking.holds());

        wanted.send_replace(topics(&["a", "b"]));
        assert!(!asking.holds(), "other topics are wanted");
        assert_eq!(asking.confirmed().now_or_never(), None);
        assert_eq!(confirming.wanted().now_or_never(), Some((topics(&["a", "b"]), 2)));
        confirming.set(Subscription::Confirmed(2));
        assert!(asking.holds());
        assert_eq!(asking.hangs().now_or_never(), None);

        confirming.set(Subscription::Lost { hangs: true });
        assert!(!asking.holds());
        assert_eq!(asking.hangs().now_or_never(), Some(()));
    }

    #[test]
    fn confirmed_waits_for_its_own_number() {
        let (_wanted, receiver) = watch::channel(topics(&[]));
        let (mut asking, confirming) = pair(receiver);
        let mut confirmed = Box::pin(asking.confirmed());
        assert_eq!((&mut confirmed).now_or_never(), None);
        confirming.set(Subscription::Confirmed(0));
        assert_eq!((&mut confirmed).now_or_never(), None, "an old confirmation");
        confirming.set(Subscription::Confirmed(1));
        assert_eq!(confirmed.now_or_never(), Some(()));
    }
}
