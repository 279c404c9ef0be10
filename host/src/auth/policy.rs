//! The rules of the section `auth`: which token is valid, and whom it names.

use super::{
    identity::{Denied, Identity},
    key_file::KeyFile,
    key_set::KeySet,
    key_url::KeyUrl,
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

/// Why there is no key for a token.
enum NoKey {
    /// No key fits.
    Unknown,
    /// Several keys fit, and the token does not say which.
    Ambiguous,
    /// A source of keys has none yet.
    NotLoaded,
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
        let header = jsonwebtoken::decode_header(token).map_err(|error| invalid(&error))?;
        let supported = ALGORITHMS.iter().position(|algorithm| *algorithm == header.alg);
        let validation = supported.map(|index| &self.validations[index]);
        let validation = validation.filter(|_| self.has_source_for(header.alg));
        let validation = validation.ok_or(Denied::Invalid("its algorithm is not accepted"))?;
        if header.crit.is_some() {
            return Err(Denied::Invalid("its header has `crit`, and no extension is supported"));
        }
        if header.alg == Algorithm::HS256 {
            let secret = self.secret.as_ref().ok_or(Denied::Invalid("its algorithm is not accepted"))?;
            return self.check(token, secret, validation);
        }
        let mut outcome = self.check_with_public_key(token, &header, validation);
        if let (Err(NoKey::Unknown), Some(url)) = (&outcome, &self.url) {
            // The box keeps the handshakes of all others small.
            Box::pin(url.fetch_for_unknown_key()).await;
            outcome = self.check_with_public_key(token, &header, validation);
        }
        outcome.unwrap_or_else(|why| {
            Err(match why {
                NoKey::Unknown => Denied::Invalid("no key fits its `kid` and `alg`"),
                NoKey::Ambiguous => Denied::Invalid("several keys fit, so it needs a `kid` that only one of them has"),
                NoKey::NotLoaded => Denied::Unavailable,
            })
        })
    }

    /// Returns whether a key for this algorithm may exist.
    fn has_source_for(&self, algorithm: Algorithm) -> bool {
        if algorithm == Algorithm::HS256 { self.secret.is_some() } else { self.file.is_some() || self.url.is_some() }
    }

    /// Checks a token with the only public key that fits.
    fn check_with_public_key(
        &self,
        token: &str,
        header: &Header,
        validation: &Validation,
    ) -> Result<Result<Identity, Denied>, NoKey> {
        let sources = [self.file.as_ref().map(|file| &file.loaded), self.url.as_ref().map(|url| &url.loaded)];
        let mut is_loaded = true;
        let mut sets: Vec<Arc<KeySet>> = Vec::with_capacity(2);
        for source in sources.into_iter().flatten() {
            match source.keys() {
                Some(keys) => sets.push(keys),
                None => is_loaded = false,
            }
        }
        let mut keys = sets.iter().flat_map(|set| set.fitting(header.alg, header.kid.as_deref()));
        match (keys.next(), keys.next()) {
            (Some(key), None) => Ok(self.check(token, key, validation)),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
            (None, _) if is_loaded => Err(NoKey::Unknown),
            (None, _) => Err(NoKey::NotLoaded),
        }
    }

    fn check(&self, token: &str, key: &DecodingKey, validation: &Validation) -> Result<Identity, Denied> {
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, key, validation);
        let claims = decoded.map_err(|error| invalid(&error))?.claims;
        let user = claims.get(&self.user_claim).and_then(user_id);
        let user = user.ok_or_else(|| Denied::NoUser(self.user_claim.clone()))?;
        let expires = self.closes_on_expiry.then(|| claims.get("exp").and_then(Value::as_f64)).flatten();
        // The conversion saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let expires_ms = expires.map(|seconds| (seconds * 1000.0) as u64);
        Ok(Identity { user, expires_ms, leeway_ms: self.leeway_s * 1000 })
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

/// Returns the reason for a client and the log. The texts of the library may repeat parts of the token.
fn invalid(error: &Error) -> Denied {
    Denied::Invalid(match error.kind() {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet (`nbf`)",
        ErrorKind::InvalidIssuer => "it has another issuer (`iss`)",
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
