//! Tests of certificates and keys that are bad at the start.

use crate::keys;
use gateway_tests::{Certificates, Gateway, Setup, in_time};
use std::{fs, path::Path};

const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf";

/// Runs a command of the gateway with this certificate and key. Returns its exit code and everything that it printed.
async fn ended(command: &str, tls: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    let yaml = format!(
        "server: {{ port: 0, {tls} }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\nplugins: {{ directory: plugins }}\n"
    );
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let mut gateway = Gateway::command(None);
    gateway.arg(command).current_dir(&folder).kill_on_drop(true);
    let output = in_time("the end of the gateway", gateway.output()).await.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Asserts that the gateway neither starts nor passes its check, and that both name what is wrong.
async fn assert_bad(tls: &str, why: &[&str]) {
    for command in ["run", "check"] {
        let (code, printed) = ended(command, tls).await;
        assert_eq!(code, Some(78), "{command}: {printed}");
        assert!(why.iter().all(|why| printed.contains(why)), "{command}: {printed}, which should contain {why:?}");
    }
}

#[tokio::test]
async fn a_bad_pair_exits_78_and_the_error_names_the_key_the_file_and_the_remedy() {
    let certificates = Certificates::generate().await;
    let (cert, key) = (certificates.server(), certificates.server_key());
    let (_, other) = certificates.issue("other", EC, "-days 2").await;
    let bad = |name: &str, content: &str| {
        let path = cert.with_file_name(name);
        fs::write(&path, content).unwrap();
        path
    };
    let damaged = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    certificates.openssl("ec -in server.key -aes256 -passout pass:secret -out locked.key").await;
    certificates.openssl("pkcs8 -topk8 -in server.key -passout pass:secret -out locked8.key").await;

    assert_bad("tls: {}", &["server.tls.cert: the path of", "server.tls.key: the path of"]).await;
    assert_bad("tls: { cret: a }", &["cret", "cert"]).await;
    let nowhere = Path::new("/nowhere/cert.pem");
    assert_bad(&keys(nowhere, &key), &["server.tls.cert: /nowhere/cert.pem: it cannot be read: No such file"]).await;
    assert_bad(&keys(&cert, nowhere), &["server.tls.key: /nowhere/cert.pem: it cannot be read: No such file"]).await;
    assert_bad(&keys(Path::new("/dev/zero"), &key), &["server.tls.cert: /dev/zero: it is not a file"]).await;
    assert_bad(&keys(&bad("empty", ""), &key), &["server.tls.cert: ", "empty: it has no certificate: put"]).await;
    assert_bad(&keys(&key, &key), &["server.tls.cert: ", "server.key: it has no certificate"]).await;
    assert_bad(
        &keys(&bad("damaged", damaged), &key),
        &["server.tls.cert: ", "damaged: the certificate cannot be used"],
    )
    .await;
    assert_bad(&keys(&cert, &cert), &["server.tls.key: ", "server.pem: it has no private key: put"]).await;
    for locked in ["locked.key", "locked8.key"] {
        assert_bad(&keys(&cert, &cert.with_file_name(locked)), &["server.tls.key: ", locked]).await;
    }
    let mismatch = ["server.tls.key: ", "other.key: the key does not belong to the certificate in ", "server.pem"];
    assert_bad(&keys(&cert, &other), &mismatch).await;
}

#[tokio::test]
async fn an_expired_certificate_is_a_warning_since_there_is_no_better_one() {
    let certificates = Certificates::generate().await;
    let (cert, key) = certificates.issue("expired", EC, "-days -1").await;
    let keys = keys(&cert, &key);
    let (code, printed) = ended("check", &keys).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.starts_with("warning: server.tls.cert: "), "{printed}");
    assert!(
        printed.contains("expired.pem: the certificate expired at 20") && printed.contains("so clients refuse it"),
        "{printed}"
    );
    let gateway = Gateway::start(Setup::server(&keys)).await;
    gateway.logged("the certificate expired at 20").await;
    let refused = certificates.connect(gateway.address).await.unwrap_err();
    assert!(refused.to_string().contains("Expired"), "{refused}");
}

#[tokio::test]
async fn keys_of_every_usual_form_are_taken() {
    let certificates = Certificates::generate().await;
    for (name, kind, convert) in [
        ("pkcs1", "-newkey rsa:2048 -nodes -config openssl.cnf", "rsa -traditional"),
        ("sec1", EC, "ec"),
        ("ed25519", "-newkey ed25519 -nodes -config openssl.cnf", "pkey"),
    ] {
        let (cert, key) = certificates.issue(name, kind, "-days 2").await;
        let converted = format!("{name}-converted.key");
        certificates.openssl(&format!("{convert} -in {name}.key -out {converted}")).await;
        let gateway = Gateway::start(Setup::server(&keys(&cert, &key.with_file_name(converted)))).await;
        certificates.client_of(&gateway).await.assert_alive().await;
    }
}
