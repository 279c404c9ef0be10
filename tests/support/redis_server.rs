//! A real redis-server on its own port.

use crate::{PATIENCE, ReservedPort, eventually, in_time};
use futures_util::{Stream, StreamExt};
use redis::{AsyncCommands, AsyncConnectionConfig, Msg, RedisResult, aio::MultiplexedConnection, aio::PubSub};
use std::{future::ready, pin::Pin, process::Stdio};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A running redis-server. It is killed when this value is dropped.
pub struct Redis {
    /// The port on 127.0.0.1 on which the server listens.
    pub port: u16,
    /// Holds the port while the server is down.
    _reserved: ReservedPort,
    folder: TempDir,
    child: Child,
    arguments: Vec<String>,
    password: Option<&'static str>,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[], None).await
    }

    /// Starts a server that requires this password.
    pub async fn start_with_password(password: &'static str) -> Self {
        Self::start_with(&["--requirepass", password], Some(password)).await
    }

    /// Starts a server with these additional command-line arguments.
    pub async fn start_with_arguments(arguments: &[&str]) -> Self {
        Self::start_with(arguments, None).await
    }

    async fn start_with(arguments: &[&str], password: Option<&'static str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reserved = ReservedPort::reserve();
        let port = reserved.number();
        let own = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let arguments: Vec<_> = own.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
        let child = spawn(&arguments, &folder);
        let redis = Self { port, _reserved: reserved, child, folder, arguments, password };
        redis.connection().await;
        redis
    }

    /// Waits until the server answers, and returns a connection. The connection has long timeouts, since answers are
    /// slow on a busy machine or if a backend sends many messages.
    pub async fn connection(&self) -> MultiplexedConnection {
        eventually("an answer of redis", || async { connect(&self.client()).await.ok() }).await
    }

    /// Returns a connection, or `None` if the server does not answer.
    pub async fn connection_now(&self) -> Option<MultiplexedConnection> {
        connect(&self.client()).await.ok()
    }

    /// Publishes as a backend does, and returns how many subscribers received the message.
    pub async fn publish(&self, topic: &str, message: &[u8]) -> usize {
        self.connection().await.publish(topic, message).await.unwrap()
    }

    /// Subscribes to a topic as a backend does.
    pub async fn subscribe(&self, topic: &str) -> Subscription {
        let mut subscriber = self.subscriber().await;
        in_time("redis to confirm a subscription", subscriber.subscribe(topic)).await.unwrap();
        Subscription(Box::pin(subscriber.into_on_message()))
    }

    /// Subscribes to every topic except the channels of the gateways' probes. A test uses it to show that no message is
    /// published on another topic.
    pub async fn observe(&self) -> Subscription {
        let mut subscriber = self.subscriber().await;
        in_time("redis to confirm a subscription", subscriber.psubscribe("*")).await.unwrap();
        let is_probe = |message: &Msg| {
            let topic = message.get_channel_name();
            topic.len() == "gateway:".len() + 36 && topic.starts_with("gateway:")
        };
        Subscription(Box::pin(subscriber.into_on_message().filter(move |message| ready(!is_probe(message)))))
    }

    /// Makes the server a replica of `master`, or a master again. Connections of clients stay open.
    pub async fn replicate(&self, master: Option<&Self>) {
        let mut command = redis::cmd("REPLICAOF");
        match master {
            Some(master) => command.arg("127.0.0.1").arg(master.port),
            None => command.arg("NO").arg("ONE"),
        };
        self.run(&command).await;
    }

    /// Runs a command whose answer does not matter.
    pub async fn run(&self, command: &redis::Cmd) {
        command.exec_async(&mut self.connection().await).await.unwrap();
    }

    /// Returns how often clients have called a command.
    pub async fn calls(&self, command: &str) -> usize {
        let mut connection = self.connection().await;
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    async fn subscriber(&self) -> PubSub {
        in_time("a connection to redis for a subscriber", self.client().get_async_pubsub()).await.unwrap()
    }

    /// Waits until `count` subscribers have subscribed to the topic.
    pub async fn subscribers_are(&self, topic: &str, count: usize) {
        let mut command = redis::cmd("PUBSUB");
        command.arg("NUMSUB").arg(topic);
        eventually(&format!("{count} subscribers of {topic}"), || async {
            // A server that becomes a replica ends its connections.
            let mut connection = self.connection().await;
            let answer: (String, usize) = command.query_async(&mut connection).await.ok()?;
            (answer.1 == count).then_some(())
        })
        .await;
    }

    /// Kills the server, as a crash would.
    pub async fn kill(&mut self) {
        in_time("the end of redis", self.child.kill()).await.unwrap();
    }

    /// Starts the server again on the same port.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.arguments, &self.folder);
        self.connection().await;
    }

    /// Starts the server again after [`kill`](Self::kill), as a replica that no Sentinel makes the master. It comes back
    /// without data, so as a master, it would empty its replicas.
    pub async fn restart_as_replica(&mut self, of: u16) {
        let mut arguments = self.arguments.clone();
        arguments.extend(["--replicaof".to_owned(), format!("127.0.0.1 {of}")]);
        arguments.extend(["--replica-priority".to_owned(), "0".to_owned()]);
        self.child = spawn(&arguments, &self.folder);
        self.connection().await;
    }

    /// Sends a signal, such as `STOP`.
    pub async fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }

    /// Returns the process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("redis-server runs")
    }

    fn client(&self) -> redis::Client {
        let password = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port)).unwrap()
    }
}

/// Opens a connection with long timeouts. The defaults of the library are too short for a busy machine.
///
/// # Errors
/// Returns an error if the server cannot be reached or refuses the login.
pub async fn connect(client: &redis::Client) -> RedisResult<MultiplexedConnection> {
    let patient =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&patient).await
}

fn spawn(arguments: &[String], folder: &TempDir) -> Child {
    Command::new("redis-server")
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server starts: `tests/install redis-server` installs it")
}

/// A subscription of a backend.
pub struct Subscription(Pin<Box<dyn Stream<Item = Msg> + Send>>);

impl Subscription {
    /// Subscribes to a topic at the server or Sentinel on this port.
    pub(crate) async fn at(port: u16, topic: &str) -> Self {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let mut subscriber = in_time("a connection for a subscriber", client.get_async_pubsub()).await.unwrap();
        in_time("a subscription", subscriber.subscribe(topic)).await.unwrap();
        Self(Box::pin(subscriber.into_on_message()))
    }

    /// Returns the payload of the next message, and fails if no message arrives.
    pub async fn next(&mut self) -> Vec<u8> {
        self.next_with_topic().await.1
    }

    /// Returns the topic and the payload of the next message, and fails if no message arrives.
    pub async fn next_with_topic(&mut self) -> (String, Vec<u8>) {
        let message =
            in_time("the next message on redis", self.0.next()).await.expect("the connection to redis has ended");
        (message.get_channel_name().to_owned(), message.get_payload_bytes().to_vec())
    }
}
