//! The options on the command line, and their meaning.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use gateway_connection::{MAX_PAYLOAD_BYTES, Target};

use crate::process::{Process, max_open_files};

/// The open files of this program besides its sessions: sockets to Redis, the runtime's own files, and stdin to stderr.
const OTHER_FILES: usize = 32;

/// The longest time that can be asked for, in seconds: a day.
const MAX_SECONDS: f64 = 86_400.0;

#[derive(clap::Subcommand)]
pub(crate) enum Mode {
    /// From clients to Redis: chat requests, until they appear on game:request:GAME
    Request(Traffic),
    /// From Redis to clients: chat responses on `broadcast`, until they arrive
    Deliver(Traffic),
    /// From clients to the gateway and back: heartbeats
    Ping(Heartbeats),
    /// The whole loop: chat requests, which this program answers on Redis as the backend, until the answers arrive
    Loop(Loop),
    /// One message to many clients: from a backend to all sessions of the user 1, or with --route from one more client
    /// to all that have joined
    Fanout(Fanout),
    /// Sessions that do nothing: what it costs to open and to keep them
    Idle(Common),
}

#[derive(clap::Args)]
pub(crate) struct Traffic {
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
pub(crate) struct Heartbeats {
    #[command(flatten)]
    pace: Pacing,
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(crate) struct Loop {
    /// Messages a second in total, in a group each 500 µs. The latency of a message counts from the time at which it is
    /// due
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
pub(crate) struct Fanout {
    /// Messages a second, each of which goes to all clients. Its latency counts from the time at which it is due to its
    /// arrival at the last client. All other figures are about deliveries
    #[arg(long, value_name = "R", value_parser = positive)]
    rate: f64,
    /// One more client sends the messages on this route, whose plugin has to pass their payload on to all clients.
    /// Redis is not used
    #[arg(long, value_name = "N", value_parser = gateway_connection::route, conflicts_with_all = ["redis", "game"])]
    route: Option<u8>,
    /// What each client sends on the route to get the messages, and to which it needs a reply
    #[arg(long, value_name = "TEXT", requires = "route", default_value = "join")]
    join: String,
    /// What the sender's packets have before the payload, and the deliveries do not
    #[arg(long, value_name = "TEXT", requires = "route", default_value = "")]
    before: String,
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    bus: Bus,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Pacing {
    /// Closed loop: the messages of each client that are under way at a time, sent in bursts of half as many or more
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pipeline: u32,
    /// Open loop: messages a second in total, in a group each 500 µs. The latency of a message counts from the time at
    /// which it is due
    #[arg(long, value_name = "R", conflicts_with = "pipeline", value_parser = positive)]
    rate: Option<f64>,
}

#[derive(clap::Args)]
struct Messages {
    /// The length of the payload of a packet
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(..=MAX_PAYLOAD_BYTES as u64))]
    payload: u64,
}

/// The Redis of the gateway.
#[derive(clap::Args, Clone)]
pub(crate) struct Bus {
    /// The address of the gateway's Redis, which takes no password
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub(crate) redis: String,
    /// The game's id
    #[arg(long, value_name = "ID", default_value = "mmo", value_parser = game_id)]
    pub(crate) game: String,
}

#[derive(clap::Args)]
pub(crate) struct Common {
    /// Sessions, of the users 1 to N
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// The measured time
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    duration_s: Duration,
    /// The time before the measured time
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    warmup_s: Duration,
    /// The gateway's process on this machine, whose CPU time and memory are accounted
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Threads of this program, besides the one that sends messages at the times of --rate
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// The form of the figures; json is one object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The meaning of the options, for every kind of load.
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) clients: usize,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) server: Option<Process>,
    pub(crate) threads: usize,
    pub(crate) format: Format,
    pub(crate) load: Load,
}

/// The kind of load.
pub(crate) enum Load {
    /// Sessions that do nothing.
    Idle,
    /// Messages.
    Flow(Flow),
}

/// The messages of a load.
pub(crate) struct Flow {
    pub(crate) way: Way,
    pub(crate) pace: Pace,
    /// The length of a payload in bytes.
    pub(crate) payload: usize,
}

/// The way of the messages.
#[derive(Clone)]
pub(crate) enum Way {
    Request(Bus),
    Deliver(Bus),
    Ping,
    Loop(Bus),
    Fanout(Source),
}

/// The sender of the messages that go to all clients.
#[derive(Clone)]
pub(crate) enum Source {
    /// A backend, which publishes them for the user of all sessions.
    Backend(Bus),
    /// One more client.
    Client(Relay),
}

/// The way from one client to all others.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) route: u8,
    /// The payload with which a client joins those who get the messages.
    pub(crate) join: String,
    /// What the sender's packets have before the payload of a message.
    pub(crate) before: String,
}

/// The time at which a message is sent.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Closed loop: a message is sent as soon as fewer than this many of its client are under way.
    Window(u64),
    /// Open loop: this many messages are sent in a second in total, whether earlier ones have arrived or not.
    Rate(f64),
}

impl Plan {
    /// Resolves the options. Fails if the machine does not allow as many open files as there are clients.
    pub(crate) fn new(mode: Mode) -> anyhow::Result<Self> {
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
            Mode::Fanout(Fanout { rate, route, join, before, messages, bus, common }) => {
                let source = match route {
                    Some(route) => Source::Client(Relay { route, join, before }),
                    None => Source::Backend(bus),
                };
                (common, Load::new(Way::Fanout(source), Pace::Rate(rate), &messages))
            }
        };
        // The command line allows at most 1,000,000.
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
        // The payload is at most MAX_PAYLOAD_BYTES, which is a usize.
        Self::Flow(Flow { way, pace, payload: messages.payload as usize })
    }

    /// The name on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Flow(flow) => match flow.way {
                Way::Request(_) => "request",
                Way::Deliver(_) => "deliver",
                Way::Ping => "ping",
                Way::Loop(_) => "loop",
                Way::Fanout(_) => "fanout",
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
    /// The number of messages of each client that may be under way. It is 0 in an open loop, which has no such bound.
    pub(crate) fn window(self) -> u64 {
        match self {
            Self::Window(window) => window,
            Self::Rate(_) => 0,
        }
    }
}

impl Way {
    /// The Redis and the game, unless the messages do not involve Redis.
    pub(crate) fn bus(&self) -> Option<&Bus> {
        match self {
            Self::Request(bus) | Self::Deliver(bus) | Self::Loop(bus) | Self::Fanout(Source::Backend(bus)) => Some(bus),
            Self::Ping | Self::Fanout(Source::Client(_)) => None,
        }
    }

    /// Whether a session gets messages only when it is bound to its user or has joined the others.
    pub(crate) fn has_binding(&self) -> bool {
        matches!(self, Self::Deliver(_) | Self::Fanout(_))
    }

    /// The way from one client to all others, if it is this one.
    pub(crate) fn relay(&self) -> Option<&Relay> {
        match self {
            Self::Fanout(Source::Client(relay)) => Some(relay),
            _ => None,
        }
    }
}

/// Checks the limit of open files, since each session is an open file. Raising the limit here would need unsafe code or
/// one more dependency.
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

/// Parses the id of a game, as gateways do.
fn game_id(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a game's id has 1 to 64 characters of A-Z, a-z, 0-9, _, . and -".into())
    }
}
