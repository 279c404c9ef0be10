//! Decides which traces are recorded, and queues the spans for the exporter.

use super::{
    export::Exporter,
    settings::Settings,
    span::{Finished, OpenSpan},
};
use crate::{sync::rate_limit::RateLimit, telemetry::metrics::Metrics};
use opentelemetry::{
    InstrumentationScope,
    trace::{Link, SpanContext, SpanKind, Status, TraceId},
};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks};
use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};
use tokio::sync::mpsc;

/// The maximum number of spans that wait for the exporter. A span has up to about 2 KiB.
const MAX_QUEUED_SPANS: usize = 4096;

/// The traces of the gateway, if it records any.
#[derive(Debug, Default)]
pub struct Traces(OnceLock<Tracer>);

impl Traces {
    /// Begins to record. Later calls have no effect.
    pub fn enable(&self, tracer: Tracer) {
        // The configuration has one section `traces`, and only a restart changes it.
        let _ = self.0.set(tracer);
    }

    /// Returns the tracer, or `None` if nothing is recorded.
    #[must_use]
    pub fn tracer(&self) -> Option<&Tracer> {
        self.0.get()
    }
}

/// Decides which traces are recorded, and queues their spans.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    max_per_s: u32,
    /// The limit on traces that begin here.
    own: RateLimit,
    /// The limit on traces that others name, so that a client which names many does not use up those that begin here.
    named: RateLimit,
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
    scope: InstrumentationScope,
    /// The name of the bus in the spans.
    bus: &'static str,
}

impl Tracer {
    /// Returns the tracer, and the exporter that has to run for its spans.
    #[must_use]
    pub fn new(settings: Settings, bus: &'static str, metrics: &Arc<Metrics>) -> (Self, Exporter) {
        let (spans, waiting) = mpsc::channel(MAX_QUEUED_SPANS);
        let tracer = Self {
            sampler: Sampler::TraceIdRatioBased(settings.sample_ratio),
            max_per_s: settings.max_per_s,
            own: RateLimit::default(),
            named: RateLimit::default(),
            spans,
            metrics: Arc::clone(metrics),
            scope: InstrumentationScope::builder("gateway").with_version(env!("CARGO_PKG_VERSION")).build(),
            bus,
        };
        (tracer, Exporter::new(settings, waiting, Arc::clone(metrics)))
    }

    /// Returns the name of the bus in the spans.
    #[must_use]
    pub fn bus(&self) -> &'static str {
        self.bus
    }

    /// Begins the first span of a new trace, if the trace is recorded.
    #[must_use]
    pub fn begin(&self) -> Option<OpenSpan> {
        let trace = TraceId::from(rand::random::<u128>());
        (self.samples(trace) && self.permits(&self.own)).then(|| OpenSpan::root(trace))
    }

    /// Begins a span below one of another program, if its trace is recorded here: because of its id, which every program
    /// judges alike, or because the other program asks for it. If the span takes the place of one that was begun for the
    /// same call, it `has_permit` already.
    #[must_use]
    pub fn join(&self, remote: &SpanContext, has_permit: bool) -> Option<OpenSpan> {
        let is_wanted = remote.is_sampled() || self.samples(remote.trace_id());
        (is_wanted && (has_permit || self.permits(&self.named))).then(|| OpenSpan::below(remote))
    }

    fn samples(&self, trace: TraceId) -> bool {
        let result = self.sampler.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    fn permits(&self, limit: &RateLimit) -> bool {
        let is_permitted = limit.permit(self.max_per_s);
        if !is_permitted {
            self.metrics.traces.limited.inc();
        }
        is_permitted
    }

    /// Ends a span now.
    pub fn end(&self, span: &OpenSpan, finished: Finished) {
        let Finished { name, kind, attributes, link, error } = finished;
        let mut links = SpanLinks::default();
        links.links.extend(link.map(Link::with_context));
        let span = SpanData {
            span_context: span.context.clone(),
            parent_span_id: span.parent,
            parent_span_is_remote: span.is_parent_remote,
            span_kind: kind,
            name,
            start_time: span.began,
            // The system's time may have been set back.
            end_time: SystemTime::now().max(span.began),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        };
        if self.spans.try_send(span).is_err() {
            self.metrics.traces.dropped("queue_full", 1);
            if self.metrics.log_limits.permit("spans not queued", "") {
                tracing::warn!(
                    "spans are lost, because more are recorded than the collector takes: if it takes some, lower \
                     `traces.sample_ratio` or `traces.max_per_s`"
                );
            }
        }
    }

    /// Counts spans that were not made, because their call has too many.
    pub fn drop_spans(&self, spans: usize) {
        self.metrics.traces.dropped("too_many", spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::w3c::traceparent;
    use hyper::{HeaderMap, Uri};

    fn tracer(sample_ratio: f64, max_per_s: u32) -> (Tracer, Exporter) {
        let (url, headers, service_name) = (Uri::default(), HeaderMap::new(), String::new());
        Tracer::new(Settings { url, headers, sample_ratio, max_per_s, service_name }, "embedded", &Arc::default())
    }

    fn remote(flags: &str) -> SpanContext {
        traceparent(&format!("00-4bf92f3577b34da6fffffffffffffff1-00f067aa0ba902b7-{flags}"), "a=1").unwrap()
    }

    #[test]
    fn a_span_below_one_of_another_program_keeps_its_trace_and_its_state() {
        let (tracer, _exporter) = tracer(0.0, 100);
        assert!(tracer.begin().is_none() && tracer.join(&remote("00"), false).is_none());
        let span = tracer.join(&remote("01"), false).unwrap();
        let (context, remote) = (span.context(), remote("01"));
        assert_eq!((context.trace_id(), span.parent), (remote.trace_id(), remote.span_id()));
        assert!(context.is_sampled() && !context.is_remote() && span.is_parent_remote);
        assert_eq!(context.trace_state().header(), "a=1");
        let child = span.child();
        assert_eq!((child.context.trace_id(), child.parent), (context.trace_id(), context.span_id()));
        assert!(!child.is_parent_remote && child.context.span_id() != context.span_id());
    }

    #[test]
    fn a_call_that_joins_a_trace_counts_once() {
        let (tracer, _exporter) = tracer(1.0, 1);
        assert!(tracer.begin().is_some());
        assert!(tracer.join(&remote("00"), true).is_some());
        assert!(tracer.begin().is_none());
        assert_eq!(tracer.metrics.traces.limited.get(), 1);
    }

    #[test]
    fn traces_that_others_name_do_not_use_up_those_that_begin_here() {
        let (tracer, _exporter) = tracer(1.0, 2);
        let joined = (0..10).filter(|_| tracer.join(&remote("01"), false).is_some()).count();
        let begun = (0..10).filter(|_| tracer.begin().is_some()).count();
        assert_eq!((joined, begun, tracer.metrics.traces.limited.get()), (2, 2, 16));
    }

    #[test]
    fn spans_that_do_not_fit_into_the_queue_are_counted() {
        let (tracer, _exporter) = tracer(1.0, 1);
        let span = tracer.begin().unwrap();
        for _ in 0..MAX_QUEUED_SPANS + 3 {
            let (attributes, kind) = (Vec::new(), SpanKind::Internal);
            tracer.end(&span, Finished { name: "x".into(), kind, attributes, link: None, error: None });
        }
        let text = tracer.metrics.encode().unwrap();
        assert!(text.contains("trace_spans_dropped_total{reason=\"queue_full\"} 3"), "{text}");
    }
}
