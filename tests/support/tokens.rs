//! An issuer of tokens, which are made by PyJWT and not by the library that the gateway checks them with.

use crate::in_time;
use serde_json::{Value, json};
use std::{path::PathBuf, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// The secret of HS256 tokens.
pub const SECRET: &str = "the secret of the tests of authentication";

/// Makes keys and tokens.
pub struct Issuer {
    _child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Issuer {
    /// Starts the issuer.
    pub async fn start() -> Self {
        let python = target().join("tools/pyjwt/bin/python");
        let mut child = Command::new(&python)
            .args(["-W", "ignore", "-c", include_str!("tokens.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (tests/install-pyjwt installs it)", python.display()));
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, requests, answers: BufReader::new(answers).lines() }
    }

    /// Makes a key of the kind `rsa`, `p256`, `p384` or `ed25519`. Returns the public key as a JSON Web Key with the
    /// name as its `kid`.
    pub async fn key(&mut self, name: &str, kind: &str) -> Value {
        let mut key = self.ask(json!({ "do": "key", "name": name, "kind": kind })).await;
        key["kid"] = name.into();
        key
    }

    /// Returns a token that is signed with a key, and whose header has the name of the key as `kid`.
    pub async fn sign(&mut self, algorithm: &str, key: &str, claims: &Value) -> String {
        self.sign_with(algorithm, key, json!({ "kid": key }), claims).await
    }

    /// Returns a token that is signed with a key, with these fields in its header.
    pub async fn sign_with(&mut self, algorithm: &str, key: &str, headers: Value, claims: &Value) -> String {
        let request = json!({ "do": "sign", "alg": algorithm, "key": key, "secret": null, "headers": headers });
        self.token(request, claims).await
    }

    /// Returns a token that is signed with [`SECRET`].
    pub async fn sign_with_secret(&mut self, algorithm: &str, claims: &Value) -> String {
        let request = json!({ "do": "sign", "alg": algorithm, "key": null, "secret": SECRET, "headers": {} });
        self.token(request, claims).await
    }

    /// Returns a token with `alg: none` and without a signature.
    pub async fn unsigned(&mut self, claims: &Value) -> String {
        let request = json!({ "do": "sign", "alg": "none", "key": null, "secret": null, "headers": {} });
        self.token(request, claims).await
    }

    /// Returns a token with HS256, for which the public key was used as the secret.
    pub async fn forge(&mut self, key: &str, claims: &Value) -> String {
        self.token(json!({ "do": "forge", "key": key, "headers": { "kid": key } }), claims).await
    }

    async fn token(&mut self, mut request: Value, claims: &Value) -> String {
        request["claims"] = claims.clone();
        self.ask(request).await.as_str().unwrap().to_owned()
    }

    async fn ask(&mut self, request: Value) -> Value {
        self.requests.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let answer = in_time("an answer of PyJWT", self.answers.next_line()).await.unwrap();
        serde_json::from_str(&answer.expect("PyJWT has written its error to stderr")).unwrap()
    }
}

/// Returns the build directory, in which the tests are at target/PROFILE/deps.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}
