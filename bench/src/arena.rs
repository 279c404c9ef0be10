//! The game: players in rooms, who get snapshots.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::child;
use crate::contender::{Contender, Folders};
use crate::measured::Measured;
use crate::server::Server;
use crate::table::{Table, cell, judged_quotient};
use crate::work::Work;

/// The name of the table, on the command line, and the load of its work.
pub(crate) const ARENA: &str = "arena";

/// The servers in the order of their turns.
const LINEUP: &[Contender] = &[Contender::Arena, Contender::Uws];

/// The rooms, and the players in each of them.
const ROOMS: u64 = 50;
const ROOM_SIZE: u64 = 20;

/// The time for which the players play, in seconds. It begins when they begin to connect.
const SECONDS: u32 = 10;

/// The largest allowed cost of a delivered snapshot, as a multiple of its cost with uWebSockets.
const CPU: f64 = 1.0;

/// The load. There are as many rooms as the limit of sessions allows.
pub(crate) fn works(sessions: u64) -> Vec<Work> {
    let rooms = (sessions / ROOM_SIZE).min(ROOMS);
    let name = format!("arena: {rooms} rooms of {ROOM_SIZE} players, 20 snapshots/s for each");
    let work = Work::new(name, format!("{ARENA} --bots {}", rooms * ROOM_SIZE)).among(ARENA, LINEUP);
    vec![Work { seconds: Some(SECONDS), ..work }]
}

/// Lets the players play at a server.
pub(crate) fn run(work: &Work, contender: Contender, folders: &Folders, server: &Server) -> anyhow::Result<Value> {
    let cpu = server.cpu()?;
    let mut command = child::command(folders.binary("gateway-client"));
    command.args(work.load.split(' ')).args(["--json", "--seconds", &SECONDS.to_string()]);
    let output = command.args(contender.target(folders, server.port)).output()?;
    let cpu = server.cpu()? - cpu;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    let snapshots = seen["snapshots"].as_f64().context("no snapshots")?;
    let interval = |quantile: &str| seen["interval_ms"][quantile].clone();
    Ok(json!({
        "server_cpu_us_per_message": cpu.as_secs_f64() * 1e6 / snapshots,
        "messages_per_s": snapshots / f64::from(SECONDS),
        "interval_p50_ms": interval("p50"), "interval_p99_ms": interval("p99"), "interval_max_ms": interval("max"),
        "lost": seen["lost"], "replaced": seen["replaced"],
    }))
}

/// The cost of a snapshot, and the intervals between them.
pub(crate) fn table(works: &[Measured]) -> Table {
    let head = ["game", "", "server CPU for a delivered snapshot, µs", "÷ uWebSockets", "target", ""];
    let more = ["snapshots/s", "replaced", "interval: p50, ms", "p99, ms", "max, ms"];
    let mut table = Table::new(head.into_iter().chain(more));
    for measured in works {
        for contender in LINEUP.iter().filter(|contender| measured.has(**contender)) {
            let figure = |figure, decimals| cell(measured.median(*contender, figure), decimals);
            let ratio = measured.quotient(*contender, Contender::Uws, "server_cpu_us_per_message");
            let verdict = judged_quotient(ratio, contender.is_gateway().then_some(CPU));
            let names = [measured.name(), contender.name().to_owned()];
            let cells = names.into_iter().chain([figure("server_cpu_us_per_message", 2)]).chain(verdict);
            let more = [("messages_per_s", 0), ("replaced", 0)];
            let intervals = [("interval_p50_ms", 1), ("interval_p99_ms", 1), ("interval_max_ms", 1)];
            let more = more.into_iter().chain(intervals).map(|(name, decimals)| figure(name, decimals));
            table.row(cells.chain(more).collect());
        }
    }
    table
}
