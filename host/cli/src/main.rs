//! The command `gateway`.

mod arguments;
mod author;
mod check;
mod documents;
mod healthcheck;

use arguments::{Arguments, Command, Configured, LogFormat, PluginCommand, Shown};
use author::{NewPlugin, Sample};
use clap::Parser;
use clap_complete::Shell;
use gateway::{
    app,
    config::{Config, ConfigError},
    memory,
    reload::judge,
    telemetry::{log, recent_log::RecentLog},
};
use std::{
    env,
    io::{IsTerminal, Write, stderr, stdout},
    path::Path,
    process::ExitCode,
};
use tracing::subscriber::with_default;
use tracing_subscriber::{
    EnvFilter, Layer, fmt, fmt::writer::BoxMakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

#[global_allocator]
static ALLOCATOR: gateway::memory::Allocator = gateway::memory::Allocator;

/// The exit code for a configuration that is not valid (EX_CONFIG of sysexits.h).
const BAD_CONFIG: u8 = 78;

/// The environment variable for the number of threads that serve players.
const THREADS: &str = "TOKIO_WORKER_THREADS";

/// The highest number of threads. No machine has more processors.
const MAX_THREADS: usize = 1024;

fn main() -> ExitCode {
    let Arguments { command, log_format } = Arguments::parse();
    let recent = RecentLog::default();
    // Only a gateway that serves has players who would wait for the log.
    let serves = matches!(&command, Command::Run { shown: Shown { print_config: false }, .. });
    // The parent process reads the error of a process that judges.
    let error_format = if matches!(&command, Command::JudgePlugin(_)) { LogFormat::Text } else { log_format };
    start_log(log_format, &recent, if serves { BoxMakeWriter::new(log::start()) } else { BoxMakeWriter::new(stderr) });
    let outcome = match command {
        Command::Run { configured: Configured { config }, shown: Shown { print_config: true } }
        | Command::Check { configured: Configured { config }, shown: Shown { print_config: true }, .. } => {
            print_config(&config)
        }
        Command::Run { configured: Configured { config }, .. } => {
            memory::refuse_huge_pages();
            memory::give_back_at_once();
            run(&config, recent)
        }
        Command::Check { configured: Configured { config }, examination, .. } => {
            read(&config).and_then(|read| check::check(&read, &examination, &mut stdout())).map(exit_code)
        }
        Command::Healthcheck { configured: Configured { config }, address, ready } => {
            let listen = address.map_or_else(|| Config::admin_listen(&config), Ok);
            listen.map_err(Into::into).and_then(|listen| healthcheck::ask(listen, ready)).map(|()| ExitCode::SUCCESS)
        }
        Command::Completions { shell } => completions(shell),
        Command::Man { directory } => man(&directory),
        Command::Plugin(command) => plugin(command),
        Command::JudgePlugin(arguments) => judge::child::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let report = move || error.iter().for_each(|error| write_error(error_format, error));
    if serves {
        log::finish(report)
    } else {
        report()
    }
    outcome.unwrap_or_else(|error| ExitCode::from(if error.is::<ConfigError>() { BAD_CONFIG } else { 1 }))
}

/// Writes why the program ends, whatever `RUST_LOG` says.
fn write_error(format: LogFormat, error: &str) {
    match format {
        // If stderr is closed, the error cannot be reported anywhere.
        LogFormat::Text => drop(writeln!(stderr(), "gateway: {error}")),
        LogFormat::Json => {
            let unfiltered = fmt().json().with_writer(stderr).log_internal_errors(false).finish();
            with_default(unfiltered, || tracing::error!("{error}"));
        }
    }
}

/// Checks the variable from which the runtime takes its number of threads. The runtime itself would panic.
fn check_threads() -> Result<(), ConfigError> {
    let Some(written) = env::var_os(THREADS) else { return Ok(()) };
    let threads = written.to_str().and_then(|written| written.parse().ok());
    if threads.is_some_and(|threads| (1..=MAX_THREADS).contains(&threads)) {
        return Ok(());
    }
    let error = format!("{written:?} is not a number from 1 to {MAX_THREADS}: correct the variable, or remove it");
    Err(ConfigError { path: THREADS.into(), errors: vec![error] })
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

fn run(path: &Path, recent: RecentLog) -> anyhow::Result<ExitCode> {
    check_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(app::run(path, recent));
    // The process does not wait for a stuck thread, for example one that waits for an answer of a DNS server.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    documents::completions(shell, &mut stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn man(directory: &Path) -> anyhow::Result<ExitCode> {
    documents::man(directory)?.iter().try_for_each(|page| writeln!(stdout(), "{}", page.display()))?;
    Ok(ExitCode::SUCCESS)
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

/// Writes the log with `writer`, as `RUST_LOG` filters it, or else from the level `info` on. Keeps its last warnings and
/// errors in `recent`.
fn start_log(format: LogFormat, recent: &RecentLog, writer: BoxMakeWriter) {
    let default = || EnvFilter::new("info");
    let written = env::var_os(EnvFilter::DEFAULT_ENV).filter(|written| !written.is_empty());
    let filter = written.map_or_else(|| Ok(default()), |written| EnvFilter::try_new(written.to_string_lossy()));
    let (mut filter, wrong) = filter.map_or_else(|error| (default(), Some(error)), |filter| (filter, None));
    // At level `trace`, the library that watches files logs a line for each event. If the log is written to a watched
    // directory, each line would cause the next line.
    if let Ok(quiet) = "notify=info".parse() {
        filter = filter.add_directive(quiet);
    }
    // https://no-color.org
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // By default, a line that cannot be written, for example because the disk is full, is reported on stderr as well.
    // That fails for the same reason, and a failure there is a panic.
    let lines =
        fmt::layer().with_writer(writer).with_ansi(stderr().is_terminal() && !no_color).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(recent.layer()).init();
    if let Some(error) = wrong {
        tracing::warn!("RUST_LOG is not valid, so the log has the level info: {error}");
    }
}
