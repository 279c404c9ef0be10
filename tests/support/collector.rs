//! A collector of traces: an HTTP server that takes spans over OTLP.

use crate::eventually;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use std::{
    fmt::Write,
    future,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A collector on a free port of 127.0.0.1. It ends when this value is dropped.
pub struct Collector {
    /// The address of the collector.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// What the collector does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes the spans.
    Take,
    /// It takes the request, and rejects this many spans of it.
    Reject(i64),
    /// It answers with this HTTP status.
    Status(u16),
    /// It reads the request and never answers.
    Hang,
}

struct State {
    answer: Answer,
    spans: Vec<TracedSpan>,
    heads: Vec<String>,
}

/// A span that the collector has taken.
#[derive(Clone, Debug)]
pub struct TracedSpan {
    /// The span itself.
    pub span: Span,
    /// What all spans of its process have in common.
    pub resource: Vec<KeyValue>,
}

impl TracedSpan {
    /// Returns the id of the trace, in hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Returns the id of the span, in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Returns the id of the parent, in hexadecimal digits, or an empty text for the first span of a trace.
    #[must_use]
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// Returns an attribute of the span as text, or an empty text if there is none.
    #[must_use]
    pub fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }

    /// Returns an attribute of the span's process as text.
    #[must_use]
    pub fn resource(&self, key: &str) -> String {
        text(&self.resource, key)
    }

    /// Returns the text of the span's error, or `None` if it has none.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        let status = self.span.status.as_ref()?;
        (status.code == 2).then_some(&*status.message)
    }

    /// Returns the traces and spans that the span is linked to.
    #[must_use]
    pub fn links(&self) -> Vec<(String, String)> {
        self.span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect()
    }
}

impl Collector {
    /// Starts a collector that takes everything.
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts a collector at this address.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { answer: Answer::Take, spans: Vec::new(), heads: Vec::new() }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// Returns the section `traces` that sends spans here, with more keys.
    #[must_use]
    pub fn section(&self, keys: &str) -> String {
        format!("traces: {{ endpoint: \"http://{}\", {keys} }}", self.address)
    }

    /// Ends the collector. Once this has returned, no connection to its port is accepted any more.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Changes what the collector does with requests from now on.
    pub fn answer(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    /// Returns the spans up to now.
    #[must_use]
    pub fn spans(&self) -> Vec<TracedSpan> {
        self.state.lock().unwrap().spans.clone()
    }

    /// Returns the heads of the requests up to now.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    /// Waits until there are at least `count` spans with this name, and returns them.
    pub async fn named(&self, name: &str, count: usize) -> Vec<TracedSpan> {
        let what = format!("{count} spans {name:?}");
        let found = eventually(&what, || async {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span.span.name == name).collect();
            (spans.len() >= count).then_some(spans)
        });
        found.await
    }

    /// Waits for the only span with this name, and returns it.
    pub async fn only(&self, name: &str) -> TracedSpan {
        let mut spans = self.named(name, 1).await;
        assert_eq!(spans.len(), 1, "{spans:#?}");
        spans.remove(0)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some((head, body)) = request(&mut stream).await else { return };
    let request = ExportTraceServiceRequest::decode(&*body).unwrap();
    let (answer, response) = {
        let mut state = state.lock().unwrap();
        state.heads.push(head);
        if matches!(state.answer, Answer::Take | Answer::Reject(_)) {
            state.spans.extend(spans(request));
        }
        let partial = |rejected_spans| ExportTracePartialSuccess { rejected_spans, ..Default::default() };
        let partial_success = if let Answer::Reject(rejected) = state.answer { Some(partial(rejected)) } else { None };
        (state.answer, ExportTraceServiceResponse { partial_success }.encode_to_vec())
    };
    let status = match answer {
        Answer::Take | Answer::Reject(_) => 200,
        Answer::Status(status) => status,
        Answer::Hang => future::pending().await,
    };
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", response.len());
    let _ = stream.write_all(&[head.as_bytes(), &response].concat()).await;
}

/// Reads a request. Returns `None` if the connection ends before.
async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut received = Vec::new();
    let head_len = loop {
        if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        stream.read_buf(&mut received).await.ok().filter(|read| *read > 0)?;
    };
    let head = String::from_utf8(received[..head_len].to_vec()).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
    while received.len() < head_len + length {
        stream.read_buf(&mut received).await.ok().filter(|read| *read > 0)?;
    }
    Some((head, received.split_off(head_len)))
}

fn spans(request: ExportTraceServiceRequest) -> impl Iterator<Item = TracedSpan> {
    request.resource_spans.into_iter().flat_map(|of_resource| {
        let resource = of_resource.resource.unwrap().attributes;
        let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        spans.map(move |span| TracedSpan { span, resource: resource.clone() })
    })
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => panic!("{key} is {other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
