//! The span of a publish, from its commit until the bus has answered.

use super::{
    span::{Finished, OpenSpan},
    tracer::Traces,
};
use opentelemetry::{KeyValue, trace::SpanKind};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The span of a publish that waits for the bus.
#[derive(Debug)]
pub struct Publishing {
    traces: Arc<Traces>,
    span: OpenSpan,
    has_ended: AtomicBool,
}

impl Publishing {
    /// Begins the span below the span of the call that publishes.
    #[must_use]
    pub fn begin(traces: &Arc<Traces>, call: &OpenSpan) -> Arc<Self> {
        Arc::new(Self { traces: Arc::clone(traces), span: call.child(), has_ended: AtomicBool::new(false) })
    }

    /// Ends the span, if it has not ended. `error` is a short name of the reason why the publish reached nobody.
    pub fn end(&self, topic: &str, bytes: usize, error: Option<&'static str>) {
        let Some(tracer) = self.traces.tracer() else { return };
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut attributes = vec![
            KeyValue::new("messaging.system", tracer.bus()),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", topic.to_owned()),
            KeyValue::new("messaging.message.body.size", i64::try_from(bytes).unwrap_or(i64::MAX)),
        ];
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        tracer.end(
            &self.span,
            Finished {
                name: "publish".into(),
                kind: SpanKind::Producer,
                attributes,
                link: None,
                error: error.map(str::to_owned),
            },
        );
    }
}
