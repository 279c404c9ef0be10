//! The span of a handshake, and the trace that a client says the handshake belongs to.

use super::{
    handshake::Request,
    head::{self, Head},
    stream::Stream,
};
use crate::{
    delivery::session::Session,
    traces::{self, Finished, KeyValue, OpenSpan, SpanContext, SpanKind, TraceState, Traces},
};
use std::{net::SocketAddr, str};

/// A handshake on a gateway that records traces.
pub(super) struct Handshake {
    /// The span of the client, if the client names one.
    client: Option<SpanContext>,
    /// The span of the handshake, if it is recorded.
    span: Option<OpenSpan>,
    /// The scheme of the request's URL.
    scheme: &'static str,
}

/// Why a valid request did not become a WebSocket.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotUpgraded {
    /// The HTTP status of the answer, if it is known.
    pub(super) status: Option<u16>,
    /// A short name of the reason.
    pub(super) reason: &'static str,
}

impl NotUpgraded {
    /// The client was gone.
    pub(super) const GONE: Self = Self { status: None, reason: "gone" };

    /// Returns whether it is an error of the server, by the semantic conventions for HTTP: an answer with a status below
    /// 500 is the client's error.
    fn is_error(self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}

impl Handshake {
    /// Begins the span of a handshake with a valid request that has come over `stream`. Returns `None` if the gateway
    /// records nothing.
    pub(super) fn begin(traces: &Traces, request: &Request, stream: &Stream) -> Option<Box<Self>> {
        let tracer = traces.tracer()?;
        let client = request.read(client);
        let span = client.as_ref().map_or_else(|| tracer.begin(), |client| tracer.join(client, false));
        let scheme = if matches!(stream, Stream::Tls(_)) { "https" } else { "http" };
        Some(Box::new(Self { client, span, scheme }))
    }

    /// Returns the span that the session is about: that of the handshake, or else that of the client. Its state is left
    /// out, because the session keeps the span, and clients decide how long the state is.
    pub(super) fn context(&self) -> Option<SpanContext> {
        let context = self.span.as_ref().map(OpenSpan::context).or(self.client.as_ref())?;
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
        Some(SpanContext::new(trace, span, flags, context.is_remote(), TraceState::NONE))
    }

    /// Ends the span of a handshake whose client has the address `remote`.
    pub(super) fn end(&self, traces: &Traces, remote: SocketAddr, outcome: Result<&Session, NotUpgraded>) {
        let Some((tracer, span)) = traces.tracer().zip(self.span.as_ref()) else { return };
        let mut attributes = vec![
            KeyValue::new("http.request.method", "GET"),
            KeyValue::new("http.route", "/ws"),
            KeyValue::new("url.path", "/ws"),
            KeyValue::new("url.scheme", self.scheme),
            KeyValue::new("client.address", remote.ip().to_string()),
        ];
        // A proxy may name an address without a port.
        attributes.extend((remote.port() > 0).then(|| KeyValue::new("client.port", i64::from(remote.port()))));
        let status = outcome.map_or_else(|refused| refused.status, |_| Some(101));
        attributes.extend(status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
        let error = match outcome {
            Ok(session) => {
                attributes.push(KeyValue::new("session.id", session.id.to_string()));
                attributes.extend(session.user().map(|user| KeyValue::new("user.id", user.to_string())));
                None
            }
            Err(refused) => {
                attributes.push(KeyValue::new("error.type", refused.reason));
                refused.is_error().then(|| refused.reason.to_owned())
            }
        };
        let name = "GET /ws".into();
        tracer.end(span, Finished { name, kind: SpanKind::Server, attributes, link: None, error });
    }
}

/// Returns the span that a client names: in the header `traceparent`, or, since pages in browsers can set no header of a
/// WebSocket request, in the parameter of this name. Two headers contradict each other, so then there is none.
fn client(head: &Head<'_, '_>) -> Option<SpanContext> {
    let mut parents = head::values(head, "traceparent");
    let parent = match parents.next() {
        Some(parent) => str::from_utf8(parent).ok().map(str::trim).filter(|_| parents.next().is_none())?,
        None => head::parameters(head).find_map(|pair| pair.strip_prefix("traceparent="))?,
    };
    let states: Vec<_> = head::elements(head, "tracestate").collect();
    traces::traceparent(parent, &states.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, lines: &str, span: Option<&str>, state: &str) {
        let found = head::with_target(target, lines.as_bytes(), client);
        assert_eq!(found.as_ref().map(|found| found.span_id().to_string()).as_deref(), span, "{target} {lines:?}");
        assert_eq!(found.map(|found| found.trace_state().header()).unwrap_or_default(), state);
    }

    #[test]
    fn the_header_wins_over_the_parameter() {
        let parent = |span: &str| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
        let (header, parameter) = ("00f067aa0ba902b7", "00f067aa0ba902b8");
        let target = format!("/ws?a=b&traceparent={}", parent(parameter));
        let lines = format!("TraceParent:  {} \r\n", parent(header));
        check("/ws", "", None, "");
        check("/ws", &lines, Some(header), "");
        check(&target, "", Some(parameter), "");
        check(&target, &lines, Some(header), "");
        check(&target, "traceparent: malformed\r\n", None, "");
        check("/ws?traceparent=malformed", "", None, "");
        check("/ws", &format!("{lines}{lines}"), None, "");
    }

    #[test]
    fn the_state_may_be_in_several_headers() {
        let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        let span = Some("00f067aa0ba902b7");
        check("/ws", &format!("{parent}tracestate: a=1\r\ntracestate: b=2 , c=3\r\n"), span, "a=1,b=2,c=3");
        check("/ws", &format!("{parent}tracestate: malformed\r\n"), span, "");
        check("/ws", "tracestate: a=1\r\n", None, "");
    }
}
