//! Tests of certificates that change while clients are connected.

use crate::keys;
use futures_util::{StreamExt, stream};
use gateway_tests::{Certificates, Client, Gateway, Setup, raise_open_files};
use std::{fs, path::Path};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    client::TlsStream,
    rustls::pki_types::{CertificateDer, pem::PemObject},
};

const CLIENTS: usize = 1000;
/// The number of clients that connect at the same time.
const CONCURRENT: usize = 50;
const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf";
const REPLACED: &str = "gateway_tls_reloads_total{outcome=\"ok\"}";
const REJECTED: &str = "gateway_tls_reloads_total{outcome=\"rejected\"}";
const EXPIRY: &str = "gateway_tls_certificate_expiry_seconds";

/// A gateway with many clients, whose certificate is about to change.
struct Served {
    gateway: Gateway,
    certificates: Certificates,
    /// The folder with the files that the gateway follows.
    folder: TempDir,
    clients: Vec<Client<TlsStream<TcpStream>>>,
}

impl Served {
    async fn start() -> Self {
        let (certificates, folder) = (Certificates::generate().await, tempfile::tempdir().unwrap());
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::copy(certificates.server(), &cert).unwrap();
        fs::copy(certificates.server_key(), &key).unwrap();
        let env = vec![("RUST_LOG", "gateway=debug")];
        let gateway = Gateway::start(Setup { env, ..Setup::server(&keys(&cert, &key)) }).await;
        // The tests of this file run at the same time, and others need some files as well.
        raise_open_files(4 * CLIENTS as u64);
        let connecting = (0..CLIENTS).map(|_| certificates.client_of(&gateway));
        let clients = stream::iter(connecting).buffer_unordered(CONCURRENT).collect().await;
        Self { gateway, certificates, folder, clients }
    }

    /// Replaces a file in one step, as `mv` does.
    fn put(&self, file: &str, content: impl AsRef<[u8]>) {
        let new = self.folder.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.folder.path().join(file)).unwrap();
    }

    /// Asserts that all clients are still connected, and that a new one gets this certificate.
    async fn assert_serves(&mut self, cert: &Path) {
        for client in &mut self.clients {
            client.assert_alive().await;
        }
        let new = self.certificates.client_of(&self.gateway).await;
        let shown = new.socket.get_ref().get_ref().1.peer_certificates().unwrap();
        assert_eq!(shown, [CertificateDer::from_pem_file(cert).unwrap()]);
        self.clients.push(new);
        self.gateway.metric_is("gateway_sessions", self.clients.len() as f64).await;
        assert_eq!(self.gateway.metric("gateway_connections_total").await as usize, self.clients.len());
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_clients_and_no_client_is_dropped() {
    let mut served = Served::start().await;
    assert_eq!((served.gateway.metric(REPLACED).await, served.gateway.metric(REJECTED).await), (0.0, 0.0));
    let before = served.gateway.metric(EXPIRY).await;
    // A key of another kind, and 30 days instead of 2.
    let rsa = "-newkey rsa:2048 -nodes -config openssl.cnf";
    let (cert, key) = served.certificates.issue("renewed", rsa, "-days 30").await;
    served.put("key.pem", fs::read(&key).unwrap());
    served.put("cert.pem", fs::read(&cert).unwrap());
    served.gateway.metric_is(REPLACED, 1.0).await;
    served.gateway.logged("certificate replaced").await;
    served.assert_serves(&cert).await;
    let days = (served.gateway.metric(EXPIRY).await - before) / 86_400.0;
    assert!((27.9..28.1).contains(&days), "{days}");
}

#[tokio::test]
async fn a_bad_pair_is_kept_out_and_reported_once_and_no_client_is_dropped() {
    let mut served = Served::start().await;
    let server = served.certificates.server();
    served.put("cert.pem", "garbage");
    served.gateway.metric_is(REJECTED, 1.0).await;
    let line = served.gateway.logged("certificate not replaced").await.to_string();
    assert!(
        line.contains("the one before stays in use: server.tls.cert: ") && line.contains("no certificate"),
        "{line}"
    );
    served.assert_serves(&server).await;

    // The same content again is no news.
    served.put("cert.pem", "garbage");
    served.gateway.logged("the files of the certificate have the same content as before").await;
    assert_eq!(served.gateway.metric(REJECTED).await as u64, 1);

    // A good certificate with the key of the old one, and then a certificate that has expired.
    let (cert, _) = served.certificates.issue("other", EC, "-days 30").await;
    served.put("cert.pem", fs::read(&cert).unwrap());
    served.gateway.metric_is(REJECTED, 2.0).await;
    served.gateway.logged("the key does not belong to the certificate in").await;
    let (expired, key) = served.certificates.issue("expired", EC, "-days -1").await;
    served.put("key.pem", fs::read(&key).unwrap());
    served.put("cert.pem", fs::read(&expired).unwrap());
    served.gateway.logged("the certificate expired at 20").await;

    fs::remove_file(served.folder.path().join("key.pem")).unwrap();
    served.gateway.logged("key.pem: it cannot be read: No such file").await;
    served.assert_serves(&server).await;
    assert_eq!(served.gateway.metric(REPLACED).await as u64, 0);
    served.gateway.metric_is("gateway_tls_files_rejected", 1.0).await;

    // What is mended is taken.
    served.put("key.pem", fs::read(served.certificates.server_key()).unwrap());
    served.put("cert.pem", fs::read(&server).unwrap());
    served.gateway.metric_is(REPLACED, 1.0).await;
    served.gateway.metric_is("gateway_tls_files_rejected", 0.0).await;
    served.assert_serves(&server).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_used_as_soon_as_it_is() {
    let mut served = Served::start().await;
    let (cert, key) = served.certificates.issue_for_later("later", EC, 20).await;
    served.put("key.pem", fs::read(&key).unwrap());
    served.put("cert.pem", fs::read(&cert).unwrap());
    served.gateway.logged("the certificate is not valid before").await;
    served.gateway.metric_is(REPLACED, 1.0).await;
    served.assert_serves(&cert).await;
}
