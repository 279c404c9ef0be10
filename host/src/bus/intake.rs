//! The interface between the gateway and its bus: the source of publishes, the receiver of messages, and the answers to
//! publishes that reach no subscriber.

use super::{
    batch::{Batch, Publication},
    queue::Queue,
};
use crate::telemetry::{metrics::Metrics, text};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// The maximum number of bytes of a topic in the answer to the sender of a publish.
const MAX_TOPIC_BYTES: usize = 256;

/// A message of the bus.
#[derive(Clone, Debug)]
pub struct Message<O> {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub body: Bytes,
    /// The packet that caused the message. Only the embedded bus knows it.
    pub cause: Option<O>,
    /// Whether the message is an entry of a stream, which no plugin may miss because it is busy.
    pub is_entry: bool,
}

/// The part of the gateway that receives messages and refused publishes from the bus. Its clones are the same handler.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The type that identifies the packet that caused a publish.
    type Origin: Copy + Send + Sync + 'static;

    /// Handles messages in their order. Returns those that no plugin hears. The bus reads nothing until the future has
    /// ended.
    fn messages(&self, messages: Vec<Message<Self::Origin>>)
    -> impl Future<Output = Vec<Message<Self::Origin>>> + Send;

    /// Returns whether the plugins that hear a stream take further entries of it now. Otherwise the entries wait in Redis.
    fn takes_entries(&self, stream: &str) -> bool;

    /// Returns whether a plugin still serves the route of the packet that caused a publish. If none does, nothing in
    /// this gateway would receive an answer to the publish.
    fn is_served(&self, origin: &Self::Origin) -> bool;

    /// Handles a gap: for the time `blind`, messages may have been lost. It is called when messages arrive again. The bus
    /// reads nothing until the future has ended.
    fn missed(&self, blind: Duration) -> impl Future<Output = ()> + Send;

    /// Handles a publish that the bus did not take, that has no subscriber, or that has an unknown outcome.
    fn refused(&self, origin: &Self::Origin, why: &str);
}

/// Why a publish reached no subscriber, or may have reached none. The text is the answer to the sender of the packet.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken<'a> {
    #[error("the bus is not connected")]
    NotConnected,
    #[error("the connection to the bus broke: the message may or may not have been taken")]
    Unknown,
    #[error("the bus refused the message")]
    Refused,
    #[error("the bus refused the message: its topic is no stream, but another kind of key")]
    NotAStream,
    #[error("the bus refused the message: the gateway may not write to its topic")]
    Forbidden,
    #[error("the bus refused the message: the memory of the bus is full")]
    Full,
    #[error("too few replicas of the bus confirmed the message: it may or may not have been taken")]
    FewReplicas,
    #[error("the bus gave an answer that the gateway does not understand")]
    Unintelligible,
    #[error("the plugin of the route was taken away before the message was sent")]
    Abandoned,
    #[error("no backend listens on {}", text::bounded_to(MAX_TOPIC_BYTES, .0))]
    Unheard(&'a str),
}

impl NotTaken<'_> {
    /// Returns a short name of the reason. The log has at most one line a second for each reason.
    fn kind(&self) -> &'static str {
        match self {
            Self::NotConnected => "not connected",
            Self::Unknown => "broken off",
            Self::Refused => "refused",
            Self::NotAStream => "not a stream",
            Self::Forbidden => "forbidden",
            Self::Full => "full",
            Self::FewReplicas => "few replicas",
            Self::Unintelligible => "unintelligible",
            Self::Abandoned => "abandoned",
            Self::Unheard(_) => "unheard",
        }
    }
}

/// The source of publishes and the receiver of messages, for either kind of bus.
pub(super) struct Intake<H: Handler> {
    pub(super) queue: Arc<Queue<H::Origin>>,
    pub(super) handler: H,
    pub(super) metrics: Arc<Metrics>,
}

impl<H: Handler> Intake<H> {
    /// Returns the intake of connections that have a queue of their own.
    pub(super) fn with_queue(&self, queue: &Arc<Queue<H::Origin>>) -> Arc<Self> {
        let (queue, handler, metrics) = (Arc::clone(queue), self.handler.clone(), Arc::clone(&self.metrics));
        Arc::new(Self { queue, handler, metrics })
    }

    /// Counts a message from the bus that no plugin hears any more.
    pub(super) fn no_subscriber(&self) {
        self.metrics.heard_not_here.inc();
        self.metrics.dropped("no_subscriber", 1);
    }

    /// Counts publishes that the bus has taken, including those without a subscriber.
    pub(super) fn taken(&self, count: usize) {
        self.metrics.published.inc_by(count as u64);
    }

    /// Ends the span of a publish, if it has one that has not ended. `error` is why the publish reached nobody.
    pub(super) fn end_trace(publication: &Publication<'_, H::Origin>, error: Option<&NotTaken<'_>>) {
        if let Some(trace) = publication.trace {
            trace.end(publication.topic, publication.body.len(), error.map(NotTaken::kind));
        }
    }

    /// Accounts for a publish that the bus has taken and that has no subscriber.
    pub(super) fn unheard(&self, publication: &Publication<'_, H::Origin>) {
        self.metrics.unheard.inc();
        self.answer(publication, &NotTaken::Unheard(publication.topic));
    }

    /// Accounts for a publish that was not taken, or that has an unknown outcome.
    pub(super) fn refuse(&self, publication: &Publication<'_, H::Origin>, why: &NotTaken<'_>) {
        self.metrics.dropped("bus_unavailable", 1);
        self.answer(publication, why);
    }

    /// Refuses the publishes of a batch that came from a plugin that was removed while the batch waited.
    pub(super) fn refuse_abandoned(&self, batch: &mut Batch<H::Origin>) {
        batch.withdraw(|publication| {
            let is_served = publication.origin.is_none_or(|origin| self.handler.is_served(origin));
            if !is_served {
                self.refuse(&publication, &NotTaken::Abandoned);
            }
            !is_served
        });
    }

    fn answer(&self, publication: &Publication<'_, H::Origin>, why: &NotTaken<'_>) {
        Self::end_trace(publication, Some(why));
        // A publish that no packet caused may well have no subscriber, so that case is not logged.
        let is_news = publication.origin.is_some() || !matches!(why, NotTaken::Unheard(_));
        if is_news && self.metrics.log_limits.permit("publish refused", why.kind()) {
            tracing::warn!(topic = publication.topic, %why, "publish refused");
        }
        if let Some(origin) = publication.origin {
            self.metrics.refused("unavailable");
            self.handler.refused(origin, &why.to_string());
        }
    }
}
