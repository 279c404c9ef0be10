//! JSON Web Key Sets (RFC 7517): the public keys that check tokens, and which of them fits a token.
//!
//! The algorithms of a key are decided by the key alone. A token names the algorithm that it was signed with, and fits
//! only keys of that algorithm. So nobody can use a public RSA key as the secret of HS256.

use crate::telemetry::text;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// The maximum size of a key set in bytes.
pub(super) const MAX_BYTES: usize = 1_000_000;

/// The maximum number of keys in a set.
const MAX_KEYS: usize = 1000;

/// The size of RSA keys in bytes. Smaller keys can be broken, and larger ones are not supported.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A set of public keys.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Why keys of the document are not in the set.
    pub(super) skipped: Vec<String>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why a document is not a key set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadKeySet {
    #[error("it has {0} bytes, and {MAX_BYTES} are the most")]
    TooLarge(usize),
    #[error("it is not a JSON Web Key Set: {0}")]
    Malformed(String),
    #[error("it has {0} keys, and {MAX_KEYS} are the most")]
    TooManyKeys(usize),
    #[error("it has no key for RS256, RS384, RS512, ES256, ES384 or EdDSA{0}")]
    Empty(String),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Parses a document. Keys that cannot check tokens are skipped.
    pub(super) fn parse(document: &[u8]) -> Result<Self, BadKeySet> {
        if document.len() > MAX_BYTES {
            return Err(BadKeySet::TooLarge(document.len()));
        }
        let malformed = |error: serde_json::Error| BadKeySet::Malformed(text::bounded_to(200, error));
        let Document { keys } = serde_json::from_slice(document).map_err(malformed)?;
        if keys.len() > MAX_KEYS {
            return Err(BadKeySet::TooManyKeys(keys.len()));
        }
        let mut set = Self::default();
        for (i, value) in keys.into_iter().enumerate() {
            match Key::of(value) {
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(format!("keys[{i}]: {why}")),
            }
        }
        if set.keys.is_empty() {
            let first = set.skipped.first().map(|skipped| format!(" ({skipped})")).unwrap_or_default();
            return Err(BadKeySet::Empty(first));
        }
        Ok(set)
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether the other set has keys with other ids or other skipped keys.
    pub(super) fn differs_from(&self, other: &Self) -> bool {
        let ids = |set: &Self| set.keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>();
        ids(self) != ids(other) || self.skipped != other.skipped
    }

    /// Returns the keys that fit a token with this algorithm and key id. A token without a key id fits every key of its
    /// algorithm.
    pub(super) fn fitting(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&Key| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id);
        self.keys.iter().filter(fits).map(|key| &key.key)
    }
}

impl Key {
    fn of(value: Value) -> Result<Self, String> {
        // The error may name values of the key. A document may contain a secret key by mistake.
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is not a JSON Web Key".to_owned())?;
        let common = &jwk.common;
        if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
            || common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify))
        {
            return Err("it is not for signatures".to_owned());
        }
        let mut algorithms = algorithms(&jwk.algorithm)?;
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
        }
        if algorithms.is_empty() {
            return Err("its `alg` is not supported, or does not fit its type".to_owned());
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| "it is not encoded as a key".to_owned())?;
        Ok(Self { id: jwk.common.key_id, algorithms, key })
    }
}

/// Returns the algorithms of a key.
fn algorithms(parameters: &AlgorithmParameters) -> Result<Vec<Algorithm>, String> {
    match parameters {
        AlgorithmParameters::RSA(key) => {
            // Base64 has 4 characters for 3 bytes.
            let bytes = key.n.trim_end_matches('=').len() * 3 / 4;
            if !RSA_BYTES.contains(&bytes) {
                return Err(format!("an RSA key of {} bits, and 2048 to 8192 are supported", bytes * 8));
            }
            Ok(vec![Algorithm::RS256, Algorithm::RS384, Algorithm::RS512])
        }
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Ok(vec![Algorithm::ES256]),
            EllipticCurve::P384 => Ok(vec![Algorithm::ES384]),
            _ => Err("a key of the curves P-256 or P-384 is wanted".to_owned()),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Ok(vec![Algorithm::EdDSA]),
        AlgorithmParameters::OctetKey(_) => Err("a secret key: only public keys are supported here".to_owned()),
        _ => Err("its `kty` or `crv` is not supported".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rsa(keys: Value) -> Value {
        // The last character has no bits beyond the last byte.
        let mut key = json!({ "kty": "RSA", "n": format!("{}w", "s".repeat(341)), "e": "AQAB" });
        key.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, BadKeySet> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[track_caller]
    fn skipped(key: Value, why: &str) {
        let set = parse(&[key, rsa(json!({}))]).unwrap();
        assert_eq!((set.len(), &set.skipped[..]), (1, &[format!("keys[0]: {why}")][..]));
    }

    #[test]
    fn keys_that_cannot_check_tokens_are_skipped() {
        skipped(json!({ "kty": "oct", "k": "c2VjcmV0" }), "a secret key: only public keys are supported here");
        skipped(json!({ "kty": "AKP", "pub": "x" }), "its `kty` or `crv` is not supported");
        skipped(json!(7), "it is not a JSON Web Key");
        skipped(
            json!({ "kty": "EC", "crv": "P-521", "x": "", "y": "" }),
            "a key of the curves P-256 or P-384 is wanted",
        );
        skipped(rsa(json!({ "use": "enc" })), "it is not for signatures");
        skipped(rsa(json!({ "key_ops": ["sign"] })), "it is not for signatures");
        skipped(rsa(json!({ "alg": "HS256" })), "its `alg` is not supported, or does not fit its type");
        skipped(rsa(json!({ "alg": "PS256" })), "its `alg` is not supported, or does not fit its type");
        skipped(rsa(json!({ "n": "s".repeat(171) })), "an RSA key of 1024 bits, and 2048 to 8192 are supported");
        skipped(rsa(json!({ "n": "!".repeat(342) })), "it is not encoded as a key");
    }

    #[test]
    fn the_algorithms_of_a_key_and_its_id_decide_whether_it_fits() {
        let set = parse(&[
            rsa(json!({ "kid": "a" })),
            rsa(json!({ "kid": "b", "alg": "RS512" })),
            json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }),
        ]);
        let set = set.unwrap();
        let count = |algorithm, id| set.fitting(algorithm, id).count();
        assert_eq!([count(Algorithm::RS256, Some("a")), count(Algorithm::RS256, Some("b"))], [1, 0]);
        assert_eq!([count(Algorithm::RS512, None), count(Algorithm::RS256, None)], [2, 1]);
        assert_eq!([count(Algorithm::ES256, Some("a")), count(Algorithm::ES384, Some("a"))], [1, 0]);
        assert_eq!([count(Algorithm::EdDSA, None), count(Algorithm::EdDSA, Some("a"))], [1, 0]);
        assert_eq!([count(Algorithm::HS256, None), count(Algorithm::PS256, Some("a"))], [0, 0]);
    }

    #[test]
    fn a_document_that_is_no_key_set_is_rejected() {
        let error = |document: &[u8]| KeySet::parse(document).unwrap_err().to_string();
        assert!(error(br#"{"keys": [{"kty""#).starts_with("it is not a JSON Web Key Set: EOF"));
        assert!(error(b"{}").starts_with("it is not a JSON Web Key Set: missing field `keys`"));
        assert_eq!(error(&vec![b' '; 1_000_001]), "it has 1000001 bytes, and 1000000 are the most");
        let many = vec![json!({}); 1001];
        assert_eq!(parse(&many).unwrap_err(), BadKeySet::TooManyKeys(1001));
        let none = "it has no key for RS256, RS384, RS512, ES256, ES384 or EdDSA";
        assert_eq!(parse(&[]).unwrap_err().to_string(), none);
        let oct = parse(&[json!({ "kty": "oct", "k": "" })]).unwrap_err().to_string();
        assert_eq!(oct, format!("{none} (keys[0]: a secret key: only public keys are supported here)"));
    }
}
