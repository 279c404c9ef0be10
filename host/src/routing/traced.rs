//! The spans of calls, and of what their actions do. Only calls that are recorded come here.

use super::{
    calls::{Call, News, Occasion, uuid},
    refusal::{self, Refusal},
};
use crate::{
    plugin::{Delivery, Lease, Target},
    telemetry::text,
    traces::{Finished, KeyValue, OpenSpan, Publishing, SpanContext, SpanKind, Tracer, Traces},
};
use std::{cell::Cell, sync::Arc};

/// The maximum number of publishes and deliveries of a call that have a span each. A call may have a thousand.
const MAX_SPANS: usize = 32;

/// The maximum size in bytes of a text from a plugin or the bus in a span.
const MAX_TEXT: usize = 256;

/// A call that is recorded, while its decision is carried out.
pub(super) struct Traced<'a> {
    traces: &'a Arc<Traces>,
    span: &'a OpenSpan,
    /// The number of publishes and deliveries so far.
    spans: Cell<usize>,
}

/// Begins the span of a call, if the call is recorded.
#[cold]
pub(super) fn begin(tracer: &Tracer, call: &Call<'_>, lease: &mut Lease<'_>) {
    let span = match call.occasion {
        // The call is a part of the handshake.
        Occasion::Connect { session, .. } => session.trace().filter(|trace| !trace.is_remote()).map(OpenSpan::child_of),
        _ => tracer.begin(),
    };
    if let Some(span) = span {
        lease.begin_trace(span);
    }
}

impl<'a> Traced<'a> {
    pub(super) fn new(traces: &'a Arc<Traces>, span: &'a OpenSpan) -> Self {
        Self { traces, span, spans: Cell::new(0) }
    }

    /// Begins the span of a publish.
    #[cold]
    pub(super) fn publish(&self) -> Option<Arc<Publishing>> {
        self.permits().then(|| Publishing::begin(self.traces, self.span))
    }

    /// Begins the span of a delivery.
    #[cold]
    pub(super) fn deliver(&self) -> Option<OpenSpan> {
        self.permits().then(|| self.span.child())
    }

    /// Ends the span of a delivery of `bytes` bytes that reached `receivers` sessions of this gateway. `dropped` is the
    /// number of messages that their send queues dropped for it.
    #[cold]
    pub(super) fn delivered(
        &self,
        span: &OpenSpan,
        delivery: &Delivery,
        bytes: usize,
        receivers: usize,
        dropped: usize,
    ) {
        let Some(tracer) = self.traces.tracer() else { return };
        let mut attributes = vec![
            KeyValue::new("gateway.route", i64::from(delivery.route)),
            KeyValue::new("gateway.receivers", signed(receivers)),
            KeyValue::new("gateway.dropped", signed(dropped)),
            KeyValue::new("messaging.message.body.size", signed(bytes)),
        ];
        attributes.extend(match delivery.to {
            Target::User(user) => Some(KeyValue::new("user.id", user.to_string())),
            Target::Session(session) => Some(KeyValue::new("session.id", uuid(session).to_string())),
            Target::Group(group) => Some(KeyValue::new("gateway.group", group.to_string())),
            Target::Sender => None,
        });
        let error = (dropped > 0).then(|| "send queue full".to_owned());
        let finished = Finished { name: "deliver".into(), kind: SpanKind::Producer, attributes, link: None, error };
        tracer.end(span, finished);
    }

    /// Ends the span of the call. `refusal` is why the call was not served.
    #[cold]
    pub(super) fn end(&self, call: &Call<'_>, refusal: Option<&Refusal>) {
        let Some(tracer) = self.traces.tracer() else { return };
        let plugin = &call.served.plugin;
        let mut attributes = vec![
            KeyValue::new("gateway.plugin.name", plugin.name().to_string()),
            KeyValue::new("gateway.plugin.version", text::bounded_to(MAX_TEXT, plugin.version())),
            KeyValue::new("gateway.plugin.generation", plugin.generation()),
        ];
        let (export, kind) = describe(call, tracer.bus(), &mut attributes);
        if let Some(session) = call.session() {
            attributes.push(KeyValue::new("session.id", session.id.to_string()));
            attributes.extend(session.user().map(|user| KeyValue::new("user.id", user.to_string())));
        }
        let mut error = None;
        if let Some(refusal) = refusal {
            let (status, why) = refusal.answer();
            attributes.push(KeyValue::new("gateway.status", i64::from(status)));
            attributes.push(KeyValue::new("error.type", refusal::reason(status)));
            error = Some(text::bounded_to(MAX_TEXT, why));
        }
        let spans = self.spans.get();
        if spans > MAX_SPANS {
            tracer.drop_spans(spans - MAX_SPANS);
        }
        let name = format!("{export} {}", plugin.name()).into();
        tracer.end(self.span, Finished { name, kind, attributes, link: self.link(call), error });
    }

    /// Returns the handshake of the call's session, if it is in another trace. A connection lives for hours, so its packets
    /// are no part of that trace.
    fn link(&self, call: &Call<'_>) -> Option<SpanContext> {
        let trace = call.session()?.trace()?;
        (trace.trace_id() != self.span.context().trace_id()).then(|| trace.clone())
    }

    fn permits(&self) -> bool {
        self.spans.set(self.spans.get() + 1);
        self.spans.get() <= MAX_SPANS
    }
}

/// Returns the name of the call and its role. Adds what the call is about to `attributes`.
fn describe(call: &Call<'_>, bus: &'static str, attributes: &mut Vec<KeyValue>) -> (&'static str, SpanKind) {
    match call.occasion {
        Occasion::Packet { header, payload, .. } => {
            attributes.push(KeyValue::new("gateway.route", i64::from(header.route)));
            attributes.push(KeyValue::new("gateway.seq", i64::from(header.seq)));
            attributes.push(KeyValue::new("messaging.message.body.size", signed(payload.len())));
            ("on-packet", SpanKind::Server)
        }
        Occasion::Message { topic, payload, .. } => {
            attributes.push(KeyValue::new("messaging.system", bus));
            attributes.push(KeyValue::new("messaging.operation.name", "on-message"));
            attributes.push(KeyValue::new("messaging.operation.type", "process"));
            attributes.push(KeyValue::new("messaging.destination.name", text::bounded_to(MAX_TEXT, topic)));
            attributes.push(KeyValue::new("messaging.message.body.size", signed(payload.len())));
            ("on-message", SpanKind::Consumer)
        }
        Occasion::Connect { .. } => ("on-connect", SpanKind::Internal),
        Occasion::Disconnect { .. } => ("on-disconnect", SpanKind::Internal),
        Occasion::Presence { news: News::Away(_), .. } => ("on-away", SpanKind::Internal),
        Occasion::Presence { news: News::Back(_), .. } => ("on-back", SpanKind::Internal),
        Occasion::Wake { .. } => ("on-wake", SpanKind::Internal),
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
