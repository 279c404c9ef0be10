//! The sizes of the model, its timing, and the mistakes that it can make.

/// How many of each thing may happen, and which rule of the protocol is broken.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The number of messages that the backend publishes.
    pub pushes: u8,
    /// The number of times that the client connects again, up to [`CONNECTIONS`](crate::world::CONNECTIONS) minus 1.
    pub comebacks: u8,
    /// Whether the client may connect again while an earlier attempt waits for its answer.
    pub rivals: bool,
    /// The number of gateways that crash and start again.
    pub crashes: u8,
    /// The number of times that a gateway loses its subscriptions and gets them back.
    pub gaps: u8,
    /// Whether a plugin may still be busy when a mark arrives.
    pub busy: bool,
    /// Whether the time that a client has to come back may pass.
    pub window: bool,
    /// When the timers of a hand-over fire.
    pub timers: Timers,
    /// When a session ends that has moved to another gateway.
    pub ends: Ends,
    /// The rule that is broken, if any.
    pub mistake: Option<Mistake>,
}

/// When the timers of a hand-over fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timers {
    /// The old gateway waits longer than the new one.
    InOrder,
    /// Any timer that is set may fire at any moment.
    Any,
}

/// When a session ends that has moved to another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It ends before its client can come back.
    Promptly,
    /// It ends when its task runs, which may take any time.
    Late,
}

/// A mistake that the protocol could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The new gateway begins to queue at the offer instead of at the mark.
    QueuesFromOffer,
    /// The old gateway stops queueing when it sends the offer.
    CutsAtOffer,
    /// The new gateway publishes the mark before Redis has carried out its subscriptions.
    MarksEarly,
    /// A secret can be used once more after it was used.
    SecretTwice,
    /// The old gateway lets the client claim the session again after it has sent the state.
    UnclaimsAfterState,
    /// The new gateway begins a session although it still has one with the same id.
    AdmitsKnownId,
    /// The old gateway passes a session on although it has yet to tell its sessions of a gap.
    MovesBeforeGapIsTold,
}
