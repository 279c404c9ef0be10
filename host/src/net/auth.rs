//! Authentication: a client presents a JSON Web Token (RFC 7519) that is signed with the shared secret.

use crate::config;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// Checks the tokens of clients.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// Why a client may not connect.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The request has no token.
    #[error("a token is needed: `Authorization: Bearer TOKEN`, or `?token=TOKEN`")]
    Missing,
    /// The token is malformed or expired, or its signature is wrong.
    #[error("the token is not valid: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// The token is valid, but its subject is not a user id.
    #[error("the token's `sub` is {0:?}, and a user id is wanted, 1 to {max}", max = i64::MAX)]
    Subject(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Verifier {
    /// Returns a verifier of HS256 tokens with the configured secret. The verifier requires `exp` and respects `nbf`.
    #[must_use]
    pub fn new(config: &config::Auth) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_nbf = true;
        Self { key: DecodingKey::from_secret(config.jwt_secret.as_bytes()), validation }
    }

    /// Returns the user that the token names.
    ///
    /// # Errors
    /// Returns a [`Denied`] if there is no token, if the token is not valid, or if the token names no user.
    pub fn user(&self, token: Option<&str>) -> Result<i64, Denied> {
        let token = token.ok_or(Denied::Missing)?;
        let Claims { sub } = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)?.claims;
        sub.parse().ok().filter(|user| *user > 0).ok_or(Denied::Subject(sub))
    }
}

/// Returns the claims of a token that a [`Verifier`] has found valid: the text of its JSON object, as the issuer wrote
/// it. Bytes that are not UTF-8 are replaced. Returns `None` if the token has no payload, so it is not valid.
///
/// The claims are not a part of the verification, because most gateways have no plugin that reads them.
#[must_use]
pub fn claims(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(String::from_utf8_lossy(&payload).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};

    const SECRET: &str = "a secret of at least 32 bytes, as HS256 needs it";

    fn token(sub: &str) -> String {
        let claims = serde_json::json!({ "sub": sub, "exp": 9_000_000_000_u64, "name": "Zoë" });
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    #[test]
    fn the_subject_is_a_user_id_of_64_bits() {
        let verifier = Verifier::new(&config::Auth { jwt_secret: SECRET.to_owned() });
        let user = |sub: &str| verifier.user(Some(&token(sub))).map_err(|denied| denied.to_string());
        assert_eq!((user("1"), user("9223372036854775807")), (Ok(1), Ok(i64::MAX)));
        for sub in ["0", "-1", "9223372036854775808", "Zoë"] {
            let denied = format!("the token's `sub` is {sub:?}, and a user id is wanted, 1 to 9223372036854775807");
            assert_eq!(user(sub), Err(denied));
        }
    }

    #[test]
    fn the_claims_are_the_payload_of_the_token() {
        assert_eq!(claims(&token("7")).unwrap(), r#"{"exp":9000000000,"name":"Zoë","sub":"7"}"#);
        assert_eq!((claims("a"), claims("a.!.b"), claims("")), (None, None, None));
    }
}
