//! `gateway-client arena`: plays the game on route 2, by hand or with many sessions that move by themselves.

mod bot;
mod crowd;
mod entry;
mod glance;
mod screen;
mod tally;
mod view;

use std::time::Duration;

use gateway_connection::Target;

/// Play the arena: collect coins in a room, or walk in the free field
///
/// Arrow keys or WASD move, space stops, and q leaves. With `--bots` there is no screen: sessions that move by
/// themselves measure what a player gets, and print a line every second.
///
/// If a connection breaks, the client reconnects and resumes its session. If that is not possible, it asks for a new place.
///
/// Exit status: 0 if you left, 1 if the gateway ended a session, or with `--no-reconnect` a connection, or if a bot lost
/// a message or its place.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Walk in the free field instead of a room
    #[arg(long)]
    field: bool,
    /// The number of sessions that move by themselves
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    bots: Option<u32>,
    /// The time after which the bots leave; without it they play until Ctrl-C
    #[arg(long, value_name = "N", requires = "bots", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Print only a summary of the bots, as one line of JSON
    #[arg(long, requires = "bots")]
    json: bool,
    /// End with the connection, with status 1, instead of reconnecting
    #[arg(long)]
    no_reconnect: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs until the player leaves, or until the bots are done.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let Options { field, bots, seconds, json, no_reconnect, target } = options;
    match bots {
        Some(bots) => {
            let time = seconds.map(Duration::from_secs);
            let plan = crowd::Plan { bots, field, json, reconnects: !no_reconnect, time };
            crowd::run(plan, target).await
        }
        None => screen::run(field, !no_reconnect, &target).await,
    }
}
