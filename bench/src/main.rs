//! `gateway-bench`: measures the gateway beside gateways that are written by hand, on this machine, and prints tables
//! in Markdown.
//!
//! Every measurement has a fresh server, and only one server lives at a time. The servers take turns, so that other
//! work on the machine disturbs all of them alike. The load and the figures are those of `gateway-client load`.

mod arena;
mod arguments;
mod bursts;
mod bus;
mod certificate;
mod child;
mod cluster;
mod contender;
mod fanout;
mod fleet;
mod limits;
mod machine;
mod measure;
mod measured;
mod output;
mod player;
mod plugin_call;
mod report;
mod server;
mod sessions;
mod swaps;
mod table;
mod work;

use std::fs;
use std::io::{Write, stdout};

use anyhow::Context;
use clap::Parser;

use self::arguments::{Arguments, Command};
use self::measure::Bench;

/// The allocator of the gateway, for what is measured in this process.
#[global_allocator]
static ALLOCATOR: gateway::memory::Allocator = gateway::memory::Allocator;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Scale(scale)) = &arguments.command {
        write!(stdout(), "{scale}")?;
        return Ok(());
    }
    let report = Bench::new(&arguments)?.run()?.to_string();
    write!(stdout(), "{report}")?;
    if let Some(file) = &arguments.into {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let text = report::replaced(&text, &report)
            .with_context(|| format!("{}: it has no lines with bench:begin and bench:end", file.display()))?;
        fs::write(file, text)?;
    }
    Ok(())
}
