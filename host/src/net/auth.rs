//! Who may connect: the bearer of a JSON Web Token (RFC 7519) signed with the shared secret.

use crate::config;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// Checks tokens.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// Why somebody may not connect.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No token.
    #[error("a token is needed: `Authorization: Bearer TOKEN`, or `?token=TOKEN`")]
    Missing,
    /// A token that is not valid (any more).
    #[error("the token is not valid: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// A token of nobody.
    #[error("the token's `sub` is {0:?}, and a user id is wanted, 1 to 2147483647")]
    Subject(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Verifier {
    /// A verifier of HS256 tokens with the configured secret. `exp` is required, `nbf` respected.
    #[must_use]
    pub fn new(config: &config::Auth) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_nbf = true;
        Self { key: DecodingKey::from_secret(config.jwt_secret.as_bytes()), validation }
    }

    /// The user whose token it is.
    ///
    /// # Errors
    /// [`Denied`] says why it is nobody's.
    pub fn user(&self, token: Option<&str>) -> Result<i32, Denied> {
        let token = token.ok_or(Denied::Missing)?;
        let Claims { sub } = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)?.claims;
        sub.parse().ok().filter(|user| *user > 0).ok_or(Denied::Subject(sub))
    }
}
