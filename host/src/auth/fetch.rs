//! Fetches a document over HTTP or HTTPS, within bounds of time and size.
//!
//! A client library with redirects, proxies, cookies and a pool of connections was rejected: one document is fetched
//! every few minutes, and a redirect could lead from `https` to `http` or to a host of another owner.

use super::key_set::MAX_BYTES;
use crate::{telemetry::text, tls_client};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use std::{fmt::Display, io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::rustls::pki_types::ServerName;

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
    #[error("it cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the TLS handshake failed: {0}: the server needs a certificate for its host from an authority that the system \
         or the file in SSL_CERT_FILE has"
    )]
    Tls(io::Error),
    #[error("it did not answer within {TIMEOUT:?}")]
    Timeout,
    #[error("it answers with HTTP status {0}: redirects are not followed, so the URL has to be that of the key set")]
    Redirect(u16),
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    #[error("the answer is broken or has more than {MAX_BYTES} bytes: {0}")]
    Body(String),
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the URL cannot be requested: {0}")]
    Url(String),
}

/// Fetches the document at an `http` or `https` URL.
///
/// # Errors
/// Returns a [`FetchError`] if there is no document within the bounds.
pub(super) async fn get(url: &Uri) -> Result<Fetched, FetchError> {
    time::timeout(TIMEOUT, connect(url)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn connect(url: &Uri) -> Result<Fetched, FetchError> {
    // An IPv6 address is in brackets.
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_tls = url.scheme_str() == Some("https");
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }))).await?;
    if !is_tls {
        return exchange(stream, url).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| FetchError::Url(error.to_string()))?;
    let stream = tls_client::connector().await?.connect(name, stream).await.map_err(FetchError::Tls)?;
    exchange(stream, url).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
) -> Result<Fetched, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .header(USER_AGENT, concat!("gateway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Url(error.to_string()))?;
    let answer = pin!(async { document(sender.send_request(request).await?).await });
    // The connection moves the bytes of the exchange. It ends when the server closes it, possibly before the document
    // is read.
    match select(answer, pin!(connection)).await {
        Either::Left((fetched, _)) => fetched,
        Either::Right((_, answer)) => answer.await,
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
    let broken = |error: &dyn Display| FetchError::Body(text::bounded_to(200, error));
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| broken(&error))?;
    Ok(Fetched { body: body.to_bytes(), max_age })
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
