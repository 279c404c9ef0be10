//! The client side of TLS, for connections of the gateway to other servers.

use rustls_native_certs::load_native_certs;
use std::{io, sync::Arc};
use tokio::task;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

/// Returns a connector that trusts the certificate authorities of the system, as they are now. If the environment
/// variable `SSL_CERT_FILE` names a file, the connector trusts those in the file instead.
///
/// # Errors
/// Returns an error if there is no authority.
pub(crate) async fn connector() -> io::Result<TlsConnector> {
    // The authorities are files.
    let load = task::spawn_blocking(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(load_native_certs().certs);
        roots
    });
    let roots = load.await.map_err(io::Error::other)?;
    if roots.is_empty() {
        return Err(io::Error::other(
            "no certificate authority is trusted: install ca-certificates, or set SSL_CERT_FILE",
        ));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
