//! Tests of the systemd unit.

use crate::{configuration_is_valid, has, read, succeeds};
use gateway_tests::Gateway;
use serde_json::Value;
use std::fs;

const UNIT: &str = "deploy/systemd/gateway.service";

/// The exposure in tenths, from 0 to 100, that `systemd-analyze security` may see in the unit. A service on the network
/// cannot reach 0.
const MAX_EXPOSURE: u32 = 14;

/// The longest time that the gateway takes to stop, beyond `server.drain_timeout_s`. docs/operation.md explains it.
const STOP_S: u64 = 31;

fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next().unwrap_or_else(|| panic!("{key} is missing in {UNIT}"))
}

#[tokio::test]
async fn systemd_accepts_the_unit_and_finds_it_hardened() {
    if !has("systemd-analyze") {
        return;
    }
    // The program of the unit has to exist, and the gateway is not installed here.
    let folder = tempfile::tempdir().unwrap();
    let binary = Gateway::command(None).as_std().get_program().to_str().unwrap().to_owned();
    let unit = folder.path().join("gateway.service");
    fs::write(&unit, read(UNIT).replace("/usr/bin/gateway", &binary)).unwrap();
    let unit = unit.to_str().unwrap();
    let verified = succeeds("sh", &["-c", "systemd-analyze verify --man=no \"$0\" 2>&1", unit]).await;
    assert_eq!(verified.replace("\r", ""), "", "systemd-analyze verify");
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    succeeds("systemd-analyze", &["security", "--offline=true", "--no-pager", &threshold, unit]).await;
}

#[test]
fn systemd_waits_until_the_gateway_has_drained() {
    let unit = read(UNIT);
    let wait: u64 = value(&unit, "TimeoutStopSec").parse().unwrap();
    let config: Value = serde_yaml::from_str(&read("deploy/gateway.yaml")).unwrap();
    let drain = config["server"]["drain_timeout_s"].as_u64().unwrap();
    assert!(config["plugins"]["state_file"].is_string());
    assert!(wait >= drain + STOP_S, "TimeoutStopSec={wait}, and the gateway takes up to {} s", drain + STOP_S);
    assert_eq!(value(&unit, "KillSignal"), "SIGTERM");
    // The last 2 seconds are for close frames.
    let told = (drain - 2) * config["server"]["reconnect"]["rate_per_s"].as_u64().unwrap();
    assert!(read("deploy/gateway.yaml").contains(&format!("up to {told} to go on")), "{told} clients can be told");
}

#[tokio::test]
async fn the_configuration_that_is_installed_is_valid_with_its_comments_too() {
    let text = read("deploy/gateway.yaml");
    configuration_is_valid(&text).await;
    // There is no certificate.
    configuration_is_valid(&uncommented(&text.replace("# tls:", "# TLS:"))).await;
}

/// Returns the text with the keys that are comments in it. Such a key ends with a colon or has a value in braces.
fn uncommented(text: &str) -> String {
    let line = |line: &str| {
        let bare = line.trim_start();
        let key = bare.strip_prefix("# ").unwrap_or_default();
        let is_key = key
            .trim_start()
            .split_once(": ")
            .or(key.trim_start().split_once(':'))
            .is_some_and(|(name, _)| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        if is_key { format!("{}{key}", &line[..line.len() - bare.len()]) } else { line.to_owned() }
    };
    text.lines().map(|text| line(text) + "\n").collect()
}
