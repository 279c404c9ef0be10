use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::endpoint::Endpoint;
use crate::target::Target;

/// The rules of TLS with one gateway. They are made once, for any number of connections.
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    url: Endpoint,
}

impl Tls {
    /// Returns the rules, or `None` if the URL asks for no TLS. Every handshake is a full one, as that of a client that
    /// has never been here before.
    ///
    /// # Errors
    /// Says what is wrong with the certificates to trust or with the host name.
    pub fn new(target: &Target) -> anyhow::Result<Option<Self>> {
        let url = &target.url;
        if !url.is_tls() {
            return Ok(None);
        }
        let roots = match &target.ca {
            Some(file) => authority(file)?,
            None => system(),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name =
            ServerName::try_from(url.address().0.to_owned()).with_context(|| format!("{url} has no host name"))?;
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(config)), name, url: url.clone() }))
    }

    /// Performs the handshake on a connection.
    ///
    /// # Errors
    /// Says why there is no TLS, and the remedy.
    pub async fn connect(&self, tcp: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), tcp).await.map_err(|error| {
            anyhow!(
                "no TLS with {}: {error}; does the gateway have `server.tls`, and is its certificate trusted (--ca)?",
                self.url
            )
        })
    }
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
