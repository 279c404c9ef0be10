//! What can be asked for on the command line, and what that means.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;

use super::process::{Process, max_open_files};
use crate::connection::{MAX_PAYLOAD_BYTES, Target};

/// Sockets to Redis, the runtime's own files, and stdin to stderr.
const OTHER_FILES: usize = 32;

/// Figures about the machine's own noise need no longer run than a day.
const MAX_SECONDS: f64 = 86_400.0;

#[derive(clap::Subcommand)]
pub(super) enum Mode {
    /// From clients to Redis: chat requests, until they appear on game:request:GAME
    Request(Traffic),
    /// From Redis to clients: chat responses on `broadcast`, until they arrive
    Deliver(Traffic),
    /// From clients to the gateway and back: heartbeats
    Ping(Heartbeats),
    /// The whole loop: chat requests, which this program answers on Redis as the backend, until the answers arrive
    Loop(Loop),
    /// Sessions that do nothing: what it costs to open and to keep them
    Idle(Common),
}

#[derive(clap::Args)]
pub(super) struct Traffic {
    #[command(flatten)]
    pace: Pacing,
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    bus: Bus,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(super) struct Heartbeats {
    #[command(flatten)]
    pace: Pacing,
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(super) struct Loop {
    /// Messages a second in total, in groups each 500 µs. Each has its time beforehand, from which its latency counts
    #[arg(long, value_name = "R", value_parser = positive)]
    rate: f64,
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    bus: Bus,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Pacing {
    /// Closed loop: messages of each client that are under way at a time, sent in bursts of half as many
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pipeline: u32,
    /// Open loop: messages a second in total, in groups each 500 µs. Each has its time beforehand, from which its latency counts
    #[arg(long, value_name = "R", conflicts_with = "pipeline", value_parser = positive)]
    rate: Option<f64>,
}

#[derive(clap::Args)]
struct Messages {
    /// The length of a packet's payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(..=MAX_PAYLOAD_BYTES as u64))]
    payload: u64,
}

/// The Redis of the gateway.
#[derive(clap::Args, Clone)]
pub(super) struct Bus {
    /// The Redis of the gateway, without a password
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub(super) redis: String,
    /// The game's id
    #[arg(long, value_name = "ID", default_value = "mmo", value_parser = game_id)]
    pub(super) game: String,
}

#[derive(clap::Args)]
pub(super) struct Common {
    /// Sessions, of the users 1 to N
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// The measured time
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    duration_s: Duration,
    /// The time before, which is not measured
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    warmup_s: Duration,
    /// The gateway's process on this machine, to account its CPU time and memory
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Threads of this program, besides the one that keeps the times of --rate
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How the figures are shown; json is one object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// What the options mean, whatever the load.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) clients: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) server: Option<Process>,
    pub(super) threads: usize,
    pub(super) format: Format,
    pub(super) load: Load,
}

pub(super) enum Load {
    Idle,
    Flow(Flow),
}

/// Messages that are sent, and that arrive somewhere.
pub(super) struct Flow {
    pub(super) way: Way,
    pub(super) pace: Pace,
    /// Bytes.
    pub(super) payload: usize,
}

/// The way of the messages.
#[derive(Clone)]
pub(super) enum Way {
    Request(Bus),
    Deliver(Bus),
    Ping,
    Loop(Bus),
}

/// When a message is sent.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// As soon as fewer than so many of its client are under way.
    Window(u64),
    /// So many a second in total, whatever becomes of them.
    Rate(f64),
}

impl Plan {
    /// An error says what the machine does not allow.
    pub(super) fn new(mode: Mode) -> anyhow::Result<Self> {
        let (common, load) = match mode {
            Mode::Idle(common) => (common, Load::Idle),
            Mode::Ping(Heartbeats { pace, messages, common }) => (common, Load::new(Way::Ping, pace.pace(), &messages)),
            Mode::Request(Traffic { pace, messages, bus, common }) => {
                (common, Load::new(Way::Request(bus), pace.pace(), &messages))
            }
            Mode::Deliver(Traffic { pace, messages, bus, common }) => {
                (common, Load::new(Way::Deliver(bus), pace.pace(), &messages))
            }
            Mode::Loop(Loop { rate, messages, bus, common }) => {
                (common, Load::new(Way::Loop(bus), Pace::Rate(rate), &messages))
            }
        };
        // At most 1,000,000.
        let clients = common.clients as usize;
        check_open_files(clients, max_open_files())?;
        Ok(Self {
            target: common.target,
            clients,
            warmup: common.warmup_s,
            duration: common.duration_s,
            server: common.pid.map(Process::Other),
            threads: common.threads.into(),
            format: common.format,
            load,
        })
    }
}

impl Load {
    fn new(way: Way, pace: Pace, messages: &Messages) -> Self {
        // No larger than MAX_PAYLOAD_BYTES, which is a usize.
        Self::Flow(Flow { way, pace, payload: messages.payload as usize })
    }

    /// The word on the command line.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Flow(flow) => match flow.way {
                Way::Request(_) => "request",
                Way::Deliver(_) => "deliver",
                Way::Ping => "ping",
                Way::Loop(_) => "loop",
            },
        }
    }
}

impl Pacing {
    fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Window(self.pipeline.into()), Pace::Rate)
    }
}

impl Pace {
    /// How many messages of each client may be under way; 0 stands for as many as there are.
    pub(super) fn window(self) -> u64 {
        match self {
            Self::Window(window) => window,
            Self::Rate(_) => 0,
        }
    }
}

impl Way {
    pub(super) fn bus(&self) -> Option<&Bus> {
        match self {
            Self::Request(bus) | Self::Deliver(bus) | Self::Loop(bus) => Some(bus),
            Self::Ping => None,
        }
    }
}

/// Each session is an open file. To raise the limit from within takes a system call that Rust has only as an unsafe one.
fn check_open_files(clients: usize, limit: Option<usize>) -> anyhow::Result<()> {
    let needed = clients + OTHER_FILES;
    match limit {
        Some(limit) if limit < needed => {
            bail!(
                "--clients {clients} needs {needed} open files, and {limit} are allowed; run `ulimit -n {needed}` before"
            )
        }
        _ => Ok(()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=MAX_SECONDS).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("seconds are a number from 0 to {MAX_SECONDS}")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.001 to 1000000000".into()),
    }
}

/// What gateways take for a game's id.
fn game_id(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a game's id has 1 to 64 characters of A-Z, a-z, 0-9, _, . and -".into())
    }
}
