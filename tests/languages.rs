//! Tests of plugins in every supported language. For each language, they test the lobby in plugins/lobby and the plugin
//! that `gateway plugin new` writes. `make lobby` builds the lobbies.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gateway_tests::{Client, Gateway, PATIENCE, Packet, Setup, greeter, guest, has, put, root};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};
use tokio::{
    process::Command,
    time::{self, Instant},
};

/// The route of the plugins that `gateway plugin new` writes.
const ROUTE: u8 = 77;
/// The route of the lobbies.
const LOBBY: u8 = 16;
/// The status of a reply if no plugin serves the route.
const NO_ROUTE: u16 = 3;

/// The maximum duration of a command on a busy machine. The command may compile a plugin and its libraries.
const BUILD: Duration = PATIENCE.saturating_mul(5);

/// Returns the path of the lobby in a language, or `None` if the lobby was not built. On CI, a missing lobby is an
/// error. Elsewhere the toolchain of the language may not be installed.
fn lobby(language: &str) -> Option<PathBuf> {
    let file = root().join("target/lobby").join(format!("{language}.wasm"));
    if file.exists() {
        return Some(file);
    }
    let missing = format!("{} does not exist, and `make lobby-{language}` says why", file.display());
    let _ = has(language, Some(&missing));
    None
}

async fn run(command: &mut Command) -> Output {
    // If make runs the tests, a make that a test starts would see these variables and take itself for a sub-make.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").kill_on_drop(true);
    let output = time::timeout(BUILD, command.output()).await;
    output.unwrap_or_else(|_| panic!("timed out after {BUILD:?} while waiting for the end of {command:?}")).unwrap()
}

#[track_caller]
fn succeeded(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Runs `gateway plugin test` with these `plugins.settings`.
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
    // The memory is enough for JavaScript, and the timeout is enough for a busy machine.
    let settings = "{ lobby: { memory_mb: 256, call_timeout_ms: 1000 } }";
    let output = tested(&component, &root().join("plugins/lobby/vectors.json"), settings).await;
    let told = succeeded(&output);
    assert!(told.ends_with(" passed, 0 failed\n") && !told.starts_with("0 "), "{told}");
}

#[tokio::test]
async fn the_lobby_in_rust_passes_its_vectors() {
    speaks("rust").await;
}

#[tokio::test]
async fn the_lobby_in_c_passes_its_vectors() {
    speaks("c").await;
}

#[tokio::test]
async fn the_lobby_in_zig_passes_its_vectors() {
    speaks("zig").await;
}

#[tokio::test]
async fn the_lobby_in_go_passes_its_vectors() {
    speaks("go").await;
}

#[tokio::test]
async fn the_lobby_in_javascript_passes_its_vectors() {
    speaks("javascript").await;
}

/// Returns the processor time of a gateway and of the children that it has waited for.
fn processor_time(gateway: &Gateway) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // The user and system time of the process, and of its children, in ticks of 10 ms.
    Duration::from_millis(fields[11..15].iter().map(|field| field.parse::<u64>().unwrap() * 10).sum())
}

/// The Python lobby is the largest plugin: it contains the interpreter, and takes many seconds to compile. The test
/// vectors come first, so that the gateway finds the compiled code in the cache.
#[tokio::test]
async fn the_lobby_in_python_passes_its_vectors_and_restarts_in_less_than_a_second_of_processor_time() {
    speaks("python").await;
    let Some(lobby) = lobby("python") else { return };
    let settings = "{ lobby: { memory_mb: 256, call_timeout_ms: 1000 } }";
    let yaml = format!("plugins: {{ directory: plugins, settings: {settings} }}");
    let files = vec![("lobby.wasm", fs::read(lobby).unwrap())];
    let setup = Setup { yaml, plugins: Vec::new(), files, ..Setup::default() };
    let mut gateway = Gateway::start_without_waiting(setup).await;
    served(&mut gateway.client().await, LOBBY, b"ping").await;
    let mut times = Vec::new();
    // The threads that load plugins have a low priority, so on a busy machine the time by the clock says nothing. Some
    // caches of the machine may be cold.
    for _ in 0..3 {
        gateway.signal("TERM").await;
        gateway.exit().await;
        gateway = gateway.again().await;
        served(&mut gateway.client().await, LOBBY, b"ping").await;
        times.push(processor_time(&gateway));
    }
    println!("a restart takes {times:?} of processor time");
    assert!(times.iter().any(|time| *time < Duration::from_secs(1)), "{times:?}");
}

#[tokio::test]
async fn plugin_test_uses_the_limits_of_the_configuration() {
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

#[tokio::test]
async fn plugin_test_fails_an_answer_that_every_gateway_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let (component, vectors) = (folder.path().join("hostile.wasm"), folder.path().join("vectors.json"));
    fs::copy(guest("hostile"), &component).unwrap();
    let case = r#"{"name": "reserved", "packet": {}, "expect": {"actions": [{"reply": {"status": 99}}]}}"#;
    let settings = r#"{"config": {"on_packet": "reserved-status"}, "games": [], "routes": [102]}"#;
    fs::write(&vectors, format!(r#"{{"suites": [{{"settings": {settings}, "cases": [{case}]}}]}}"#)).unwrap();
    let output = tested(&component, &vectors, "{}").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let why = "the gateway refuses the answer: its reply has status 99, and 9 to 255 are reserved";
    assert!(told.contains(why), "{told}");
}

/// Asserts that the plugin that `gateway plugin new` writes builds, passes its own test, and serves in a running
/// gateway.
async fn starts(language: &str) {
    if lobby(language).is_some() {
        builds_and_serves(language, &root().join("target/tools")).await;
    }
}

/// Does the same as [`starts`], with the folder in which the tools of the language are installed.
async fn builds_and_serves(language: &str, tools: &Path) {
    let parent = tempfile::tempdir().unwrap();
    let new = ["plugin", "new", "hello", "--language", language, "--route", &ROUTE.to_string()];
    let output = run(Gateway::command(None).args(new).current_dir(&parent)).await;
    assert!(succeeded(&output).contains("make -C hello test\n"), "{output:?}");

    let folder = parent.path().join("hello");
    let tools = format!("TOOLS={}", tools.display());
    // The build uses the tools that `make lobby` or the last run has installed. The Rust build also reuses the artifacts
    // of the last run.
    let mut make = Command::new("make");
    make.args(["test", &tools]).env("CARGO_TARGET_DIR", root().join("target/new")).current_dir(&folder);
    let output = run(&mut make).await;
    assert!(succeeded(&output).ends_with("3 passed, 0 failed\n"), "{output:?}");

    let yaml = fs::read_to_string(folder.join("gateway.yaml")).unwrap().replace("\".\"", "plugins");
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let mut client = gateway.client().await;
    put(&gateway.plugin("hello"), &fs::read(folder.join("hello.wasm")).unwrap());
    let reply = served(&mut client, ROUTE, b"world").await;
    assert_eq!((reply.status, reply.text()), (0, "hello, world"));
    let reply = client.request(ROUTE, b"").await;
    assert_eq!((reply.status, reply.text()), (2, "the payload is empty"));
}

/// Sends requests until a plugin answers. A component may contain the engine of its language, such as a JavaScript
/// engine. Compiling such a component takes seconds of processor time, which is far longer on a busy machine.
async fn served(client: &mut Client, route: u8, payload: &[u8]) -> Packet {
    let deadline = Instant::now() + BUILD;
    loop {
        let reply = client.request(route, payload).await;
        if reply.status != NO_ROUTE {
            return reply;
        }
        assert!(Instant::now() < deadline, "no plugin serves the route in time");
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_new_plugin_in_rust_builds_and_serves() {
    starts("rust").await;
}

#[tokio::test]
async fn a_new_plugin_in_c_builds_and_serves() {
    starts("c").await;
}

#[tokio::test]
async fn a_new_plugin_in_go_builds_and_serves() {
    starts("go").await;
}

#[tokio::test]
async fn a_new_plugin_in_javascript_builds_and_serves() {
    starts("javascript").await;
}

#[tokio::test]
async fn a_new_plugin_in_typescript_builds_and_serves() {
    // There is no lobby in TypeScript. What it needs of the machine is what JavaScript needs.
    if lobby("javascript").is_some() {
        builds_and_serves("typescript", &root().join("target/tools/typescript")).await;
    }
}

#[tokio::test]
async fn a_new_plugin_in_python_builds_and_serves() {
    starts("python").await;
}
