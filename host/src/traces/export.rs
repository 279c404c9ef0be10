//! Sends the spans to a collector, over OTLP with HTTP and protobuf. What cannot be sent is dropped and counted.
//!
//! A batch is not sent again. A collector usually runs beside the gateway, and while it does not answer, the spans of
//! the next second are as good as those of this one.

use super::settings::Settings;
use crate::{
    http_client::{self, RequestError},
    telemetry::{metrics::Metrics, text},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use opentelemetry::KeyValue;
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use prost::Message;
use std::{fmt::Display, future, mem, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The time that the exporter may take for the remaining spans when the gateway stops.
pub const FLUSH: Duration = Duration::from_secs(2);

/// The time that a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of spans in a request.
const MAX_BATCH: usize = 512;

/// The maximum time that a span waits for others.
const LINGER: Duration = Duration::from_millis(500);

/// The maximum size of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

/// The maximum size in bytes of a text of the collector in the log.
const MAX_TEXT_BYTES: usize = 300;

/// How often the log says that the collector still takes no spans.
const REMINDER: Duration = Duration::from_secs(60);

/// Sends the spans to a collector.
pub struct Exporter {
    settings: Settings,
    /// The id of this process in the spans.
    instance: Uuid,
    resource: ResourceAttributesWithSchema,
    spans: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
    /// The number of spans whose request has no response yet.
    unsettled: usize,
    outage: Outage,
}

/// What the log says about a collector that takes no spans.
#[derive(Default)]
struct Outage {
    /// The number of spans that were lost since the log last said that the collector takes spans again.
    lost: usize,
    /// When the log last said that the collector takes none.
    logged_at: Option<Instant>,
    /// Whether the log has to say when the collector takes spans again.
    is_known: bool,
}

/// Why a collector does not take spans.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// There is no response.
    #[error("{0}")]
    NoResponse(String),
    /// The response does not come in time.
    #[error("it did not answer within {TIMEOUT:?}")]
    Timeout,
    /// The response is an error.
    #[error("it answers with HTTP status {status}{hint}{why}")]
    Status {
        /// The status.
        status: u16,
        /// What is probably wrong.
        hint: &'static str,
        /// What the collector says, behind a colon.
        why: String,
    },
    /// The response is broken.
    #[error("its answer is not of OTLP: {0}")]
    Body(String),
}

impl From<RequestError> for Unreachable {
    fn from(error: RequestError) -> Self {
        Self::NoResponse(text::bounded_to(MAX_TEXT_BYTES, error))
    }
}

impl Unreachable {
    /// Returns the label of `gateway_trace_spans_dropped_total`.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoResponse(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Status { .. } | Self::Body(_) => "refused",
        }
    }
}

impl Exporter {
    pub(super) fn new(settings: Settings, spans: mpsc::Receiver<SpanData>, metrics: Arc<Metrics>) -> Self {
        let instance = Uuid::new_v4();
        let resource = resource(&settings, instance);
        Self { settings, instance, resource, spans, metrics, unsettled: 0, outage: Outage::default() }
    }

    /// Sends spans until `stop`, and then for [`FLUSH`] at most what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let (collector, instance) = (shown(&self.settings), self.instance);
        tracing::info!(collector, %instance, "traces are recorded");
        let too_late = async {
            stop.cancelled().await;
            time::sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.send_all(&stop) => return,
            () = too_late => {}
        }
        let left = self.unsettled + self.spans.len();
        tracing::warn!(spans = left, "the collector of traces did not take all spans within {FLUSH:?}");
        self.metrics.traces.dropped("stopping", left);
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        loop {
            let batch = self.next_batch(stop).await;
            if batch.is_empty() {
                return;
            }
            self.unsettled = batch.len();
            self.send(batch).await;
            self.unsettled = 0;
        }
    }

    /// Waits for spans. Returns none only after `stop`, if none are left.
    async fn next_batch(&mut self, stop: &CancellationToken) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let mut sent_at = None;
        while batch.len() < MAX_BATCH {
            let free = MAX_BATCH - batch.len();
            let linger = async {
                match sent_at {
                    Some(at) => time::sleep_until(at).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.spans.is_closed() => self.spans.close(),
                () = linger => break,
                received = self.spans.recv_many(&mut batch, free) => {
                    if received == 0 {
                        break;
                    }
                    sent_at.get_or_insert_with(|| Instant::now() + LINGER);
                }
            }
        }
        batch
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        match post(&self.settings, &ExportTraceServiceRequest { resource_spans }).await {
            Ok(taken) => self.taken(spans, &taken),
            Err(error) => self.not_taken(spans, &error),
        }
    }

    fn taken(&mut self, spans: usize, Taken { rejected, message }: &Taken) {
        let (metrics, rejected) = (&self.metrics, (*rejected).min(spans));
        metrics.traces.exported.inc_by((spans - rejected) as u64);
        metrics.traces.dropped("rejected", rejected);
        if mem::take(&mut self.outage.is_known) {
            tracing::info!(lost = mem::take(&mut self.outage.lost), "the collector takes spans again");
        }
        if rejected > 0 && metrics.log_limits.permit("spans rejected", "") {
            let why = if message.is_empty() { "without a reason" } else { message };
            tracing::warn!(rejected, "the collector of traces rejected spans: {why}");
        } else if !message.is_empty() && metrics.log_limits.permit("warning of the collector", "") {
            tracing::warn!("the collector of traces took the spans, and says: {message}");
        }
    }

    fn not_taken(&mut self, spans: usize, error: &Unreachable) {
        self.metrics.traces.dropped(error.reason(), spans);
        let (outage, url) = (&mut self.outage, shown(&self.settings));
        outage.lost += spans;
        // A collector that takes every second request must not fill the log.
        if outage.logged_at.is_none_or(|at| at.elapsed() >= REMINDER) {
            tracing::warn!(lost = outage.lost, "spans are lost, because {url} (traces.endpoint) takes none: {error}");
            (outage.logged_at, outage.is_known) = (Some(Instant::now()), true);
        }
    }
}

/// The message `google.rpc.Status`, with which OTLP explains an error.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
}

/// The answer of a collector that takes spans.
struct Taken {
    /// The number of spans that it has rejected.
    rejected: usize,
    /// Why it has rejected some, or a warning. It may be empty.
    message: String,
}

/// Asks the collector to take no spans, to see whether it would take any.
///
/// # Errors
/// Returns why it would not.
pub async fn probe(settings: &Settings) -> Result<(), Unreachable> {
    post(settings, &ExportTraceServiceRequest::default()).await.map(drop)
}

/// Returns the host of the URL. Its path may have a secret.
fn shown(settings: &Settings) -> &str {
    settings.url.authority().map_or("", |authority| authority.as_str())
}

async fn post(settings: &Settings, spans: &ExportTraceServiceRequest) -> Result<Taken, Unreachable> {
    let body = spans.encode_to_vec();
    let length = HeaderValue::from(body.len());
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = settings.url.clone();
    *request.headers_mut() = settings.headers.clone();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    // The library leaves it out for an empty body, and then not every server sees that there is none.
    request.headers_mut().insert(CONTENT_LENGTH, length);
    let answer = http_client::send(request, async |response| {
        let status = response.status();
        if !status.is_success() {
            let hint = match status.as_u16() {
                404 => ": traces.endpoint has to be without the path v1/traces, and of a collector's OTLP over HTTP",
                401 | 403 => ": traces.headers need the credentials of the collector",
                _ => "",
            };
            // The body is a `google.rpc.Status`, or a text.
            let body = http_client::body(response, MAX_RESPONSE_BYTES).await.unwrap_or_default();
            let why = RpcStatus::decode(&*body).map_or_else(|_| String::from_utf8_lossy(&body).into(), |it| it.message);
            let why = text::bounded_to(MAX_TEXT_BYTES, why.trim());
            let why = if why.is_empty() { why } else { format!(": {why}") };
            return Err(Unreachable::Status { status: status.as_u16(), hint, why });
        }
        let broken = |error: &dyn Display| Unreachable::Body(text::bounded_to(200, error));
        let body = http_client::body(response, MAX_RESPONSE_BYTES).await.map_err(|error| broken(&error))?;
        let answer = ExportTraceServiceResponse::decode(body).map_err(|error| broken(&error))?;
        let partial = answer.partial_success.unwrap_or_default();
        let message = text::bounded_to(MAX_TEXT_BYTES, partial.error_message);
        Ok(Taken { rejected: usize::try_from(partial.rejected_spans).unwrap_or(0), message })
    });
    time::timeout(TIMEOUT, answer).await.map_err(|_| Unreachable::Timeout)??
}

/// Returns what all spans of this process have in common.
fn resource(settings: &Settings, instance: Uuid) -> ResourceAttributesWithSchema {
    let attributes = [
        KeyValue::new("service.name", settings.service_name.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_string()),
    ];
    ResourceAttributesWithSchema::from(&Resource::builder_empty().with_attributes(attributes).build())
}
