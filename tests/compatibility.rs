//! Tests of the promises of wit/README.md about versions of the plugin interface. A published version never changes.
//! Every gateway serves plugins that were built against the first version. A plugin for an unsupported version is
//! rejected with an error that names the remedy.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gateway_tests::{Gateway, Setup, guest, in_time, root};
use std::fs;

/// Returns the lines of a WIT file, without comments and without empty lines.
fn declarations(path: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_published_version_of_the_interface_is_never_edited() {
    let (current, first) = (declarations("wit/policy.wit"), declarations("tests/guests/first/wit/policy.wit"));
    assert_eq!(first[0], "package gateway:policy@0.1.0;");
    if current[0] == first[0] {
        assert_eq!(
            current, first,
            "version 0.1.0 is published and must not change: publish a new version instead, see wit/README.md"
        );
    }
}

#[tokio::test]
async fn a_plugin_of_the_first_version_passes_its_vectors() {
    let vectors = root().join("tests/guests/first/vectors.json");
    let mut test = Gateway::command(None);
    test.args(["plugin", "test"]).args([guest("first"), vectors]).kill_on_drop(true);
    let output = in_time("the end of `gateway plugin test`", test.output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10 passed, 0 failed\n", "{output:?}");
}

#[tokio::test]
async fn a_plugin_of_the_first_version_is_served() {
    let files = vec![("first.wasm", fs::read(guest("first")).unwrap())];
    let gateway = Gateway::start(Setup { files, ..Setup::default() }).await;
    let line = gateway.logged("configured with").await;
    assert_eq!(line["level"], "ERROR", "{line}");
    let reply = gateway.client().await.request(0x77, b"reply").await;
    assert_eq!((reply.status, reply.text()), (256, "a status of its own"));
}

/// Returns the guest `first` with another version of the plugin interface in its imports and exports.
fn of_version(version: &str) -> Vec<u8> {
    let mut component = fs::read(guest("first")).unwrap();
    let (old, new) = (b"@0.1.0", format!("@{version}"));
    assert_eq!(old.len(), new.len());
    for name in ["gateway:policy/policy", "gateway:policy/log"] {
        let name = [name.as_bytes(), old].concat();
        let places: Vec<_> =
            (0..=component.len() - name.len()).filter(|at| component[*at..].starts_with(&name)).collect();
        assert!(!places.is_empty());
        for at in places {
            component[at + name.len() - new.len()..at + name.len()].copy_from_slice(new.as_bytes());
        }
    }
    component
}

#[tokio::test]
async fn a_plugin_of_another_version_is_rejected_with_both_versions_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("first.wasm");
    for version in ["0.1.1", "0.2.0", "1.0.0"] {
        fs::write(&file, of_version(version)).unwrap();
        let mut check = Gateway::command(None);
        check.args(["plugin", "check"]).arg(&file).kill_on_drop(true);
        let output = in_time("the end of `gateway plugin check`", check.output()).await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        let because = format!(
            "it was built against version {version} of the plugin interface, and this gateway offers 0.1.0, which \
             serves plugins built against 0.1.0 up to 0.1.0: rebuild it with gateway-plugin-sdk 0.1.0 or this \
             gateway's wit/policy.wit, or serve it with a gateway that offers {version}"
        );
        assert!(told.trim_end().ends_with(&because), "{told}");
    }
}
