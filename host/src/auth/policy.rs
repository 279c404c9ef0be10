//! The rules of the section `auth`: which token is valid, and whom it names.

use super::{
    identity::{Denied, Identity},
    key_file::KeyFile,
    key_url::KeyUrl,
    loaded::Loaded,
};
use crate::config;
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    errors::{Error, ErrorKind},
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The algorithms that are supported. HS256 needs the secret, and all others a public key.
const ALGORITHMS: [Algorithm; 7] = [
    Algorithm::HS256,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The largest number of public keys that are tried for one token. Without this bound, a token that names no key could
/// cost a thousand checks of a signature.
const MAX_TRIED_KEYS: usize = 4;

/// The outcome if a key does not belong to the signature of a token.
const WRONG_SIGNATURE: Denied = Denied::Invalid("its signature is wrong");

/// The rules of one version of the section, with the keys.
pub(super) struct Policy {
    /// Whether a client without a token is refused.
    pub(super) is_required: bool,
    pub(super) secret: Option<DecodingKey>,
    pub(super) file: Option<Arc<KeyFile>>,
    pub(super) url: Option<Arc<KeyUrl>>,
    /// The checks of claims for each algorithm, in the order of [`ALGORITHMS`].
    validations: [Validation; ALGORITHMS.len()],
    user_claim: String,
    leeway_s: u64,
    closes_on_expiry: bool,
}

impl Policy {
    /// Returns the rules of the section. Sources of the rules before it are kept if they are the same.
    pub(super) fn new(config: &config::Auth, before: Option<&Self>) -> Self {
        let file = config.jwks_file.as_ref().map(|path| {
            let same = before.and_then(|before| before.file.clone()).filter(|file| file.path == *path);
            same.unwrap_or_else(|| Arc::new(KeyFile::open(path)))
        });
        let url = config.jwks_url.as_ref().map(|url| {
            let same = before.and_then(|before| before.url.clone()).filter(|source| source.url == *url);
            same.unwrap_or_else(|| Arc::new(KeyUrl::new(url)))
        });
        Self {
            is_required: config.required,
            secret: config.jwt_secret.as_ref().map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            file,
            url,
            validations: ALGORITHMS.map(|algorithm| validation(config, algorithm)),
            user_claim: config.user_claim.clone(),
            leeway_s: config.leeway_s,
            closes_on_expiry: config.closes_on_expiry,
        }
    }

    /// Checks a token, and returns whom it names. If no key fits, waits for new keys of the URL.
    pub(super) async fn identify(&self, token: &str) -> Result<Identity, Denied> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| self.invalid(&error))?;
        if header.crit.is_some() {
            return Err(Denied::Invalid("its header has `crit`, and no extension is supported"));
        }
        let supported = ALGORITHMS.iter().position(|algorithm| *algorithm == header.alg);
        let validation = supported.map(|index| &self.validations[index]);
        match (validation, header.alg, &self.secret) {
            (Some(validation), Algorithm::HS256, Some(secret)) => self.check(token, secret, validation),
            (Some(validation), algorithm, _) if algorithm != Algorithm::HS256 && self.has_public_keys() => {
                self.identify_by_public_key(token, &header, validation).await
            }
            _ => Err(Denied::Invalid("its algorithm is not accepted")),
        }
    }

    fn has_public_keys(&self) -> bool {
        self.file.is_some() || self.url.is_some()
    }

    async fn identify_by_public_key(
        &self,
        token: &str,
        header: &Header,
        validation: &Validation,
    ) -> Result<Identity, Denied> {
        if let Some(outcome) = self.check_with_public_keys(token, header, validation) {
            return outcome;
        }
        if let Some(url) = self.url.as_ref().filter(|url| url.loaded.keys().is_some()) {
            // The box keeps the handshakes of all others small.
            Box::pin(url.fetch_for_unknown_key()).await;
        }
        let outcome = self.check_with_public_keys(token, header, validation);
        outcome.unwrap_or_else(|| {
            // A source that fails may have a new key by now.
            let fails = |source: &Loaded| source.keys().is_none() || source.fails();
            Err(match self.sources().any(fails) {
                true => Denied::Unavailable,
                false => Denied::Invalid("no key fits its `kid` and `alg`"),
            })
        })
    }

    /// Checks a token with the public keys that fit, one after the other, until one belongs to its signature. Several
    /// fit if the token names no key, or if the file and the URL have the same one. Returns `None` if no key fits.
    fn check_with_public_keys(
        &self,
        token: &str,
        header: &Header,
        validation: &Validation,
    ) -> Option<Result<Identity, Denied>> {
        let sets: Vec<_> = self.sources().filter_map(Loaded::keys).collect();
        let mut fitting = sets.iter().flat_map(|set| set.fitting(header.alg, header.kid.as_deref()));
        let mut outcome = None;
        for key in fitting.by_ref().take(MAX_TRIED_KEYS) {
            let checked = self.check(token, key, validation);
            if checked != Err(WRONG_SIGNATURE) {
                return Some(checked);
            }
            outcome = Some(checked);
        }
        if fitting.next().is_some() {
            return Some(Err(Denied::Invalid("more than 4 keys fit, so it needs a `kid` that names one")));
        }
        outcome
    }

    /// Returns the sources of public keys.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Loaded> {
        let file = self.file.as_ref().map(|file| &file.loaded);
        file.into_iter().chain(self.url.as_ref().map(|url| &url.loaded))
    }

    fn check(&self, token: &str, key: &DecodingKey, validation: &Validation) -> Result<Identity, Denied> {
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, key, validation);
        let claims = decoded.map_err(|error| self.invalid(&error))?.claims;
        let user = claims.get(&self.user_claim).and_then(user_id);
        let user = user.ok_or_else(|| Denied::NoUser(self.user_claim.clone()))?;
        let expires = self.closes_on_expiry.then(|| claims.get("exp").and_then(Value::as_f64)).flatten();
        // The conversion saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let expires_ms = expires.map(|seconds| (seconds * 1000.0) as u64);
        Ok(Identity { user, expires_ms, leeway_ms: self.leeway_s * 1000 })
    }

    /// Returns the reason for a client and the log. The texts of the library may repeat parts of the token.
    fn invalid(&self, error: &Error) -> Denied {
        Denied::Invalid(match error.kind() {
            ErrorKind::InvalidSignature => return WRONG_SIGNATURE,
            ErrorKind::ExpiredSignature => "it has expired",
            ErrorKind::ImmatureSignature => "it is not valid yet (`nbf`)",
            ErrorKind::InvalidIssuer => "it has another issuer (`iss`)",
            ErrorKind::InvalidAudience if self.validations[0].aud.is_none() => {
                "it is for an audience (`aud`), and none is configured"
            }
            ErrorKind::InvalidAudience => "it is for another audience (`aud`)",
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
                "its algorithm is not accepted"
            }
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match claim.as_str() {
                "exp" => "its `exp` is missing or not a time",
                "nbf" => "its `nbf` is not a time",
                "iss" => "its `iss` is missing or not a text",
                "aud" => "its `aud` is missing or not a text",
                _ => "a claim is missing",
            },
            _ => "it is not a JSON Web Token with a supported algorithm",
        })
    }
}

/// Returns the checks of the claims of a token.
fn validation(config: &config::Auth, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_nbf = true;
    validation.leeway = config.leeway_s;
    // A claim that is compared has to be there. The library accepts tokens without it otherwise.
    let mut required = vec!["exp"];
    if let Some(issuer) = &config.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if !config.audience.is_empty() {
        validation.set_audience(&config.audience);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// Returns the user id that is a number or a decimal text.
fn user_id(claim: &Value) -> Option<i64> {
    let id = match claim {
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        number => number.as_i64(),
    };
    id.filter(|id| *id > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_user_id_is_a_number_or_a_decimal_text_of_64_bits() {
        for (claim, id) in
            [(json!(7), 7), (json!("7"), 7), (json!(i64::MAX), i64::MAX), (json!("9223372036854775807"), i64::MAX)]
        {
            assert_eq!(user_id(&claim), Some(id), "{claim}");
        }
        let more = json!(9_223_372_036_854_775_808_u64);
        for claim in [json!(0), json!(-1), json!(1.5), json!(7.0), more, json!("9223372036854775808"), json!("0")] {
            assert_eq!(user_id(&claim), None, "{claim}");
        }
        for text in ["", "+7", "-7", " 7", "0x7", "Zoë", "7.0"] {
            assert_eq!(user_id(&json!(text)), None, "{text:?}");
        }
        assert_eq!([json!(null), json!([7]), json!(true)].map(|claim| user_id(&claim)), [None; 3]);
    }
}
