//! The URLs of servers.

use hyper::Uri;

/// Parses a URL with one of these schemes, a host, and neither a user nor a password. Errors must not repeat the text of
/// a URL, because it may contain credentials.
pub(super) fn parse(written: &str, schemes: [&str; 2]) -> Option<Uri> {
    let url: Uri = written.parse().ok()?;
    let has_scheme = url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
    let is_plain = |place: &str| !place.contains('@');
    let has_host = url.authority().is_some_and(|place| !place.host().is_empty() && is_plain(place.as_str()));
    (has_scheme && has_host).then_some(url)
}
