//! The certificate that clients see, with its private key: two files in PEM form.
//!
//! A pair is checked as a whole before a handshake uses it. So no client ever meets a key that belongs to another
//! certificate.

use crate::{
    config,
    file::{self, Unreadable},
};
use sha2::{Digest, Sha256};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use x509_cert::{der::Decode, time::Time};

/// The maximum size of each of the two files, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The time before its end at which a certificate should have been renewed. Most tools renew a certificate of 90 days a
/// month before its end.
const RENEWAL: Duration = Duration::from_secs(14 * 86_400);

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// A file cannot be read.
    #[error("{key}: {}: {error}", file.display())]
    Unreadable {
        /// The configuration key of the file.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// The reason.
        error: Unreadable,
    },
    /// The file of the certificate contains none.
    #[error("server.tls.cert: {}: it has no certificate: put the certificate there as PEM, and then those of the \
             authorities between it and the root", .0.display())]
    NoCertificate(PathBuf),
    /// The certificate has a form that cannot be used.
    #[error("server.tls.cert: {}: the certificate cannot be used: {why}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// The reason.
        why: String,
    },
    /// The file of the key contains none.
    #[error("server.tls.key: {}: it has no private key: put the key there as PEM (PKCS#8, PKCS#1 or SEC1) without a \
             password", .0.display())]
    NoKey(PathBuf),
    /// The key has a form that cannot be used.
    #[error("server.tls.key: {}: the key cannot be used: {error}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// The reason.
        error: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error("server.tls.key: {}: the key does not belong to the certificate in {} (server.tls.cert): put both files \
             of one pair in place", key.display(), cert.display())]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        cert: PathBuf,
    },
}

/// The bytes of both files.
pub struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    /// Reads both files.
    ///
    /// # Errors
    /// Returns [`Invalid::Unreadable`].
    pub fn read(files: &config::Tls) -> Result<Self, Invalid> {
        let read = |key, file: &PathBuf| {
            file::read(file, MAX_FILE_BYTES).map_err(|error| Invalid::Unreadable { key, file: file.clone(), error })
        };
        Ok(Self { cert: read("server.tls.cert", &files.cert)?, key: read("server.tls.key", &files.key)? })
    }

    /// Returns a digest, which tells whether the files have the same content as before.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let length = (self.cert.len() as u64).to_be_bytes();
        Sha256::new().chain_update(length).chain_update(&self.cert).chain_update(&self.key).finalize().into()
    }
}

/// A certificate with its key, ready for handshakes.
#[derive(Debug)]
pub struct Certificate {
    server_config: Arc<ServerConfig>,
    file: PathBuf,
    not_before: Time,
    not_after: Time,
}

impl Certificate {
    /// Reads and checks the two files.
    ///
    /// # Errors
    /// Returns an [`Invalid`] that names the key, the file, what is wrong, and what would mend it.
    pub fn load(files: &config::Tls) -> Result<Self, Invalid> {
        Self::parse(&Pem::read(files)?, files)
    }

    /// Checks the content of the two files.
    ///
    /// # Errors
    /// Returns an [`Invalid`] as [`Self::load`] does.
    pub fn parse(pem: &Pem, files: &config::Tls) -> Result<Self, Invalid> {
        let unusable = |why: String| Invalid::Certificate { file: files.cert.clone(), why };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem.cert)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        let Some(leaf) = chain.first() else { return Err(Invalid::NoCertificate(files.cert.clone())) };
        let leaf = x509_cert::Certificate::from_der(leaf).map_err(|error| unusable(error.to_string()))?;
        let x509_cert::time::Validity { not_before, not_after, .. } = *leaf.tbs_certificate().validity();
        let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|_| Invalid::NoKey(files.key.clone()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Invalid::Mismatch { key: files.key.clone(), cert: files.cert.clone() }
            }
            rustls::Error::InvalidCertificate(error) => unusable(error.to_string()),
            error => Invalid::Key { file: files.key.clone(), error },
        })?;
        let server_config = server_config(provider, pair).map_err(|error| unusable(error.to_string()))?;
        let server_config = Arc::new(server_config);
        Ok(Self { server_config, file: files.cert.clone(), not_before, not_after })
    }

    /// Returns the settings of handshakes with this certificate.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config)
    }

    /// Returns the end of the certificate's validity, as the time since 1970.
    #[must_use]
    pub fn expiry(&self) -> Duration {
        self.not_after.to_unix_duration()
    }

    /// Returns a warning if the certificate should have been renewed by this time. One that lives for days only is due in
    /// the last quarter of its life.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = self.expiry().saturating_sub(now);
        let life = self.expiry().saturating_sub(self.not_before.to_unix_duration());
        (left < RENEWAL.min(life / 4)).then(|| {
            let (file, hours, end) = (self.file.display(), left.as_secs() / 3600, self.not_after);
            let (days, hours) = (hours / 24, hours % 24);
            format!(
                "server.tls.cert: {file}: the certificate expires in {days} days and {hours} hours, at {end}: renew it (the \
                 files are read again when they change)"
            )
        })
    }

    /// Returns what is wrong with the certificate at this time, although it can be used: it has expired, or it is not
    /// valid yet.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (file, begin, end) = (self.file.display(), self.not_before, self.not_after);
        if now >= self.expiry() {
            Some(format!(
                "server.tls.cert: {file}: the certificate expired at {end}, so clients refuse it: renew it (the files \
                 are read again when they change)"
            ))
        } else if now < begin.to_unix_duration() {
            Some(format!(
                "server.tls.cert: {file}: the certificate is not valid before {begin}, so clients refuse it: check the \
                 clock, or wait until then"
            ))
        } else {
            None
        }
    }
}

/// Returns the settings of handshakes: TLS 1.2 and 1.3, and HTTP/1.1 after that.
fn server_config(
    provider: Arc<rustls::crypto::CryptoProvider>,
    pair: CertifiedKey,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A client that comes back brings its encrypted session along, so the gateway remembers none.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
