//! Tests with WebSocket clients of other languages, and with a browser. Each talks to the gateway over TLS if it trusts
//! the certificate authority of the test, and refuses the gateway otherwise. `make tls-clients` builds the clients.

use crate::start;
use gateway_tests::{Gateway, KeyServer, eventually, in_time, root, tools};
use std::{env, fs, fs::File, path::Path, process::Stdio};
use tokio::process::{Child, Command};

/// What a client prints: the header of the welcome, the reply to a heartbeat, and the code of the gateway's close frame.
const TALK: &str = "welcome 0000000003000000\nreply 000000010301000062656174\nclosed 1000\n";

/// Asserts that no session has begun.
async fn assert_no_session(gateway: &Gateway) {
    assert_eq!(gateway.metric("gateway_connections_total").await as u64, 0);
}

/// Asserts that a client talks to the gateway if it trusts the authority, and otherwise exits with 1 and this reason.
/// The client is a program that takes the URL and a file with the only authority to trust. `make tls-clients` builds
/// the file below target/tls-clients.
async fn assert_talks(client: &str, file: &str, program: &[&str], reason: &str) {
    let folder = root().join("target/tls-clients").join(client);
    let missing = format!("{} does not exist, and `make tls-client-{client}` says why", folder.join(file).display());
    if !tools::is_there(client, (!folder.join(file).exists()).then_some(&missing)) {
        return;
    }
    let (gateway, certificates) = start("").await;
    let url = format!("wss://localhost:{}/ws", gateway.address.port());
    let run = async |authority: Option<&Path>| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(&url).args(authority).current_dir(&folder).kill_on_drop(true);
        let output = in_time("the end of the client", command.output()).await.unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), stdout, stderr)
    };
    let (code, printed, why) = run(None).await;
    assert_eq!((code, &*printed), (Some(1), ""), "{why}");
    assert!(why.contains(reason), "{why}");
    assert_no_session(&gateway).await;
    let (code, printed, why) = run(Some(&certificates.authority())).await;
    assert_eq!((code, &*printed), (Some(0), TALK), "{why}");
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 1.0).await;
}

#[tokio::test]
async fn a_node_client_talks_over_tls_if_it_trusts_the_authority() {
    assert_talks("node", "client.mjs", &["node", "client.mjs"], "UNABLE_TO_VERIFY_LEAF_SIGNATURE").await;
}

#[tokio::test]
async fn a_go_client_talks_over_tls_if_it_trusts_the_authority() {
    assert_talks("go", "client", &["./client"], "x509: certificate signed by unknown authority").await;
}

#[tokio::test]
async fn a_java_client_talks_over_tls_if_it_trusts_the_authority() {
    assert_talks("java", "Client.class", &["java", "Client"], "PKIX path building failed").await;
}

/// Makes a certificate database in which Chromium finds the authorities that a user trusts.
async fn trust(home: &Path, authority: &Path) {
    fs::create_dir_all(home.join(".pki/nssdb")).unwrap();
    for arguments in ["-N --empty-password", "-A -n authority -t C,, -i"] {
        let mut certutil = Command::new("certutil");
        certutil.args(["-d", "sql:.pki/nssdb"]).args(arguments.split(' ')).current_dir(home).kill_on_drop(true);
        let output = in_time("certutil", certutil.args(arguments.ends_with("-i").then_some(authority)).output()).await;
        assert!(output.as_ref().unwrap().status.success(), "{arguments}: {output:?}");
    }
}

/// Starts Chromium with this folder as the home of its user. Its log is the file `log` in the folder.
fn browser(home: &Path, url: &str) -> Child {
    let log = File::create(home.join("log")).unwrap();
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    let mut command = Command::new("chromium");
    // A sandbox is not possible in every container, and the browser opens only the page of the test.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-background-networking", "--enable-logging=stderr", &profile, url]);
    for folder in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env_remove(folder);
    }
    command.env("HOME", home).stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().unwrap()
}

/// Opens the page, which talks to the gateway. Returns what the page reports, and the log of the browser. Trusts this
/// authority, or else only the authorities that come with the browser.
async fn browse(pages: &KeyServer, gateway: &Gateway, authority: Option<&Path>) -> (String, String) {
    let home = tempfile::tempdir().unwrap();
    if let Some(authority) = authority {
        trust(home.path(), authority).await;
    }
    let log = || fs::read_to_string(home.path().join("log")).unwrap();
    let page = format!("{}/page.html?wss://localhost:{}/ws", pages.origin(), gateway.address.port());
    let earlier = pages.requests().len();
    let mut browser = browser(home.path(), &page);
    let (what, browsing) = ("the report of the page", std::cell::RefCell::new(&mut browser));
    let report = eventually(what, || async {
        let ended = browsing.borrow_mut().try_wait().unwrap();
        assert!(ended.is_none(), "the browser has ended: {}", log());
        let requests = pages.requests().split_off(earlier);
        requests.iter().find_map(|request| Some(request.strip_prefix("GET /result?")?.split_once(' ')?.0.to_owned()))
    })
    .await;
    // The browser ends its other processes, which use the folder.
    let pid = browser.id().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
    in_time("the end of the browser", browser.wait()).await.unwrap();
    (report, log())
}

#[tokio::test]
async fn a_page_in_chromium_talks_over_tls_if_the_browser_trusts_the_authority() {
    let paths = env::var_os("PATH").unwrap_or_default();
    let is_missing = |program: &&str| !env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    let missing = ["chromium", "certutil"].into_iter().find(is_missing);
    let missing = missing.map(|program| format!("{program} is not installed; .ci/run shows how"));
    if !tools::is_there("chromium", missing.as_deref()) {
        return;
    }
    let pages = KeyServer::start(include_str!("clients/chromium/page.html")).await;
    let (gateway, certificates) = start(&format!(", allowed_origins: [\"{}\"]", pages.origin())).await;
    let (report, log) = browse(&pages, &gateway, None).await;
    // The page learns nothing about the reason. In the log, -202 is ERR_CERT_AUTHORITY_INVALID.
    assert_eq!(report, "closed=1006", "{log}");
    assert!(log.contains("net_error -202"), "{log}");
    assert_no_session(&gateway).await;
    let (report, log) = browse(&pages, &gateway, Some(&certificates.authority())).await;
    assert_eq!(report, TALK.trim_end().replace(' ', "=").replace('\n', "&"), "{log}");
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 1.0).await;
}
