//! The command `gateway`.

mod arguments;
mod author;
mod check;

use arguments::{Arguments, Command, Configured, LogFormat, PluginCommand, Shown};
use author::{NewPlugin, Sample};
use clap::Parser;
use gateway::{
    app,
    config::{Config, ConfigError},
    memory,
    reload::judge,
};
use std::{
    io::{IsTerminal, Write, stderr, stdout},
    path::Path,
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: gateway::memory::Allocator = gateway::memory::Allocator;

/// The exit code for a configuration that is not valid (EX_CONFIG of sysexits.h).
const BAD_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let Arguments { command, log_format } = Arguments::parse();
    start_log(log_format);
    let outcome = match command {
        Command::Run { configured: Configured { config }, shown: Shown { print_config: true } }
        | Command::Check { configured: Configured { config }, shown: Shown { print_config: true }, .. } => {
            print_config(&config)
        }
        Command::Run { configured: Configured { config }, .. } => {
            memory::give_back_at_once();
            read(&config).and_then(|read| run(&config, read))
        }
        Command::Check { configured: Configured { config }, examination, .. } => {
            read(&config).and_then(|read| check::check(&read, &examination, &mut stdout())).map(exit_code)
        }
        Command::Plugin(command) => plugin(command),
        Command::JudgePlugin(arguments) => judge::child::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        // If stderr is closed, the error cannot be reported anywhere.
        let _ = writeln!(stderr(), "gateway: {error:#}");
        ExitCode::from(if error.is::<ConfigError>() { BAD_CONFIG } else { 1 })
    })
}

fn read(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::read(path)?)
}

fn exit_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::from(BAD_CONFIG) }
}

fn print_config(path: &Path) -> anyhow::Result<ExitCode> {
    write!(stdout(), "{}", Config::effective(path)?)?;
    Ok(ExitCode::SUCCESS)
}

fn run(path: &Path, config: Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(app::run(path, config));
    // The process does not wait for a stuck thread, for example one that waits for an answer of a DNS server.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn plugin(command: PluginCommand) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::New { name, language, route, sdk } => {
            let plugin = NewPlugin { name, language, route, sdk };
            write!(stdout(), "{}", author::new(&plugin, Path::new(""))?)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Check { file, config, payload, user } => {
            let config = config.as_deref().map(read).transpose()?;
            let sample = Sample { payload: payload.into_bytes(), user };
            write!(stdout(), "{}", author::check(&file, config.as_ref(), &sample)?)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Test { file, vectors, config } => {
            let config = config.as_deref().map(read).transpose()?;
            let (passed, failures) = author::test(&file, &vectors, config.as_ref())?;
            for failure in &failures {
                writeln!(stdout(), "FAILED {failure}")?;
            }
            writeln!(stdout(), "{passed} passed, {} failed", failures.len())?;
            Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn start_log(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // At level `trace`, the library that watches files logs a line for each event. If the log is written to a watched
    // directory, each line would cause the next line.
    if let Ok(quiet) = "notify=info".parse() {
        filter = filter.add_directive(quiet);
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    // By default, a line that cannot be written, for example because the disk is full, is reported on stderr as well.
    // That fails for the same reason, and a failure there is a panic.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
