use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::target::Target;

/// A stream of bytes to a gateway: a TCP connection, alone or under TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Returns the connection itself, or with TLS if the URL asks for it.
///
/// # Errors
/// Says why there is no TLS, and the remedy.
pub(crate) async fn open(target: &Target, tcp: TcpStream) -> anyhow::Result<Box<dyn Stream>> {
    let url = &target.url;
    if !url.is_tls() {
        return Ok(Box::new(tcp));
    }
    let roots = match &target.ca {
        Some(file) => authority(file)?,
        None => system(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(url.address().0.to_owned()).with_context(|| format!("{url} has no host name"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| {
        anyhow!(
            "no TLS with {url}: {error}; does the gateway have `server.tls`, and is its certificate trusted (--ca)?"
        )
    })?;
    Ok(Box::new(stream))
}

/// The certificates in a file.
fn authority(file: &Path) -> anyhow::Result<RootCertStore> {
    let shown = file.display();
    let certificates = CertificateDer::pem_file_iter(file).with_context(|| format!("--ca: {shown} cannot be read"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.with_context(|| format!("--ca: {shown} is damaged"))?)?;
    }
    if roots.is_empty() {
        bail!("--ca: {shown} has no certificate in PEM form");
    }
    Ok(roots)
}

/// The certificates that the system trusts. Those that cannot be read are left out.
fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
