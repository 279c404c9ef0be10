//! A client of the test: a program or a page that asks the test's HTTP server for commands, and reports their outcomes.

use gateway_tests::{PATIENCE, chromium, has, in_time, missing_program, root};
use serde_json::{Value, json};
use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{Mutex, mpsc},
    time::{Instant, sleep},
};

/// What runs the client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The TypeScript client in Node, with the global WebSocket.
    Node,
    /// The TypeScript client in Node, with the WebSocket of the npm package `ws`.
    NodeWithWs,
    /// The TypeScript client in a page.
    Chromium,
    /// The GDScript client in Godot 3.
    Godot,
    /// The C# client in Mono.
    Mono,
}

/// A client that obeys.
pub(crate) struct Agent {
    pub(crate) kind: Kind,
    process: Child,
    _home: TempDir,
    commands: mpsc::Sender<Value>,
    outcomes: Mutex<mpsc::Receiver<Value>>,
}

/// Returns what to say if `make typescript` has not built the client.
pub(crate) fn typescript_is_missing() -> Option<String> {
    let file = typescript().join("gateway-client.min.js");
    (!file.exists()).then(|| format!("{} does not exist, and `make typescript` says why", file.display()))
}

fn typescript() -> PathBuf {
    root().join("target/typescript")
}

/// Returns a command that runs this script of `client/godot/test` in Godot. The folder is the home of its user.
pub(crate) fn godot(script: &str, home: &TempDir) -> Command {
    let mut command = Command::new("godot3-server");
    command.arg("--path").arg(root().join("client/godot")).arg("--script").arg(format!("test/{script}"));
    for folder in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env_remove(folder);
    }
    command.env("HOME", home.path()).kill_on_drop(true);
    command
}

/// Returns what to say if `make csharp` has not built the tests of the C# client, or if nothing runs them.
pub(crate) fn csharp_is_missing() -> Option<String> {
    let file = root().join(CSHARP);
    let unbuilt = || format!("{} does not exist, and `make csharp` says why", file.display());
    missing_program(&["mono"]).or_else(|| (!file.exists()).then(unbuilt))
}

/// Returns a command that runs the tests of the C# client in Mono.
pub(crate) fn csharp() -> Command {
    let mut command = Command::new("mono");
    command.arg(CSHARP).current_dir(root()).kill_on_drop(true);
    command
}

const CSHARP: &str = "target/csharp/client-tests.exe";

impl Kind {
    fn missing(self) -> Option<String> {
        match self {
            Self::Node | Self::NodeWithWs => typescript_is_missing(),
            Self::Chromium => typescript_is_missing().or_else(|| missing_program(&["chromium"])),
            Self::Godot => missing_program(&["godot3-server"]),
            Self::Mono => csharp_is_missing(),
        }
    }

    fn start(self, origin: &str, home: &TempDir) -> Child {
        let node = |flag: Option<&str>| {
            let mut command = Command::new("node");
            command.args(flag).arg("test/node.js").arg(origin).current_dir(typescript()).kill_on_drop(true);
            command.spawn().unwrap()
        };
        match self {
            // Node 20 has the global WebSocket only with this flag, and later versions have it with and without.
            Self::Node => node(Some("--experimental-websocket")),
            Self::NodeWithWs => node(Some("--no-experimental-websocket")),
            Self::Chromium => chromium(home.path(), &[&format!("{origin}/")]),
            Self::Godot => godot("agent.gd", home).env("TEST_ORIGIN", origin).spawn().unwrap(),
            Self::Mono => csharp().arg(origin).spawn().unwrap(),
        }
    }
}

impl Agent {
    /// Starts a client, and waits until it asks for commands. Returns `None` if its tools are missing.
    pub(crate) async fn start(kind: Kind) -> Option<Self> {
        if !has(&format!("the client {kind:?}"), kind.missing().as_deref()) {
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (commands, waiting) = mpsc::channel(1);
        let (finished, outcomes) = mpsc::channel(1);
        let waiting = Arc::new(Mutex::new(waiting));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&waiting), finished.clone()));
            }
        });
        let home = tempfile::tempdir().unwrap();
        let process = kind.start(&origin, &home);
        let agent = Self { kind, process, _home: home, commands, outcomes: Mutex::new(outcomes) };
        agent.outcome("the start of the client").await;
        Some(agent)
    }

    async fn outcome(&self, what: &str) -> Value {
        in_time(what, async { self.outcomes.lock().await.recv().await.expect("an outcome") }).await
    }

    /// Lets a session of the client do something, and returns the outcome. A failure is an outcome with the field
    /// `error`.
    pub(crate) async fn tries(&self, session: &str, action: &str, mut fields: Value) -> Value {
        fields["session"] = session.into();
        fields["do"] = action.into();
        let what = fields.to_string();
        self.commands.send(fields).await.unwrap();
        self.outcome(&what).await
    }

    /// Does the same as [`Self::tries`], and fails if the client does.
    pub(crate) async fn does(&self, session: &str, action: &str, fields: Value) -> Value {
        let outcome = self.tries(session, action, fields).await;
        assert!(outcome.get("error").is_none_or(Value::is_null), "{session} {action}: {outcome}");
        outcome
    }

    /// Begins a session, and waits for its welcome.
    pub(crate) async fn connect(&self, session: &str, address: SocketAddr, query: &str) {
        self.connect_with(session, json!({ "url": format!("ws://{address}/ws?{query}") })).await;
        self.logged(session, "welcome", 1).await;
    }

    /// Begins a session with these options.
    pub(crate) async fn connect_with(&self, session: &str, options: Value) {
        self.does(session, "connect", options).await;
    }

    /// Returns what has happened in a session.
    pub(crate) async fn log(&self, session: &str) -> Vec<Value> {
        let outcome = self.does(session, "log", json!({})).await;
        outcome["log"].as_array().unwrap().clone()
    }

    /// Returns the id of a session.
    pub(crate) async fn id(&self, session: &str) -> String {
        self.does(session, "log", json!({})).await["id"].as_str().unwrap().to_owned()
    }

    /// Waits until this event has happened so often in a session, and returns these events.
    pub(crate) async fn logged(&self, session: &str, event: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log(session).await;
            let events: Vec<_> = log.iter().filter(|entry| entry["event"] == event).cloned().collect();
            if events.len() >= count {
                return events;
            }
            // The whole log says more than the name of the event.
            assert!(Instant::now() < deadline, "{event} has not happened {count} times: {log:#?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the client.
    pub(crate) async fn end(mut self) {
        self.commands.send(json!({ "do": "end" })).await.unwrap();
        if let Kind::Chromium = self.kind {
            // The browser ends its other processes, which use the folder.
            let pid = self.process.id().unwrap().to_string();
            assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
        }
        in_time("the end of the client", self.process.wait()).await.unwrap();
    }
}

/// Answers one request of the client: with the next command, or with a file of the page.
async fn answer(mut stream: TcpStream, commands: Arc<Mutex<mpsc::Receiver<Value>>>, outcomes: mpsc::Sender<Value>) {
    let Some((head, body)) = request(&mut stream).await else { return };
    let (kind, content) = match head.split(' ').nth(1).unwrap_or_default() {
        "/next" => {
            if outcomes.send(serde_json::from_str(&body).unwrap()).await.is_err() {
                return;
            }
            let Some(command) = commands.lock().await.recv().await else { return };
            ("application/json", command.to_string().into_bytes())
        }
        "/" => ("text/html", file("test/page.html")),
        "/agent.js" => ("text/javascript", file("test/agent.js")),
        "/gateway-client.min.js" => ("text/javascript", file("gateway-client.min.js")),
        _ => ("text/plain", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    // The test may be over, and the client with it.
    let _ = stream.write_all(&[head.as_bytes(), &content].concat()).await;
}

fn file(path: &str) -> Vec<u8> {
    fs::read(typescript().join(path)).unwrap()
}

/// Reads a request. Returns its head and its body, or `None` if the client has left.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        // A body that ends within a character is not whole, and is read again with the rest.
        if body.len() >= length.unwrap_or(0) {
            return Some((head.to_owned(), body.to_owned()));
        }
    }
}
