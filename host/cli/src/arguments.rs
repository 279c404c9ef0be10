//! The arguments of the command line.

use crate::author::{Language, Name};
use clap::{Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;
use gateway::reload::judge;
use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

/// A WebSocket gateway for online games whose policy is WebAssembly, swapped while the players stay connected.
#[derive(Parser)]
#[command(name = "gateway", version)]
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
    Run {
        #[command(flatten)]
        configured: Configured,
        #[command(flatten)]
        shown: Shown,
    },
    /// Parse the configuration, load every plugin, look at the machine and at Redis, and report all that is wrong.
    Check {
        #[command(flatten)]
        configured: Configured,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        examination: Examination,
    },
    /// Ask the gateway on this machine whether it lives. The exit code is 0 if it does.
    Healthcheck {
        #[command(flatten)]
        configured: Configured,
        /// The address of the admin listener. By default it is the one in the configuration file, which may have changed
        /// since the gateway was started.
        #[arg(long, value_name = "HOST:PORT", conflicts_with = "config", value_parser = address)]
        address: Option<SocketAddr>,
        /// Ask whether it is ready: connected to the bus, and serving plugins.
        #[arg(long)]
        ready: bool,
    },
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the man pages, one for each command.
    Man {
        /// The directory to write them to.
        directory: PathBuf,
    },
    /// Commands for plugin authors.
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
        /// The name of the plugin and of its folder: a letter, and then up to 63 of a-z 0-9 -.
        name: Name,
        /// The language that the plugin is written in.
        #[arg(long, value_enum)]
        language: Language,
        /// The route that the plugin serves, from 1 to 255. Route 0 is the gateway's own.
        #[arg(long, default_value_t = 16, value_parser = value_parser!(u8).range(1..))]
        route: u8,
        /// The folder of the Rust SDK. By default, it is looked for in the repository that this gateway lies in.
        #[arg(long, value_name = "PATH")]
        sdk: Option<PathBuf>,
    },
    /// Load a plugin file as a gateway does, and report its errors or the cost of its calls.
    Check {
        /// The component.
        file: PathBuf,
        /// A configuration file, for the plugin's settings.
        #[arg(long)]
        config: Option<PathBuf>,
        /// The payload of the packet that the measured calls receive.
        #[arg(long, default_value = "", value_name = "TEXT")]
        payload: String,
        /// The user that sends the packet.
        #[arg(long, value_name = "ID")]
        user: Option<i64>,
    },
    /// Run a table of test vectors against a component.
    Test {
        /// The component.
        file: PathBuf,
        /// The table, as JSON.
        vectors: PathBuf,
        /// A configuration file, for the plugin's limits. The plugin's settings come from the table.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

/// Returns the first IPv4 address of a host and a port, or else its first address. `localhost` is often `::1` first, and
/// no gateway listens there by default.
fn address(written: &str) -> Result<SocketAddr, String> {
    let found = written.to_socket_addrs().map_err(|error| error.to_string())?;
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| "the host has no address".to_owned())
}

#[derive(clap::Args)]
pub(crate) struct Configured {
    /// The configuration file.
    #[arg(long, default_value = "gateway.yaml")]
    pub(crate) config: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct Shown {
    /// Only print the configuration that takes effect, with the origin of each value. Secrets are hidden.
    #[arg(long)]
    pub(crate) print_config: bool,
}

#[derive(clap::Args)]
pub(crate) struct Examination {
    /// Look at nothing over the network: Redis, and the collector of traces.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Exit with 78 if there are warnings, too.
    #[arg(long)]
    pub(crate) strict: bool,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: CheckFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CheckFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}
