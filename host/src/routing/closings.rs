//! Closes sessions because an operator says so, on this gateway and on the others.
//!
//! No gateway knows which sessions the others have. So a gateway closes its own sessions, and publishes the order on
//! [`HOST_TOPIC`], which every gateway hears. It hears its own message as well. That shows that the bus has passed the
//! message on, so no acknowledgements of the other gateways are needed.

use super::origin::Origin;
use crate::{
    bus::{Load, Queue, Share},
    delivery::{outbox::Closing, registry::Registry, session::Session},
    plugin::HOST_TOPIC,
    telemetry::{metrics::Metrics, text},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::HashMap,
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time};
use uuid::Uuid;

/// The close code if an order has none.
const DEFAULT_CODE: u16 = 4002;

/// The maximum length of a close reason, in bytes. A WebSocket close frame has no space for more.
const MAX_REASON_BYTES: usize = 123;

/// The maximum number of orders that wait for the bus at the same time.
const MAX_UNCONFIRMED: usize = 256;

/// The time that the bus has to pass an order on.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(2);

/// The sessions that are to be closed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The session with this id.
    Session(Uuid),
    /// All sessions of the user.
    User(i64),
}

/// What the clients get: a close code that an application may use, and a reason of at most 123 bytes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(try_from = "AnyNotice")]
pub struct Notice {
    code: u16,
    reason: String,
}

/// A [`Notice`] that has not been checked. Keys that are not known are ignored.
#[derive(Deserialize)]
#[serde(default)]
struct AnyNotice {
    code: u16,
    reason: String,
}

/// The keys that an operator may write.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    code: Option<u16>,
    reason: String,
}

impl Default for AnyNotice {
    fn default() -> Self {
        Self { code: DEFAULT_CODE, reason: String::new() }
    }
}

impl TryFrom<AnyNotice> for Notice {
    type Error = String;

    fn try_from(AnyNotice { code, reason }: AnyNotice) -> Result<Self, String> {
        if !matches!(code, 1000 | 3000..=4999) {
            return Err(format!("code: {code} is neither 1000 nor within 3000 to 4999"));
        }
        if reason.len() > MAX_REASON_BYTES {
            return Err(format!("reason: {} bytes, and {MAX_REASON_BYTES} are the most", reason.len()));
        }
        Ok(Self { code, reason })
    }
}

impl Notice {
    /// Parses JSON such as `{"code": 4002, "reason": "banned"}`. Both keys are optional, and so is the whole text.
    ///
    /// # Errors
    /// Returns what is wrong with the text.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        if json.is_empty() {
            return AnyNotice::default().try_into();
        }
        let Written { code, reason } = serde_json::from_slice(json).map_err(text::bounded)?;
        AnyNotice { code: code.unwrap_or(DEFAULT_CODE), reason }.try_into()
    }
}

/// Why the other gateways may not close their sessions.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// Too many publishes or orders wait for the bus.
    #[error("too much waits for the bus, try again")]
    Full,
    /// The bus has not passed the order on in time.
    #[error("the bus has not confirmed the message within 2 s, it may or may not pass it on")]
    Unconfirmed,
}

/// A message on [`HOST_TOPIC`]. Keys that are not known are ignored, since a newer gateway may have sent them.
#[derive(Debug, Deserialize, Serialize)]
struct Message {
    /// The gateway that has sent the message.
    from: Uuid,
    /// The number of the message among those of the same gateway.
    number: u64,
    close: Target,
    notice: Notice,
}

/// Closes sessions for operators.
pub struct Closings {
    /// What distinguishes the messages of this gateway from those of the others.
    id: Uuid,
    registry: Arc<Registry>,
    bus: Arc<Queue<Origin>>,
    metrics: Arc<Metrics>,
    /// The host's own share of the bus queue, so that no plugin can use it up.
    share: Share,
    unconfirmed: Mutex<Unconfirmed>,
}

/// The messages of this gateway that the bus has not passed on yet.
#[derive(Default)]
struct Unconfirmed {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

impl Closings {
    pub(super) fn new(registry: Arc<Registry>, bus: Arc<Queue<Origin>>, metrics: Arc<Metrics>) -> Self {
        let (share, unconfirmed) = (Share::default(), Mutex::default());
        Self { id: Uuid::new_v4(), registry, bus, metrics, share, unconfirmed }
    }

    /// Closes the sessions of this gateway, after the messages that are queued for them. Returns the number of sessions
    /// that were not about to end anyway.
    pub fn close_here(&self, target: Target, notice: &Notice) -> usize {
        let Notice { code, reason } = notice;
        let mut closed = 0;
        let mut close = |session: &Arc<Session>| {
            let closing = Closing { code: *code, reason: reason.clone(), cause: "api" };
            closed += usize::from(session.outbox.close_first(closing));
        };
        match target {
            Target::Session(id) => self.registry.session(id).iter().for_each(close),
            Target::User(user) => {
                self.registry.each_of_user(user, &mut close);
            }
        }
        closed
    }

    /// Publishes the order, so that the other gateways do the same. Waits until the bus has passed the message on.
    ///
    /// # Errors
    /// Returns an [`Unpublished`] if the other gateways may not have heard it.
    pub async fn publish(&self, target: Target, notice: &Notice) -> Result<(), Unpublished> {
        let (number, confirmed) = self.next().ok_or(Unpublished::Full)?;
        let message = Message { from: self.id, number, close: target, notice: notice.clone() };
        let body = Bytes::from(serde_json::to_vec(&message).unwrap_or_default());
        let load = Load { publishes: 1, bytes: HOST_TOPIC.len() + body.len() };
        let permit = self.bus.reserve(&self.share, load).map_err(|_| Unpublished::Full)?;
        permit.commit(0, iter::once((HOST_TOPIC, Cow::Owned(body), None)));
        match time::timeout(CONFIRMATION_TIMEOUT, confirmed).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Unpublished::Unconfirmed),
        }
    }

    /// Handles a message on [`HOST_TOPIC`].
    pub(super) fn on_message(&self, body: &[u8]) {
        match serde_json::from_slice(body) {
            Ok(Message { from, number, .. }) if from == self.id => {
                if let Some(confirmed) = self.unconfirmed().waiting.remove(&number) {
                    // An error means that nobody waits any more.
                    let _ = confirmed.send(());
                }
            }
            Ok(Message { from, close, notice, .. }) => {
                let closed = self.close_here(close, &notice);
                if closed > 0 {
                    let reason = text::bounded(&notice.reason);
                    tracing::info!(?close, code = notice.code, reason, closed, by = %from, "sessions closed by an operator");
                }
            }
            Err(error) => {
                self.metrics.refused("message_rejected");
                if self.metrics.log_limits.permit("host message refused", "") {
                    let why = text::bounded(error);
                    tracing::warn!(
                        topic = HOST_TOPIC,
                        why,
                        "bus message refused: only gateways may publish on this topic, or a newer one has sent something new"
                    );
                }
            }
        }
    }

    /// Returns the number of the next message, and what resolves when the bus has passed it on. Returns `None` if too
    /// many messages wait.
    fn next(&self) -> Option<(u64, oneshot::Receiver<()>)> {
        let mut unconfirmed = self.unconfirmed();
        // Whoever has given up waiting has dropped the receiver.
        unconfirmed.waiting.retain(|_, confirmed| !confirmed.is_closed());
        if unconfirmed.waiting.len() >= MAX_UNCONFIRMED {
            return None;
        }
        unconfirmed.last += 1;
        let (number, (sender, receiver)) = (unconfirmed.last, oneshot::channel());
        unconfirmed.waiting.insert(number, sender);
        Some((number, receiver))
    }

    fn unconfirmed(&self) -> MutexGuard<'_, Unconfirmed> {
        // No code under the lock panics in the middle of a change, so a poisoned map is consistent.
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(json: &str, why: &str) {
        assert_eq!(Notice::parse(json.as_bytes()), Err(why.to_owned()), "{json}");
    }

    #[test]
    fn a_notice_has_defaults_and_bounds() {
        let notice = |code, reason: &str| Ok(Notice { code, reason: reason.to_owned() });
        assert_eq!(Notice::parse(b""), notice(4002, ""));
        assert_eq!(Notice::parse(b"{}"), notice(4002, ""));
        assert_eq!(Notice::parse(br#"{"code": 1000, "reason": "bye"}"#), notice(1000, "bye"));
        for code in [3000, 4999] {
            assert_eq!(Notice::parse(format!(r#"{{"code": {code}}}"#).as_bytes()), notice(code, ""));
        }
        for code in [0, 999, 1001, 1005, 1006, 2999, 5000] {
            refused(
                &format!(r#"{{"code": {code}}}"#),
                &format!("code: {code} is neither 1000 nor within 3000 to 4999"),
            );
        }
        let longest = "é".repeat(61) + "x";
        assert_eq!(Notice::parse(format!(r#"{{"reason": "{longest}"}}"#).as_bytes()), notice(4002, &longest));
        refused(&format!(r#"{{"reason": "{longest}x"}}"#), "reason: 124 bytes, and 123 are the most");
        refused(r#"{"cod": 4002}"#, "unknown field `cod`, expected `code` or `reason` at line 1 column 6");
    }

    #[test]
    fn a_message_is_json_that_names_the_sessions() {
        let (from, session) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let notice = Notice { code: 4002, reason: "banned".to_owned() };
        let message =
            |close| serde_json::to_string(&Message { from, number: 3, close, notice: notice.clone() }).unwrap();
        let with = |close| {
            format!(
                r#"{{"from":"00000000-0000-0000-0000-000000000001","number":3,"close":{close},"notice":{{"code":4002,"reason":"banned"}}}}"#
            )
        };
        assert_eq!(message(Target::User(7)), with(r#"{"user":7}"#));
        assert_eq!(message(Target::Session(session)), with(r#"{"session":"00000000-0000-0000-0000-000000000002"}"#));
    }
}
