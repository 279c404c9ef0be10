//! Follows the files of the certificate that clients see. A renewed certificate is used from the next handshake on, and
//! a bad one is kept out.
//!
//! The files are looked at once a second. The system's events about files were rejected for them: a second is soon
//! enough for a file that changes every few weeks, and no event gets lost in this way.

use crate::{
    config,
    net::{
        certificate::{Certificate, Invalid, Pem},
        tls::Tls,
    },
    reload::watched::{Look, Stamp, Watched},
    telemetry::metrics::Metrics,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{task, time};

/// The time between two looks at the files. A change is taken when two looks have found the same.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks the files of `server.tls`. Returns a warning if the certificate can be used, but clients refuse it, or will
/// soon do.
///
/// # Errors
/// Returns an [`Invalid`] that names the key, the file, what is wrong, and what would mend it.
pub(super) fn check(files: &config::Tls) -> Result<Option<String>, Invalid> {
    let (certificate, now) = (Certificate::load(files)?, SystemTime::now());
    Ok(certificate.warning(now).or_else(|| certificate.is_due(now)))
}

/// The certificate in use, and the files that it comes from.
pub(super) struct Followed {
    files: config::Tls,
    tls: Arc<Tls>,
    metrics: Arc<Metrics>,
    watched: Watched<[Stamp; 2]>,
    seen: Seen,
    /// The certificate in the files, if it was rejected only because of its dates. It may become valid.
    untimely: Option<Certificate>,
}

/// What the files were like when they were last read. Only a difference is worth a log line.
#[derive(PartialEq)]
enum Seen {
    /// They had the content with this digest.
    Content([u8; 32]),
    /// They could not be read.
    Unreadable(String),
}

impl Followed {
    /// Reads the certificate. An expired one is used all the same, because there is no better one yet.
    ///
    /// # Errors
    /// Returns an [`Invalid`] as [`check`] does.
    pub(super) fn start(files: &config::Tls, metrics: Arc<Metrics>) -> Result<Self, Invalid> {
        let pem = Pem::read(files)?;
        let certificate = Certificate::parse(&pem, files)?;
        if let Some(warning) = certificate.warning(SystemTime::now()) {
            tracing::warn!("{warning}");
        }
        let (tls, watched) = (Arc::new(Tls::new(&certificate)), Watched::default());
        let (seen, untimely) = (Seen::Content(pem.digest()), None);
        let mut followed = Self { files: files.clone(), tls, metrics, watched, seen, untimely };
        followed.publish(&certificate);
        Ok(followed)
    }

    /// Returns the settings of TLS handshakes, which always have the newest good certificate.
    pub(super) fn tls(&self) -> Arc<Tls> {
        Arc::clone(&self.tls)
    }

    /// Follows the files for ever.
    ///
    /// # Errors
    /// Returns an error if a look at the files panics.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut interval = time::interval(INTERVAL);
        loop {
            interval.tick().await;
            // A file system may take its time, and no session has to wait for it.
            self = task::spawn_blocking(move || {
                self.look();
                self
            })
            .await?;
        }
    }

    fn look(&mut self) {
        let stamps = match Stamp::of(&self.files.cert).and_then(|cert| Ok([cert, Stamp::of(&self.files.key)?])) {
            Ok(stamps) => stamps,
            Err(error) => {
                // When they can be looked at again, they are read again, even if they are the same.
                self.watched.forget();
                return self.unreadable(format!("its folder cannot be read: {error}"));
            }
        };
        if self.watched.look(stamps.clone()) != Look::Changed {
            if let Some(certificate) = self.untimely.take_if(|untimely| untimely.warning(SystemTime::now()).is_none()) {
                self.replace(&certificate);
            }
            return;
        }
        match Pem::read(&self.files) {
            Ok(pem) => {
                self.watched.take(stamps);
                self.consider(&pem);
            }
            Err(error) => {
                self.watched.failed();
                self.unreadable(error.to_string());
            }
        }
    }

    /// Uses the certificate in these files, unless it is bad or was seen before.
    fn consider(&mut self, pem: &Pem) {
        let seen = Seen::Content(pem.digest());
        if self.seen == seen {
            tracing::debug!("the files of the certificate have the same content as before");
            return;
        }
        (self.seen, self.untimely) = (seen, None);
        match Certificate::parse(pem, &self.files) {
            Ok(certificate) => match certificate.warning(SystemTime::now()) {
                None => self.replace(&certificate),
                Some(warning) => {
                    self.reject(&warning);
                    self.untimely = Some(certificate);
                }
            },
            Err(error) => self.reject(&error.to_string()),
        }
    }

    fn replace(&mut self, certificate: &Certificate) {
        self.tls.replace(certificate);
        self.publish(certificate);
        self.metrics.tls_replaced.inc();
        tracing::info!(file = %self.files.cert.display(), "certificate replaced");
    }

    fn unreadable(&mut self, why: String) {
        let seen = Seen::Unreadable(why.clone());
        if self.seen != seen {
            (self.seen, self.untimely) = (seen, None);
            self.reject(&why);
        }
    }

    fn reject(&self, why: &str) {
        self.metrics.tls_rejected.inc();
        self.metrics.tls_files_rejected.set(1);
        tracing::error!("certificate not replaced, the one before stays in use: {why}");
    }

    fn publish(&mut self, certificate: &Certificate) {
        self.metrics.tls_files_rejected.set(0);
        let seconds = certificate.expiry().as_secs();
        self.metrics.tls_expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}
