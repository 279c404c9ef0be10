//! The part of the host's module `traces` that the queue carries along without looking at it.

/// The span of a publish. No test of the queue has one.
#[derive(Debug)]
pub struct Publishing;
