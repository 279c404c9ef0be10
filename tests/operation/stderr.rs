//! Tests of a gateway whose log cannot be written, because nobody reads it or because the disk is full.

use gateway_tests::{Client, Gateway, PATIENCE, ReservedPort, dist, eventually, header, in_time};
use std::{
    fs::{self, File},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};

/// The time after SIGTERM after which a gateway ends in any case: `drain_timeout_s`, which is 1 here, and 20 s.
const BOUND: Duration = Duration::from_secs(21);

/// A gateway that writes its log to this file or pipe.
struct Mute {
    child: Child,
    address: SocketAddr,
    ports: [ReservedPort; 2],
    _folder: TempDir,
}

impl Mute {
    /// Starts a gateway with the plugin `system`.
    fn start(log: &str, stderr: Stdio) -> Self {
        let (folder, ports) = (tempfile::tempdir().unwrap(), [ReservedPort::reserve(), ReservedPort::reserve()]);
        fs::copy(dist("system"), folder.path().join("system.wasm")).unwrap();
        let [port, admin] = ports.each_ref().map(ReservedPort::number);
        let yaml = format!(
            "server: {{ host: 127.0.0.1, port: {port}, drain_timeout_s: 1 }}\nadmin: {{ listen: \"127.0.0.1:{admin}\" \
             }}\nplugins: {{ directory: . }}\n"
        );
        fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
        let mut command = Gateway::command(None);
        command.arg("run").current_dir(&folder).env("RUST_LOG", log).stderr(stderr).kill_on_drop(true);
        let child = command.spawn().unwrap();
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), ports, _folder: folder }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Returns whether the gateway has dropped log lines.
    async fn drops_lines(&self) -> bool {
        let mut admin = TcpStream::connect(("127.0.0.1", self.ports[1].number())).await.unwrap();
        admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        in_time("the metrics", admin.read_to_string(&mut answer)).await.unwrap();
        let dropped = answer.lines().find_map(|line| line.strip_prefix("gateway_log_lines_dropped_total ")).unwrap();
        dropped != "0"
    }

    async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
    }
}

/// Starts a gateway, reads its log only until it serves, and makes it log until lines are dropped. Every packet of the
/// client is answered meanwhile.
async fn unread() -> (Mute, Client, ChildStderr) {
    let mut gateway = Mute::start("info,gateway=trace", Stdio::piped());
    let mut log = BufReader::new(gateway.child.stderr.take().unwrap()).lines();
    while !in_time("a log line", log.next_line()).await.unwrap().expect("it runs").contains("serving plugins=system") {}
    let mut client = gateway.client().await;
    let deadline = Instant::now() + PATIENCE;
    while !gateway.drops_lines().await {
        assert!(Instant::now() < deadline, "no log lines are dropped");
        client.send_messages((0..1000).map(|seq| header(seq, 3))).await;
        for _ in 0..1000 {
            client.receive_any().await;
        }
    }
    (gateway, client, log.into_inner().into_inner())
}

#[tokio::test]
async fn a_gateway_whose_log_nobody_reads_serves_and_drains() {
    let (mut gateway, mut client, _log) = unread().await;
    let asked = Instant::now();
    gateway.terminate().await;
    assert_eq!(u16::from(client.closed().await.unwrap().code), 1001);
    let status = in_time("the end of the gateway", gateway.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_a_gateway_whose_log_nobody_reads_at_once() {
    // The drain waits for the client, which does not read.
    let (mut gateway, _client, _log) = unread().await;
    let asked = Instant::now();
    // The kernel merges signals that the gateway has not taken yet.
    let status = loop {
        gateway.terminate().await;
        if let Ok(status) = timeout(Duration::from_millis(300), gateway.child.wait()).await {
            break status.unwrap();
        }
        assert!(asked.elapsed() < PATIENCE, "signals do not end the gateway");
    };
    assert_eq!(status.code(), Some(143), "after {:?}", asked.elapsed());
    assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_gateway_whose_log_is_on_a_full_disk_serves_and_drains() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut gateway = Mute::start("trace", full.into());
    eventually("the plugin serves", || async {
        drop(Client::handshake(gateway.address, "/ws").await.ok()?);
        (gateway.client().await.request(3, b"").await.status == 0).then_some(())
    })
    .await;
    let mut client = gateway.client().await;
    for _ in 0..100 {
        client.assert_alive().await;
        assert_eq!(client.request(9, b"").await.status, 3);
    }
    gateway.terminate().await;
    assert_eq!(u16::from(client.closed().await.unwrap().code), 1001);
    let status = in_time("the end of the gateway", gateway.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}
