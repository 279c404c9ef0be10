//! Tests of a gateway whose log cannot be written, because nobody reads it or because the disk is full.

use gateway_tests::{Client, Gateway, PATIENCE, ReservedPort, dist, eventually, header, in_time};
use rustix::io::ioctl_fionread;
use std::{
    fs::{self, File},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

/// The time after SIGTERM from which on a gateway waits for nothing but its last log line: `drain_timeout_s`, which is 1
/// here, and 20 s.
const BOUND: Duration = Duration::from_secs(21);
/// The number of bytes in the pipe of the log from which on it is full. A line is not split, so it may leave a rest of
/// each page.
const FULL: u64 = 48 << 10;

/// A gateway that writes its log to this file or pipe.
struct Mute {
    child: Child,
    address: SocketAddr,
    _ports: [ReservedPort; 2],
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
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), _ports: ports, _folder: folder }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
    }
}

type Log = Lines<BufReader<ChildStderr>>;

/// Starts a gateway, stops reading its log, and makes it log until its threads wait for the log.
async fn stuck() -> (Mute, Log) {
    let mut gateway = Mute::start("info,gateway=trace", Stdio::piped());
    let mut log = BufReader::new(gateway.child.stderr.take().unwrap()).lines();
    while !in_time("a log line", log.next_line()).await.unwrap().expect("it runs").contains("serving plugins=system") {}
    let mut client = gateway.client().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the log does not block the gateway");
        let filled = ioctl_fionread(log.get_ref().get_ref()).unwrap();
        client.send_messages((0..100).map(|seq| header(seq, 3))).await;
        let answered = async {
            for _ in 0..100 {
                client.receive_any().await;
            }
        };
        // A gateway that does not answer for 2 s, while the pipe is full, is stuck.
        if timeout(Duration::from_secs(2), answered).await.is_err() && filled >= FULL {
            return (gateway, log);
        }
    }
}

#[tokio::test]
async fn a_gateway_whose_log_blocks_ends_within_its_bound_with_exit_code_1() {
    let (mut gateway, _log) = stuck().await;
    let asked = Instant::now();
    gateway.terminate().await;
    let status = in_time("the end of the gateway", gateway.child.wait()).await.unwrap();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(1), "after {took:?}");
    assert!(took >= BOUND && took < BOUND + Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_second_signal_ends_a_gateway_whose_log_blocks_at_once() {
    let (mut gateway, _log) = stuck().await;
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
