//! The servers that run during a measurement.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::bus::Bus;
use crate::child;
use crate::contender::{Contender, Folders};

/// The time that a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time between two checks whether a server has started.
const POLL: Duration = Duration::from_millis(20);

/// A server process, which is killed when this is dropped or this program ends.
pub(crate) struct Server {
    child: Child,
    /// The port of 127.0.0.1 on which the server listens.
    pub(crate) port: u16,
    /// The port of 127.0.0.1 on which the gateway has its admin side. The other servers have none.
    pub(crate) admin: u16,
}

impl Server {
    /// Starts a Redis that stores nothing on disk. A subscriber may lag behind as far as the window of the load allows.
    pub(crate) fn redis(folders: &Folders) -> anyhow::Result<Self> {
        Self::redis_with(folders, "")
    }

    /// Starts such a Redis with further arguments, which are separated by blanks.
    pub(crate) fn redis_with(folders: &Folders, arguments: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = child::command("redis-server");
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--client-output-buffer-limit", "pubsub 0 0 0"])
            .args(["--cluster-config-file", &format!("nodes-{port}.conf")])
            .args(arguments.split_whitespace())
            .current_dir(&folders.bench)
            .stdout(Stdio::null());
        Self::start("redis-server", command, [port, 0], || TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// Starts a gateway that is connected to the Redis on the port `redis`. Its log has only warnings, unless it goes to a
    /// file.
    pub(crate) fn gateway(
        contender: Contender,
        folders: &Folders,
        redis: u16,
        log: Option<File>,
    ) -> anyhow::Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let mut command = contender.command(folders, port, admin, redis)?;
        command.stdout(Stdio::null());
        if let Some(log) = log {
            command.env("RUST_LOG", "info").stderr(log);
        }
        Self::start(contender.name(), command, [port, admin], || {
            if contender.is_gateway() {
                is_ready(admin).unwrap_or(false)
            } else {
                // The others listen once they are connected to Redis, if they use it.
                TcpStream::connect(("127.0.0.1", port)).is_ok()
            }
        })
    }

    fn start(
        name: &str,
        mut command: Command,
        [port, admin]: [u16; 2],
        ready: impl Fn() -> bool,
    ) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{name} cannot be started by setpriv, a program of util-linux"))?;
        let mut server = Self { child, port, admin };
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready within {} s", PATIENCE.as_secs());
            }
            sleep(POLL);
        }
        Ok(server)
    }

    /// Starts a gateway with the plugin `chat`, beside others, with a configuration of this name.
    pub(crate) fn with_chat(folders: &Folders, bus: &Bus, name: &str) -> anyhow::Result<Self> {
        Self::quiet(folders, bus, name, &folders.plugins())
    }

    /// Starts a gateway with the plugin `probe` of the tests, which does what its clients ask for.
    pub(crate) fn with_probe(folders: &Folders, bus: &Bus) -> anyhow::Result<Self> {
        Self::quiet(folders, bus, "gateway-probe", &folders.probe()?)
    }

    /// Starts a gateway without a log.
    fn quiet(folders: &Folders, bus: &Bus, name: &str, plugins: &Path) -> anyhow::Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let config = folders.bench.join(name).with_extension("yaml");
        fs::write(&config, folders.config_with(plugins, "", [port, admin], bus))?;
        let mut command = child::command(folders.binary("gateway"));
        command.args(["run", "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        Self::start(name, command, [port, admin], || is_ready(admin).unwrap_or(false))
    }

    /// The processor time of the server's threads so far. The scheduler counts it in nanoseconds, while the times of the
    /// process are in steps of 10 ms.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let file = task?.path().join("schedstat");
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a port of 127.0.0.1 on which nothing listens.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether the gateway is ready: its bus is connected and its plugins serve.
fn is_ready(admin: u16) -> io::Result<bool> {
    Ok(ask(admin, "/readyz")?.starts_with("HTTP/1.1 200"))
}

/// Asks the admin side of a gateway for a page, and returns the whole answer.
pub(crate) fn ask(admin: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
