//! The subscriber's confirmation that the answers of backends can arrive. Nothing is published without a valid
//! confirmation.
//!
//! The two connections to Redis break and reconnect independently. If the publisher published first, backends could
//! answer before the gateway has subscribed, and the answers would be lost unnoticed.
//!
//! So the publisher requests a confirmation with a new number each time it has connected and each time the topics have
//! changed, and waits for the confirmation. The subscriber subscribes to all wanted topics, and then sends a `PING`
//! with that number. The subscriber confirms when Redis has answered the ping. If the subscriber's connection is dead,
//! the ping gets no answer, even if the subscriber has not noticed the failure.

use std::{collections::BTreeSet, future};
use tokio::sync::watch;

/// The topics that the plugins subscribe to.
pub(super) type Topics = watch::Receiver<BTreeSet<String>>;

/// The state that the subscriber reported last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    /// All wanted topics are subscribed to. The number is that of the publisher's request.
    Confirmed(u64),
    /// There is no subscription. `hangs` is true if that is because Redis did not answer in time.
    Lost { hangs: bool },
}

/// Returns the publisher's side and the subscriber's side, connected to each other.
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
    /// Requests a new confirmation and waits for it.
    pub(super) async fn confirmed(&mut self) {
        // The topics are marked as seen before the request, so that the subscriber sees the same topics or newer ones.
        self.topics.mark_unchanged();
        self.number += 1;
        self.asked.send_replace(self.number);
        let wanted = Subscription::Confirmed(self.number);
        if self.state.wait_for(|state| *state == wanted).await.is_err() {
            // The subscriber has ended. That ends this task as well, so this task only has to wait.
            future::pending().await
        }
    }

    /// Returns whether the last confirmation is still valid. The check is cheap enough for each batch of publishes.
    pub(super) fn holds(&self) -> bool {
        // An error means that the topics cannot change any more.
        *self.state.borrow() == Subscription::Confirmed(self.number) && !self.topics.has_changed().unwrap_or(false)
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
    topics: Topics,
}

impl Confirming {
    /// Makes the next call of [`wanted`](Self::wanted) return at once. It must be called for each new connection, which
    /// has no subscriptions yet.
    pub(super) fn restart(&mut self) {
        self.asked_for.mark_changed();
    }

    /// Waits until the publisher requests a confirmation or the topics change. Returns the topics, and the number to
    /// confirm them with.
    pub(super) async fn wanted(&mut self) -> (BTreeSet<String>, u64) {
        tokio::select! {
            Ok(()) = self.asked_for.changed() => {}
            Ok(()) = self.topics.changed() => {}
            else => future::pending().await
        }
        let number = *self.asked_for.borrow_and_update();
        (self.topics.borrow_and_update().clone(), number)
    }

    /// Reports the state of the subscription to the publisher.
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
