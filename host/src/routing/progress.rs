//! How far a call got on the thread on which it began.

use super::{actions::Decided, reach::Reach};

/// How far a call got on the current thread.
pub(super) enum Progress {
    /// The decision is carried out.
    Done(Reach),
    /// The rest has to be done on the offload thread.
    Left(Rest),
}

/// The part of a call that is left for the offload thread.
pub(super) enum Rest {
    /// The plugin has to be called.
    Call,
    /// The decision has to be carried out, because that takes long.
    CarryOut(Box<Decided>),
}
