//! What can be typed.

use crate::author::{Language, Name};
use clap::{Parser, Subcommand, ValueEnum};
use gateway::reload::judge;
use std::path::PathBuf;

/// A WebSocket gateway for online games whose policy is WebAssembly, swapped while the players stay connected.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How log lines are written to stderr. RUST_LOG filters them.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub(crate) log_format: LogFormat,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM or SIGINT, then drain.
    Run(Configured),
    /// Parse the configuration, load every plugin, and say all that is wrong.
    Check(Configured),
    /// For plugin authors.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Judge the plugin file on stdin. The gateway runs this in a process of its own for each file.
    #[command(hide = true)]
    JudgePlugin(judge::child::Arguments),
}

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Write a folder with a small plugin that builds, passes its own test, and answers on a route.
    New {
        /// The plugin's name, and the folder's: a letter, and then a-z 0-9 -.
        name: Name,
        /// What it is written in.
        #[arg(long, value_enum)]
        language: Language,
        /// The route that it answers on.
        #[arg(long, default_value_t = 16)]
        route: u8,
        /// For Rust, the folder of the SDK, if not in the repository that this gateway was built from.
        #[arg(long, value_name = "PATH")]
        sdk: Option<PathBuf>,
    },
    /// Say all that a load would say of a file, and what its calls cost.
    Check {
        /// The component.
        file: PathBuf,
        /// A configuration file, for the plugin's settings.
        #[arg(long)]
        config: Option<PathBuf>,
        /// The payload of the packet whose cost is measured.
        #[arg(long, default_value = "", value_name = "TEXT")]
        payload: String,
        /// The user that sends it.
        #[arg(long, value_name = "ID")]
        user: Option<i32>,
    },
    /// Run a table of test vectors against a component.
    Test {
        /// The component.
        file: PathBuf,
        /// The table, as JSON.
        vectors: PathBuf,
        /// A configuration file, for the plugin's limits. Its settings are those of the table.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
pub(crate) struct Configured {
    /// The configuration file.
    #[arg(long, default_value = "gateway.yaml")]
    pub(crate) config: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}
