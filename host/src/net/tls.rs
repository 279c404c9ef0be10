//! The TLS handshake of a connection, before its HTTP upgrade.
//!
//! The settings of TLS are a value that a connection takes once, when its handshake begins. So a new certificate is one
//! swap of a pointer, and no connection notices it.

use crate::net::{
    certificate::Certificate,
    handshake::{self, TLS_HANDSHAKE},
    stream::Stream,
    tcp::Tcp,
    tls_stream::TlsStream,
};
use arc_swap::ArcSwap;
use std::io;
use tokio_rustls::rustls::ServerConfig;

/// The settings of the next handshakes.
#[derive(Debug)]
pub struct Tls(ArcSwap<ServerConfig>);

/// Why a connection did not get through the TLS handshake.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connection ended or broke during the TLS handshake.
    #[error("the connection ended during the TLS handshake: {0}")]
    Gone(io::Error),
    /// The client does not speak TLS.
    #[error("this port speaks TLS: use wss:// or https://")]
    Required,
    /// The client and the gateway found no common ground, or the client's bytes are not TLS.
    #[error("the TLS handshake failed: {0}")]
    Failed(io::Error),
}

impl Refused {
    /// Returns the label of `gateway_handshakes_refused_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone(_) => "gone",
            Self::Required => "tls_required",
            Self::Failed(_) => "tls_failed",
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        // The TLS library reports what the client did wrong as invalid data. Any other error is one of the system.
        if error.kind() == io::ErrorKind::InvalidData { Self::Failed(error) } else { Self::Gone(error) }
    }
}

impl Tls {
    /// Returns settings with this certificate.
    #[must_use]
    pub fn new(certificate: &Certificate) -> Self {
        Self(ArcSwap::new(certificate.server_config()))
    }

    /// Uses this certificate for the handshakes that begin from now on.
    pub fn replace(&self, certificate: &Certificate) {
        self.0.store(certificate.server_config());
    }

    /// Performs the TLS handshake. The caller sets a timeout.
    ///
    /// # Errors
    /// Returns the connection with a [`Refused`] that says why there is no TLS. The client has received an alert or an
    /// HTTP answer by then, unless the connection broke.
    pub async fn accept(&self, mut tcp: Tcp) -> Result<Stream, (Refused, Tcp)> {
        match tcp.peek().await {
            Ok(Some(TLS_HANDSHAKE)) => {}
            Ok(Some(_)) => {
                let refused = Refused::Required;
                // The client has its answer now or never.
                let _ = handshake::answer(&mut tcp, "400 Bad Request", &format!("{refused}\n")).await;
                return Err((refused, tcp));
            }
            Ok(None) => return Err((Refused::Gone(io::ErrorKind::UnexpectedEof.into()), tcp)),
            Err(error) => return Err((Refused::Gone(error), tcp)),
        }
        let accepted = TlsStream::accept(self.0.load_full(), tcp).await;
        accepted.map(Stream::Tls).map_err(|(error, tcp)| (error.into(), tcp))
    }
}
