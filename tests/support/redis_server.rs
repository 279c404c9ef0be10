//! A real redis-server on its own port.

use crate::{PATIENCE, eventually};
use futures_util::{Stream, StreamExt};
use redis::{AsyncCommands, AsyncConnectionConfig, Msg, aio::MultiplexedConnection};
use std::{net::TcpListener, pin::Pin, process::Stdio};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time,
};

/// A running redis-server. It is killed when this value is dropped.
pub struct Redis {
    /// The port on 127.0.0.1 on which the server listens.
    pub port: u16,
    folder: TempDir,
    child: Child,
    password: Option<&'static str>,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a server that requires this password.
    pub async fn start_with_password(password: &'static str) -> Self {
        Self::start_with(Some(password)).await
    }

    async fn start_with(password: Option<&'static str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let redis = Self { port, child: spawn(port, &folder, password), folder, password };
        redis.connection().await;
        redis
    }

    /// Opens a connection as soon as the server answers.
    pub async fn connection(&self) -> MultiplexedConnection {
        eventually("redis answers", || async { self.client().get_multiplexed_async_connection().await.ok() }).await
    }

    /// Opens a connection for a backend that sends a lot. Its response timeout is [`PATIENCE`].
    pub async fn publisher(&self) -> MultiplexedConnection {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        self.client().get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// Publishes as a backend does, and returns how many subscribers received the message.
    pub async fn publish(&self, topic: &str, message: &[u8]) -> usize {
        self.connection().await.publish(topic, message).await.unwrap()
    }

    /// Subscribes to a topic as a backend does.
    pub async fn subscribe(&self, topic: &str) -> Subscription {
        let mut subscriber = self.client().get_async_pubsub().await.unwrap();
        subscriber.subscribe(topic).await.unwrap();
        Subscription(Box::pin(subscriber.into_on_message()))
    }

    /// Subscribes to every topic, to show that nothing is published elsewhere.
    pub async fn observe(&self) -> Subscription {
        let mut subscriber = self.client().get_async_pubsub().await.unwrap();
        subscriber.psubscribe("*").await.unwrap();
        Subscription(Box::pin(subscriber.into_on_message()))
    }

    /// Waits until the topic has this number of subscribers.
    pub async fn subscribers_are(&self, topic: &str, count: usize) {
        let mut connection = self.connection().await;
        let mut command = redis::cmd("PUBSUB");
        command.arg("NUMSUB").arg(topic);
        loop {
            let answer: (String, usize) = command.query_async(&mut connection).await.unwrap();
            if answer.1 == count {
                return;
            }
            time::sleep(time::Duration::from_millis(10)).await;
        }
    }

    /// Kills the server, as a crash would.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts the server again on the same port.
    pub async fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, self.password);
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

fn spawn(port: u16, folder: &TempDir, password: Option<&str>) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--requirepass", password.unwrap_or_default()])
        .current_dir(folder)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server starts: `tests/install redis-server` installs it")
}

/// A subscription of a backend.
pub struct Subscription(Pin<Box<dyn Stream<Item = Msg> + Send>>);

impl Subscription {
    /// Returns the next message, and fails if none arrives.
    pub async fn next(&mut self) -> Vec<u8> {
        let message = time::timeout(PATIENCE, self.0.next()).await.expect("no message arrived");
        message.expect("redis-server is connected").get_payload_bytes().to_vec()
    }

    /// Returns the topic and the payload of the next message, and fails if none arrives.
    pub async fn next_with_topic(&mut self) -> (String, Vec<u8>) {
        let message = time::timeout(PATIENCE, self.0.next())
            .await
            .expect("no message arrived")
            .expect("redis-server is connected");
        (message.get_channel_name().to_owned(), message.get_payload_bytes().to_vec())
    }
}
