//! Looks up headers and parameters in the head of an HTTP request.

use std::str;

/// The head of a request.
pub type Head<'headers, 'bytes> = httparse::Request<'headers, 'bytes>;

/// Returns the values of all headers with this name, in the order of the request.
pub fn values<'a>(head: &Head<'_, 'a>, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    head.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Returns the value of the first header with this name, if it is UTF-8.
#[must_use]
pub fn value<'a>(head: &Head<'_, 'a>, name: &str) -> Option<&'a str> {
    values(head, name).next().and_then(|value| str::from_utf8(value).ok()).map(str::trim)
}

/// Returns the value of the header with this name, if there is exactly one, and if it is UTF-8.
#[must_use]
pub fn only_value<'a>(head: &Head<'_, 'a>, name: &str) -> Option<&'a str> {
    (values(head, name).count() == 1).then(|| value(head, name))?
}

/// Returns the path and the query that the request is for. A request may also name the whole URL (RFC 9112, 3.2.2).
#[must_use]
pub fn target<'a>(head: &Head<'_, 'a>) -> &'a str {
    let target = head.path.unwrap_or_default();
    let without = |scheme: &str| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| rest.find(['/', '?']).map_or("", |path| &rest[path..]))
    };
    without("http://").or_else(|| without("https://")).unwrap_or(target)
}

/// Returns the elements of all headers with this name, whose values are lists with commas. Values that are not UTF-8
/// have no elements.
pub fn elements<'a>(head: &Head<'_, 'a>, name: &str) -> impl Iterator<Item = &'a str> {
    values(head, name).filter_map(|value| str::from_utf8(value).ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Returns the parameters in the query of the request's path.
pub fn parameters<'a>(head: &Head<'_, 'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let query = target(head).split_once('?');
    query.into_iter().flat_map(|(_, query)| query.split('&'))
}

/// Calls `read` with the head of a request that has these lines.
#[cfg(test)]
pub fn with<T>(lines: &[u8], read: impl FnOnce(&Head<'_, '_>) -> T) -> T {
    with_target("/ws", lines, read)
}

/// Calls `read` with the head of a request for this path and query that has these lines.
#[cfg(test)]
pub fn with_target<T>(target: &str, lines: &[u8], read: impl FnOnce(&Head<'_, '_>) -> T) -> T {
    let bytes = [format!("GET {target} HTTP/1.1\r\n").as_bytes(), lines, b"\r\n"].concat();
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut head = Head::new(&mut headers);
    assert!(head.parse(&bytes).expect("a valid head").is_complete());
    read(&head)
}
