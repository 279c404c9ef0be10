//! OpenTelemetry traces: which handshakes and calls are recorded, and how their spans reach a collector over OTLP.
//!
//! Nothing is recorded unless the configuration has a section `traces`. What is not recorded costs a few branches for
//! each packet. A span is made when it ends, from what the code that ends it knows anyway. It then goes into a bounded
//! queue, and never waits.
//!
//! The macros of the crate `tracing` were rejected for these spans: the log would need to know what a remote parent is,
//! and a call that is not recorded would pay for its fields. So was the exporter of the crate `opentelemetry-otlp`: its
//! batches are sent by a thread that no part of the gateway owns, and it does not say how many spans it lost, or why.
//!
//! This module and its submodules may know `sync`, `telemetry` and `http_client`. They know no sessions, packets,
//! plugins or topics.

mod export;
mod publishing;
mod settings;
mod span;
mod tracer;
mod w3c;

pub use export::{Exporter, FLUSH, Unreachable, probe};
pub use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanKind, TraceState},
};
pub use publishing::Publishing;
pub use settings::Settings;
pub use span::{Finished, OpenSpan};
pub use tracer::{Tracer, Traces};
pub use w3c::{context, traceparent};
