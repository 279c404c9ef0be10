//! Tests of what operators copy from the folder `deploy`. Each file is given to the program that will read it: Prometheus
//! loads the alerts, systemd reads the unit, and so on. `make deploy-tools` installs these programs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "deploy/command_line.rs"]
mod command_line;
#[path = "deploy/containers.rs"]
mod containers;
#[path = "deploy/prometheus.rs"]
mod prometheus;
#[path = "deploy/systemd.rs"]
mod systemd;

use gateway_tests::{Gateway, in_time, missing_program, root};
use std::{fs, path::Path, process::Output};
use tokio::process::Command;

/// Returns the text of a file of the repository.
#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns whether a program is there. On CI, a missing program is an error. Elsewhere it may not be installed.
fn has(program: &str) -> bool {
    let is_there = Path::new(program).is_file() || missing_program(&[program]).is_none();
    let missing = format!("{program} is not installed, and `make deploy-tools` says why");
    gateway_tests::has("a check of deploy/", (!is_there).then_some(&missing))
}

/// Returns the path of a program that `make deploy-tools` installs below target.
fn tool(path: &str) -> String {
    root().join("target/tools").join(path).to_str().unwrap().to_owned()
}

/// Runs a command to its end.
async fn run(mut command: Command) -> Output {
    in_time(&format!("the end of {command:?}"), command.kill_on_drop(true).output()).await.unwrap()
}

/// Runs a command at the root of the repository, and asserts that it succeeds. Returns what it prints on stdout.
async fn succeeds(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    let shown = format!("{command:?}");
    let output = run(command).await;
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{shown}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Asserts that `gateway check` accepts the configuration with the plugins of this build.
async fn configuration_is_valid(config: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let plugins = root().join("plugins/dist");
    // The directories of an installed gateway do not exist here.
    let mut text = config.replace("/var/lib/gateway", folder.path().to_str().unwrap());
    for directory in ["/usr/lib/gateway/plugins", "/etc/gateway-plugins"] {
        text = text.replace(directory, plugins.to_str().unwrap());
    }
    fs::write(&file, &text).unwrap();
    let mut command = Gateway::command(None);
    command.arg("check").arg("--config").arg(&file);
    let output = run(command).await;
    assert!(output.status.success(), "{output:?}\n{text}");
}
