//! `gateway-bench`: the gateway beside gateways that are written by hand, on this machine, as tables in Markdown.
//!
//! Every measurement has a fresh server, and only one server lives at a time; they take turns, so that what else the machine does
//! meets all of them. The load is that of `gateway-client load`, whose figures these are.

mod contender;
mod machine;
mod measure;
mod plugin_call;
mod report;
mod server;
mod table;
mod work;

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

use self::measure::Bench;

/// Measure the gateway beside gateways that are written by hand.
#[derive(Parser)]
struct Arguments {
    /// Measurements of each server and each work, whose medians are told
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// The measured seconds of each
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Only work whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// A file in which the report takes the place of what is between the lines with `bench:begin` and `bench:end`
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let report = Bench::new(&arguments)?.run()?;
    write!(stdout(), "{report}")?;
    if let Some(file) = &arguments.into {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let text = report::replaced(&text, &report).with_context(|| format!("{}: no such lines", file.display()))?;
        fs::write(file, text)?;
    }
    Ok(())
}
