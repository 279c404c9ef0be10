//! Starts the real gateway binary, in a folder of its own and on free ports.

use crate::{Client, PATIENCE, eventually, in_time, put};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time,
};

/// The name of the plugin that plays the chat backend.
pub const DEMO_CHAT: &str = "demo-chat";

/// The document that lists all metrics.
const METRICS: &str = include_str!("../../docs/operation.md");

/// Returns the root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the path of a plugin that `make plugins` has compiled.
#[must_use]
pub fn dist(plugin: &str) -> PathBuf {
    root().join("plugins/dist").join(format!("{plugin}.wasm"))
}

/// The configuration and environment of a gateway.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The sections of gateway.yaml other than `server` and `admin`.
    pub yaml: String,
    /// The keys of `server` other than host and port.
    pub server: String,
    /// The keys of `admin` other than `listen`.
    pub admin: String,
    /// The names of the plugins that are copied from `plugins/dist` to the plugins directory before the start.
    pub plugins: Vec<&'static str>,
    /// More files for the plugins directory, each with its content.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// More environment variables.
    pub env: Vec<(&'static str, &'static str)>,
    /// The soft and hard limit of open files. If it is `None`, the machine's limits apply.
    pub open_files: Option<u32>,
    /// The soft limit of open files, which the process may raise up to the hard limit.
    pub soft_open_files: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            yaml: "games: [{ id: mmo }]".to_owned(),
            server: String::new(),
            admin: String::new(),
            plugins: vec!["chat", "system"],
            files: Vec::new(),
            env: Vec::new(),
            open_files: None,
            soft_open_files: None,
        }
    }
}

impl Setup {
    /// Returns a setup with chat, system and the game `mmo`, and with this Redis as the bus. The timeout is so long that
    /// no delay on a busy machine counts as a Redis that hangs.
    #[must_use]
    pub fn redis(redis: &crate::Redis) -> Self {
        Self::redis_with(redis, "timeout_ms: 30000")
    }

    /// Returns the setup of [`Self::redis`] with these keys in the section `redis` instead of the timeout.
    #[must_use]
    pub fn redis_with(redis: &crate::Redis, keys: &str) -> Self {
        let yaml = format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"127.0.0.1:{}\", {keys} }}", redis.port);
        Self { yaml, ..Self::default() }
    }

    /// Returns the same setup, in which calls of chat and system have a long timeout and take the largest payloads. On
    /// a busy machine, a call may wait for a processor longer than the default timeout. That would fail tests that do
    /// not test the timeout.
    #[must_use]
    pub fn patient(self) -> Self {
        let slow = "{ call_timeout_ms: 10000, max_payload_bytes: 16777216 }";
        let plugins = format!("plugins: {{ directory: plugins, settings: {{ chat: {slow}, system: {slow} }} }}");
        Self { yaml: format!("{}\n{plugins}", self.yaml), ..self }
    }

    /// Returns a setup with chat and system on the embedded bus, and with these keys of `server`.
    #[must_use]
    pub fn server(keys: &str) -> Self {
        Self { server: keys.to_owned(), ..Self::default() }
    }
}

/// A running gateway. It is killed when this value is dropped.
pub struct Gateway {
    /// The address for clients.
    pub address: SocketAddr,
    /// The address of the admin listener.
    pub admin: SocketAddr,
    folder: TempDir,
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Gateway {
    /// Starts a gateway and waits until every plugin is loaded or rejected.
    pub async fn start(setup: Setup) -> Self {
        let gateway = Self::start_without_waiting(setup).await;
        gateway.logged("\"message\":\"serving\"").await;
        gateway
    }

    /// Starts a gateway and waits until it listens.
    pub async fn start_without_waiting(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plugins")).unwrap();
        for plugin in &setup.plugins {
            let file = dist(plugin);
            fs::copy(&file, folder.path().join(format!("plugins/{plugin}.wasm")))
                .unwrap_or_else(|error| panic!("{}: {error} (make plugins builds it)", file.display()));
        }
        for (file, content) in &setup.files {
            fs::write(folder.path().join("plugins").join(file), content).unwrap();
        }
        fs::write(folder.path().join("gateway.yaml"), yaml(&setup)).unwrap();
        Self::start_in(folder, &setup).await
    }

    /// Starts a new gateway in the folder of this gateway, which has to have ended. Waits until every plugin is loaded
    /// or rejected.
    pub async fn again(self) -> Self {
        let gateway = Self::start_in(self.folder, &Setup::default()).await;
        gateway.logged("\"message\":\"serving\"").await;
        gateway
    }

    async fn start_in(folder: TempDir, setup: &Setup) -> Self {
        let mut command = match setup.soft_open_files {
            Some(limit) => Self::limited(&format!("-S -n {limit}")),
            None => Self::command(setup.open_files),
        };
        command.args(["run", "--log-format", "json"]).current_dir(&folder).envs(setup.env.iter().copied());
        let mut child =
            command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the gateway is built and starts");
        let log: Arc<Mutex<Vec<Value>>> = Arc::default();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lock().unwrap().push(line);
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { address: unknown, admin: unknown, folder, child, log };
        gateway.address = gateway.listening("listening (server.host and server.port)").await;
        gateway.admin = gateway.listening("listening (admin.listen)").await;
        gateway
    }

    /// Returns a command that runs the gateway binary that cargo built. `open_files` limits the open files of the
    /// process.
    #[must_use]
    pub fn command(open_files: Option<u32>) -> Command {
        match open_files {
            Some(limit) => Self::limited(&format!("-n {limit}")),
            None => Self::with_cache(Command::new(Self::binary())),
        }
    }

    /// Returns a command that runs the gateway binary with these arguments of the shell's `ulimit`.
    fn limited(limits: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit {limits}; exec \"$0\" \"$@\"")).arg(Self::binary());
        Self::with_cache(command)
    }

    /// Sets a compilation cache for the tests, so that the tests do not use the user's cache.
    fn with_cache(mut command: Command) -> Command {
        command.env("XDG_CACHE_HOME", Self::binary().with_file_name("test-cache"));
        command
    }

    fn binary() -> PathBuf {
        // The tests are built into target/PROFILE/deps, and the binary into target/PROFILE.
        std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("gateway")
    }

    async fn listening(&self, what: &str) -> SocketAddr {
        self.logged(what).await["fields"]["address"].as_str().unwrap().parse().unwrap()
    }

    /// Connects a client.
    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Connects a client, and binds its session to the user by a chat request in the game `mmo`.
    pub async fn client_of(&self, user_id: i32) -> Client {
        let mut client = self.client().await;
        client.send(1, &crate::chat_request("mmo", user_id, "bind")).await;
        // The gateway serves the packets of a session in order. So when the heartbeat is answered, the request has been
        // served.
        client.assert_alive().await;
        client
    }

    /// Returns the path of the plugins directory.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// Returns the path of a plugin's file in the plugins directory.
    #[must_use]
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.plugins().join(format!("{name}.wasm"))
    }

    /// Returns the path of gateway.yaml.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    /// Replaces gateway.yaml by the configuration of this setup.
    pub fn reconfigure(&self, setup: &Setup) {
        put(&self.config(), yaml(setup).as_bytes());
    }

    /// Waits for a log line that contains the text, and returns the first such line. The text may be in the message or
    /// in a field.
    pub async fn logged(&self, text: &str) -> Value {
        self.logged_after(0, text).await
    }

    /// Does the same as [`Self::logged`], but ignores the first `skip` log lines.
    pub async fn logged_after(&self, skip: usize, text: &str) -> Value {
        self.logged_within(PATIENCE, skip, |line| line.to_string().contains(text), text).await
    }

    /// Waits for a log line for which `fits` returns true, and returns the line. Ignores the first `skip` log lines.
    /// Fails after `patience` with a message that contains `what` and the whole log.
    pub async fn logged_within(
        &self,
        patience: time::Duration,
        skip: usize,
        fits: impl Fn(&Value) -> bool,
        what: &str,
    ) -> Value {
        let deadline = time::Instant::now() + patience;
        loop {
            if let Some(line) = self.log_lines().into_iter().skip(skip).find(&fits) {
                return line;
            }
            assert!(time::Instant::now() < deadline, "no log line with {what:?} in: {:#?}", self.log_lines());
            time::sleep(time::Duration::from_millis(10)).await;
        }
    }

    /// Returns all log lines up to now.
    #[must_use]
    pub fn log_lines(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Sends a GET request to the admin listener, and returns the status and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path).await
    }

    /// Sends a POST request of the API without a body to the admin listener, and returns the status and the body.
    pub async fn post(&self, path: &str) -> (u16, String) {
        self.ask("POST", path).await
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let asking = async {
            let mut stream = TcpStream::connect(self.admin).await.unwrap();
            let headers = "Host: localhost\r\nContent-Type: application/json\r\nConnection: close";
            let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            response
        };
        let response = in_time(path, asking).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Returns the value of a metric, or 0 if it does not exist yet with these labels. The name may have labels in any
    /// order, such as `gateway_disconnections_total{reason="idle"}`. Panics if the metric is neither documented nor that
    /// of a plugin, because a misspelt one would always be 0.
    pub async fn metric(&self, wanted: &str) -> f64 {
        let name = wanted.split('{').next().unwrap();
        let family = ["_count", "_sum", "_bucket"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let known = family.starts_with("gateway_custom_")
            || ["`", "{"].iter().any(|end| METRICS.contains(&format!("`{family}{end}")));
        assert!(known, "docs/operation.md has no metric {family}");
        let (_, text) = self.get("/metrics").await;
        let wanted = series(wanted);
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter(|(name, _)| series(name) == wanted).map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    /// Waits until the metric has the value.
    #[allow(clippy::float_cmp, reason = "counts are whole")]
    pub async fn metric_is(&self, wanted: &str, value: f64) {
        let what = format!("{wanted} {value}");
        eventually(&what, || async { (self.metric(wanted).await == value).then_some(()) }).await;
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the gateway runs")
    }

    /// Returns the resident memory of the process (`VmRSS`), in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Returns the number of open file descriptors of the process.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Sends a signal, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
        if name == "STOP" {
            // The threads go on until one of them has taken the signal.
            eventually("the gateway stands still", || async { self.stands_still().then_some(()) }).await;
        }
    }

    /// Returns whether all threads of the process are stopped.
    fn stands_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let mut stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats.all(|stat| stat.rsplit_once(')').is_some_and(|(_, fields)| fields.starts_with(" T")))
    }

    /// Waits until the process has ended.
    pub async fn exit(&mut self) -> ExitStatus {
        in_time("the end of the gateway", self.child.wait()).await.unwrap()
    }

    /// Waits until the process has ended. Returns `None` if the process still runs after `patience`.
    pub async fn exit_within(&mut self, patience: time::Duration) -> Option<ExitStatus> {
        time::timeout(patience, self.child.wait()).await.ok().map(Result::unwrap)
    }
}

fn series(name: &str) -> (String, Vec<String>) {
    let (name, labels) = name.split_once('{').unwrap_or((name, ""));
    let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').map(str::to_owned).collect();
    labels.sort();
    (name.to_owned(), labels)
}

fn yaml(setup: &Setup) -> String {
    let server = if setup.server.is_empty() { String::new() } else { format!(", {}", setup.server) };
    let admin = if setup.admin.is_empty() { String::new() } else { format!(", {}", setup.admin) };
    let Setup { yaml, .. } = setup;
    let plugins = if yaml.contains("plugins:") { "" } else { "plugins: { directory: plugins }\n" };
    let listeners =
        format!("server: {{ host: 127.0.0.1, port: 0{server} }}\nadmin: {{ listen: \"127.0.0.1:0\"{admin} }}\n");
    format!("{listeners}{plugins}{yaml}\n")
}
