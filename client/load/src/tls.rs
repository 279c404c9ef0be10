//! TLS as a translation of bytes: those that go out are sealed, and those that come in are opened. The socket below is
//! the same with TLS and without, so a load without TLS costs no more than before.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio_rustls::rustls::ClientConnection;

/// The TLS of one session, after its handshake.
pub(crate) struct Tls(Mutex<ClientConnection>);

impl Tls {
    pub(crate) fn new(mut connection: ClientConnection) -> Self {
        // All sealed bytes are taken out at once, so none of them wait.
        connection.set_buffer_limit(None);
        Self(Mutex::new(connection))
    }

    /// Returns the records with these bytes. They have to be written in the order in which they are made. If TLS itself
    /// has something to say, such as new keys, it comes first.
    pub(crate) fn seal(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut connection = self.lock();
        connection.writer().write_all(bytes)?;
        let mut records = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut records)?;
        }
        Ok(records)
    }

    /// Returns the bytes of the records that this piece of the stream completes. Without a piece, it returns the bytes
    /// of records that have arrived before.
    pub(crate) fn open(&self, mut piece: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut connection = self.lock();
        let mut bytes = Vec::new();
        loop {
            match connection.reader().read_to_end(&mut bytes) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error).context("TLS"),
                _ if piece.is_empty() => return Ok(bytes),
                _ => {}
            }
            let read = connection.read_tls(&mut piece)?;
            connection.process_new_packets().context("TLS")?;
            // The gateway has closed TLS, so nothing behind that counts.
            if read == 0 {
                piece = &[];
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        // No code under the lock panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::sync::Arc;

    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// A configuration of openssl for a certificate that clients trust and that the server shows.
    const CONFIGURATION: &str = "\
[req]
distinguished_name = name
x509_extensions = server
prompt = no
[name]
CN = localhost
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost
";

    /// A new certificate for `localhost` and its key.
    fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("openssl.cnf"), CONFIGURATION).unwrap();
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf -days 2 \
                         -keyout key.pem -out cert.pem";
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&folder).output();
        let output = output.expect("openssl does not start: `tests/install openssl` installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = |name| folder.path().join(name);
        let certificate = CertificateDer::from_pem_file(file("cert.pem")).unwrap();
        (certificate, PrivateKeyDer::from_pem_file(file("key.pem")).unwrap())
    }

    /// Both ends of a connection after the handshake, without sockets.
    fn connected() -> (Tls, ServerConnection) {
        let (certificate, key) = certificate();
        let provider = || Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        server.set_buffer_limit(None);
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            read(&mut server, &bytes);
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (Tls::new(client), server)
    }

    /// Lets the server read all records, and returns their bytes.
    fn read(server: &mut ServerConnection, mut records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !records.is_empty() {
            server.read_tls(&mut records).unwrap();
            server.process_new_packets().unwrap();
            // There may be nothing to read yet.
            let _ = server.reader().read_to_end(&mut bytes);
        }
        bytes
    }

    /// Bytes of which no two records are alike.
    fn message(length: usize) -> Vec<u8> {
        (0..length).map(|place| (place / 7 + place % 251) as u8).collect()
    }

    #[test]
    fn sealed_bytes_arrive() {
        let (tls, mut server) = connected();
        for length in [1, 100, 70_000] {
            let records = tls.seal(&message(length)).unwrap();
            assert_eq!(read(&mut server, &records), message(length), "{length} bytes");
        }
    }

    #[test]
    fn records_are_opened_however_they_arrive() {
        let (tls, mut server) = connected();
        for piece_bytes in [1, 2, 7, 100, 5000, 100_000] {
            server.writer().write_all(&message(70_000)).unwrap();
            let mut records = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut records).unwrap();
            }
            let opened: Vec<_> = records.chunks(piece_bytes).flat_map(|piece| tls.open(piece).unwrap()).collect();
            assert_eq!(opened, message(70_000), "pieces of {piece_bytes} bytes");
        }
    }

    #[test]
    fn bytes_that_are_no_records_are_refused() {
        let (tls, _) = connected();
        assert_eq!(tls.open(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err().to_string(), "TLS");
    }
}
