//! Tests of the promises of wit/README.md about versions of the plugin interface. A published version never changes.
//! Every gateway serves plugins that were built against any of them. A plugin for an unsupported version is rejected with an error that names the remedy.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gateway_tests::{Gateway, Setup, dist, guest, in_time, root, variant};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Returns the lines of a WIT file, without comments and without empty lines.
fn declarations(path: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Returns a published version as it is now and as it was when it was published.
fn published(current: &str, version: &str, guest: &str) -> (Vec<String>, Vec<String>) {
    let frozen = declarations(&format!("tests/guests/{guest}/wit/policy.wit"));
    assert_eq!(frozen[0], format!("package gateway:policy@{version};"));
    (declarations(current), frozen)
}

#[test]
fn a_published_version_of_the_interface_is_never_edited() {
    let (current, first) = published("wit/policy.wit", "0.1.0", "first");
    assert_eq!(current, first, "version 0.1.0 is published and must not change, see wit/README.md");
    let (current, second) = published("wit/0.2/policy.wit", "0.2.0", "second");
    let (_, third) = published("wit/0.2/policy.wit", "0.2.1", "third");
    // Later versions have added interfaces and worlds, so all lines of earlier ones are still there, in their order.
    let (_, fourth) = published("wit/0.2/policy.wit", "0.2.2", "fourth");
    for (version, published) in [("0.2.0", second), ("0.2.1", third), ("0.2.2", fourth)] {
        let mut kept = published[1..].iter().peekable();
        current[1..].iter().for_each(|line| _ = kept.next_if_eq(&line));
        assert_eq!(kept.next(), None, "version {version} is published and must not change, see wit/README.md");
    }
    let (current, fifth) = published("wit/0.2/policy.wit", "0.2.3", "fifth");
    if current[0] == fifth[0] {
        assert_eq!(
            current, fifth,
            "version 0.2.3 is published and must not change: publish a new version instead, see wit/README.md"
        );
    }
}

#[tokio::test]
async fn a_plugin_of_each_published_version_passes_its_vectors() {
    for (name, passed) in [("first", 10), ("second", 16), ("third", 4), ("fourth", 3), ("fifth", 4)] {
        let vectors = root().join(format!("tests/guests/{name}/vectors.json"));
        let mut test = Gateway::command(None);
        test.args(["plugin", "test"]).args([guest(name), vectors]).kill_on_drop(true);
        let output = in_time("the end of `gateway plugin test`", test.output()).await.unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert_eq!(report, format!("{passed} passed, 0 failed\n"), "{name}: {output:?}");
    }
}

#[tokio::test]
async fn a_plugin_of_each_published_version_is_served() {
    for (name, route) in [("first", 0x77), ("second", 0x78), ("third", 0x79), ("fourth", 0x7a), ("fifth", 0x7b)] {
        let files = vec![("guest.wasm", fs::read(guest(name)).unwrap())];
        let gateway = Gateway::start(Setup { files, ..Setup::default() }).await;
        let line = gateway.logged("configured with").await;
        assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"ERROR".into(), &name.into()), "{line}");
        let reply = gateway.client().await.request(route, b"reply").await;
        assert_eq!((reply.status, reply.text()), (256, "a status of its own"));
    }
}

/// Returns the traits that the plugin's source lists in `export!`.
fn exported(plugin: &str) -> Vec<String> {
    let source = fs::read_to_string(root().join(format!("plugins/{plugin}/src/lib.rs"))).unwrap();
    let (_, exports) = source.split_once("\nexport!(").unwrap();
    let (_, traits) = exports.split_once(')').unwrap().0.split_once(": ").unwrap();
    traits.split(", ").map(str::to_owned).collect()
}

/// Runs `gateway plugin check` and returns the line of its report with this key.
async fn checked(file: &Path, key: &str) -> String {
    let mut check = Gateway::command(None);
    check.args(["plugin", "check"]).arg(file).kill_on_drop(true);
    let output = in_time("the end of `gateway plugin check`", check.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = String::from_utf8(output.stdout).unwrap();
    let line = report.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().to_owned()
}

#[tokio::test]
async fn gateway_plugin_check_refuses_routes_and_topics_that_a_gateway_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.wasm");
    let bad = |keys: Value| {
        let mut manifest = json!({ "name": "bad", "version": "1", "routes": [1] });
        manifest.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        variant(&manifest)
    };
    for (keys, because) in [
        (json!({ "routes": [0] }), "it claims the route 0, which is the gateway's own"),
        (json!({ "topics": ["gateway:host"] }), "it subscribes to \"gateway:host\", and a topic is 1 to 256 bytes"),
    ] {
        fs::write(&file, bad(keys)).unwrap();
        let mut check = Gateway::command(None);
        check.args(["plugin", "check"]).arg(&file).kill_on_drop(true);
        let output = in_time("the end of `gateway plugin check`", check.output()).await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(because), "{output:?}");
    }
}

#[tokio::test]
async fn a_plugin_of_the_sdk_exports_exactly_the_interfaces_that_it_lists() {
    const CALLS: [(&str, &str); 5] = [
        ("Policy", "on-packet, on-packets"),
        ("Hearing", "on-message"),
        ("Sessions", "on-connect, on-disconnect"),
        ("Presence", "on-away, on-back"),
        ("Timers", "on-wake"),
    ];
    for plugin in ["arena", "chat", "control", "demo-chat", "system"] {
        let traits = exported(plugin);
        assert!(traits.iter().all(|listed| CALLS.iter().any(|(name, _)| listed == name)), "{plugin}: {traits:?}");
        let listed = CALLS.iter().filter(|(name, _)| traits.iter().any(|listed| listed == name));
        let calls: Vec<_> = listed.map(|(_, calls)| *calls).collect();
        assert_eq!(checked(&dist(plugin), "calls").await, calls.join(", "), "{plugin}");
        assert_eq!(checked(&dist(plugin), "interface").await, "gateway:policy 0.2.3", "{plugin}");
    }
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
    for version in ["0.1.1", "0.2.4", "1.0.0"] {
        fs::write(&file, of_version(version)).unwrap();
        let mut check = Gateway::command(None);
        check.args(["plugin", "check"]).arg(&file).kill_on_drop(true);
        let output = in_time("the end of `gateway plugin check`", check.output()).await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        let because = format!(
            "it was built against version {version} of the plugin interface, and this gateway serves plugins built \
             against 0.2.0 up to 0.2.3, or 0.1.0 up to 0.1.0: rebuild it with gateway-plugin-sdk 0.1.0 or this gateway's \
             wit/0.2/policy.wit, or serve it with a gateway that offers {version}"
        );
        assert!(told.trim_end().ends_with(&because), "{told}");
    }
}
