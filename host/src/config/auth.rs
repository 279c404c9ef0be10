//! The section `auth`: which tokens of clients are valid, and the keys that check them.

use super::{raw, secret, url};
use std::{fmt, path::PathBuf};
use tungstenite::http::Uri;

/// The minimum length of a secret in bytes, as HS256 asks for (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// The largest leeway in seconds. A larger one would be a mistake, because clocks do not differ by more.
const MAX_LEEWAY_S: u64 = 3600;

/// The authentication of clients. At least one of the three sources of keys is set.
#[derive(Clone)]
pub struct Auth {
    /// Whether a client without a token is refused. Otherwise its session is anonymous: no packet of it binds a user.
    pub required: bool,
    /// The secret of tokens with HS256.
    pub jwt_secret: Option<String>,
    /// The file that the secret is in, if it is in a file of its own.
    pub jwt_secret_file: Option<PathBuf>,
    /// A file with a JSON Web Key Set (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// The `http` or `https` URL of a JSON Web Key Set. It has a host and no credentials.
    pub jwks_url: Option<Uri>,
    /// The issuer that tokens have to name.
    pub issuer: Option<String>,
    /// The audiences of which tokens have to name one. If the list is empty, a token with an audience is
    /// refused.
    pub audience: Vec<String>,
    /// The seconds by which the clocks of the issuer and the gateway may differ.
    pub leeway_s: u64,
    /// The claim that has the user id.
    pub user_claim: String,
    /// Whether a session ends when its token expires.
    pub closes_on_expiry: bool,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth")
    }
}

/// Returns the settings of the section. Adds a line to `errors` for each value that is not valid.
pub(super) fn resolve(raw: raw::Auth, errors: &mut Vec<String>) -> Auth {
    let has_secret = raw.jwt_secret.is_some() || raw.jwt_secret_file.is_some();
    if !has_secret && raw.jwks_file.is_none() && raw.jwks_url.is_none() {
        errors.push(
            "auth: there is no key to check tokens with: set jwt_secret, jwt_secret_file, jwks_file or jwks_url"
                .to_owned(),
        );
    }
    let broken_rule = |secret: &str| {
        let least = MIN_SECRET_BYTES;
        (secret.len() < least)
            .then(|| format!("at least {least} bytes, as HS256 asks for (`openssl rand -hex 32` makes a secret)"))
    };
    let jwt_secret_file = raw.jwt_secret_file.as_ref().map(PathBuf::from);
    let jwt_secret = secret::resolve("auth.jwt_secret", raw.jwt_secret, raw.jwt_secret_file, broken_rule, errors);
    if let Some(file) = &raw.jwks_file
        && !PathBuf::from(file).is_file()
    {
        errors.push(format!("auth.jwks_file: there is no file {file}"));
    }
    let audience = match raw.audience {
        raw::Audience::One(audience) => vec![audience],
        raw::Audience::Many(audiences) => audiences,
    };
    if raw.issuer.as_deref() == Some("") {
        errors.push("auth.issuer: it is empty: leave the key out if any issuer is accepted".to_owned());
    }
    if audience.iter().any(String::is_empty) {
        errors.push("auth.audience: one is empty: leave the key out if the tokens have no `aud`".to_owned());
    }
    if raw.user_claim.is_empty() {
        errors.push("auth.user_claim: the name of a claim is required".to_owned());
    }
    if raw.leeway_s > MAX_LEEWAY_S {
        errors.push(format!("auth.leeway_s: {} is not within 0 to {MAX_LEEWAY_S}", raw.leeway_s));
    }
    Auth {
        required: raw.required,
        jwt_secret,
        jwt_secret_file,
        jwks_file: raw.jwks_file.map(PathBuf::from),
        jwks_url: raw.jwks_url.and_then(|written| key_set(&written, errors)),
        issuer: raw.issuer,
        audience,
        leeway_s: raw.leeway_s,
        user_claim: raw.user_claim,
        closes_on_expiry: raw.on_expiry == raw::OnExpiry::Close,
    }
}

/// Parses the URL of a key set.
fn key_set(written: &str, errors: &mut Vec<String>) -> Option<Uri> {
    let url = url::parse(written, ["http", "https"]);
    if url.is_none() {
        errors.push("auth.jwks_url: it is not an http:// or https:// URL without user and password".to_owned());
    }
    url
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn parsed(keys: &str) -> Result<Config, Vec<String>> {
        Config::parse(&format!("plugins: {{ directory: . }}\nauth: {{ {keys} }}\n"))
    }

    #[track_caller]
    fn check(keys: &str, expected: &[&str]) {
        assert_eq!(parsed(keys).map(|_| ()).unwrap_err(), expected, "{keys}");
    }

    #[test]
    fn each_wrong_value_has_its_own_error() {
        check(
            "required: true",
            &["auth: there is no key to check tokens with: set jwt_secret, jwt_secret_file, jwks_file or jwks_url"],
        );
        check("jwks_file: no/keys.json", &["auth.jwks_file: there is no file no/keys.json"]);
        let secret = format!("jwt_secret: {SECRET}");
        check(
            &format!("{secret}, issuer: ''"),
            &["auth.issuer: it is empty: leave the key out if any issuer is accepted"],
        );
        check(
            &format!("{secret}, audience: ['']"),
            &["auth.audience: one is empty: leave the key out if the tokens have no `aud`"],
        );
        check(&format!("{secret}, leeway_s: 3601"), &["auth.leeway_s: 3601 is not within 0 to 3600"]);
        check(&format!("{secret}, user_claim: ''"), &["auth.user_claim: the name of a claim is required"]);
        for url in ["keys.json", "ftp://a/keys", "file:///keys", "https://", "https://user:word@a/keys", "//a/keys"] {
            let error = "auth.jwks_url: it is not an http:// or https:// URL without user and password";
            check(&format!("jwks_url: \"{url}\""), &[error]);
        }
    }

    #[test]
    fn an_audience_is_one_text_or_a_list() {
        let audience = |keys: &str| parsed(&format!("jwt_secret: {SECRET}{keys}")).unwrap().auth.unwrap().audience;
        assert_eq!(audience(""), [""; 0]);
        assert_eq!(audience(", audience: game"), ["game"]);
        assert_eq!(audience(", audience: [game, chat]"), ["game", "chat"]);
    }
}
