//! Tests of plugin files that the gateway rejects. The last good version serves on. The log and the readiness report
//! contain the exact reason.

use gateway_tests::{Gateway, PATIENCE, Setup, dist, eventually, greeter, put, variant};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, path::Path};

const FILE: &str = "system.wasm";

const FILES_REJECTED: &str = "gateway_plugin_files_rejected";

/// Starts a gateway with chat, and with a plugin that answers `1` on route 3.
async fn start() -> Gateway {
    let files = vec![(FILE, greeter("system", "1", &[3]))];
    Gateway::start(Setup { plugins: vec!["chat"], files, ..Setup::default() }).await
}

/// Returns the entry of a file in the readiness report.
async fn report(gateway: &Gateway, file: &str) -> Value {
    let (_, body) = gateway.get("/readyz").await;
    let report: Value = serde_json::from_str(&body).unwrap();
    let entry = report["plugins"].as_array().unwrap().iter().find(|entry| entry["file"] == file);
    entry.cloned().unwrap_or_default()
}

/// Waits until the readiness report has this entry for the file.
async fn reported(gateway: &Gateway, file: &str, serving: Option<&str>, error: Option<&str>) {
    let expected = json!({ "file": file, "serving": serving, "error": error });
    let what = format!("/readyz says {expected}");
    eventually(&what, || async { (report(gateway, file).await == expected).then_some(()) }).await;
}

/// Returns the metric lines that have counted rejections, each with the name of its plugin.
async fn rejections(gateway: &Gateway) -> Vec<String> {
    let (_, metrics) = gateway.get("/metrics").await;
    let lines = metrics.lines().filter(|line| line.starts_with("gateway_plugin_reloads_total"));
    let rejected = |line: &&str| line.contains("outcome=\"rejected\"") && !line.ends_with(" 0");
    lines.filter(rejected).map(str::to_owned).collect()
}

/// Replaces the file of a serving plugin by a bad version. Asserts that the bad version is rejected for this reason,
/// and that the old version serves on until a good version replaces it.
async fn rejected(put_bad: impl FnOnce(&Path), because: &str) {
    let gateway = start().await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(3, b"").await.text(), "1");
    put_bad(&gateway.plugin("system"));

    // A call that never ends is stopped after 5 s of processor time, which takes far longer on a busy machine.
    let rejection = |line: &Value| line.to_string().contains("plugin rejected");
    let what = format!("plugin rejected: {because}");
    let line = gateway.logged_within(3 * PATIENCE, 0, rejection, &what).await;
    eventually("the rejection is counted", || async { (!rejections(&gateway).await.is_empty()).then_some(()) }).await;
    let (level, file) = (&line["level"], &line["fields"]["file"]);
    assert_eq!((level, file), (&json!("ERROR"), &json!(FILE)));
    let message = line["fields"]["message"].as_str().unwrap();
    let (_, why) = message.split_once(": ").unwrap();
    assert!(why.starts_with(because), "{message}");

    assert_eq!(client.request(3, b"").await.text(), "1");
    let counted = rejections(&gateway).await;
    assert!(counted.len() == 1 && counted[0].ends_with(" 1"), "{counted:?}");
    gateway.metric_is("gateway_plugin_generation{plugin=\"system\"}", 1.0).await;
    gateway.metric_is(FILES_REJECTED, 1.0).await;
    reported(&gateway, FILE, Some("system 1"), Some(why)).await;

    put(&gateway.plugin("system"), &greeter("system", "2", &[3]));
    assert_eq!(client.answers_until(3, 0, "2").await, [(0, "1".to_owned()), (0, "2".to_owned())]);
    reported(&gateway, FILE, Some("system 2"), None).await;
    gateway.metric_is(FILES_REJECTED, 0.0).await;
    gateway.metric_is("gateway_connections_total", 1.0).await;
}

/// Asserts that a new version with these bytes is rejected.
async fn rejected_bytes(bad: &[u8], because: &str) {
    rejected(|file| put(file, bad), because).await;
}

/// Returns a variant of the plugin `system` on route 3. The keys of `fault` are added to the variant's keys, or replace
/// them.
fn faulty(fault: &Value) -> Vec<u8> {
    let mut keys = json!({ "name": "system", "version": "bad", "routes": [3] });
    keys.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
    variant(&keys)
}

/// Returns a good plugin in which every occurrence of the name `old` is replaced by `new`, which has the same length.
fn renamed(old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut component = greeter("system", "bad", &[3]);
    let mut found = 0;
    for at in 0..component.len() - old.len() {
        if component[at..].starts_with(old.as_bytes()) {
            component[at..at + old.len()].copy_from_slice(new.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "the component does not contain {old}");
    component
}

#[tokio::test]
async fn an_empty_file_is_rejected() {
    rejected_bytes(b"", "it is not a WebAssembly component: the file is empty").await;
}

#[tokio::test]
async fn a_truncated_file_is_rejected() {
    let whole = greeter("system", "bad", &[3]);
    rejected_bytes(&whole[..whole.len() - 1], "it is not a WebAssembly component: unexpected end").await;
}

#[tokio::test]
async fn random_bytes_are_rejected() {
    // The bytes are the same in every run: xorshift64 with a fixed seed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    let random: Vec<u8> = (0..20_000).flat_map(|_| next()).collect();
    rejected_bytes(&random, "it is not a WebAssembly component: ").await;
}

#[tokio::test]
async fn a_component_with_random_bytes_in_it_is_rejected() {
    let mut broken = greeter("system", "bad", &[3]);
    let middle = broken.len() / 2;
    broken[middle..middle + 1000].fill(0xff);
    rejected_bytes(&broken, "it is not a WebAssembly component: ").await;
}

#[tokio::test]
async fn a_core_module_is_rejected() {
    rejected_bytes(b"\0asm\x01\0\0\0", "it is a core module").await;
}

#[tokio::test]
async fn text_is_rejected() {
    rejected_bytes(b"(component)\n", "it is not a WebAssembly component: ").await;
}

#[tokio::test]
async fn a_component_without_the_interface_is_rejected() {
    let because = "it exports neither `gateway:policy/plugin@0.2.3` nor `gateway:policy/policy@0.1.0`: build it against \
                   wit/0.2/policy.wit, for example with world `minimal`; it exports ";
    rejected_bytes(b"\0asm\x0d\0\x01\0", &format!("{because}nothing")).await;
    let other = renamed("gateway:policy/plugin@0.2.3", "gateway:policy/plugim@0.2.3");
    rejected_bytes(&other, &format!("{because}`gateway:policy/")).await;
}

#[tokio::test]
async fn a_component_for_another_version_of_the_interface_is_rejected() {
    let because = "it was built against version 0.3.0 of the plugin interface, and this gateway serves plugins built \
                   against 0.2.0 up to 0.2.3, or 0.1.0 up to 0.1.0";
    rejected_bytes(&renamed("gateway:policy/plugin@0.2.3", "gateway:policy/plugin@0.3.0"), because).await;
}

#[tokio::test]
async fn a_component_with_an_import_that_is_not_offered_is_rejected() {
    let because = "it imports `acme:cli/exit@0.2.6`, and this gateway offers only `gateway:policy/log`, \
                   `gateway:policy/state`, `gateway:policy/attributes` and `gateway:policy/tracing` of version 0.2.3, \
                   and WASI 0.2";
    rejected_bytes(&renamed("wasi:cli/exit", "acme:cli/exit"), because).await;
}

#[tokio::test]
async fn a_plugin_that_refuses_its_settings_is_rejected() {
    let because = "it refuses its settings (plugins.settings.system.config): config.greeting: too short";
    rejected_bytes(&faulty(&json!({ "refuses": "config.greeting: too short" })), because).await;
}

#[tokio::test]
async fn a_plugin_that_traps_in_describe_is_rejected() {
    rejected_bytes(&faulty(&json!({ "traps_in": "describe" })), "its `describe` failed: ").await;
}

#[tokio::test]
async fn a_plugin_that_traps_in_configure_is_rejected() {
    rejected_bytes(&faulty(&json!({ "traps_in": "configure" })), "its `configure` failed: ").await;
}

#[tokio::test]
async fn a_plugin_that_never_ends_its_describe_is_rejected() {
    let because = "its `describe` failed: it ran for more than 5 s";
    rejected_bytes(&faulty(&json!({ "loops_in": "describe" })), because).await;
}

#[tokio::test]
async fn a_version_that_claims_a_taken_route_is_rejected() {
    rejected_bytes(&faulty(&json!({ "routes": [3, 1] })), "it claims route 0x01, which plugin `chat` serves").await;
}

#[tokio::test]
async fn a_version_that_takes_another_plugins_name_is_rejected() {
    rejected_bytes(&faulty(&json!({ "name": "chat" })), "another file is plugin `chat` already").await;
}

#[tokio::test]
async fn a_manifest_that_is_not_valid_is_rejected() {
    let because = "its manifest is not valid: the name \"no good\" is not 1 to 64 characters of A-Z a-z 0-9 _ . -";
    rejected_bytes(&faulty(&json!({ "name": "no good" })), because).await;
    let twice = "its manifest is not valid: it claims route 0x03 twice";
    rejected_bytes(&faulty(&json!({ "routes": [3, 3] })), twice).await;
    let topic = "its manifest is not valid: it subscribes to \"a\\nb\", and a topic is 1 to 256 bytes \
                 without control characters";
    rejected_bytes(&faulty(&json!({ "topics": ["a\nb"] })), topic).await;
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_rejected() {
    let dangle = |file: &Path| {
        symlink("nowhere", file.with_file_name("next")).unwrap();
        fs::rename(file.with_file_name("next"), file).unwrap();
    };
    rejected(dangle, "it cannot be read: No such file or directory").await;
}

/// Asserts that a new file is rejected for this reason, and that the plugins that serve are not disturbed.
async fn newcomer_rejected(put_bad: impl FnOnce(&Path), because: &str) {
    let gateway = start().await;
    let mut client = gateway.client().await;
    put_bad(&gateway.plugin("new"));
    let line = gateway.logged("plugin rejected").await;
    assert_eq!(line["fields"]["file"], "new.wasm");
    let message = line["fields"]["message"].as_str().unwrap();
    let why = message.strip_prefix("plugin rejected: ").filter(|why| why.starts_with(because));
    assert!(why.is_some(), "{message}");
    reported(&gateway, "new.wasm", None, why).await;
    assert_eq!(client.request(3, b"").await.text(), "1");
    assert_eq!(
        rejections(&gateway).await,
        ["gateway_plugin_reloads_total{plugin=\"new.wasm\",outcome=\"rejected\"} 1"]
    );
}

#[tokio::test]
async fn a_directory_with_the_name_of_a_plugin_is_rejected() {
    newcomer_rejected(|file| fs::create_dir(file).unwrap(), "it is not a file").await;
}

#[tokio::test]
async fn a_new_link_that_leads_nowhere_is_rejected() {
    newcomer_rejected(|file| symlink("nowhere", file).unwrap(), "it cannot be read: No such file or directory").await;
}

#[tokio::test]
async fn a_file_that_is_not_a_regular_one_is_rejected() {
    let fifo = |file: &Path| {
        assert!(std::process::Command::new("mkfifo").arg(file).status().unwrap().success());
    };
    newcomer_rejected(fifo, "it is not a file").await;
}

#[tokio::test]
async fn a_file_over_64_mib_is_rejected_without_being_read() {
    let sparse = |file: &Path| fs::File::create(file).unwrap().set_len((64 << 20) + 1).unwrap();
    newcomer_rejected(sparse, "it has 67108865 bytes, and 67108864 are the most").await;
}

#[tokio::test]
async fn a_file_of_zeros_is_rejected() {
    rejected_bytes(&vec![0; 1 << 20], "it is not a WebAssembly component: magic header not detected").await;
}

#[tokio::test]
async fn a_sparse_file_is_rejected() {
    let sparse = |file: &Path| {
        let next = file.with_file_name("next");
        fs::File::create(&next).unwrap().set_len(60 << 20).unwrap();
        fs::rename(next, file).unwrap();
    };
    rejected(sparse, "it is not a WebAssembly component: magic header not detected").await;
}

#[tokio::test]
async fn a_bad_file_in_the_place_of_a_removed_file_leaves_the_route_without_a_plugin() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    // Removing the file also removes the last good version, so no version can serve on.
    fs::remove_file(gateway.plugin("system")).unwrap();
    client.answers_until(3, 3, "no plugin serves route 0x03").await;
    put(&gateway.plugin("system"), b"rubbish");
    gateway.logged("plugin rejected: it is not a WebAssembly component").await;
    assert_eq!(client.request(3, b"").await.status, 3);
    put(&gateway.plugin("system"), &fs::read(dist("system")).unwrap());
    client.answers_until(3, 0, "again").await;
}

#[tokio::test]
async fn a_gateway_that_serves_stays_ready_when_a_file_turns_bad() {
    let gateway = start().await;
    put(&gateway.plugin("system"), b"rubbish");
    gateway.logged("plugin rejected").await;
    eventually("the report", || async { report(&gateway, FILE).await["error"].is_string().then_some(()) }).await;
    assert_eq!(gateway.get("/readyz").await.0, 200, "the gateway is not ready although the last good version serves");
}

#[tokio::test]
async fn a_bad_file_stays_reported_when_the_settings_change() {
    let gateway = start().await;
    put(&gateway.plugin("system"), b"rubbish");
    gateway.logged("plugin rejected").await;
    let settings = "plugins: { directory: plugins, settings: { system: { config: { greeting: hello } } } }";
    gateway.reconfigure(&Setup { yaml: settings.to_owned(), ..Setup::default() });
    gateway.client().await.answers_until(3, 0, "hello").await;
    let entry = report(&gateway, FILE).await;
    assert!(entry["error"].as_str().is_some_and(|error| error.contains("not a WebAssembly component")), "{entry}");
}
