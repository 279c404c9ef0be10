//! Spans while what they describe happens, and when it has ended.

use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState},
};
use std::{borrow::Cow, time::SystemTime};

/// A span that is recorded and has not ended.
#[derive(Clone, Debug)]
pub struct OpenSpan {
    pub(super) context: SpanContext,
    pub(super) parent: SpanId,
    pub(super) is_parent_remote: bool,
    pub(super) began: SystemTime,
}

/// What a span says when it has ended.
#[derive(Debug)]
pub struct Finished {
    /// The name of the operation. It has few values.
    pub name: Cow<'static, str>,
    /// The role of the gateway in the operation.
    pub kind: SpanKind,
    /// The details of the operation.
    pub attributes: Vec<KeyValue>,
    /// Another span that is related to this one, possibly of another trace.
    pub link: Option<SpanContext>,
    /// The text of the error, if the operation failed.
    pub error: Option<String>,
}

impl OpenSpan {
    /// Begins a span of a new trace.
    pub(super) fn root(trace: TraceId) -> Self {
        Self::new(trace, SpanId::INVALID, false, TraceState::default())
    }

    /// Begins a span below a span of another program.
    pub(super) fn below(remote: &SpanContext) -> Self {
        Self::new(remote.trace_id(), remote.span_id(), true, remote.trace_state().clone())
    }

    /// Begins a span below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::child_of(&self.context)
    }

    /// Begins a span below another span of this gateway, which is recorded.
    #[must_use]
    pub fn child_of(context: &SpanContext) -> Self {
        Self::new(context.trace_id(), context.span_id(), false, context.trace_state().clone())
    }

    fn new(trace: TraceId, parent: SpanId, is_parent_remote: bool, state: TraceState) -> Self {
        // An id of 0 would be invalid.
        let id = SpanId::from(rand::random::<u64>().max(1));
        let context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state);
        Self { context, parent, is_parent_remote, began: SystemTime::now() }
    }

    /// Returns the identity of the span.
    #[must_use]
    pub fn context(&self) -> &SpanContext {
        &self.context
    }
}
