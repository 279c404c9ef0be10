//! Tools that may be missing on a machine, and the browser.

use std::{
    env,
    fs::File,
    io::{Write, stderr},
    path::Path,
    process::Stdio,
};
use tokio::process::{Child, Command};

/// Returns whether the tools of a client are there. On CI, missing tools are an error. Elsewhere they may not be
/// installed.
#[must_use]
pub fn has(client: &str, missing: Option<&str>) -> bool {
    let Some(missing) = missing else { return true };
    assert!(env::var("CI").as_deref() != Ok("true"), "{client}: {missing}");
    // The test does not use `eprintln!`, since the test harness hides that output if the test passes.
    stderr().write_all(format!("SKIPPED: {client}: {missing}\n").as_bytes()).unwrap();
    false
}

/// Returns what to say if one of these programs is not installed.
#[must_use]
pub fn missing_program(programs: &[&str]) -> Option<String> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let is_missing = |program: &&&str| !env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    programs.iter().find(is_missing).map(|program| format!("{program} is not installed; .ci/run shows how"))
}

/// Starts Chromium with this folder as the home of its user, and with these arguments besides the usual ones. Its log is
/// the file `log` in the folder.
#[must_use]
pub fn chromium(home: &Path, arguments: &[&str]) -> Child {
    let log = File::create(home.join("log")).unwrap();
    let mut command = Command::new("chromium");
    // A sandbox is not possible in every container, and the browser opens only the pages of the test.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg("--enable-logging=stderr").arg(format!("--user-data-dir={}", home.join("profile").display()));
    for folder in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env_remove(folder);
    }
    command.args(arguments).env("HOME", home).stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().unwrap()
}
