//! What happens to the plugins directory and to gateway.yaml: new versions under load, hostile plugins, and files that are no plugins.

use crate::{messages::GAME, strangers::pester};
use bytes::Bytes;
use fastrand::Rng;
use gateway_tests::{Gateway, Setup, chat_next, chat_request, component, dist, guest, header, put, variant, wat};
use serde_json::json;
use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};
use tokio::time;

/// The route of `tests/guests/hostile`, and the game whose requests it hears.
const ROUTE: u8 = 0x66;
const HOSTILE_GAME: &str = "hostile";
/// The route of `tests/guests/endless.wat`.
const ENDLESS_ROUTE: u8 = 0x67;
/// How long clients keep a hostile plugin busy.
const BUSY: Duration = Duration::from_millis(500);

/// What the hostile plugin does with a packet, and with a message unless that is said, and the settings that let it.
const WAYS: [(&str, &str); 30] = [
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
    ("unknown-route", ""),
    ("close-code", ""),
    ("two-users", ""),
    ("reject-with-0", ""),
    ("long-rejection", ""),
    ("log-a-million-lines", "call_timeout_ms: 1000"),
    ("log-a-long-line", ""),
    ("print-a-long-line", ""),
    ("look-around", ""),
    ("every-third-call", ""),
    ("a-thousand-deliveries", ""),
    ("publish-15-mib-twice", "call_timeout_ms: 1000, memory_mb: 1024"),
    ("publish-once, on_message: publish-twice-where-it-was-heard", ""),
];

/// What it does in `configure`.
const CONFIGURE: [&str; 10] = [
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

/// What the guest that is written by hand takes without end.
const ENDLESS: [&str; 3] = ["handles", "tables", "recurse"];

/// Files that are no plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Garbage,
    Half,
    Empty,
    TrapsInDescribe,
    LoopsInDescribe,
    /// A link that leads nowhere.
    Dangling,
    /// A directory that is named like a plugin.
    Directory,
    /// A pipe that nobody writes to.
    Pipe,
    /// A link to a file whose read never ends.
    KernelLog,
    /// A thousand component types, each in the one before: who parses it by recursion runs out of stack.
    NestedTypes,
    /// Each component has two instances of the one before: a thousand million in all.
    Instances,
}

/// What gateway.yaml is replaced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yaml {
    /// Another list of games.
    Good,
    Garbage,
    UnknownKey,
    Empty,
    Missing,
    /// 3 MB of games.
    Huge,
    /// Lists of lists of lists by reference, a billion elements in all.
    Laughs,
}

/// One of the things that happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Chat gets its next version, or the one before it.
    SwapChat {
        next: bool,
    },
    /// System gets a file that differs in bytes alone.
    SwapSystem {
        mark: u8,
    },
    /// Chat is written in place, in two halves.
    SlowlyWritten {
        pause: Duration,
    },
    /// A plugin is taken away for a while.
    Removed {
        plugin: &'static str,
        away: Duration,
    },
    /// The plugins directory has another name for a while.
    Renamed {
        away: Duration,
    },
    /// The hostile plugin misbehaves in its calls; `generous`: under limits that let it go far.
    Hostile {
        way: usize,
        generous: bool,
    },
    /// It misbehaves while it is loaded.
    HostileConfigure {
        way: usize,
    },
    Endless {
        way: usize,
    },
    BadFile(Bad),
    /// A file beside the plugins is written all the time.
    BusyNeighbour,
    Yaml(Yaml),
}

/// One of each kind, and some of the ways to be hostile.
pub(crate) fn drawn(rng: &mut Rng) -> Vec<Change> {
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
        Change::HostileConfigure { way: rng.usize(..CONFIGURE.len()) },
        Change::Endless { way: rng.usize(..ENDLESS.len()) },
        Change::BusyNeighbour,
    ];
    changes.extend((0..6).map(|_| Change::Hostile { way: rng.usize(..WAYS.len()), generous: rng.bool() }));
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
    let yaml = [Yaml::Good, Yaml::Garbage, Yaml::UnknownKey, Yaml::Empty, Yaml::Missing, Yaml::Huge, Yaml::Laughs];
    changes.extend(rng.choose_multiple(yaml, 4).into_iter().map(Change::Yaml));
    changes
}

/// Every way of the guests to be hostile, under the limits that are set by default. An operator who lets a call take a second
/// lets it keep a thread that serves players for as long, until the plugin is known to be slow.
pub(crate) fn hostile_guests() -> impl Iterator<Item = Change> {
    let calls = (0..WAYS.len()).map(|way| Change::Hostile { way, generous: false });
    let configure = (0..CONFIGURE.len()).map(|way| Change::HostileConfigure { way });
    calls.chain(configure).chain((0..ENDLESS.len()).map(|way| Change::Endless { way }))
}

/// What the gateway of a run is started with. `settings` are more of `plugins.settings`.
pub(crate) fn setup(redis: u16, settings: &str) -> Setup {
    let yaml = format!(
        "games: [{{ id: {GAME} }}, {{ id: {HOSTILE_GAME} }}]\nredis: {{ addr: \"127.0.0.1:{redis}\" }}\n\
         plugins: {{ directory: plugins, settings: {{ {settings} }} }}"
    );
    // Few enough descriptors that strangers can use them up.
    Setup { yaml, open_files: Some(400), ..Setup::default() }
}

/// Lets it happen. `redis` is the port in gateway.yaml.
pub(crate) async fn happen(change: Change, gateway: &Gateway, redis: u16) {
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
            let (way, limits) = WAYS[way];
            let limits = if generous { limits } else { "" };
            let on_message = if way.contains("on_message") { String::new() } else { format!(", on_message: {way}") };
            hostile(gateway, redis, &format!("on_packet: {way}{on_message}"), limits).await;
        }
        Change::HostileConfigure { way } => {
            hostile(gateway, redis, &format!("configure: {}", CONFIGURE[way]), "").await
        }
        Change::Endless { way } => {
            put(&gateway.plugin("endless"), &component(&wat("endless")));
            let packet = [header(1, ENDLESS_ROUTE), ENDLESS[way].into()].concat();
            pester(gateway.address, vec![packet.into()], BUSY).await;
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

/// Puts everything right again.
pub(crate) fn mend(gateway: &Gateway, redis: u16) {
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
    pester(gateway.address, vec![Bytes::from(packet), Bytes::from(message)], BUSY).await;
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
        Yaml::Laughs => fs::write(file, laughs()).unwrap(),
    }
}

/// A component type within a component type, and so on.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut section = vec![1];
    // A component type of one declaration, which is a type.
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

/// A billion laughs.
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

/// The component with a custom section behind it, which means nothing.
fn marked(mut component: Vec<u8>, mark: u8) -> Vec<u8> {
    component.extend([0, 3, 1, b'm', mark]);
    component
}

fn remove(path: &Path) {
    // Whatever is there, and if anything is.
    let _ = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}
