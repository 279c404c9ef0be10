//! TLS certificates for the servers that the tests start. Each test makes new certificates with openssl.

use crate::{Client, in_time};
use std::{fs, io, net::SocketAddr, path::PathBuf, process::Output, sync::Arc};
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

/// The contents of the certificates, as an openssl configuration file: a certificate authority, and a server on
/// `localhost`. The nodes of a Redis Cluster connect to each other as clients with the same certificate.
const CONFIGURATION: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = the gateway's tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost
extendedKeyUsage = serverAuth, clientAuth
[ca]
default_ca = signer
[signer]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
[any]
commonName = supplied
";

/// The arguments of `openssl req` for a new key on an elliptic curve.
const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf";

/// A certificate authority that no system trusts by default, and a certificate for `localhost` that the authority has
/// signed.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes a new authority and a new server certificate.
    pub async fn generate() -> Self {
        let certificates = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(certificates.path("openssl.cnf"), CONFIGURATION).unwrap();
        let authority = "-keyout authority.key -out authority.pem -days 2 -extensions authority";
        certificates.openssl(&format!("req -x509 {EC} {authority}")).await;
        certificates.issue("server", EC, "-days 2").await;
        certificates
    }

    /// Makes another server certificate, with the key `NAME.key` of this kind, and the validity that these arguments of
    /// `openssl x509` describe. Returns the paths of the certificate and of the key.
    pub async fn issue(&self, name: &str, key: &str, validity: &str) -> (PathBuf, PathBuf) {
        self.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr")).await;
        let serial = fastrand::u32(2..);
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA authority.pem -CAkey authority.key -set_serial {serial} {validity} \
             -out {name}.pem -extfile openssl.cnf -extensions server"
        ))
        .await;
        (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    /// Makes a server certificate that becomes valid in this number of seconds.
    pub async fn issue_for_later(&self, name: &str, key: &str, seconds: u32) -> (PathBuf, PathBuf) {
        self.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr")).await;
        let begin = Command::new("date").args(["-u", "+%Y%m%d%H%M%SZ", "-d", &format!("+{seconds} seconds")]).output();
        let begin = String::from_utf8(begin.await.unwrap().stdout).unwrap();
        fs::write(self.path("index.txt"), "").unwrap();
        fs::write(self.path("serial"), "1000").unwrap();
        self.openssl(&format!(
            "ca -batch -config openssl.cnf -in {name}.csr -out {name}.pem -cert authority.pem -keyfile authority.key \
             -notext -extensions server -days 2 -startdate {}",
            begin.trim()
        ))
        .await;
        (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    /// Runs openssl in the folder of the certificates. It has to succeed.
    pub async fn openssl(&self, arguments: &str) -> Output {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.folder).kill_on_drop(true);
        let output = in_time(&format!("openssl {arguments}"), command.output()).await;
        let output = output.expect("openssl does not start: `tests/install openssl` installs it");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Returns the configuration of a client that trusts only this authority.
    #[must_use]
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth()
    }

    /// Connects over TCP and TLS.
    ///
    /// # Errors
    /// Returns the error of the TLS handshake.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        connect(self.client(&[&TLS13, &TLS12]), address).await
    }

    /// Connects a client over TLS.
    pub async fn client_of(&self, gateway: &crate::Gateway) -> Client<TlsStream<TcpStream>> {
        Client::over(self.connect(gateway.address).await.expect("a TLS handshake")).await
    }

    /// Returns the path of the authority's certificate, a PEM file.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path("authority.pem")
    }

    /// Returns the path of the server's certificate, a PEM file.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// Returns the path of the server's private key, a PEM file.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

/// Connects over TCP and TLS, as this configuration says.
///
/// # Errors
/// Returns the error of the TLS handshake.
pub async fn connect(client: ClientConfig, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(client));
    in_time("a TLS handshake", connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await
}
