//! Where keys come from: a file, a server, and a new configuration.

use crate::{accepted, answer, claims, denied, key_set, setup, start};
use gateway_tests::{Gateway, Issuer, KeyServer, SECRET, eventually, in_time};
use serde_json::{Value, json};
use std::{fs, path::Path};

const UNKNOWN_KEY: &str = "no key fits its `kid` and `alg`";
const UNAVAILABLE: &str = "the token cannot be checked, because its key is not loaded yet: try again later\n";

/// Waits until a client with this token gets this status.
async fn answers(gateway: &Gateway, token: &str, status: u16) {
    let what = format!("status {status}");
    eventually(&what, || async { (answer(gateway, token).await.0 == status).then_some(()) }).await;
}

/// Returns the entry of the only source of keys in the readiness report.
async fn source(gateway: &Gateway) -> (u16, Value) {
    let (status, body) = gateway.get("/readyz").await;
    let report: Value = serde_json::from_str(&body).unwrap();
    (status, report["auth"]["keys"][0].clone())
}

/// Replaces a file as an operator does, so that no reader sees a part of it.
fn replace(path: &Path, content: &str) {
    fs::write(path.with_extension("new"), content).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_a_bad_one_keeps_the_last_keys() {
    let mut issuer = Issuer::start().await;
    let (old, new) = (issuer.key("old", "p256").await, issuer.key("new", "p256").await);
    let (with_old, with_new) =
        (issuer.sign("ES256", "old", &claims()).await, issuer.sign("ES256", "new", &claims()).await);
    let mut setup = setup("jwks_file: plugins/keys.json");
    setup.files.push(("keys.json", key_set(&[old]).into_bytes()));
    let gateway = Gateway::start(setup).await;
    let file = gateway.plugins().join("keys.json");
    accepted(&gateway, &with_old).await;
    denied(&gateway, &with_new, UNKNOWN_KEY).await;

    // Half written, then whole.
    let whole = key_set(&[new, json!({ "kty": "oct", "k": "c2VjcmV0" }), json!({ "kty": "AKP", "pub": "x" })]);
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    gateway.logged("keys of tokens not loaded, trying again").await;
    accepted(&gateway, &with_old).await;
    let (status, report) = source(&gateway).await;
    assert_eq!((status, &report["keys"]), (200, &json!(1)));
    assert!(report["error"].as_str().unwrap().starts_with("it is not a JSON Web Key Set: EOF"), "{report}");
    fs::write(&file, &whole).unwrap();
    answers(&gateway, &with_new, 101).await;
    denied(&gateway, &with_old, UNKNOWN_KEY).await;
    let skipped = gateway.logged("keys skipped").await;
    assert_eq!(skipped["fields"]["skipped"], 2, "{skipped}");
    assert_eq!(source(&gateway).await.1["error"], Value::Null);

    for (bad, why) in [
        (" ".repeat(10_000_000), "it has 10000000 bytes, and 1000000 are the most"),
        (key_set(&vec![json!({}); 1001]), "it has 1001 keys, and 1000 are the most"),
        (key_set(&[json!({ "kty": "oct", "k": "c2VjcmV0" })]), "a secret key: only public keys are supported here"),
    ] {
        replace(&file, &bad);
        gateway.logged(why).await;
        accepted(&gateway, &with_new).await;
    }
    fs::remove_file(&file).unwrap();
    gateway.logged("it cannot be read: No such file").await;
    accepted(&gateway, &with_new).await;
}

#[tokio::test]
async fn a_file_of_keys_that_is_moved_away_and_back_is_no_longer_an_error() {
    let mut issuer = Issuer::start().await;
    let key = issuer.key("a", "p256").await;
    let token = issuer.sign("ES256", "a", &claims()).await;
    let mut setup = setup("jwks_file: plugins/keys.json");
    setup.files.push(("keys.json", key_set(&[key]).into_bytes()));
    let gateway = Gateway::start(setup).await;
    let file = gateway.plugins().join("keys.json");
    let away = file.with_extension("away");
    fs::rename(&file, &away).unwrap();
    gateway.logged("it cannot be read: No such file").await;
    let lines = gateway.log_lines().len();
    let (status, report) = source(&gateway).await;
    assert_eq!((status, &report["keys"]), (200, &json!(1)));
    assert!(report["error"].as_str().unwrap().starts_with("it cannot be read: No such file"), "{report}");
    // The file is the same as before, so there is nothing to read.
    fs::rename(&away, &file).unwrap();
    eventually("the end of the error", || async { source(&gateway).await.1["error"].is_null().then_some(()) }).await;
    gateway.logged_after(lines, "keys of tokens loaded").await;
    accepted(&gateway, &token).await;
}

#[tokio::test]
async fn keys_of_a_url_are_fetched_and_a_failing_url_keeps_them() {
    let mut issuer = Issuer::start().await;
    let (old, new) = (issuer.key("old", "ed25519").await, issuer.key("new", "rsa").await);
    let (with_old, with_new) =
        (issuer.sign("EdDSA", "old", &claims()).await, issuer.sign("RS256", "new", &claims()).await);
    let server = KeyServer::start(&key_set(&[old])).await;
    let gateway = start(&format!("jwks_url: \"{}\"", server.url())).await;
    answers(&gateway, &with_old, 101).await;
    let request = &server.requests()[0];
    assert!(request.starts_with("GET /keys.json?a=b HTTP/1.1\r\n"), "{request}");
    gateway.metric_is("gateway_auth_jwks_fetches_total{outcome=\"ok\"}", 1.0).await;

    // A token with an unknown key makes the gateway fetch the keys, and waits for them.
    server.serve(&key_set(&[new]));
    accepted(&gateway, &with_new).await;
    denied(&gateway, &with_old, UNKNOWN_KEY).await;
    assert_eq!(server.requests().len(), 2);
    let (status, report) = source(&gateway).await;
    assert_eq!((status, &report["keys"], &report["error"]), (200, &json!(1), &Value::Null));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let mut issuer = Issuer::start().await;
    let keys = key_set(&[issuer.key("a", "p256").await]);
    let server = KeyServer::start(&keys).await;
    let gateway = start(&format!("jwks_url: \"{}\"", server.url())).await;
    answers(&gateway, &issuer.sign("ES256", "a", &claims()).await, 101).await;
    let mut unknown = Vec::new();
    for i in 0..100 {
        unknown.push(issuer.sign_with("ES256", "a", json!({ "kid": format!("{i}") }), &claims()).await);
    }
    // The tokens of the first half wait for the same fetch. Those of the second half come after it.
    let (together, later) = unknown.split_at(50);
    let asked = together.iter().map(|token| denied(&gateway, token, UNKNOWN_KEY));
    let began = std::time::Instant::now();
    futures_util::future::join_all(asked).await;
    for token in later {
        denied(&gateway, token, UNKNOWN_KEY).await;
    }
    // A busy machine may take longer than the interval of ten seconds.
    let most = 2 + began.elapsed().as_secs() as usize / 10;
    assert!((2..=most).contains(&server.requests().len()), "{}", server.requests().len());
}

#[tokio::test]
async fn until_the_first_fetch_nothing_can_be_checked() {
    let mut issuer = Issuer::start().await;
    let keys = key_set(&[issuer.key("a", "p256").await]);
    let token = issuer.sign("ES256", "a", &claims()).await;
    let server = KeyServer::start("").await;
    let url = server.url();
    for (bad, why) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned(), "it answers with HTTP status 500"),
        (
            format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"),
            "it answers with HTTP status 302: redirects are not followed",
        ),
        ("SSH-2.0-server\r\n".to_owned(), "it does not speak HTTP"),
        (format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(10_000_000)), "the answer is broken or has more than 1000000"),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{keys}", keys.len() + 1), "the answer is broken"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{\"ke".to_owned(), "it is not a JSON Web Key Set"),
    ] {
        server.answer(bad.into_bytes());
        let gateway = start(&format!("jwks_url: \"{url}\"")).await;
        gateway.logged(why).await;
        assert_eq!(answer(&gateway, &token).await, (503, UNAVAILABLE.to_owned()));
        gateway.metric_is("gateway_handshakes_refused_total{reason=\"auth_unavailable\"}", 1.0).await;
        let (status, report) = source(&gateway).await;
        assert_eq!((status, &report["keys"]), (503, &json!(0)));
        assert!(report["error"].as_str().unwrap().contains(why), "{report}");
        assert!(gateway.metric("gateway_auth_jwks_fetches_total{outcome=\"failed\"}").await >= 1.0);
        // The gateway tries again by itself.
        server.serve(&keys);
        answers(&gateway, &token, 101).await;
        assert_eq!(source(&gateway).await.0, 200);
        // Then the server fails again, and the keys stay. It may have a new key by now.
        server.answer(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec());
        let unknown = issuer.sign_with("ES256", "a", json!({ "kid": "b" }), &claims()).await;
        assert_eq!(answer(&gateway, &unknown).await, (503, UNAVAILABLE.to_owned()));
        accepted(&gateway, &token).await;
        let (status, report) = source(&gateway).await;
        assert_eq!((status, &report["error"]), (200, &json!("it answers with HTTP status 500")));
    }
}

#[tokio::test]
async fn the_section_is_reloaded_and_appears_but_does_not_disappear() {
    let mut issuer = Issuer::start().await;
    let server = KeyServer::start(&key_set(&[issuer.key("a", "p256").await])).await;
    let (by_secret, by_key) =
        (issuer.sign_with_secret("HS256", &claims()).await, issuer.sign("ES256", "a", &claims()).await);
    let none = gateway_tests::Setup { plugins: vec!["chat", "system", "demo-chat"], ..Default::default() };
    let gateway = Gateway::start(none.clone()).await;
    let mut before = gateway.client().await;
    accepted(&gateway, "anything").await;

    gateway.reconfigure(&setup(&format!("jwt_secret: {SECRET:?}")));
    answers(&gateway, "anything", 401).await;
    accepted(&gateway, &by_secret).await;
    denied(&gateway, &by_key, "its algorithm is not accepted").await;
    before.assert_alive().await;

    gateway.reconfigure(&setup(&format!("jwks_url: \"{}\"", server.url())));
    answers(&gateway, &by_key, 101).await;
    denied(&gateway, &by_secret, "its algorithm is not accepted").await;

    gateway.reconfigure(&setup("jwks_url: nowhere"));
    gateway.logged("auth.jwks_url: it is not an http:// or https:// URL").await;
    accepted(&gateway, &by_key).await;

    // A file that is written in place is empty for a moment, and for long if the disk is full. It is valid if the default
    // directory of plugins exists.
    fs::create_dir_all(gateway.plugins().join("dist")).unwrap();
    fs::write(gateway.config(), "").unwrap();
    gateway.logged("gateway.yaml: the file is empty, and it was not before").await;
    gateway.reconfigure(&none);
    gateway.logged("auth: the section is missing, and tokens are checked now").await;
    gateway.metric_is("gateway_config_rejected", 1.0).await;
    accepted(&gateway, &by_key).await;
    assert_eq!(answer(&gateway, "anything").await.0, 401);
    before.assert_alive().await;
}

#[tokio::test]
async fn a_file_with_the_secret_is_read_again_when_it_changes() {
    let mut issuer = Issuer::start().await;
    let token = issuer.sign_with_secret("HS256", &claims()).await;
    let mut setup = setup("jwt_secret_file: plugins/secret");
    setup.files.push(("secret", b"0123456789-another-secret-abcdef\n".to_vec()));
    let gateway = Gateway::start(setup).await;
    let file = gateway.plugins().join("secret");
    denied(&gateway, &token, "its signature is wrong").await;
    let read = |line: &&Value| line.to_string().contains("configuration read again");
    assert_eq!(gateway.log_lines().iter().filter(read).count(), 0, "it was read at the start");
    replace(&file, SECRET);
    answers(&gateway, &token, 101).await;
    // A bad secret changes nothing, and the next good one is used.
    replace(&file, "short");
    gateway.logged("auth.jwt_secret_file: plugins/secret: at least 32 bytes").await;
    accepted(&gateway, &token).await;
    replace(&file, "0123456789-another-secret-abcdef");
    answers(&gateway, &token, 401).await;
}

#[tokio::test]
async fn gateway_check_reads_the_file_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("keys.json"), "{").unwrap();
    let yaml = "plugins: { directory: . }\nauth: { jwks_file: keys.json }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let mut command = Gateway::command(None);
    command.arg("check").current_dir(&folder).kill_on_drop(true);
    let output = in_time("the end of the check", command.output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("auth.jwks_file keys.json: it is not a JSON Web Key Set: EOF"), "{text}");
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test]
async fn the_file_and_the_url_may_have_the_same_key_and_either_may_be_missing() {
    let mut issuer = Issuer::start().await;
    let first = issuer.key("a", "p256").await;
    let server = KeyServer::start(&key_set(std::slice::from_ref(&first))).await;
    let url = server.url();
    let token = issuer.sign("ES256", "a", &claims()).await;
    let start = async |file: &str| {
        let mut setup = crate::setup(&format!("jwks_file: plugins/keys.json, jwks_url: \"{url}\""));
        setup.files.push(("keys.json", file.as_bytes().to_vec()));
        Gateway::start(setup).await
    };
    let both = start(&key_set(std::slice::from_ref(&first))).await;
    both.metric_is("gateway_auth_jwks_fetches_total{outcome=\"ok\"}", 1.0).await;
    accepted(&both, &token).await;

    // A file without keys does not keep the gateway from the keys of the URL, and from new ones there.
    let broken = start("{").await;
    answers(&broken, &token, 101).await;
    let second = issuer.key("b", "p256").await;
    let new = issuer.sign("ES256", "b", &claims()).await;
    server.serve(&key_set(&[first, second]));
    accepted(&broken, &new).await;
}
