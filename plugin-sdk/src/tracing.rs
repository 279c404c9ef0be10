//! The trace that a call belongs to, for an operator who follows a request through all programs that have a part in it.
//!
//! The gateway records a share of the calls, with a span for each of them. While it records nothing, these functions do
//! next to nothing.
//!
//! In native tests, [`Harness::record`](crate::testing::Harness::record) gives calls a span, and
//! [`Harness::joined`](crate::testing::Harness::joined) returns the traces that the plugin has named.

pub use crate::bindings::imports::gateway::policy::tracing::{Context, TraceId};

impl Context {
    /// Returns the span that a message names: 32 hexadecimal digits for the trace and 16 for the span. Returns `None` if
    /// they are anything else, or if one is 0, which names nothing.
    #[must_use]
    pub fn from_hex(trace: &str, span: &str, sampled: bool) -> Option<Self> {
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if trace.len() != 32 || span.len() != 16 || !is_hex(trace) || !is_hex(span) {
            return None;
        }
        let number = |text| u64::from_str_radix(text, 16).ok();
        let trace_id = TraceId { high: number(&trace[..16])?, low: number(&trace[16..])? };
        let span_id = number(span)?;
        (span_id != 0 && (trace_id.high, trace_id.low) != (0, 0)).then_some(Self { trace_id, span_id, sampled })
    }
}

/// Returns the span of this call, if it is recorded.
#[must_use]
pub fn current() -> Option<Context> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::imports::gateway::policy::tracing::current();
    #[cfg(not(target_arch = "wasm32"))]
    return crate::testing::reads::span();
}

/// Says that this call belongs to the trace of a message. Only the first `join` of a call counts.
pub fn join(context: Context) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::imports::gateway::policy::tracing::join(context);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::reads::join(context);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_from_its_digits() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let trace_id = TraceId { high: 0x4bf9_2f35_77b3_4da6, low: 0xa3ce_929d_0e0e_4736 };
        let context = Context { trace_id, span_id: 0x00f0_67aa_0ba9_02b7, sampled: false };
        assert_eq!(Context::from_hex(trace, span, false), Some(context));
        assert_eq!(Context::from_hex(&trace.to_uppercase(), span, false), Some(context));
        let zero = "0".repeat(32);
        for (trace, span) in [
            ("", ""),
            (trace, ""),
            (&trace[1..], span),
            (trace, &span[1..]),
            (&zero, span),
            (trace, &zero[..16]),
            ("4bf92f3577b34da6a3ce929d0e0e473ü", span),
            ("+bf92f3577b34da6a3ce929d0e0e4736", span),
        ] {
            assert_eq!(Context::from_hex(trace, span, true), None, "{trace:?} {span:?}");
        }
    }
}
