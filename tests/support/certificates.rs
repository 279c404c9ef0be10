//! TLS certificates for the servers that the tests start. Each test makes new certificates with openssl.

use crate::in_time;
use std::{fs, path::PathBuf};
use tempfile::TempDir;
use tokio::process::Command;

/// The contents of the certificates, as an openssl configuration file: a certificate authority, and a server on
/// `localhost`.
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
extendedKeyUsage = serverAuth
";

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
        let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf";
        for command in [
            format!("req -x509 {new} -keyout authority.key -out authority.pem -days 2 -extensions authority"),
            format!("req {new} -keyout server.key -out server.csr"),
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -set_serial 2 -days 2 -out server.pem \
             -extfile openssl.cnf -extensions server"
                .to_owned(),
        ] {
            certificates.openssl(&command).await;
        }
        certificates
    }

    async fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.folder).kill_on_drop(true);
        let output = in_time(&format!("openssl {arguments}"), command.output()).await;
        let output = output.expect("openssl does not start: `tests/install openssl` installs it");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
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
