//! A test that each counter with known labels is in `/metrics` before its first event. A rate needs the value before the
//! event.

use gateway_tests::{Gateway, Setup, root};
use std::fs;

/// The values of labels that docs/operation.md names within the list of metrics, and not in the table of labels.
const OTHERS: [(&str, &[&str]); 6] = [
    ("gateway_auth_jwks_fetches_total", &["ok", "failed"]),
    ("gateway_frames_received_total", &["ping", "pong", "fragment"]),
    ("gateway_deliveries_total", &["delivered", "not_here"]),
    ("gateway_bus_received_total", &["here", "not_here"]),
    ("gateway_tls_reloads_total", &["ok", "rejected"]),
    ("gateway_plugin_reloads_total", &["loaded", "swapped", "removed", "rejected"]),
];

/// Returns each counter in the table of labels in docs/operation.md, with each value of its label.
fn documented() -> Vec<(String, String)> {
    let page = fs::read_to_string(root().join("docs/operation.md")).unwrap();
    let (_, table) = page.split_once("| metric | label | meaning |\n|---|---|---|\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let row = |row: &str| {
        let code: Vec<_> = row.split('`').collect();
        (code[1].to_owned(), code[3].to_owned())
    };
    table.lines().map(row).collect()
}

#[tokio::test]
async fn every_counter_with_known_labels_is_0_before_its_first_event() {
    let gateway = Gateway::start(Setup::default()).await;
    let (_, metrics) = gateway.get("/metrics").await;
    let others = OTHERS
        .iter()
        .flat_map(|(metric, values)| values.iter().map(|value| ((*metric).to_owned(), (*value).to_owned())));
    let expected: Vec<_> = documented().into_iter().chain(others).collect();
    assert!(expected.len() > 80, "{expected:?}");
    for (metric, value) in expected {
        let is_of_it =
            |line: &&str| line.starts_with(&format!("{metric}{{")) && line.contains(&format!("=\"{value}\""));
        let found: Vec<_> = metrics.lines().filter(is_of_it).collect();
        // Chat and system are loaded, and have counters of their own.
        let (count, last) = match (metric.starts_with("gateway_plugin_"), &*value) {
            (true, "loaded") => (2, " 1"),
            (true, _) => (2, " 0"),
            (false, _) => (1, " 0"),
        };
        assert_eq!(found.len(), count, "{metric} {value}: {found:?}");
        assert!(found.iter().all(|line| line.ends_with(last)), "{metric} {value}: {found:?}");
    }
}
