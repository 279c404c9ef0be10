//! A plugin that misbehaves in the way that its settings name. The plugin serves route 0x66, and subscribes to the
//! requests of the game `hostile`. It does not export `sessions`, so that each call is caused by a packet or a message.
//!
//! The modules of `tests/containment.rs` state the required outcome of each way to misbehave.

use gateway_plugin_sdk::{
    Action, Hearing, Packet, Plugin, Policy, Rejection, SessionId, Settings, Target, Timers, export, log,
};
use serde::Deserialize;
use std::{
    env, fs,
    hint::black_box,
    io::Write,
    net::TcpStream,
    process, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const ROUTE: u8 = 0x66;
const MIB: usize = 1 << 20;

/// The session of a call that is about no session.
const NOBODY: SessionId = SessionId { high: 0, low: 0 };

/// The way in which each call misbehaves. An empty string is a call that behaves well.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    configure: String,
    #[serde(default)]
    on_packet: String,
    #[serde(default)]
    on_message: String,
}

struct Hostile {
    config: Config,
    calls: u32,
}

impl Plugin for Hostile {
    const NAME: &str = "hostile";
    const ROUTES: &[u8] = &[ROUTE];
    type Config = Config;

    fn configure(Settings { config, .. }: Settings<Config>) -> Result<Self, String> {
        match config.configure.as_str() {
            "refuse" => return Err("config.configure: this is refused".to_owned()),
            "refuse-at-length" => return Err("\n\u{1b}[31m".repeat(4 * MIB)),
            way => {
                misbehave(way, 0);
            }
        }
        Ok(Self { config, calls: 0 })
    }

    fn topics(&self) -> Vec<String> {
        match self.config.configure.as_str() {
            "too-many-topics" => (0..2000).map(|i| format!("topic-{i}")).collect(),
            "illegal-topic" => vec!["a\nb".to_owned()],
            _ => vec!["game:request:hostile".to_owned()],
        }
    }
}

impl Policy for Hostile {
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.calls += 1;
        match self.config.on_packet.as_str() {
            "as-the-packet-says" => answer(&String::from_utf8_lossy(payload), packet.session, self.calls),
            way => answer(way, packet.session, self.calls),
        }
    }
}

impl Hearing for Hostile {
    fn on_message(&mut self, topic: &str, _: &[u8], _: u64) -> Result<Vec<Action>, Rejection> {
        self.calls += 1;
        match self.config.on_message.as_str() {
            "publish-once-where-it-was-heard" => Ok(vec![Action::publish(topic)]),
            "publish-twice-where-it-was-heard" => Ok(vec![Action::publish(topic); 2]),
            way => answer(way, NOBODY, self.calls).map(|_| Vec::new()),
        }
    }
}

impl Timers for Hostile {
    fn on_wake(&mut self, _: u64, _: u64) -> Vec<Action> {
        Vec::new()
    }
}

/// Returns an answer that breaks a rule in the way `way`, or misbehaves while the call runs.
fn answer(way: &str, session: SessionId, call: u32) -> Result<Vec<Action>, Rejection> {
    Ok(match way {
        "million-actions" => vec![Action::Echo; 1_000_000],
        "huge-result" => vec![Action::reply(vec![b'x'; 256 * MIB])],
        "reply-over-message-limit" => vec![Action::reply(vec![b'x'; 17 * MIB])],
        "invalid-utf8" => vec![Action::publish(not_utf8())],
        "control-characters-in-topic" => vec![Action::publish("a\r\nPUBLISH b c")],
        "empty-topic" => vec![Action::publish("")],
        "unknown-route" => vec![Action::deliver(Target::User(1), 0xee)],
        "reserved-status" => vec![Action::Reply(gateway_plugin_sdk::Answer { status: 99, body: Vec::new() })],
        "close-code" => vec![Action::end(Target::Sender, 1006, "no such code")],
        "close-reason" => vec![Action::end(Target::Sender, 1000, "x".repeat(124))],
        "ten-thousand-groups" => (0..10_000).map(|group| Action::join(session, group)).collect(),
        "million-timers" => (0..1_000_000).map(|key| Action::wake(key, Duration::from_secs(3600))).collect(),
        "million-topics" => (0..1_000_000).map(|i| Action::listen_session(session, format!("t{i}"))).collect(),
        "megabyte-key" => vec![Action::put("k".repeat(MIB), "")],
        "two-mebibytes-of-state" => vec![Action::put("k", vec![b'x'; 2 * MIB])],
        "a-thousand-deliveries" => vec![Action::deliver(Target::User(1), ROUTE); 1000],
        "publish-once" => vec![Action::publish("game:request:hostile")],
        "publish-15-mib-twice" => vec![Action::publish_body("large", vec![b'x'; 15 * MIB]); 2],
        "refuse-at-length" => return Err(Rejection::rejected("\u{7}".repeat(MIB))),
        "two-users" => vec![Action::Bind(1), Action::Bind(2)],
        "reject-with-0" => return Err(Rejection::new(0_u16, "no rejection")),
        "long-rejection" => return Err(Rejection::rejected("x".repeat(MIB))),
        _ => vec![Action::reply(misbehave(way, call))],
    })
}

#[allow(unsafe_code, reason = "the plugin is hostile on purpose")]
fn not_utf8() -> String {
    unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe]) }
}

fn misbehave(way: &str, call: u32) -> String {
    match way {
        "loop" => loop {
            black_box(());
        },
        "panic" => panic!("on purpose"),
        "abort" => process::abort(),
        "exit" => process::exit(0),
        "divide-by-zero" => (1 / black_box(0)).to_string(),
        "index" => [1, 2, 3][black_box(3)].to_string(),
        "recurse" => recurse(call.into()).to_string(),
        "memory-at-once" => black_box(vec![1_u8; 1024 * MIB]).len().to_string(),
        "memory-page-by-page" => grow(),
        "leak" => {
            Box::leak(vec![1_u8; MIB].into_boxed_slice());
            "leaked".to_owned()
        }
        "random-bytes" => {
            // The standard library has no function for random numbers, but each new map has a random seed.
            (0..1000).map(|_| std::collections::HashMap::<u8, u8>::new().len()).sum::<usize>().to_string()
        }
        "log-a-million-lines" => {
            (0..1_000_000).for_each(|i| log::info(&format!("line {i}")));
            "logged".to_owned()
        }
        "log-a-long-line" => {
            log::info(&"x".repeat(MIB));
            "logged".to_owned()
        }
        "print-a-long-line" => {
            let _ = std::io::stdout().write_all("y".repeat(MIB).as_bytes());
            "printed".to_owned()
        }
        "slow" => {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(15) {}
            "slow".to_owned()
        }
        // The start fails within a time, in milliseconds since 1970.
        _ if way.starts_with("panic-between ") => {
            let mut times = way.split(' ').skip(1).map(|time| time.parse::<u128>().expect("a time"));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_millis();
            let (from, to) = (times.next().expect("the first time"), times.next().expect("the second time"));
            assert!(!(from..to).contains(&now), "on purpose, for a while");
            "well".to_owned()
        }
        "slow-start" => {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(200) {}
            "started".to_owned()
        }
        "sleep" => {
            thread::sleep(Duration::from_secs(3600));
            "slept".to_owned()
        }
        "every-third-call" => {
            assert!(!call.is_multiple_of(3), "on purpose, every third call");
            "fine".to_owned()
        }
        "look-around" => {
            let files =
                fs::read_dir("/").is_ok() || fs::read("/etc/passwd").is_ok() || fs::write("/tmp/x", "x").is_ok();
            let network = TcpStream::connect("127.0.0.1:22").is_ok();
            let environment = env::vars().count() + env::args().count();
            format!("files {files}, network {network}, environment {environment}")
        }
        _ => "well".to_owned(),
    }
}

#[allow(unconditional_recursion, reason = "the plugin is hostile on purpose")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[0]
}

fn grow() -> String {
    let mut pages = Vec::new();
    loop {
        pages.push(vec![1_u8; 64 * 1024]);
    }
}

export!(Hostile: Policy, Hearing, Timers);
