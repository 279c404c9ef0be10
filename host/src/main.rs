//! The command `gateway`.

use clap::{Parser, Subcommand, ValueEnum};
use gateway::{app, config::Config};
use std::{
    io::{IsTerminal, Write, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for a configuration that is not valid (EX_CONFIG of sysexits.h).
const BAD_CONFIG: u8 = 78;

/// A WebSocket gateway for online games whose policy is WebAssembly, swapped while the players stay connected.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written to stderr. RUST_LOG filters them.
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then drain.
    Run(Configured),
    /// Parse the configuration, load every plugin, and say all that is wrong.
    Check(Configured),
}

#[derive(clap::Args)]
struct Configured {
    /// The configuration file.
    #[arg(long, default_value = "gateway.yaml")]
    config: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let Arguments { command, log_format } = Arguments::parse();
    start_log(log_format);
    let (Command::Run(Configured { config: path }) | Command::Check(Configured { config: path })) = &command;
    let outcome = match (Config::read(path), &command) {
        (Ok(config), Command::Run(_)) => run(path, config),
        (Ok(config), Command::Check(_)) => check(&config),
        (Err(error), _) => return fail(BAD_CONFIG, &error.to_string()),
    };
    outcome.unwrap_or_else(|error| fail(1, &format!("{error:#}")))
}

fn run(path: &std::path::Path, config: Config) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(app::run(path, config))?;
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in app::check(config)? {
        match (file.error, file.serving) {
            (Some(error), _) => {
                writeln!(stdout(), "{}: {error}", file.file)?;
                code = ExitCode::from(BAD_CONFIG);
            }
            (None, serving) => writeln!(stdout(), "{}: ok, {}", file.file, serving.unwrap_or_default())?,
        }
    }
    Ok(code)
}

fn fail(code: u8, why: &str) -> ExitCode {
    // There is nobody left to tell if stderr is gone.
    let _ = writeln!(stderr(), "gateway: {why}");
    ExitCode::from(code)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
