//! Tests of `plugins.state_file`, which keeps the state of plugins over a restart of the gateway.

use crate::{ask, ask_until, connect, setup};
use gateway_tests::{Gateway, Setup, in_time, probe_as, put};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Output};
use tokio::process::Command;

/// Returns the setup of the plugin `probe`, with a file for the state.
fn with_file() -> Setup {
    let setup = setup("");
    Setup { yaml: setup.yaml.replace("directory: plugins", "directory: plugins, state_file: state.json"), ..setup }
}

fn file(gateway: &Gateway) -> PathBuf {
    gateway.config().with_file_name("state.json")
}

/// Stops the gateway and starts it again in the same folder.
async fn restarted(mut gateway: Gateway) -> Gateway {
    gateway.signal("TERM").await;
    assert!(gateway.exit().await.success());
    gateway.again().await
}

#[tokio::test]
async fn state_survives_a_restart_with_what_on_disconnect_has_written_in_the_drain() {
    let gateway = Gateway::start(with_file()).await;
    let mut client = connect(&gateway, "tag=3&user=7").await;
    ask(&mut client, "put on-disconnect put gone %cause %tag %user; put k v; put-for 1 short v").await;
    ask(&mut client, "wake 1 0; put on-wake/1 put woken yes; put-for 3600000 long v").await;
    ask_until(&mut client, "get woken; get short", "yes none").await;
    let path = file(&gateway);
    let gateway = restarted(gateway).await;
    let mut saved: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(saved["plugins"]["probe"]["entries"][2]["expires_ms"].take().is_u64(), "{saved}");
    let entry = |key, value| json!({ "key": key, "value": value });
    let entries = [
        entry("gone", "ZHJhaW4gMyA3"),
        entry("k", "dg=="),
        json!({ "key": "long", "value": "dg==", "expires_ms": null }),
        entry("on-disconnect", "cHV0IGdvbmUgJGNhdXNlICR0YWcgJHVzZXI="),
        entry("on-wake/1", "cHV0IHdva2VuIHllcw=="),
        entry("woken", "eWVz"),
    ];
    assert_eq!(saved, json!({ "version": 1, "plugins": { "probe": { "format": 0, "entries": entries } } }));
    let mut client = connect(&gateway, "").await;
    assert_eq!(ask(&mut client, "get k; get gone; get long; get woken; say $tag").await, "v drain 3 7 v yes 0");
}

#[tokio::test]
async fn without_the_file_a_restart_loses_the_state() {
    let gateway = Gateway::start(setup("")).await;
    ask(&mut connect(&gateway, "").await, "put k v").await;
    let gateway = restarted(gateway).await;
    assert_eq!(ask(&mut connect(&gateway, "").await, "count ").await, "0");
}

#[tokio::test]
async fn a_version_with_another_state_format_starts_empty_after_a_restart() {
    let gateway = Gateway::start(with_file()).await;
    ask(&mut connect(&gateway, "").await, "put k v").await;
    put(&gateway.plugin("zebra"), &probe_as("zebra", 5, true));
    let gateway = restarted(gateway).await;
    assert_eq!(ask(&mut connect(&gateway, "").await, "get k").await, "v");
    put(&gateway.plugin("probe"), &probe_as("probe", 1, true));
    let gateway = restarted(gateway).await;
    assert_eq!(ask(&mut connect(&gateway, "").await, "count ").await, "0");
}

#[tokio::test]
async fn the_state_of_a_plugin_that_is_away_is_kept_over_restarts() {
    let gateway = Gateway::start(with_file()).await;
    ask(&mut connect(&gateway, "").await, "put k v").await;
    let file = gateway.plugin("probe");
    let content = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    gateway.logged("\"message\":\"plugin removed\",\"plugin\":\"probe\"").await;
    let gateway = restarted(restarted(gateway).await).await;
    put(&gateway.plugin("probe"), &content);
    gateway.logged("plugin loaded\",\"plugin\":\"probe").await;
    assert_eq!(ask(&mut connect(&gateway, "").await, "get k").await, "v");
}

/// Runs a gateway in a folder with this file for the state, until it ends by itself.
async fn run_with(content: &[u8]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("state.json"), content).unwrap();
    let yaml = "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\n\
                plugins: { directory: plugins, state_file: state.json }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let mut command: Command = Gateway::command(None);
    command.arg("run").current_dir(&folder).kill_on_drop(true);
    let output = in_time("the end of a gateway that cannot start", command.output()).await.unwrap();
    assert_eq!(fs::read(folder.path().join("state.json")).unwrap(), content, "the file is as it was");
    output
}

#[tokio::test]
async fn a_gateway_with_a_broken_file_does_not_start_and_says_what_to_do() {
    for (content, why) in [
        (&b"{\"version\":1,\"plu"[..], "EOF while parsing"),
        (b"", "EOF while parsing"),
        (b"{\"version\":2,\"other\":{}}", "it has version 2, and this gateway reads version 1"),
        (
            b"{\"version\":1,\"plugins\":{\"probe\":{\"format\":0,\"entries\":[{\"key\":\"k\",\"value\":\"?\"}]}}}",
            "a value is no base64",
        ),
    ] {
        let output = run_with(content).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        let what = "the file state.json (plugins.state_file) is not the state of plugins: move it away to start with \
                    empty state";
        assert!(told.contains(what) && told.contains(why), "{told}");
    }
}

#[tokio::test]
async fn a_gateway_does_not_start_if_the_file_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    // The gateway writes a second file first. A directory in its place is in the way even of the superuser.
    for directory in ["plugins", "state.json.tmp"] {
        fs::create_dir(folder.path().join(directory)).unwrap();
    }
    let yaml = "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\n\
                plugins: { directory: plugins, state_file: state.json }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let mut command: Command = Gateway::command(None);
    command.arg("run").current_dir(&folder).kill_on_drop(true);
    let output = in_time("the end of a gateway that cannot start", command.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    let what = "the state of the plugins cannot be written to state.json (plugins.state_file): the file's directory \
                has to be writable and to have space for a second copy of the file: Is a directory";
    assert!(told.contains(what), "{told}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_at_the_end_is_an_error_in_the_log_and_the_gateway_still_ends() {
    let setup = with_file();
    let setup = Setup { yaml: setup.yaml.replace("state.json", "plugins/state.json"), ..setup };
    let mut gateway = Gateway::start(setup).await;
    ask(&mut connect(&gateway, "").await, "put k v").await;
    fs::rename(gateway.plugins(), gateway.plugins().with_file_name("elsewhere")).unwrap();
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit().await.code(), Some(0));
    let line = gateway.logged("plugin state not saved, and the next start finds the older state: ").await;
    assert_eq!((&line["level"], &line["fields"]["file"]), (&"ERROR".into(), &"plugins/state.json".into()));
    gateway.logged("\"message\":\"stopped\"").await;
}

#[tokio::test]
async fn a_gateway_that_was_killed_starts_with_the_state_of_its_last_stop() {
    let gateway = Gateway::start(with_file()).await;
    ask(&mut connect(&gateway, "").await, "put k first").await;
    let mut gateway = restarted(gateway).await;
    ask(&mut connect(&gateway, "").await, "put k second").await;
    gateway.signal("KILL").await;
    assert!(!gateway.exit().await.success());
    let gateway = gateway.again().await;
    assert_eq!(ask(&mut connect(&gateway, "").await, "get k").await, "first");
}
