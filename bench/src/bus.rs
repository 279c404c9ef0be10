//! The Redis servers of a measurement, as backends use them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// The number of slots of every Cluster.
pub(crate) const SLOTS: u16 = 16384;

/// The time that Redis or a gateway may take for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// A bus.
pub(crate) enum Bus {
    /// One server, with its port.
    Standalone(u16),
    /// A Cluster, with the ports of its masters. Each has an equal part of the slots.
    Cluster(Vec<u16>),
}

impl Bus {
    /// The keys of the section `redis` in the configuration of a gateway.
    pub(crate) fn keys(&self) -> String {
        match self {
            Self::Standalone(port) => format!("addr: \"127.0.0.1:{port}\""),
            Self::Cluster(ports) => {
                let addrs: Vec<_> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
                format!("cluster: {{ addrs: [{}] }}", addrs.join(", "))
            }
        }
    }

    fn ports(&self) -> &[u16] {
        match self {
            Self::Standalone(port) => std::slice::from_ref(port),
            Self::Cluster(ports) => ports,
        }
    }

    /// Waits until the servers have at least this number of subscriptions.
    pub(crate) fn subscribed(&self, topics: u32) -> anyhow::Result<()> {
        let mut servers = self.ports().iter().map(|port| Redis::connect(*port)).collect::<Result<Vec<_>, _>>()?;
        wait("redis has not subscribed to all topics", || {
            let mut sum = 0;
            for server in &mut servers {
                let clients = server.bulk("CLIENT LIST TYPE pubsub")?;
                let count = |word: &str| word.strip_prefix("sub=").or(word.strip_prefix("ssub="))?.parse::<u32>().ok();
                sum += clients.split(' ').filter_map(count).sum::<u32>();
            }
            Ok(sum >= topics)
        })
    }

    /// Connects as a backend that publishes.
    pub(crate) fn backend(&self) -> anyhow::Result<Backend> {
        let connect = |port: &u16| anyhow::Ok((Redis::connect(*port)?, Vec::new(), 0));
        let command = match self {
            Self::Standalone(_) => "*3\r\n$7\r\nPUBLISH",
            Self::Cluster(_) => "*3\r\n$8\r\nSPUBLISH",
        };
        Ok(Backend { command, servers: self.ports().iter().map(connect).collect::<Result<_, _>>()? })
    }
}

/// A backend that publishes to topics with one subscriber.
pub(crate) struct Backend {
    command: &'static str,
    /// The connections, with the commands that are not sent yet and their number.
    servers: Vec<(Redis, Vec<u8>, usize)>,
}

impl Backend {
    /// Adds a publish to those that are sent together.
    pub(crate) fn add(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        let slot = u32::from(crc16::State::<crc16::XMODEM>::calculate(topic.as_bytes()) % SLOTS);
        let server = slot * self.servers.len() as u32 / u32::from(SLOTS);
        let (_, commands, count) = &mut self.servers[server as usize];
        write!(commands, "{}\r\n${}\r\n{topic}\r\n${}\r\n", self.command, topic.len(), payload.len())?;
        commands.extend([payload, b"\r\n"].concat());
        *count += 1;
        Ok(())
    }

    /// Sends the publishes, and checks that each is heard.
    pub(crate) fn send(&mut self) -> anyhow::Result<()> {
        for (server, commands, _) in &mut self.servers {
            server.socket.get_mut().write_all(commands)?;
            commands.clear();
        }
        for (server, _, count) in &mut self.servers {
            for _ in 0..std::mem::take(count) {
                let heard = server.line()?;
                ensure!(heard == ":1", "a publish was heard by {heard}");
            }
        }
        Ok(())
    }
}

/// Waits until a condition holds.
pub(crate) fn wait(why: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{why} within {} s", PATIENCE.as_secs());
        sleep(POLL);
    }
    Ok(())
}

/// A connection to Redis.
pub(crate) struct Redis {
    pub(crate) socket: BufReader<TcpStream>,
}

impl Redis {
    pub(crate) fn connect(port: u16) -> anyhow::Result<Self> {
        Ok(Self { socket: BufReader::new(TcpStream::connect(("127.0.0.1", port))?) })
    }

    pub(crate) fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.socket.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends a command whose answer is `OK`.
    pub(crate) fn ok(&mut self, command: &str) -> anyhow::Result<()> {
        self.socket.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let answer = self.line()?;
        ensure!(answer == "+OK", "{command}: {answer}");
        Ok(())
    }

    /// Sends a command whose answer is a text.
    pub(crate) fn bulk(&mut self, command: &str) -> anyhow::Result<String> {
        self.socket.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let head = self.line()?;
        let len: usize = head.strip_prefix('$').with_context(|| head.clone())?.parse()?;
        let mut text = vec![0; len + 2];
        self.socket.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The processor time of Redis so far, in seconds.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<f64> {
        let info = self.bulk("INFO cpu")?;
        let of = |key| {
            let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            anyhow::Ok(value.with_context(|| info.clone())?.parse::<f64>()?)
        };
        Ok(of("used_cpu_user")? + of("used_cpu_sys")?)
    }
}
