//! Tests of OpenTelemetry traces: the spans of a request on its whole way, which traces are recorded, and what becomes of
//! spans that the collector does not take. The collector is a real OTLP receiver in the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "traces/collector.rs"]
mod collector;
#[path = "traces/journey.rs"]
mod journey;
#[path = "traces/sampling.rs"]
mod sampling;

use chat_proto::{
    chat::{ChatRequest, ChatResponse},
    common::{MessageBase, MessageMeta},
};
use gateway_tests::{Client, Collector, Gateway, Redis, Setup, in_time};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};

/// The trace of a request, which every ratio above 0 records, because its last digits are 0.
const TRACE: &str = "4bf92f3577b34da60000000000000001";

/// The span of a client.
const SPAN: &str = "00f067aa0ba902b7";

/// Records everything.
const ALL: &str = "sample_ratio: 1, max_per_s: 100000";

/// Returns the setup with a section `traces` of these keys.
fn traced(setup: Setup, collector: &Collector, keys: &str) -> Setup {
    Setup { yaml: format!("{}\n{}", setup.yaml, collector.section(keys)), ..setup }
}

/// Starts a gateway on the embedded bus.
async fn start(collector: &Collector, keys: &str) -> Gateway {
    Gateway::start(traced(Setup::default(), collector, keys)).await
}

/// Starts a gateway on this Redis, and waits until it hears it.
async fn start_on(redis: &Redis, collector: &Collector, keys: &str) -> Gateway {
    Gateway::start(traced(Setup::redis(redis), collector, keys)).await
}

/// Connects with these headers.
async fn connect(gateway: &Gateway, headers: &[(&'static str, &str)]) -> Client {
    let mut request = format!("ws://{}/ws", gateway.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (socket, _) = in_time("a handshake", client_async(request, stream)).await.unwrap();
    Client::welcomed(socket).await
}

fn traceparent(trace: &str, sampled: &str) -> String {
    format!("00-{trace}-{SPAN}-{sampled}")
}

fn meta(trace: &str) -> Option<MessageMeta> {
    Some(MessageMeta { trace_id: trace.to_owned(), span_id: SPAN.to_owned(), ..Default::default() })
}

/// Returns a chat request of a user that belongs to this trace.
fn request(user_id: i32, trace: &str) -> Vec<u8> {
    let base = MessageBase { game_id: "mmo".to_owned(), user_id, timestamp: 5 };
    ChatRequest { base: Some(base), meta: meta(trace), ..Default::default() }.encode_to_vec()
}

/// Returns the answer of a backend to a request, with the meta of the request.
fn response(request: &[u8]) -> Vec<u8> {
    let ChatRequest { base, meta, .. } = ChatRequest::decode(request).unwrap();
    let target_user_id = base.as_ref().unwrap().user_id;
    ChatResponse { base, success: true, target_user_id, meta, ..Default::default() }.encode_to_vec()
}
