use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::target::Target;
use crate::tls::Tls;

/// A stream of bytes to a gateway: a TCP connection, alone or under TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Returns the connection itself, or with TLS if the URL asks for it.
///
/// # Errors
/// Says why there is no TLS, and the remedy.
pub(crate) async fn open(target: &Target, tcp: TcpStream) -> anyhow::Result<Box<dyn Stream>> {
    Ok(match Tls::new(target)? {
        Some(tls) => Box::new(tls.connect(tcp).await?),
        None => Box::new(tcp),
    })
}
