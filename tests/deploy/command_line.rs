//! Tests of the completions, the man pages and the health check, which all come from the command `gateway` itself.

use crate::{has, run, succeeds};
use gateway_tests::{Gateway, Redis, Setup};
use std::fs;
use tempfile::TempDir;
use tokio::process::Command;

/// Runs the gateway with these arguments, and returns what it prints.
async fn gateway(arguments: &[&str]) -> String {
    let mut command = Gateway::command(None);
    command.args(arguments);
    let output = run(command).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns a folder with the completions of the shell in the file `completions`.
async fn completions(shell: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("completions"), gateway(&["completions", shell]).await).unwrap();
    folder
}

/// Asserts that a script, which reads the file `completions`, prints exactly these words.
async fn assert_completes(shell: &str, script: &str, words: &[&str]) {
    if !has(shell) {
        return;
    }
    let folder = completions(shell).await;
    let mut command = Command::new(shell);
    command.args(["-c", script]).current_dir(&folder).env("HOME", folder.path());
    let output = run(command).await;
    let printed = String::from_utf8_lossy(&output.stdout);
    let printed: Vec<_> = printed.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(printed, words, "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn bash_completes_a_command_and_an_option() {
    let script = r#"
        . ./completions
        complete -p gateway >/dev/null || exit 1
        words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _gateway gateway "${@: -1}" "${@: -2:1}"; printf '%s\n' "${COMPREPLY[@]}"; }
        words gateway he
        words gateway run --conf
    "#;
    assert_completes("bash", script, &["healthcheck", "help", "--config"]).await;
}

#[tokio::test]
async fn fish_completes_a_command_and_an_option() {
    let script = "source ./completions; complete -C 'gateway healthc'; complete -C 'gateway run --conf'";
    assert_completes("fish", script, &["healthcheck", "--config"]).await;
}

#[tokio::test]
async fn zsh_loads_the_completions() {
    let script = "autoload -U compinit && compinit -u -d ./dump && . ./completions && print $_comps[gateway]";
    assert_completes("zsh", script, &["_gateway"]).await;
}

#[tokio::test]
async fn mandoc_accepts_the_man_pages() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("man1");
    let printed = gateway(&["man", directory.to_str().unwrap()]).await;
    let pages: Vec<_> = printed.lines().collect();
    let has_page = |name: &str| pages.iter().any(|page| page.ends_with(&format!("/{name}.1")));
    for name in ["gateway", "gateway-run", "gateway-check", "gateway-plugin", "gateway-plugin-new"] {
        assert!(has_page(name), "no page {name} in {pages:?}");
    }
    assert!(!has_page("gateway-judge-plugin"), "a hidden command has a page");
    if has("mandoc") {
        for page in &pages {
            // The library writes no date, and line breaks around empty lines. Other warnings would be about the text.
            let known = ["parse date", "skipping paragraph macro: br"];
            let warnings = ["-T", "lint", "-W", "warning", page];
            let mut command = Command::new("mandoc");
            command.args(warnings);
            let output = run(command).await;
            let printed = String::from_utf8_lossy(&output.stdout);
            let wrong: Vec<_> =
                printed.lines().filter(|line| !known.iter().any(|known| line.contains(known))).collect();
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        let shown = succeeds("mandoc", &["-T", "ascii", directory.join("gateway.1").to_str().unwrap()]).await;
        // A letter that is printed twice is bold.
        let shown: String = shown.replace('\u{8}', "");
        for word in
            ["SSIIGGHHUUPP", "GGAATTEEWWAAYY__SSEECCTTIIOONN____KKEEYY", "TTOOKKIIOO__WWOORRKKEERR__TTHHRREEAADDSS"]
        {
            assert!(shown.contains(word), "{word}\n{shown}");
        }
        for section in ["NNAAMMEE", "EEXXIITT SSTTAATTUUSS", "SSIIGGNNAALLSS", "FFIILLEESS"] {
            assert!(shown.contains(section), "{section}\n{shown}");
        }
    }
}

/// Returns the exit code of `gateway healthcheck` for this gateway, and the error.
async fn healthcheck(gateway: &Gateway, more: &[&str]) -> (Option<i32>, String) {
    healthcheck_with(gateway, "plugins: { directory: . }", more).await
}

/// Does the same with this text in gateway.yaml besides the address.
async fn healthcheck_with(gateway: &Gateway, yaml: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gateway.yaml"), format!("admin: {{ listen: \"{}\" }}\n{yaml}\n", gateway.admin))
        .unwrap();
    let mut command = Gateway::command(None);
    command.args(["healthcheck", "--config", "gateway.yaml"]).args(more).current_dir(&folder);
    let output = run(command).await;
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn healthcheck_says_whether_the_gateway_lives_and_is_ready() {
    let redis = Redis::start().await;
    let mut gateway = Gateway::start(Setup::redis_with(&redis, "timeout_ms: 500")).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    assert_eq!(healthcheck(&gateway, &[]).await, (Some(0), String::new()));
    assert_eq!(healthcheck(&gateway, &["--ready"]).await, (Some(0), String::new()));
    // The gateway goes on with its configuration if the file is changed to a wrong one.
    for wrong in ["server: { port: x }", "plugins: { directory: missing }", "unknown: 1"] {
        assert_eq!(healthcheck_with(&gateway, wrong, &[]).await, (Some(0), String::new()), "{wrong}");
    }
    // The address is that of the saved file, unless one is given.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gateway.yaml"), "admin: { listen: \"127.0.0.1:1\" }\n").unwrap();
    for (arguments, code) in [(&[][..], 1), (&["--address", &gateway.admin.to_string()], 0)] {
        let mut command = Gateway::command(None);
        command.arg("healthcheck").args(arguments).current_dir(&folder);
        assert_eq!(run(command).await.status.code(), Some(code), "{arguments:?}");
    }
    drop(redis);
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    assert_eq!(healthcheck(&gateway, &[]).await, (Some(0), String::new()));
    let not_ready = format!("gateway: the gateway at {} is not ready: /readyz answers 503\n", gateway.admin);
    assert_eq!(healthcheck(&gateway, &["--ready"]).await, (Some(1), not_ready));
    gateway.signal("TERM").await;
    gateway.exit().await;
    let (code, error) = healthcheck(&gateway, &[]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("does not answer /healthz: Connection refused"), "{error}");
}
