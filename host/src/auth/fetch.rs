//! Fetches a document over HTTP or HTTPS, within bounds of time and size.

use super::key_set::MAX_BYTES;
use crate::{
    http_client::{self, RequestError},
    telemetry::text,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderValue},
};
use std::time::Duration;
use tokio::time;

/// The time that a fetch may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// A document, and how long it may be kept.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// The `max-age` of the response, if it has one and may be kept.
    pub(super) max_age: Option<Duration>,
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("it did not answer within {TIMEOUT:?}")]
    Timeout,
    #[error("it answers with HTTP status {0}: redirects are not followed, so the URL has to be that of the key set")]
    Redirect(u16),
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    #[error("the answer is broken or has more than {MAX_BYTES} bytes: {0}")]
    Body(String),
}

/// Fetches the document at an `http` or `https` URL.
///
/// # Errors
/// Returns a [`FetchError`] if there is no document within the bounds.
pub(super) async fn get(url: &Uri) -> Result<Fetched, FetchError> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = url.clone();
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
    match time::timeout(TIMEOUT, http_client::send(request, document)).await {
        Ok(fetched) => fetched?,
        Err(_) => Err(FetchError::Timeout),
    }
}

async fn document(response: Response<Incoming>) -> Result<Fetched, FetchError> {
    let status = response.status();
    if status.is_redirection() {
        return Err(FetchError::Redirect(status.as_u16()));
    }
    if status.as_u16() != 200 {
        return Err(FetchError::Status(status.as_u16()));
    }
    let max_age = max_age(response.headers());
    let broken = |error| FetchError::Body(text::bounded_to(200, error));
    let body = http_client::body(response, MAX_BYTES).await.map_err(broken)?;
    Ok(Fetched { body, max_age })
}

/// Returns the `max-age` of a response, unless it may not be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<_> =
        values.flat_map(|value| value.split(',')).map(|part| part.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return None;
    }
    let seconds = directives.iter().find_map(|directive| directive.strip_prefix("max-age="));
    seconds.and_then(|seconds| seconds.trim_matches('"').parse().ok()).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_read_from_cache_control() {
        let age = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for &value in values {
                headers.append(CACHE_CONTROL, value.parse().unwrap());
            }
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(age(&["public, max-age=21600, must-revalidate"]), Some(21_600));
        assert_eq!(age(&["public", "Max-Age=\"5\""]), Some(5));
        for none in ["", "public", "max-age=", "max-age=-1", "max-age=x", "max-age=60, no-store", "no-cache"] {
            assert_eq!(age(&[none]), None, "{none}");
        }
    }
}
