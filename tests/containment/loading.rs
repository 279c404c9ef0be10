//! Tests of every way to misbehave while the gateway loads a file or its settings. The gateway rejects each of them
//! with an exact reason. Meanwhile the earlier version serves on, and a healthy route is not disturbed.

use crate::{ROUTE, bystander::Bystander, loaded, settings};
use gateway_tests::{Gateway, PATIENCE, Setup, component, put, variant, wat};
use serde_json::{Value, json};

/// The number of ways to misbehave while a file or its settings are loaded.
pub(crate) const WAYS: usize = CONFIGURE.len() + FILES.len();

/// The ways in which the hostile plugin misbehaves in `configure`, each with the reason for which it is rejected.
const CONFIGURE: [(&str, &str); 11] = [
    ("loop", "its `configure` failed: it ran for more than 5 s"),
    ("panic", "its `configure` failed: wasm trap: wasm `unreachable` instruction executed"),
    ("exit", "its `configure` failed: a policy may not exit"),
    ("divide-by-zero", "its `configure` failed: wasm trap: wasm `unreachable` instruction executed"),
    ("recurse", "its `configure` failed: wasm trap: out of bounds memory access"),
    ("memory-at-once", "its `configure` failed: it wanted more than 64 MiB of memory (`memory_mb`)"),
    ("memory-page-by-page", "its `configure` failed: it wanted more than 64 MiB of memory (`memory_mb`)"),
    ("too-many-topics", "its manifest is not valid: it subscribes to 2000 topics, and 1024 are the most"),
    ("illegal-topic", "its manifest is not valid: it subscribes to \"a\\nb\", and a topic is 1 to 256 bytes"),
    ("refuse-at-length", "it refuses its settings (plugins.settings.hostile.config): \\n\\u{1b}[31m\\n\\u{1b}[31m"),
    ("refuse", "it refuses its settings (plugins.settings.hostile.config): config.configure: this is refused"),
];

/// A function that returns a file's content.
type Content = fn() -> Vec<u8>;

/// The new files, each with the reason for which it is rejected.
const FILES: [(Content, &str); 12] = [
    (|| faulty("loops_in", "describe"), "its `describe` failed: it ran for more than 5 s"),
    (|| faulty("traps_in", "describe"), "its `describe` failed: wasm trap: wasm `unreachable` instruction executed"),
    (|| edited("(export \"on-message\" (func $on-message))", ""), "it cannot be linked: "),
    (
        || edited("(table $two 0 funcref)", "(table $two 1000001 funcref)"),
        "its `start` failed: it wanted tables of more than 1000000 elements (`table_elements`)",
    ),
    (
        || edited("(memory (export \"memory\") 1)", "(memory (export \"memory\") 1025)"),
        "its `start` failed: it wanted more than 64 MiB of memory (`memory_mb`)",
    ),
    (|| edited(MEMORY, GRAB), "its `start` failed: it wanted more than 64 MiB of memory (`memory_mb`)"),
    (
        || {
            edited(
                "(func $nothing (result",
                "(func $forever (loop $again (br $again))) (start $forever) (func $nothing (result",
            )
        },
        "its `start` failed: it ran for more than 5 s",
    ),
    // The host calls the guest's allocator to pass the settings. In the next two files, the allocator never returns, or
    // it returns an address outside of the memory.
    (|| edited(REALLOC, &REALLOC.replace("(i32.const 4096)", "(loop $again (br $again)) unreachable")), RAN_TOO_LONG),
    (
        || edited(REALLOC, &REALLOC.replace("4096", "-16")),
        "its `configure` failed: realloc return: beyond end of memory",
    ),
    (
        || edited("\"describe\") (memory $memory))", "\"describe\") (memory $memory) (post-return $trap))"),
        "its `describe` failed: wasm trap: wasm `unreachable` instruction executed",
    ),
    // The manifest of the first file has a list of 2^31 routes. The manifest of the second file has a name that is not
    // UTF-8.
    (
        || edited(ROUTES, &ROUTES.replace("\\01\\00\\00\\00", "\\00\\00\\00\\80")),
        "its `describe` failed: list pointer/length out of bounds of memory",
    ),
    (|| edited("\"endless\")", "\"\\ff\\fendless\")"), "its `describe` failed: invalid utf-8"),
];

/// The allocator in the text of the hand-written guest `endless`.
const REALLOC: &str = "(func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 4096))";
/// The memory in the text of the hand-written guest `endless`.
const MEMORY: &str = "(memory (export \"memory\") 1)";
/// The same memory, and a function that takes 125 MiB. Each time, it also asks for almost the whole address space in a
/// 64-bit memory, so that a sum of both would overflow.
const GRAB: &str = "(memory (export \"memory\") 1) (memory $wide i64 0)
    (func $grab (local $i i32)
      (loop $again
        (drop (memory.grow 0 (i32.const 1)))
        (drop (memory.grow $wide (i64.const 281474976710656)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $i) (i32.const 2000))))
      (if (i32.lt_u (memory.size 0) (i32.const 2000)) (then unreachable)))
    (start $grab)";
/// The list of routes in the text of the hand-written guest `endless`.
const ROUTES: &str = "\"\\a0\\00\\00\\00\\01\\00\\00\\00\"";

/// The maximum length of a report on all files, in bytes. Without a bound, the text of a refusal may have megabytes.
const MAX_REPORT_BYTES: usize = 16_384;

const RAN_TOO_LONG: &str = "its `configure` failed: it ran for more than 5 s";

fn faulty(fault: &str, call: &str) -> Vec<u8> {
    variant(&json!({ "name": "newcomer", "version": "1", "routes": [0x68], fault: call }))
}

/// Returns the hand-written guest `endless` with a part of its text replaced.
fn edited(old: &str, new: &str) -> Vec<u8> {
    let text = wat("endless");
    assert!(text.contains(old), "the guest `endless` does not contain {old}");
    component(&text.replace(old, new))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_configure_is_rejected_and_the_earlier_settings_stay_in_use() {
    let gateway = loaded(settings("on_packet", "well", "")).await;
    let bystander = Bystander::start(&gateway).await;
    for (way, because) in CONFIGURE {
        let lines = gateway.log_lines().len();
        gateway.reconfigure(&settings("configure", way, ""));
        rejected(&gateway, lines, "hostile.wasm", because).await;
    }
    bystander.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_file_is_rejected_and_disturbs_no_other_route() {
    let gateway = loaded(settings("on_packet", "well", "")).await;
    let bystander = Bystander::start(&gateway).await;
    for (file, because) in FILES {
        let lines = gateway.log_lines().len();
        put(&gateway.plugin("newcomer"), &file());
        rejected(&gateway, lines, "newcomer.wasm", because).await;
    }
    bystander.finish().await;
}

#[tokio::test]
async fn a_file_whose_start_needs_much_memory_is_loaded_when_its_settings_grant_it() {
    let setup = |settings: &str| Setup {
        yaml: format!("games: [{{ id: mmo }}]\nplugins: {{ directory: plugins, settings: {settings} }}"),
        ..Setup::default()
    };
    let gateway = Gateway::start(setup("{}")).await;
    put(&gateway.plugin("endless"), &edited(MEMORY, "(memory (export \"memory\") 1600)"));
    gateway.logged("Until `describe` has told its name, the largest `memory_mb` of all plugins counts").await;
    // What another plugin may use is enough until the name is known, and not afterwards.
    let lines = gateway.log_lines().len();
    gateway.reconfigure(&setup("{ other: { memory_mb: 100 } }"));
    gateway.logged_after(lines, "plugin compiled").await;
    gateway.logged_after(lines, "its `start` failed: it wanted more than 64 MiB of memory (`memory_mb`): ").await;
    gateway.reconfigure(&setup("{ endless: { memory_mb: 100 } }"));
    gateway.logged("plugin loaded\",\"plugin\":\"endless").await;
}

/// Waits for a log line, after the first `lines` lines, which says that the file is rejected for this reason. Asserts
/// that the hostile plugin serves as before.
async fn rejected(gateway: &Gateway, lines: usize, file: &str, because: &str) {
    // A call that never ends is stopped after 5 s of processor time, which takes far longer on a busy machine.
    let rejection = |line: &Value| line.to_string().contains("plugin rejected");
    let what = format!("plugin rejected: {because}");
    let line = gateway.logged_within(3 * PATIENCE, lines, rejection, &what).await;
    assert_eq!(line["fields"]["file"], file);
    let message = line["fields"]["message"].as_str().unwrap();
    let (_, why) = message.split_once(": ").unwrap();
    assert!(why.starts_with(because), "{message}");
    assert!(message.len() < 5000, "a log line of {} bytes", message.len());
    let (status, report) = gateway.get("/readyz").await;
    assert!(status == 200 && report.len() < MAX_REPORT_BYTES, "/readyz {status} of {} bytes", report.len());
    let (status, plugins) = gateway.get("/api/plugins").await;
    assert!(status == 200 && plugins.len() < MAX_REPORT_BYTES, "/api/plugins {status} of {} bytes", plugins.len());
    let reply = gateway.client().await.request(ROUTE, b"").await;
    assert_eq!((reply.status, reply.text()), (0, "well"));
}
