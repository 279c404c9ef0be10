//! What can be typed.

use clap::{Parser, Subcommand, ValueEnum};
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
}

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Say all that a load would say of a file, and what its calls cost.
    Check {
        /// The component.
        file: PathBuf,
        /// A configuration file, for the plugin's settings.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Run a table of test vectors against a component.
    Test {
        /// The component.
        file: PathBuf,
        /// The table, as JSON.
        vectors: PathBuf,
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
