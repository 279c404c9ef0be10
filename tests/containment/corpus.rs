//! The corpus of ways to misbehave while serving. Each row has the limits that are set, the status of the reply, the
//! outcome that is counted, and a text of the log or of the reply.

use crate::{ROUTE, bystander::Bystander, gateway, loaded, settings, settings_of};
use gateway_tests::{Client, Gateway, component, eventually, put, wat};

struct Case {
    guest: Guest,
    way: &'static str,
    limits: &'static str,
    status: u16,
    outcome: &'static str,
    log: &'static str,
    /// The text of the reply, if the gateway refuses an answer that follows the rules.
    text: &'static str,
}

/// A plugin's name and its route.
type Guest = (&'static str, u8);

const HOSTILE: Guest = ("hostile", ROUTE);
const ENDLESS: Guest = ("endless", 0x67);

const fn case(way: &'static str, limits: &'static str, status: u16, outcome: &'static str, log: &'static str) -> Case {
    Case { guest: HOSTILE, way, limits, status, outcome, log, text: "" }
}

/// Returns a case in which the plugin answers by the rules, and the gateway refuses to carry out the answer.
const fn refused(way: &'static str, limits: &'static str, status: u16, text: &'static str) -> Case {
    Case { text, ..case(way, limits, status, "ok", "plugin swapped") }
}

/// Returns a case of the hand-written guest `endless`.
const fn endless(way: &'static str, limits: &'static str, outcome: &'static str, log: &'static str) -> Case {
    Case { guest: ENDLESS, ..case(way, limits, 8, outcome, log) }
}

/// The number of cases.
pub(crate) const WAYS: usize = CASES.len();

/// The limits of a plugin that answers with a million actions.
const MILLION: &str = "call_timeout_ms: 10000, memory_mb: 1024, result_mb: 1024, actions: 1000000";

const CASES: [Case; 40] = [
    // Time.
    case("loop", "", 8, "deadline", "it ran for more than 20 ms (`call_timeout_ms`)"),
    case("loop", "call_timeout_ms: 5", 8, "deadline", "it ran for more than 5 ms (`call_timeout_ms`)"),
    case("slow", "call_timeout_ms: 200", 0, "ok", "plugin swapped"),
    case("sleep", "", 0, "ok", "plugin swapped"),
    // Traps.
    case("panic", "", 8, "trap", "on purpose"),
    case("abort", "", 8, "trap", "unreachable"),
    case("exit", "", 8, "trap", "a policy may not exit"),
    case("divide-by-zero", "", 8, "trap", "divide by zero"),
    case("index", "", 8, "trap", "index out of bounds"),
    case("recurse", "", 8, "trap", "out of bounds memory access"),
    endless("recurse", "", "trap", "call stack exhausted"),
    // Memory.
    case("memory-at-once", "", 8, "memory", "it wanted more than 64 MiB of memory (`memory_mb`)"),
    case("memory-page-by-page", "call_timeout_ms: 1000", 8, "memory", "it wanted more than 64 MiB of memory"),
    case(
        "memory-page-by-page",
        "memory_mb: 4, call_timeout_ms: 1000",
        8,
        "memory",
        "it wanted more than 4 MiB of memory",
    ),
    // Tables and handles.
    endless(
        "tables",
        "call_timeout_ms: 1000",
        "memory",
        "it wanted tables of more than 1000000 elements (`table_elements`)",
    ),
    endless(
        "tables",
        "table_elements: 1000",
        "memory",
        "it wanted tables of more than 1000 elements (`table_elements`)",
    ),
    endless("handles", "call_timeout_ms: 1000", "memory", "it wanted more than 10000 handles (`handles`)"),
    endless(
        "5000 handles",
        "handles: 4999, call_timeout_ms: 1000",
        "memory",
        "it wanted more than 4999 handles (`handles`)",
    ),
    // Results.
    case(
        "million-actions",
        "call_timeout_ms: 1000, memory_mb: 1024, result_mb: 1024",
        8,
        "invalid",
        "1024 are the most (`actions`)",
    ),
    case(
        "million-actions",
        "call_timeout_ms: 1000, memory_mb: 1024",
        8,
        "invalid",
        "its result is over 32 MiB (`result_mb`)",
    ),
    case(
        "huge-result",
        "call_timeout_ms: 5000, memory_mb: 1024",
        8,
        "invalid",
        "its result is over 32 MiB (`result_mb`)",
    ),
    case("reply-over-message-limit", "call_timeout_ms: 5000, memory_mb: 1024", 8, "invalid", "(`max_message_bytes`)"),
    case("invalid-utf8", "", 8, "trap", "utf-8"),
    case("control-characters-in-topic", "", 8, "invalid", "a topic is 1 to 256 bytes without control characters"),
    case("empty-topic", "", 8, "invalid", "a topic is 1 to 256 bytes"),
    case("unknown-route", "", 8, "invalid", "it delivers on route 0xee, which no plugin serves"),
    case("reserved-status", "", 8, "invalid", "status 99, and 9 to 255 are reserved"),
    case("close-code", "", 8, "invalid", "it closes with 1006"),
    case("close-reason", "", 8, "invalid", "124 bytes of reason"),
    case("reject-with-0", "", 8, "invalid", "it rejected with status 0"),
    refused("two-users", "", 6, "the session is bound to another user"),
    case("long-rejection", "", 4, "rejected", "plugin swapped"),
    // What the gateway keeps for a plugin.
    refused(
        "ten-thousand-groups",
        "actions: 10000",
        8,
        "the plugin would have more than 1024 groups of one session, which is a bound of the gateway",
    ),
    refused(
        "million-timers",
        MILLION,
        8,
        "the plugin would have more than 100000 timers, which is a bound of the gateway",
    ),
    refused(
        "million-topics",
        MILLION,
        8,
        "the plugin would have more than 64 topics of one session or group, which is a bound of the gateway",
    ),
    refused(
        "two-mebibytes-of-state",
        "state_mb: 1",
        5,
        "the plugin's state would have 2097217 bytes, and 1048576 are the most (`state_mb`)",
    ),
    case("megabyte-key", "", 8, "invalid", "of 1048576 bytes, and a key has 1 to 256 bytes"),
    // The log. After the second case, the plugin logs nothing for a second.
    case("log-a-long-line", "", 0, "ok", "xxxxxxxx"),
    case("log-a-million-lines", "call_timeout_ms: 5000", 0, "ok", "(`log_lines_per_s`)"),
    // Access to the environment.
    case("look-around", "", 0, "ok", "plugin swapped"),
];

/// The number of calls that each case makes. This many failures do not quarantine a plugin.
const CALLS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_misbehave_costs_its_own_call_and_nothing_else() {
    let gateway = loaded(settings("on_packet", "nothing", "")).await;
    put(&gateway.plugin("endless"), &component(&wat("endless")));
    gateway.logged("plugin loaded\",\"plugin\":\"endless").await;
    let bystander = Bystander::start(&gateway).await;
    for case in &CASES {
        check(&gateway, case).await;
    }
    bystander.finish().await;
    for (guest, _) in [HOSTILE, ENDLESS] {
        gateway.metric_is(&format!("gateway_plugin_live_generations{{plugin=\"{guest}\"}}"), 1.0).await;
    }
}

async fn check(gateway: &Gateway, case: &Case) {
    let Case { guest: (guest, route), way, limits, status, outcome, log, text } = case;
    let generation = format!("gateway_plugin_generation{{plugin=\"{guest}\"}}");
    let calls = format!("gateway_plugin_calls_total{{plugin=\"{guest}\",outcome=\"{outcome}\"}}");
    let (before, counted, lines) =
        (gateway.metric(&generation).await, gateway.metric(&calls).await, gateway.log_lines().len());
    gateway.reconfigure(&settings_of(guest, "on_packet", way, &with_marker(limits, before)));
    gateway.metric_is(&generation, before + 1.0).await;
    let mut client = Client::connect(gateway.address).await;
    for _ in 0..CALLS {
        let reply = client.request(*route, way.as_bytes()).await;
        assert_eq!(reply.status, *status, "{way} {limits}: {:?}", reply.payload);
        assert!(reply.payload.len() <= 1024, "{way}: a reply of {} bytes", reply.payload.len());
        assert!(text.is_empty() || reply.text() == *text, "{way}: {}", reply.text());
    }
    client.assert_alive().await;
    #[allow(clippy::cast_precision_loss, reason = "a few calls")]
    gateway.metric_is(&calls, counted + CALLS as f64).await;
    if !log.is_empty() {
        gateway.logged_after(lines, log).await;
    }
    for line in gateway.log_lines().into_iter().skip(lines) {
        assert!(line.to_string().len() < 8192, "{way}: a log line of {} bytes", line.to_string().len());
    }
}

/// Appends a limit that does not matter here with a new value, so that each case has its own generation.
fn with_marker(limits: &str, generation: f64) -> String {
    let comma = if limits.is_empty() { "" } else { ", " };
    format!("{limits}{comma}log_line_bytes: {}", 4096.0 + generation)
}

#[tokio::test]
async fn the_deadline_of_a_call_grows_with_its_payload() {
    let gateway = loaded(settings("on_packet", "loop", "max_payload_bytes: 2097152")).await;
    assert_eq!(gateway.client().await.request(ROUTE, &[0; 1 << 20]).await.status, 8);
    // 20 ms, and 9 µs for each of 1024 KiB.
    gateway.logged("it ran for more than 29 ms (`call_timeout_ms`)").await;
}

#[tokio::test]
async fn a_plugin_sees_no_file_no_network_and_no_environment() {
    let gateway = gateway(settings("on_packet", "look-around", "")).await;
    let mut client = gateway.client().await;
    let reply = eventually("the plugin is loaded", || async {
        let mut other = gateway.client().await;
        Some(other.request(ROUTE, b"").await).filter(|reply| reply.status == 0)
    })
    .await;
    assert_eq!(reply.text(), "files false, network false, environment 0");
    client.assert_alive().await;
}

#[tokio::test]
async fn output_of_a_plugin_becomes_log_lines_of_bounded_length() {
    let gateway = loaded(settings("on_packet", "print-a-long-line", "log_line_bytes: 100")).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(ROUTE, b"").await.text(), "printed");
    // Text without a line end is logged only at the next line end, or at the end of the instance.
    std::fs::remove_file(gateway.plugin("hostile")).unwrap();
    let line = gateway.logged("yyyy").await;
    assert_eq!(line["fields"]["line"].as_str().unwrap().len(), 100);
    assert_eq!(line["fields"]["plugin"], "hostile");
}
