//! One HTTP request to another server, over HTTP or HTTPS, on a connection of its own. The caller sets a timeout.
//!
//! A client library with redirects, proxies, cookies and a pool of connections was rejected: the gateway makes a request
//! every few seconds, or one for each batch of spans, and a redirect could lead from `https` to `http` or to a host of
//! another owner.

use crate::tls_client;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use std::{error::Error, io, pin::pin};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::rustls::pki_types::ServerName;

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("it cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the TLS handshake failed: {0}: the server needs a certificate for its host from an authority that the system \
         or the file in SSL_CERT_FILE has"
    )]
    Tls(io::Error),
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the URL cannot be requested: {0}")]
    Url(String),
}

/// Sends a request to the server that its absolute `http` or `https` URL names, and reads the response with `read`.
///
/// # Errors
/// Returns a [`RequestError`] if there is no response.
pub(crate) async fn send<T>(
    request: Request<Full<Bytes>>,
    read: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> Result<T, RequestError> {
    let url = request.uri();
    // An IPv6 address is in brackets.
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_tls = url.scheme_str() == Some("https");
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }))).await?;
    if !is_tls {
        return exchange(stream, request, read).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| RequestError::Url(error.to_string()))?;
    let stream = tls_client::connector().await?.connect(name, stream).await.map_err(RequestError::Tls)?;
    exchange(stream, request, read).await
}

async fn exchange<T>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<Full<Bytes>>,
    read: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> Result<T, RequestError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let unfit = |error: &dyn Error| RequestError::Url(error.to_string());
    let host = request.uri().authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|error| unfit(&error))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(concat!("gateway/", env!("CARGO_PKG_VERSION"))));
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|error| unfit(&error))?;
    let answer = pin!(async { Ok(read(sender.send_request(request).await?).await) });
    // The connection moves the bytes of the exchange. It ends when the server closes it, possibly before the response
    // is read.
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

/// Reads the body of a response up to a size in bytes.
///
/// # Errors
/// Returns why the body cannot be read.
pub(crate) async fn body(response: Response<Incoming>, max: usize) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    Ok(Limited::new(response.into_body(), max).collect().await?.to_bytes())
}
