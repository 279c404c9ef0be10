//! Tests of how the gateway takes memory from the system, and of the options with which it returns memory. `make chaos`
//! shows what they achieve.

use gateway_tests::{Gateway, Setup};
use std::fs;

/// Returns the value of an environment variable with which the process of the gateway runs.
fn variable(gateway: &Gateway, name: &str) -> Option<String> {
    let variables = fs::read(format!("/proc/{}/environ", gateway.pid())).unwrap();
    let variables = String::from_utf8(variables).unwrap();
    let found = variables.split('\0').find_map(|variable| variable.split_once('=').filter(|(found, _)| *found == name));
    found.map(|(_, value)| value.to_owned())
}

#[tokio::test]
async fn the_allocator_returns_freed_memory_at_once_unless_the_operator_says_otherwise() {
    let gateway = Gateway::start(Setup::default()).await;
    assert_eq!(variable(&gateway, "MIMALLOC_PURGE_DELAY").as_deref(), Some("0"));
    assert_eq!(variable(&gateway, "MIMALLOC_PAGE_MAX_RECLAIM").as_deref(), Some("0"));

    let gateway = Gateway::start(Setup { env: vec![("MIMALLOC_PURGE_DELAY", "10")], ..Setup::default() }).await;
    assert_eq!(variable(&gateway, "MIMALLOC_PURGE_DELAY").as_deref(), Some("10"));
    assert_eq!(variable(&gateway, "MIMALLOC_PAGE_MAX_RECLAIM").as_deref(), Some("0"));
}

#[tokio::test]
async fn the_gateway_has_no_huge_pages_not_even_from_its_start() {
    let gateway = Gateway::start(Setup::default()).await;
    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", gateway.pid())).unwrap();
    let huge = memory.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    assert_eq!(huge.trim(), "0 kB");
}
