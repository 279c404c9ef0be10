//! Tests of plugins in every language. They cover the lobby of plugins/lobby, which `make lobby` builds, and the new
//! plugin that `gateway plugin new` writes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gateway_tests::{Client, Gateway, PATIENCE, Packet, Setup, greeter, put, root};
use std::{
    env, fs,
    io::{Write, stderr},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};
use tokio::{
    process::Command,
    time::{self, Instant},
};

/// The route of the new plugins.
const ROUTE: u8 = 77;
const NO_ROUTE: u16 = 3;

/// The maximum duration of a command on a busy machine. The command may compile a plugin and its libraries.
const BUILD: Duration = PATIENCE.saturating_mul(10);

/// Returns the lobby in a language, or `None` if the toolchain of the language is not installed. On CI a missing
/// toolchain is an error.
fn lobby(language: &str) -> Option<PathBuf> {
    let file = root().join("target/lobby").join(format!("{language}.wasm"));
    if file.exists() {
        return Some(file);
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{} does not exist: run `make lobby-{language}`", file.display());
    // The test does not use `eprintln!`, since the test harness hides that output if the test passes.
    let skipped =
        format!("SKIPPED: {language}: {} does not exist, and `make lobby-{language}` says why\n", file.display());
    stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

async fn run(command: &mut Command) -> Output {
    // This may run below a make, which would take the one started here for its own.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").kill_on_drop(true);
    let output = time::timeout(BUILD, command.output()).await;
    output.unwrap_or_else(|_| panic!("waited in vain for the end of {command:?}")).unwrap()
}

#[track_caller]
fn succeeded(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Runs `gateway plugin test` with these settings of the plugin.
async fn tested(component: &Path, vectors: &Path, settings: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.yaml");
    fs::write(&config, format!("plugins: {{ directory: \"{}\", settings: {settings} }}", folder.path().display()))
        .unwrap();
    let mut command = Gateway::command(None);
    run(command.args(["plugin", "test"]).args([component, vectors]).arg("--config").arg(&config)).await
}

/// Asserts that the lobby in this language passes its test vectors.
async fn speaks(language: &str) {
    let Some(component) = lobby(language) else { return };
    // JavaScript needs this much memory, and a busy machine needs this much time.
    let settings = "{ lobby: { memory_mb: 256, call_timeout_ms: 1000 } }";
    let output = tested(&component, &root().join("plugins/lobby/vectors.json"), settings).await;
    let told = succeeded(&output);
    assert!(told.ends_with(" passed, 0 failed\n") && !told.starts_with("0 "), "{told}");
}

#[tokio::test]
async fn the_lobby_speaks_rust() {
    speaks("rust").await;
}

#[tokio::test]
async fn the_lobby_speaks_c() {
    speaks("c").await;
}

#[tokio::test]
async fn the_lobby_speaks_zig() {
    speaks("zig").await;
}

#[tokio::test]
async fn the_lobby_speaks_go() {
    speaks("go").await;
}

#[tokio::test]
async fn the_lobby_speaks_javascript() {
    speaks("javascript").await;
}

#[tokio::test]
async fn the_lobby_speaks_python() {
    speaks("python").await;
}

#[tokio::test]
async fn vectors_run_with_the_limits_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (component, vectors) = (folder.path().join("greeter.wasm"), folder.path().join("vectors.json"));
    fs::write(&component, greeter("greeter", "1", &[77])).unwrap();
    let case = r#"{"name": "32 MiB", "packet": {"payload": "grow"}, "expect": {"actions": [{"reply": {"body": "33554432"}}]}}"#;
    let settings = r#"{"config": {}, "games": [], "routes": [77]}"#;
    fs::write(&vectors, format!(r#"{{"suites": [{{"settings": {settings}, "cases": [{case}]}}]}}"#)).unwrap();

    let patient = "call_timeout_ms: 10000";
    let output = tested(&component, &vectors, &format!("{{ greeter: {{ {patient} }} }}")).await;
    assert_eq!(succeeded(&output), "2 passed, 0 failed\n");
    let output = tested(&component, &vectors, &format!("{{ greeter: {{ memory_mb: 16, {patient} }} }}")).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("it wanted more than 16 MiB of memory") && told.ends_with("1 passed, 1 failed\n"), "{told}");
}

/// Asserts that the plugin that `gateway plugin new` writes builds, passes its own test, and serves in a running
/// gateway.
async fn starts(language: &str) {
    if lobby(language).is_none() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let new = ["plugin", "new", "hello", "--language", language, "--route", &ROUTE.to_string()];
    let output = run(Gateway::command(None).args(new).current_dir(&parent)).await;
    assert!(succeeded(&output).contains("make -C hello test\n"), "{output:?}");

    let folder = parent.path().join("hello");
    let tools = format!("TOOLS={}", root().join("target/tools").display());
    // The make uses the tools of the lobby, and the Rust artifacts of the last run.
    let mut make = Command::new("make");
    make.args(["test", &tools]).env("CARGO_TARGET_DIR", root().join("target/new")).current_dir(&folder);
    let output = run(&mut make).await;
    assert!(succeeded(&output).ends_with("3 passed, 0 failed\n"), "{output:?}");

    let yaml = fs::read_to_string(folder.join("gateway.yaml")).unwrap().replace("\".\"", "plugins");
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let mut client = gateway.client().await;
    put(&gateway.plugin("hello"), &fs::read(folder.join("hello.wasm")).unwrap());
    let reply = served(&mut client, b"world").await;
    assert_eq!((reply.status, reply.text()), (0, "hello, world"));
    let reply = client.request(ROUTE, b"").await;
    assert_eq!((reply.status, reply.text()), (2, "the payload is empty"));
}

/// Waits for the first answer of a plugin. Compiling a component that contains its language's engine takes seconds of
/// processor time, which is far longer on a busy machine.
async fn served(client: &mut Client, payload: &[u8]) -> Packet {
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        let reply = client.request(ROUTE, payload).await;
        if reply.status != NO_ROUTE {
            return reply;
        }
        assert!(Instant::now() < deadline, "no plugin serves the route in time");
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_new_plugin_starts_in_rust() {
    starts("rust").await;
}

#[tokio::test]
async fn a_new_plugin_starts_in_c() {
    starts("c").await;
}

#[tokio::test]
async fn a_new_plugin_starts_in_go() {
    starts("go").await;
}

#[tokio::test]
async fn a_new_plugin_starts_in_javascript() {
    starts("javascript").await;
}

#[tokio::test]
async fn a_new_plugin_starts_in_python() {
    starts("python").await;
}
