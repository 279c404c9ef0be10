//! Plugins in every language: the lobby of plugins/lobby, which `make lobby` builds, against its vectors, and what `gateway plugin new`
//! writes, from nothing to a live route.
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

/// How long a command may take on a machine that is busy, which may compile a plugin and the libraries that it is made of.
const BUILD: Duration = PATIENCE.saturating_mul(10);

/// The lobby in a language. None where the toolchain of the language is not to be had, which on CI is an error.
fn lobby(language: &str) -> Option<PathBuf> {
    let file = root().join("target/lobby").join(format!("{language}.wasm"));
    if file.exists() {
        return Some(file);
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{} is not there: make lobby-{language}", file.display());
    // Not with eprintln, of which nothing is seen when a test passes.
    let skipped = format!("SKIPPED: {language}: {} is not there, `make lobby-{language}` says why\n", file.display());
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

/// `gateway plugin test` with these settings of the plugin.
async fn tested(component: &Path, vectors: &Path, settings: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.yaml");
    fs::write(&config, format!("plugins: {{ directory: \"{}\", settings: {settings} }}", folder.path().display()))
        .unwrap();
    let mut command = Gateway::command(None);
    run(command.args(["plugin", "test"]).args([component, vectors]).arg("--config").arg(&config)).await
}

/// The lobby does what its vectors say.
async fn speaks(language: &str) {
    let Some(component) = lobby(language) else { return };
    // The room that JavaScript needs, and the time that a machine needs that is busy.
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

/// What `gateway plugin new` writes builds, passes its own test, and answers when it is dropped into a gateway that runs.
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
    // The tools of the lobby, and what Rust compiled the last time.
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

/// The first answer of a plugin. To compile a component that brings its language's engine takes seconds of a processor, which on a machine
/// that is busy is far longer.
async fn served(client: &mut Client, payload: &[u8]) -> Packet {
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        let reply = client.request(ROUTE, payload).await;
        if reply.status != NO_ROUTE {
            return reply;
        }
        assert!(Instant::now() < deadline, "nothing serves the route");
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
