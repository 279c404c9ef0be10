//! The instructions of each step of a packet's way, counted by callgrind and compared with the budget in `budget.txt`.
//! A count is the same on a busy machine, and it shows a step that costs more in the change that made it so.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking, and prints the counts")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use gateway_bench::budget;

/// The factor by which a step may be over its budget. Compilers, and the processors that code is generated for, differ
/// by less.
const SLACK: f64 = 1.05;

/// The number of times that `packet-path` does each step.
const TIMES: u64 = 1000;

#[test]
fn no_step_of_a_packets_way_is_over_its_budget() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64")))
        || Command::new("valgrind").arg("--version").output().is_err()
    {
        assert!(env::var("CI").is_err(), "valgrind is missing: tests/install valgrind");
        eprintln!("SKIPPED: the budget of a packet's way is counted by valgrind, on Linux and x86-64");
        return;
    }
    let budget = budget(&fs::read_to_string(root.join("bench/budget.txt")).unwrap()).unwrap();
    let counted = count(root);
    assert_eq!(
        counted.keys().collect::<Vec<_>>(),
        budget.keys().collect::<Vec<_>>(),
        "the steps, and those of bench/budget.txt"
    );
    let mut over = Vec::new();
    for (step, instructions) in counted {
        let most = budget[&step];
        eprintln!("{step:<10} {instructions:>6} instructions, the budget is {most}");
        if instructions as f64 > most as f64 * SLACK {
            over.push(format!("{step} takes {instructions} instructions, and {most} are its budget"));
        }
    }
    assert!(
        over.is_empty(),
        "{}: make it cheaper, or raise bench/budget.txt and say what it is worth",
        over.join("; ")
    );
}

/// Counts the instructions of each step, for one packet.
fn count(root: &Path) -> BTreeMap<String, u64> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=packet_path::measured_*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .args([env!("CARGO_BIN_EXE_packet-path"), "plugins/dist/chat.wasm", "plugins/dist/system.wasm"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let steps = inclusive(&fs::read_to_string(out).unwrap(), "packet_path::measured_");
    steps.into_iter().map(|(step, instructions)| (step, instructions / TIMES)).collect()
}

/// Reads callgrind's file. Returns the functions whose names begin with `prefix`, each with its own instructions and
/// those of all functions that it calls. Behind a line `fn=` there is a line `POSITION COST` for each place in the
/// function and for each call. The cost of a call is that of the called function.
fn inclusive(profile: &str, prefix: &str) -> BTreeMap<String, u64> {
    let mut costs = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut step = None;
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("fn=").or(line.strip_prefix("cfn=")) {
            // A name is written once as `(ID) NAME`, and later as `(ID)`.
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            let name = if name.is_empty() { names.get(id).copied().unwrap_or_default() } else { name };
            names.insert(id, name);
            if line.starts_with("fn=") {
                step = name.strip_prefix(prefix);
            }
        } else if let (Some(step), Some((position, cost))) = (step, line.split_once(' ')) {
            let is_cost = position.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c));
            if let (true, Ok(cost)) = (is_cost, cost.parse::<u64>()) {
                *costs.entry(step.to_owned()).or_default() += cost;
            }
        }
    }
    costs
}
