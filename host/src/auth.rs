//! Authentication: a client presents a JSON Web Token (RFC 7519) that an issuer has signed.
//!
//! `policy` checks tokens. `key_set` parses public keys, and `key_file` and `key_url` load them, over `fetch` if they
//! are on a server. `loaded` keeps the last valid keys of each source.
//!
//! This folder knows no connection and no session. It may use `reload` to follow the file of keys. No text of this
//! folder repeats a part of a token.

mod fetch;
mod identity;
mod key_file;
mod key_set;
mod key_url;
mod loaded;
mod policy;
#[cfg(test)]
pub(crate) mod tests;

pub use identity::{Denied, Identity};
pub use loaded::Report;

use crate::{config, telemetry::metrics::Metrics};
use arc_swap::ArcSwapOption;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future;
use key_file::KeyFile;
use key_url::KeyUrl;
use loaded::Loaded;
use policy::Policy;
use std::{pin::pin, sync::Arc};
use tokio::sync::watch;

/// Checks the tokens of clients. The rules can change at any time.
pub struct Authenticator {
    /// The rules, or `None` if no tokens are checked.
    policy: ArcSwapOption<Policy>,
    /// Tells the task that follows the keys about new rules.
    changed: watch::Sender<()>,
    metrics: Arc<Metrics>,
}

impl Authenticator {
    /// Returns an authenticator that checks no tokens.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { policy: ArcSwapOption::empty(), changed: watch::Sender::default(), metrics }
    }

    /// Replaces the rules. `None` means that no tokens are checked. Reads the file of keys, but fetches nothing.
    pub fn configure(&self, config: Option<&config::Auth>) {
        let before = self.policy.load_full();
        self.policy.store(config.map(|config| Arc::new(Policy::new(config, before.as_deref()))));
        self.changed.send_replace(());
    }

    /// Returns whether tokens are checked.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.policy.load().is_some()
    }

    /// Returns whom the token names, or `None` if no tokens are checked or if there is none and none is required. May
    /// wait for new keys.
    ///
    /// # Errors
    /// Returns a [`Denied`] that says why the token is not accepted, or that a token is required.
    pub async fn identify(&self, token: Option<&str>) -> Result<Option<Identity>, Denied> {
        let Some(policy) = self.policy.load_full() else { return Ok(None) };
        match token {
            Some(token) => policy.identify(token).await.map(Some),
            None if policy.is_required => Err(Denied::Missing),
            None => Ok(None),
        }
    }

    /// Loads the keys, and loads them again when they change. Never returns.
    pub async fn follow_keys(&self) {
        let url = |url: Arc<KeyUrl>| async move { url.follow(&self.metrics).await };
        tokio::join!(
            self.follow(|policy| policy.file.clone(), KeyFile::follow),
            self.follow(|policy| policy.url.clone(), url)
        );
    }

    /// Follows a source of keys until the rules name another one, and then follows that one. Never returns.
    async fn follow<S, F: Future<Output = ()>>(
        &self,
        source: impl Fn(&Policy) -> Option<Arc<S>>,
        follow: impl Fn(Arc<S>) -> F,
    ) {
        let mut changes = self.changed.subscribe();
        let current = || self.policy.load().as_deref().and_then(&source);
        loop {
            let followed = current();
            let is_followed = |source: &Arc<S>| followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, source));
            let replaced = changes.wait_for(|()| !current().as_ref().map_or(followed.is_none(), is_followed));
            match followed.clone() {
                Some(source) => drop(future::select(pin!(follow(source)), pin!(replaced)).await),
                None => drop(replaced.await),
            }
        }
    }

    /// Returns the state of each source of keys, other than the secret.
    #[must_use]
    pub fn sources(&self) -> Vec<Report> {
        self.policy.load().as_ref().map_or_else(Vec::new, |policy| policy.sources().map(Loaded::report).collect())
    }

    /// Returns why no token can be checked, if none can.
    #[must_use]
    pub fn why_unavailable(&self) -> Option<String> {
        let policy = self.policy.load_full()?;
        let sources = self.sources();
        if policy.secret.is_some() || sources.iter().any(|source| source.keys > 0) {
            return None;
        }
        let why = |report: &Report| {
            format!("{}: {}", report.source, report.error.as_deref().unwrap_or("the keys are not loaded yet"))
        };
        Some(format!("no token can be checked: {}", sources.iter().map(why).collect::<Vec<_>>().join("; ")))
    }
}

/// Reads the file of keys once, for a check of the configuration.
///
/// # Errors
/// Returns why the file has no keys.
pub fn check(config: &config::Auth) -> Result<(), String> {
    let Some(path) = &config.jwks_file else { return Ok(()) };
    key_file::read(path).map(|_| ()).map_err(|error| format!("auth.jwks_file {}: {error}", path.display()))
}

/// Returns the claims of a token that an [`Authenticator`] has found valid: the text of its JSON object, as the issuer
/// wrote it. Bytes that are not UTF-8 are replaced. Returns `None` if the token has no payload, so it is not valid.
///
/// The claims are not a part of the verification, because most gateways have no plugin that reads them.
#[must_use]
pub fn claims(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(String::from_utf8_lossy(&payload).into_owned())
}
