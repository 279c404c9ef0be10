//! Authentication: a client presents a JSON Web Token (RFC 7519) that is signed with the shared secret.

use crate::config;
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
    #[error("the token's `sub` is {0:?}, and a user id is wanted, 1 to 2147483647")]
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
    pub fn user(&self, token: Option<&str>) -> Result<i32, Denied> {
        let token = token.ok_or(Denied::Missing)?;
        let Claims { sub } = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)?.claims;
        sub.parse().ok().filter(|user| *user > 0).ok_or(Denied::Subject(sub))
    }
}
