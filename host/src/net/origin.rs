//! Checks the origin of the web page that opens a WebSocket (RFC 6455, 10.2).
//!
//! A browser lets any page connect to any server, and sends the page's origin. Programs outside of a browser send none,
//! and could send any, so a request without an origin passes.

use crate::{
    config::Origins,
    net::head::{self, Head},
    telemetry::text,
};

/// The maximum number of bytes of an origin that an error names.
const MAX_SHOWN_BYTES: usize = 256;

/// The request comes from a web page of an origin that is not allowed, or names several origins.
#[derive(Debug, thiserror::Error)]
#[error("web pages of the origin {0:?} may not connect")]
pub struct Foreign(String);

/// Checks that the request comes from no page, or from a page of one of the allowed origins.
///
/// # Errors
/// Returns a [`Foreign`] that names the origin.
pub fn check(head: &Head<'_, '_>, allowed: &Origins) -> Result<(), Foreign> {
    let origins: Vec<_> = head::values(head, "origin").map(String::from_utf8_lossy).collect();
    match &origins[..] {
        [] => Ok(()),
        [origin] if allowed.contain(origin) => Ok(()),
        origins => Err(Foreign(text::bounded_to(MAX_SHOWN_BYTES, origins.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_request_has_no_origin_or_one_that_is_allowed() {
        let config = Config::parse(
            "plugins: { directory: . }\nserver: { allowed_origins: ['https://a.example', 'https://*.b.example'] }",
        );
        let allowed = config.unwrap().server.allowed_origins.unwrap();
        let cases: [(&[u8], bool); 10] = [
            (b"", true),
            (b"Origin: https://a.example\r\n", true),
            (b"oRIGIN:https://X.B.EXAMPLE:443 \r\n", true),
            (b"Origin: https://b.example\r\n", false),
            (b"Origin: null\r\n", false),
            (b"Origin:\r\n", false),
            (b"Origin: \xff\r\n", false),
            (b"Origin: https://a.example, https://a.example\r\n", false),
            (b"Origin: https://a.example\r\nOrigin: https://a.example\r\n", false),
            (b"Origin: https://a.example\r\norigin: null\r\n", false),
        ];
        for (lines, expected) in cases {
            let checked = head::with(lines, |head| check(head, &allowed));
            assert_eq!(checked.is_ok(), expected, "{:?}", String::from_utf8_lossy(lines));
        }
    }
    #[test]
    fn an_error_names_the_origins_in_a_bounded_text() {
        let none = Config::parse("plugins: { directory: . }\nserver: { allowed_origins: [] }").unwrap();
        let none = none.server.allowed_origins.unwrap();
        let error = |lines: &[u8]| head::with(lines, |head| check(head, &none)).unwrap_err().to_string();
        let shown = |origin: &str| format!("web pages of the origin {origin:?} may not connect");
        assert_eq!(error(b"Origin: null\r\n"), shown("null"));
        assert_eq!(error(b"Origin: a\r\nOrigin: \xff\"\r\n"), shown("a, \u{fffd}\""));
        let long = error(format!("Origin: {}\r\n", "x".repeat(10_000)).as_bytes());
        assert!(long.len() < 300 && long.contains("xxx… (cut)"), "{long}");
    }
}
