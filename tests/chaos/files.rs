//! The changes of the plugins directory and of gateway.yaml in a run: new versions under load, hostile plugins, and
//! files that are not plugins.

use crate::{attackers::send_repeatedly, messages::GAME};
use bytes::Bytes;
use fastrand::Rng;
use gateway_tests::{
    Gateway, Setup, bombs, chat_next, chat_request, component, dist, guest, header, put, variant, wat,
};
use serde_json::json;
use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};
use tokio::time;

/// The route of `tests/guests/hostile`.
const ROUTE: u8 = 0x66;
/// The game of the requests that the plugin of `tests/guests/hostile` subscribes to.
const HOSTILE_GAME: &str = "hostile";
/// The route of `tests/guests/endless.wat`.
const ENDLESS_ROUTE: u8 = 0x67;
/// How long clients keep a hostile plugin busy.
const BUSY: Duration = Duration::from_millis(500);

/// The limits under which a call returns a million actions.
const MILLION: &str = "call_timeout_ms: 1000, memory_mb: 1024, result_mb: 1024, actions: 1000000";

/// The ways in which the hostile plugin misbehaves in `on_packet`, each with generous limits under which it does more
/// harm. The plugin misbehaves in the same way in `on_message`, unless the entry names another way.
const PACKET_MISBEHAVIOURS: [(&str, &str); 38] = [
    ("loop", ""),
    ("slow", ""),
    ("sleep", ""),
    ("panic", ""),
    ("abort", ""),
    ("exit", ""),
    ("divide-by-zero", ""),
    ("index", ""),
    ("recurse", ""),
    ("memory-at-once", ""),
    ("memory-page-by-page", "call_timeout_ms: 1000"),
    ("leak", ""),
    ("million-actions", "call_timeout_ms: 1000, memory_mb: 1024"),
    ("huge-result", "call_timeout_ms: 1000, memory_mb: 1024"),
    ("reply-over-message-limit", "call_timeout_ms: 1000, memory_mb: 1024"),
    ("invalid-utf8", ""),
    ("control-characters-in-topic", ""),
    ("empty-topic", ""),
    ("unknown-route", ""),
    ("reserved-status", ""),
    ("close-code", ""),
    ("close-reason", ""),
    ("two-users", ""),
    ("reject-with-0", ""),
    ("long-rejection", ""),
    ("ten-thousand-groups", "actions: 10000"),
    ("million-timers", MILLION),
    ("million-topics", MILLION),
    ("two-mebibytes-of-state", ""),
    ("megabyte-key", ""),
    ("log-a-million-lines", "call_timeout_ms: 1000"),
    ("log-a-long-line", ""),
    ("print-a-long-line", ""),
    ("look-around", ""),
    ("every-third-call", ""),
    ("a-thousand-deliveries", ""),
    ("publish-15-mib-twice", "call_timeout_ms: 1000, memory_mb: 1024"),
    ("publish-once, on_message: publish-twice-where-it-was-heard", ""),
];

/// The ways in which the hostile plugin misbehaves in `configure`.
const CONFIGURE_MISBEHAVIOURS: [&str; 10] = [
    "loop",
    "panic",
    "exit",
    "recurse",
    "memory-at-once",
    "memory-page-by-page",
    "too-many-topics",
    "illegal-topic",
    "refuse",
    "refuse-at-length",
];

/// The resources that the hand-written guest `endless` consumes without end.
const ENDLESS: [&str; 3] = ["handles", "tables", "recurse"];

/// Files that are not plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Garbage,
    Half,
    Empty,
    TrapsInDescribe,
    LoopsInDescribe,
    /// A symbolic link to a path that does not exist.
    Dangling,
    /// A directory that is named like a plugin.
    Directory,
    /// A named pipe without a writer.
    Pipe,
    /// A symbolic link to `/proc/kmsg`. A read of this file never ends.
    KernelLog,
    /// A thousand component types, each nested in the one before. A recursive parser would overflow its stack.
    NestedTypes,
    /// Thirty components, each with two instances of the one before: 2^30 instances in all.
    Instances,
    /// A core module whose embedded WIT is nested a hundred thousand times.
    NestedWit,
    /// A plugin with a million empty functions.
    Functions,
    /// A plugin with a million data segments.
    Segments,
    /// A plugin with a function that takes minutes to compile.
    Loops,
}

/// The small files that take a compiler very much time, memory or stack.
const BOMBS: [Bad; 6] = [Bad::NestedTypes, Bad::Instances, Bad::NestedWit, Bad::Functions, Bad::Segments, Bad::Loops];

/// The replacements of gateway.yaml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yaml {
    /// A valid file with one more game.
    Good,
    Garbage,
    UnknownKey,
    Empty,
    Missing,
    /// 3 MB of games.
    Huge,
    /// Nested lists by YAML references (a billion laughs): a billion elements in all.
    BillionLaughs,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The file of chat is replaced by its next version, or by the shipped one.
    SwapChat {
        next: bool,
    },
    /// The file of system is replaced by one that differs in a meaningless byte only.
    SwapSystem {
        mark: u8,
    },
    /// The file of chat is written in place, in two halves with a pause between them.
    SlowlyWritten {
        pause: Duration,
    },
    /// The file of a plugin is renamed for a while.
    Removed {
        plugin: &'static str,
        away: Duration,
    },
    /// The plugins directory is renamed for a while.
    Renamed {
        away: Duration,
    },
    /// The hostile plugin misbehaves in `on_packet` and `on_message`. If `generous` is true, it has the generous limits
    /// of [`PACKET_MISBEHAVIOURS`].
    Hostile {
        way: usize,
        generous: bool,
    },
    /// The hostile plugin misbehaves in `configure`, while it is loaded.
    HostileConfigure {
        way: usize,
    },
    Endless {
        way: usize,
    },
    BadFile(Bad),
    /// A file next to the plugins is written all the time.
    BusyNeighbour,
    Yaml(Yaml),
}

/// Draws the changes of one deck: most kinds once, some kinds several times, and a choice of the hostile ways.
pub(crate) fn draw_changes(rng: &mut Rng) -> Vec<Change> {
    let mut away = || Duration::from_millis(rng.u64(300..2000));
    let mut changes = vec![
        Change::SwapChat { next: true },
        Change::SwapChat { next: false },
        Change::SlowlyWritten { pause: away() },
        Change::Removed { plugin: "chat", away: away() },
        Change::Removed { plugin: "system", away: away() },
        Change::Renamed { away: away() },
        Change::SwapSystem { mark: rng.u8(..) },
        Change::SwapSystem { mark: rng.u8(..) },
        Change::HostileConfigure { way: rng.usize(..CONFIGURE_MISBEHAVIOURS.len()) },
        Change::Endless { way: rng.usize(..ENDLESS.len()) },
        Change::BusyNeighbour,
    ];
    changes
        .extend((0..6).map(|_| Change::Hostile { way: rng.usize(..PACKET_MISBEHAVIOURS.len()), generous: rng.bool() }));
    let bad = [
        Bad::Garbage,
        Bad::Half,
        Bad::Empty,
        Bad::TrapsInDescribe,
        Bad::LoopsInDescribe,
        Bad::Dangling,
        Bad::Directory,
        Bad::Pipe,
        Bad::KernelLog,
        Bad::NestedTypes,
        Bad::Instances,
    ];
    changes.extend(rng.choose_multiple(bad, 5).into_iter().map(Change::BadFile));
    let yaml =
        [Yaml::Good, Yaml::Garbage, Yaml::UnknownKey, Yaml::Empty, Yaml::Missing, Yaml::Huge, Yaml::BillionLaughs];
    changes.extend(rng.choose_multiple(yaml, 4).into_iter().map(Change::Yaml));
    changes
}

/// Returns all hostile guests and bombs, under the default limits. Under the generous limits, a call could occupy a thread that
/// serves players for a second, until the plugin is known to be slow.
pub(crate) fn hostile_guests() -> impl Iterator<Item = Change> {
    let calls = (0..PACKET_MISBEHAVIOURS.len()).map(|way| Change::Hostile { way, generous: false });
    let configure = (0..CONFIGURE_MISBEHAVIOURS.len()).map(|way| Change::HostileConfigure { way });
    let endless = (0..ENDLESS.len()).map(|way| Change::Endless { way });
    // Between two bombs, a hostile plugin takes its time, so that each bomb is compiled for a while.
    let bombs = BOMBS.into_iter().flat_map(|bomb| [Change::BadFile(bomb), Change::Hostile { way: 0, generous: false }]);
    calls.chain(configure).chain(endless).chain(bombs)
}

/// Returns the setup of the gateway in a run. `settings` are further entries of `plugins.settings`.
pub(crate) fn setup(redis: u16, settings: &str) -> Setup {
    let yaml = format!(
        "games: [{{ id: {GAME} }}, {{ id: {HOSTILE_GAME} }}]\nredis: {{ addr: \"127.0.0.1:{redis}\" }}\n\
         plugins: {{ directory: plugins, settings: {{ {settings} }} }}"
    );
    // The limit is so low that hostile clients can use up the descriptors.
    Setup { yaml, open_files: Some(400), ..Setup::default() }
}

/// Makes the change. `redis` is the port in gateway.yaml.
pub(crate) async fn apply(change: Change, gateway: &Gateway, redis: u16) {
    match change {
        Change::SwapChat { next: true } => put(&gateway.plugin("chat"), &chat_next()),
        Change::SwapChat { next: false } => put(&gateway.plugin("chat"), &shipped("chat")),
        Change::SwapSystem { mark } => put(&gateway.plugin("system"), &marked(shipped("system"), mark)),
        Change::SlowlyWritten { pause } => slowly_written(&gateway.plugin("chat"), pause).await,
        Change::Removed { plugin, away } => {
            let (file, moved) = (gateway.plugin(plugin), gateway.plugins().join("removed"));
            fs::rename(&file, &moved).unwrap();
            time::sleep(away).await;
            fs::rename(&moved, &file).unwrap();
        }
        Change::Renamed { away } => {
            let (directory, moved) = (gateway.plugins(), gateway.plugins().with_extension("renamed"));
            fs::rename(&directory, &moved).unwrap();
            time::sleep(away).await;
            fs::rename(&moved, &directory).unwrap();
        }
        Change::Hostile { way, generous } => {
            let (way, limits) = PACKET_MISBEHAVIOURS[way];
            let limits = if generous { limits } else { "" };
            let on_message = if way.contains("on_message") { String::new() } else { format!(", on_message: {way}") };
            hostile(gateway, redis, &format!("on_packet: {way}{on_message}"), limits).await;
        }
        Change::HostileConfigure { way } => {
            hostile(gateway, redis, &format!("configure: {}", CONFIGURE_MISBEHAVIOURS[way]), "").await
        }
        Change::Endless { way } => {
            put(&gateway.plugin("endless"), &component(&wat("endless")));
            let packet = [header(1, ENDLESS_ROUTE), ENDLESS[way].into()].concat();
            send_repeatedly(gateway.address, vec![packet.into()], BUSY).await;
        }
        Change::BadFile(bad) => bad_file(gateway, bad),
        Change::BusyNeighbour => {
            for line in 0..500 {
                fs::write(gateway.plugins().join("busy.log"), line.to_string()).unwrap();
                time::sleep(BUSY / 500).await;
            }
        }
        Change::Yaml(yaml) => yaml_file(gateway, redis, yaml),
    }
}

/// Restores the plugins directory and gateway.yaml.
pub(crate) fn restore(gateway: &Gateway, redis: u16) {
    for entry in fs::read_dir(gateway.plugins()).unwrap() {
        remove(&entry.unwrap().path());
    }
    put(&gateway.plugin("chat"), &shipped("chat"));
    put(&gateway.plugin("system"), &shipped("system"));
    gateway.reconfigure(&setup(redis, ""));
}

async fn hostile(gateway: &Gateway, redis: u16, config: &str, limits: &str) {
    let comma = if limits.is_empty() { "" } else { ", " };
    gateway.reconfigure(&setup(redis, &format!("hostile: {{ config: {{ {config} }}{comma}{limits} }}")));
    put(&gateway.plugin("hostile"), &fs::read(guest("hostile")).unwrap());
    let packet = header(1, ROUTE);
    let message = [header(2, 1), chat_request(HOSTILE_GAME, 2_000_000, "to the hostile plugin")].concat();
    send_repeatedly(gateway.address, vec![Bytes::from(packet), Bytes::from(message)], BUSY).await;
}

async fn slowly_written(file: &Path, pause: Duration) {
    let content = shipped("chat");
    let (first, _) = content.split_at(content.len() / 2);
    fs::write(file, first).unwrap();
    time::sleep(pause).await;
    fs::write(file, &content).unwrap();
}

fn bad_file(gateway: &Gateway, bad: Bad) {
    let file = gateway.plugin("bad");
    remove(&file);
    let faulty = |fault: &str| variant(&json!({ "name": "bad", "version": "1", "routes": [0x68], fault: "describe" }));
    match bad {
        Bad::Garbage => put(&file, &[0x5a; 10_000]),
        Bad::Half => put(&file, &shipped("chat")[..10_000]),
        Bad::Empty => put(&file, b""),
        Bad::TrapsInDescribe => put(&file, &faulty("traps_in")),
        Bad::LoopsInDescribe => put(&file, &faulty("loops_in")),
        Bad::Dangling => symlink("nowhere", &file).unwrap(),
        Bad::Directory => fs::create_dir(&file).unwrap(),
        Bad::Pipe => drop(Command::new("mkfifo").arg(&file).status().unwrap()),
        Bad::KernelLog => symlink("/proc/kmsg", &file).unwrap(),
        Bad::NestedTypes => put(&file, &nested_types(1000)),
        Bad::Instances => put(&file, &instances(30)),
        Bad::NestedWit => put(&file, &bombs::nested_wit(100_000)),
        Bad::Functions => put(&file, &bombs::functions(&shipped("chat"), 999_000)),
        Bad::Segments => put(&file, &bombs::segments(&shipped("chat"), 13)),
        Bad::Loops => put(&file, &component(&bombs::loops(&wat("endless")))),
    }
}

fn yaml_file(gateway: &Gateway, redis: u16, yaml: Yaml) {
    let file = gateway.config();
    match yaml {
        Yaml::Good => {
            let setup = setup(redis, "");
            let yaml = setup.yaml.replace("games: [", "games: [{ id: another }, ");
            gateway.reconfigure(&Setup { yaml, ..setup });
        }
        Yaml::Garbage => fs::write(file, [0xff, 0x00, b'{', b'[']).unwrap(),
        Yaml::UnknownKey => fs::write(file, "server: { prot: 1 }\n").unwrap(),
        Yaml::Empty => fs::write(file, "").unwrap(),
        Yaml::Missing => remove(&file),
        Yaml::Huge => fs::write(file, format!("games:\n{}", "- { id: another }\n".repeat(170_000))).unwrap(),
        Yaml::BillionLaughs => fs::write(file, laughs()).unwrap(),
    }
}

/// Returns a component type that is nested in another one, and so on, to this depth.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut section = vec![1];
    // Each level is a component type of one declaration, which is the next type.
    section.extend([0x41, 1, 1].repeat(depth));
    section.extend([0x41, 0]);
    // The section's id, and its length as LEB128 of two bytes.
    let len = [0x80 | (section.len() & 0x7f) as u8, (section.len() >> 7) as u8];
    [&b"\0asm\x0d\0\x01\0"[..], &[7], &len, &section].concat()
}

fn instances(depth: usize) -> Vec<u8> {
    let mut text = "(component (component $c0)".to_owned();
    for i in 1..=depth {
        let before = format!("(instance (instantiate $c{}))", i - 1);
        text += &format!("(component $c{i} {before} {before})");
    }
    component(&format!("{text} (instance (instantiate $c{depth})))"))
}

/// Returns a YAML file with a billion laughs.
fn laughs() -> String {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='i').zip('a'..) {
        text += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(", "));
    }
    text
}

fn shipped(plugin: &str) -> Vec<u8> {
    fs::read(dist(plugin)).unwrap()
}

/// Appends a custom section to the component, which has no effect.
fn marked(mut component: Vec<u8>, mark: u8) -> Vec<u8> {
    component.extend([0, 3, 1, b'm', mark]);
    component
}

fn remove(path: &Path) {
    // The path may be missing, a file, or a directory.
    let _ = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}
