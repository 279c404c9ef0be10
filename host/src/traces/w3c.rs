//! The trace context of W3C (Trace Context, Level 1), as clients and plugins bring it.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use std::str::{self, FromStr};

/// The length of a `traceparent` of version 0.
const LEN: usize = 55;

/// The maximum length of a `tracestate`. The specification demands no more.
const MAX_STATE_LEN: usize = 512;

/// Returns the context of a `traceparent` and its `tracestate`, which may be empty. Returns `None` if the `traceparent`
/// is malformed. A malformed `tracestate` is left out, as the specification demands.
#[must_use]
pub fn traceparent(parent: &str, state: &str) -> Option<SpanContext> {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = parent.splitn(5, '-');
    let mut part = |len| parts.next().filter(|part| part.len() == len && is_hex(part));
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Only a later version may have more.
    if version == "ff" || version == "00" && parent.len() != LEN {
        return None;
    }
    let state = (state.len() <= MAX_STATE_LEN).then(|| TraceState::from_str(state).ok()).flatten();
    let trace = u128::from_str_radix(trace, 16).ok()?;
    let span = u64::from_str_radix(span, 16).ok()?;
    // The other flags have no meaning.
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    context(trace, span, is_sampled, state.unwrap_or_default())
}

/// Returns the context of a span of another program, unless an id is 0, which is invalid.
#[must_use]
pub fn context(trace: u128, span: u64, is_sampled: bool, state: TraceState) -> Option<SpanContext> {
    let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let context = SpanContext::new(TraceId::from(trace), SpanId::from(span), flags, true, state);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[track_caller]
    fn check(parent: &str, is_sampled: Option<bool>) {
        let context = traceparent(parent, "");
        assert_eq!(context.as_ref().map(SpanContext::is_sampled), is_sampled, "{parent:?}");
        if let Some(context) = context {
            assert_eq!((context.trace_id().to_string(), context.span_id().to_string()), (TRACE.into(), SPAN.into()));
            assert!(context.is_remote());
        }
    }

    #[test]
    fn a_traceparent_is_read() {
        check(&format!("00-{TRACE}-{SPAN}-01"), Some(true));
        check(&format!("00-{TRACE}-{SPAN}-00"), Some(false));
        check(&format!("00-{TRACE}-{SPAN}-03"), Some(true));
        check(&format!("00-{TRACE}-{SPAN}-fe"), Some(false));
    }

    #[test]
    fn a_later_version_may_have_more() {
        check(&format!("01-{TRACE}-{SPAN}-01"), Some(true));
        check(&format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be"), Some(true));
        check(&format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-be"), None);
        check(&format!("ff-{TRACE}-{SPAN}-01"), None);
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        let zero = "0".repeat(32);
        for malformed in [
            String::new(),
            "-".repeat(LEN),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-x"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{zero}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zero[..16]),
            format!(" 00-{TRACE}-{SPAN}-01"),
        ] {
            check(&malformed, None);
        }
    }

    #[test]
    fn a_tracestate_is_passed_on_unless_it_is_malformed() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let state = |state: &str| traceparent(&parent, state).unwrap().trace_state().header();
        assert_eq!(state("foo=1,bar=2"), "foo=1,bar=2");
        assert_eq!(state(""), "");
        assert_eq!(state("no value"), "");
        let long = ["a", "b", "c"].map(|name| format!("{name}={}", "x".repeat(200)));
        assert_eq!(state(&long[..2].join(",")), long[..2].join(","));
        assert_eq!(state(&long.join(",")), "");
    }

    proptest! {
        #[test]
        fn any_text_is_a_context_or_none(parent in ".{0,80}", state in ".{0,80}") {
            if let Some(context) = traceparent(&parent, &state) {
                prop_assert!(context.is_valid());
            }
        }
    }
}
