//! Tests of the commands that an operator types: `gateway check`, `gateway run` when it cannot start, and
//! `gateway-client`.

use gateway_tests::{DEMO_CHAT, Gateway, PATIENCE, Setup, dist, greeter, in_time, root};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Output, Stdio},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, copy_bidirectional},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// The exit code for an invalid configuration.
const BAD_CONFIG: Option<i32> = Some(78);

const GOOD: &str = "games: [{ id: mmo }]\nplugins: { directory: plugins }\n";

/// Returns a folder with chat and system in `plugins`, and with this gateway.yaml.
fn folder(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    for plugin in ["chat", "system"] {
        fs::copy(dist(plugin), folder.path().join(format!("plugins/{plugin}.wasm"))).unwrap();
    }
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    folder
}

async fn gateway(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Gateway::command(None);
    command.args(arguments).current_dir(folder).kill_on_drop(true);
    ended(command).await
}

/// Waits until the command has ended, and returns its exit code and its output.
async fn ended(mut command: Command) -> Output {
    in_time(&format!("the end of {command:?}"), command.output()).await.unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[tokio::test]
async fn check_exits_0_and_names_each_plugin() {
    let output = gateway(folder(GOOD).path(), &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stdout(&output), "chat.wasm: ok, chat 0.1.0\nsystem.wasm: ok, system 0.1.0\n");
}

#[tokio::test]
async fn check_of_the_gateway_yaml_that_is_shipped_exits_0() {
    let output = gateway(&root(), &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn an_empty_configuration_file_stands_for_the_defaults() {
    let folder = folder("");
    fs::create_dir(folder.path().join("plugins/dist")).unwrap();
    fs::copy(dist("system"), folder.path().join("plugins/dist/system.wasm")).unwrap();
    let output = gateway(folder.path(), &["check"]).await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "system.wasm: ok, system 0.1.0\n"), "{output:?}");
}

#[tokio::test]
async fn documented_keys_are_accepted() {
    let yaml = r#"
server:
  host: "0.0.0.0"
  port: 8080
  read_buffer_bytes: 8192
  write_buffer_bytes: 8192
  send_queue: 1024
  send_queue_bytes: 16777216
  max_message_bytes: 16777216
  on_full_queue: drop
  handshake_timeout_s: 10
  ping_interval_s: 25
  idle_timeout_s: 60
admin:
  listen: "127.0.0.1:8081"
redis:
  addr: "localhost:6379"
  password: ""
games:
  - id: "mmo"
    chat_backend: { host: "localhost", port: 9002 }
plugins:
  directory: "plugins"
  settings:
    chat: { routes: [1], call_timeout_ms: 20, memory_mb: 64, config: {} }
"#;
    let output = gateway(folder(yaml).path(), &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let close = yaml.replace("on_full_queue: drop", "on_full_queue: close");
    assert_eq!(gateway(folder(&close).path(), &["check"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn config_names_another_configuration_file() {
    let folder = folder("nonsense: 1\n");
    fs::write(folder.path().join("other.yaml"), GOOD).unwrap();
    assert_eq!(gateway(folder.path(), &["check", "--config", "other.yaml"]).await.status.code(), Some(0));
    assert_eq!(gateway(folder.path(), &["check"]).await.status.code(), BAD_CONFIG);
}

/// Asserts that both `check` and `run` refuse the file with exit code 78, and that the error contains all of these
/// texts.
async fn refused(yaml: &str, because: &[&str]) {
    let folder = folder(yaml);
    for command in ["check", "run"] {
        let output = gateway(folder.path(), &[command]).await;
        assert_eq!(output.status.code(), BAD_CONFIG, "{command}: {output:?}");
        let told = stderr(&output);
        assert!(told.starts_with("gateway: gateway.yaml: "), "{command}: {told}");
        for because in because {
            assert!(told.contains(because), "{command} does not say {because:?}: {told}");
        }
    }
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
    let yaml = format!("{GOOD}server:\n  host: 127.0.0.1\n  max_mesage_bytes: 1000\n");
    refused(&yaml, &["line 5: unknown key `server.max_mesage_bytes`, did you mean `max_message_bytes`?"]).await;
    let yaml = "plugins:\n  directory: plugins\n  settings:\n    chat: { memory: 64 }\n";
    refused(yaml, &["line 4: unknown key `plugins.settings.chat.memory`, did you mean `memory_mb`?"]).await;
}

#[tokio::test]
async fn a_value_out_of_range_is_named() {
    refused(&format!("{GOOD}server: {{ send_queue: 0 }}\n"), &["server.send_queue: 0 is not within 1 to "]).await;
    refused(&format!("{GOOD}server: {{ port: 65536 }}\n"), &["server.port"]).await;
    refused(&format!("{GOOD}server: {{ on_full_queue: wait }}\n"), &["server.on_full_queue", "drop", "close"]).await;
    let idle = format!("{GOOD}server: {{ ping_interval_s: 30, idle_timeout_s: 30 }}\n");
    refused(&idle, &["server.idle_timeout_s: 30 is not more than ping_interval_s, 30"]).await;
    let memory = "plugins: { directory: plugins, settings: { chat: { memory_mb: 0, call_timeout_ms: 0 } } }\n";
    let because =
        ["plugins.settings.chat.memory_mb: 0 is not within", "plugins.settings.chat.call_timeout_ms: 0 is not within"];
    refused(memory, &because).await;
}

#[tokio::test]
async fn a_duplicate_game_id_is_named() {
    let yaml = "games: [{ id: mmo }, { id: rpg }, { id: mmo }]\nplugins: { directory: plugins }\n";
    refused(yaml, &["games[2].id: \"mmo\" is a duplicate"]).await;
}

#[tokio::test]
async fn a_missing_plugins_directory_is_named() {
    refused("plugins: { directory: nowhere }\n", &["plugins.directory: there is no directory nowhere"]).await;
    refused("plugins: { directory: gateway.yaml }\n", &["plugins.directory: there is no directory gateway.yaml"]).await;
}

#[tokio::test]
async fn all_errors_are_reported_at_once() {
    let yaml = "server: { prot: 1, send_queue: 0 }\ngames: [{ id: a }, { id: a }]\nplugins: { directory: nowhere }\n";
    let because = [
        "line 1: unknown key `server.prot`, did you mean `port`?",
        "server.send_queue: 0",
        "games[1].id: \"a\" is a duplicate",
        "plugins.directory: there is no directory nowhere",
    ];
    refused(yaml, &because).await;
}

#[tokio::test]
async fn a_missing_configuration_file_is_named() {
    for command in ["check", "run"] {
        let output = gateway(folder(GOOD).path(), &[command, "--config", "nowhere.yaml"]).await;
        assert_eq!(output.status.code(), BAD_CONFIG);
        assert!(stderr(&output).starts_with("gateway: nowhere.yaml: it cannot be read"), "{output:?}");
    }
}

#[tokio::test]
async fn check_names_each_rejected_plugin_and_the_reason() {
    let folder = folder(GOOD);
    let put = |name: &str, content: &[u8]| fs::write(folder.path().join("plugins").join(name), content).unwrap();
    put("bad.wasm", b"rubbish");
    put("rival.wasm", &greeter("rival", "1", &[3]));
    let output = gateway(folder.path(), &["check"]).await;
    assert_eq!(output.status.code(), BAD_CONFIG, "{output:?}");
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert_eq!((lines.len(), lines[1]), (4, "chat.wasm: ok, chat 0.1.0"), "{lines:?}");
    assert!(lines[0].starts_with("bad.wasm: it is not a WebAssembly component"), "{lines:?}");
    // Two plugins claim the same route. One of them is rejected, and its message names the other plugin.
    let told = |file: &str, other: &str| {
        let because = format!("{file}.wasm: it claims route 0x03, which plugin `{other}` serves");
        lines.iter().any(|line| line.starts_with(&because))
    };
    assert!(told("rival", "system") != told("system", "rival"), "{lines:?}");
}

#[tokio::test]
async fn check_names_the_settings_that_a_plugin_refuses() {
    let yaml = "plugins: { directory: plugins, settings: { chat: { config: { colour: red } } } }\n";
    let output = gateway(folder(yaml).path(), &["check"]).await;
    assert_eq!(output.status.code(), BAD_CONFIG, "{output:?}");
    let because =
        "chat.wasm: it refuses its settings (plugins.settings.chat.config): config.colour: unknown field `colour`";
    assert!(stdout(&output).starts_with(because), "{output:?}");
}

#[tokio::test]
async fn environment_variables_go_over_the_file_and_print_config_shows_their_origin() {
    let folder = folder(GOOD);
    fs::write(folder.path().join("token"), "0123456789abcdef-hush\n").unwrap();
    let variables =
        [("GATEWAY_SERVER__PORT", "9000"), ("GATEWAY_ADMIN__TOKEN_FILE", "token"), ("GATEWAY_REDIS__ADDR", "u:1")];
    for command in ["run", "check"] {
        let mut gateway = Gateway::command(None);
        gateway.args([command, "--print-config"]).current_dir(&folder).envs(variables).kill_on_drop(true);
        let output = ended(gateway).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines = [
            "  port: 9000  # GATEWAY_SERVER__PORT",
            "  host: \"0.0.0.0\"  # default",
            "  addr: \"u:1\"  # GATEWAY_REDIS__ADDR",
            "games: [{\"id\":\"mmo\",\"backends\":{}}]  # gateway.yaml:1",
        ];
        for line in lines {
            assert!(stdout(&output).lines().any(|shown| shown == line), "{line:?} is not in:\n{}", stdout(&output));
        }
        assert!(!stdout(&output).contains("hush"), "{output:?}");
    }
    for (name, because) in [
        ("GATEWAY_REDIS__ADR", "unknown key `redis.adr`, did you mean GATEWAY_REDIS__ADDR?"),
        ("GATEWAY_ADMIN__TOKEN_FILE", "admin.token_file: nowhere: it cannot be read: No such file"),
    ] {
        for arguments in [&["run"][..], &["check"], &["check", "--print-config"]] {
            let mut gateway = Gateway::command(None);
            gateway.args(arguments).env(name, "nowhere").current_dir(&folder).kill_on_drop(true);
            let output = ended(gateway).await;
            assert_eq!(output.status.code(), BAD_CONFIG, "{output:?}");
            assert!(stderr(&output).contains(because), "{output:?}");
        }
    }
}

#[tokio::test]
async fn the_gateway_serves_with_the_keys_of_environment_variables() {
    let env = vec![("GATEWAY_GAMES", "[{ id: other }]"), ("GATEWAY_ADMIN__TOKEN", "0123456789abcdef")];
    let gateway = Gateway::start(Setup { env, ..Setup::default() }).await;
    assert_eq!(gateway.get("/metrics").await.0, 401);
    let mut client = gateway.client().await;
    // Status 4: the game of the file is not served.
    assert_eq!(client.request(1, &gateway_tests::chat_request("mmo", 1, "hello")).await.status, 4);
}

/// Asserts that `run` exits with code 1 if a port is already in use, and that the error names the port's key.
async fn taken(yaml: impl Fn(u16) -> String, key: &str) {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let output = gateway(folder(&yaml(port)).path(), &["run"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = stderr(&output).lines().last().unwrap();
    let expected = format!("gateway: cannot listen on 127.0.0.1:{port} ({key}): Address already in use");
    assert!(told.starts_with(&expected), "{told}");
}

#[tokio::test]
async fn a_port_that_is_in_use_is_named_with_its_key() {
    let server =
        |port| format!("{GOOD}server: {{ host: 127.0.0.1, port: {port} }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n");
    taken(server, "server.host and server.port").await;
    let admin =
        |port| format!("{GOOD}server: {{ host: 127.0.0.1, port: 0 }}\nadmin: {{ listen: \"127.0.0.1:{port}\" }}\n");
    taken(admin, "admin.listen").await;
}

/// Returns the output of the command with this environment variable.
async fn with_variable(folder: &Path, arguments: &[&str], (name, value): (&str, &str)) -> Output {
    let mut command = Gateway::command(None);
    command.args(arguments).env(name, value).current_dir(folder).kill_on_drop(true);
    ended(command).await
}

#[tokio::test]
async fn a_number_of_threads_that_is_none_is_an_error_that_names_the_variable() {
    for value in ["0", "abc", "", "1025", "-1"] {
        let output = with_variable(folder(GOOD).path(), &["run"], ("TOKIO_WORKER_THREADS", value)).await;
        assert_eq!(output.status.code(), BAD_CONFIG, "{output:?}");
        let error = format!("gateway: TOKIO_WORKER_THREADS: {value:?} is not a number from 1 to 1024");
        assert!(stderr(&output).starts_with(&error), "{output:?}");
    }
}

#[tokio::test]
async fn an_empty_filter_of_the_log_is_none_and_a_wrong_one_is_a_warning() {
    let yaml =
        "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\nplugins: { directory: plugins }\n";
    for (value, warning) in [("", None), ("info,gateway=nonsense", Some("RUST_LOG is not valid"))] {
        let folder = folder(yaml);
        let mut command = Gateway::command(None);
        command.arg("run").env("RUST_LOG", value).current_dir(folder.path()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = in_time("a log line", lines.next_line()).await.unwrap().unwrap();
        assert!(first.contains(warning.unwrap_or("listening (server.host and server.port)")), "{value:?}: {first}");
    }
}

#[tokio::test]
async fn with_the_log_as_json_the_reason_of_a_failed_start_is_json() {
    let ports = "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\n";
    for keys in ["unknown: 1\n", "plugins: { directory: plugins, state_file: gateway.yaml }\n"] {
        let folder = folder(&format!("{ports}{keys}"));
        let output = gateway(folder.path(), &["run", "--log-format", "json"]).await;
        let lines: Vec<serde_json::Value> =
            stderr(&output).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let is_reason = |last: &serde_json::Value| {
            assert_eq!(last["level"], "ERROR");
            assert!(last["fields"]["message"].as_str().unwrap().contains("gateway.yaml"), "{last}");
        };
        is_reason(lines.last().unwrap());
        let mut quiet = Gateway::command(None);
        quiet.args(["run", "--log-format", "json"]).current_dir(folder.path()).env("RUST_LOG", "off");
        is_reason(&serde_json::from_str(stderr(&ended(quiet).await)).expect("only the reason"));
        let text = gateway(folder.path(), &["run"]).await;
        assert_eq!(output.status.code(), text.status.code());
        assert_eq!(stderr(&text).lines().filter(|line| line.contains("gateway.yaml")).count(), 1, "{text:?}");
    }
}

/// Returns whether the process handles SIGHUP, or `None` if it has ended.
fn handles_hangups(pid: u32) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    Some(u64::from_str_radix(caught.trim(), 16).unwrap() & 1 == 1)
}

#[tokio::test]
async fn signals_are_handled_before_the_configuration_is_read() {
    // It takes a while to read this file, and in the end it is wrong.
    let games = (0..40_000).fold(String::new(), |games, game| games + &format!("{{ id: g{game} }}, "));
    let folder = folder(&format!("games: [{games}]\nnonsense: 1\n"));
    let mut command = Gateway::command(None);
    command.arg("run").current_dir(folder.path()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let pid = child.id().unwrap();
    while !handles_hangups(pid).expect("the gateway reads its configuration") {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(Command::new("kill").args(["-s", "HUP", &pid.to_string()]).status().await.unwrap().success());
    let output = in_time("the end of the gateway", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), BAD_CONFIG, "{output:?}");
    assert!(stderr(&output).contains("unknown key `nonsense`"), "{output:?}");
}

/// Returns the command `gateway-client`, as cargo built it.
fn client() -> Command {
    let tests = std::env::current_exe().unwrap();
    let mut command = Command::new(tests.ancestors().nth(2).unwrap().join("gateway-client"));
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A user who runs `gateway-client chat`.
struct User {
    child: Child,
    keyboard: ChildStdin,
    screen: Lines<BufReader<ChildStdout>>,
}

impl User {
    fn start(gateway: &Gateway, id: &str) -> Self {
        Self::start_at(gateway.address, id)
    }

    fn start_at(address: SocketAddr, id: &str) -> Self {
        let url = format!("ws://{address}/ws");
        let mut child = client()
            .args(["chat", "--user", id, "--url", &url])
            .stdin(Stdio::piped())
            .spawn()
            .expect("gateway-client is built and starts");
        let keyboard = child.stdin.take().unwrap();
        let screen = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, keyboard, screen }
    }

    async fn types(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Asserts that the next line contains this text.
    async fn sees(&mut self, text: &str) {
        let line = timeout(PATIENCE, self.screen.next_line()).await.expect("nothing is shown").unwrap().unwrap();
        assert!(line.contains(text), "{line:?} instead of {text:?}");
    }

    async fn leaves(mut self) {
        self.types("/quit").await;
        let status = timeout(PATIENCE, self.child.wait()).await.expect("the client ends in time").unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn two_users_talk_with_gateway_client_through_the_demonstration_backend() {
    let gateway = Gateway::start(Setup { plugins: vec!["chat", DEMO_CHAT, "system"], ..Setup::default() }).await;
    let (mut ann, mut bob) = (User::start(&gateway, "1"), User::start(&gateway, "2"));
    for user in [&mut ann, &mut bob] {
        user.sees("welcome: session ").await;
        // The first request binds the session to the user.
        user.types("hello, everybody").await;
        user.sees("response: ok").await;
    }
    ann.types("@2 hello, Bob").await;
    ann.sees("response: ok").await;
    bob.sees("from user 1 \"user 1\" (message ").await;
    bob.types("@1 hello, Ann").await;
    bob.sees("response: ok").await;
    ann.sees("): hello, Ann").await;
    ann.leaves().await;
    bob.leaves().await;
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 2.0).await;
}

/// Forwards connections to the address that is in the channel at that time.
async fn forward(listener: tokio::net::TcpListener, to: watch::Receiver<SocketAddr>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let to = *to.borrow();
        connections.spawn(async move {
            let mut gateway = TcpStream::connect(to).await?;
            copy_bidirectional(&mut client, &mut gateway).await
        });
    }
}

#[tokio::test]
async fn after_a_crash_gateway_client_says_after_which_push_it_may_have_missed_something() {
    let setup = || Setup {
        yaml: "games: [{ id: mmo }]\nresume: {}".to_owned(),
        plugins: vec!["chat", DEMO_CHAT, "system"],
        ..Setup::default()
    };
    let (old, new) = (Gateway::start(setup()).await, Gateway::start(setup()).await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (switch, to) = watch::channel(old.address);
    let forwarding = tokio::spawn(forward(listener, to));
    let mut ann = User::start_at(address, "1");
    ann.sees("welcome: session ").await;
    for _ in 0..3 {
        ann.types("hello").await;
        ann.sees("response: ok").await;
    }
    switch.send_replace(new.address);
    old.signal("KILL").await;
    ann.sees("; reconnecting in ").await;
    ann.sees("messages after push #3 may have been lost").await;
    ann.types("hello again").await;
    ann.sees("push #1 ").await;
    ann.leaves().await;
    forwarding.abort();
}

#[tokio::test]
async fn gateway_client_pings_and_exits_0() {
    let gateway = Gateway::start(Setup::default()).await;
    let url = format!("ws://{}/ws", gateway.address);
    let ping = ["ping", "--count", "3", "--interval-ms", "10", "--size", "100", "--url", &url];
    let mut command = client();
    command.args(ping);
    let output = ended(command).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let replies = stdout(&output).lines().filter(|line| line.starts_with("100 bytes: seq=")).count();
    assert_eq!(replies, 3, "{output:?}");
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 3.0).await;
}

#[tokio::test]
async fn gateway_client_fails_if_heartbeats_are_not_answered() {
    let gateway = Gateway::start(Setup { plugins: vec!["chat"], ..Setup::default() }).await;
    let url = format!("ws://{}/ws", gateway.address);
    let mut command = client();
    command.args(["ping", "--count", "1", "--url", &url]);
    let ping = ended(command).await;
    assert_eq!(ping.status.code(), Some(1), "{ping:?}");
    assert!(stdout(&ping).contains("seq=1 wrong: status 3 no route"), "{ping:?}");
}
