//! `gateway-client`: talk to a gateway from a terminal.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod arena;
mod chat;
mod line;
mod ping;
mod push;
mod send;
mod show;
mod tally;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Talk to a gateway from a terminal.
#[derive(Parser)]
#[command(version, after_help = "Exit status: 0 done, 1 failed or ended by the gateway, 2 wrong arguments.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Arena(arena::Options),
    Chat(chat::Options),
    Ping(ping::Options),
    Send(send::Options),
    Load(gateway_load::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output, such as `| head`, has seen enough. This is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the exit status still reports the failure.
            let _ = writeln!(io::stderr().lock(), "gateway-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Arena(options) => block_on(arena::run(options)),
        Command::Chat(options) => block_on(chat::run(options)),
        Command::Ping(options) => block_on(ping::run(options)),
        Command::Send(options) => block_on(send::run(options)),
        Command::Load(options) => gateway_load::run(options),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    // A read of stdin cannot be cancelled. Dropping the runtime would wait for one more line from the keyboard.
    runtime.shutdown_background();
    outcome
}

/// Whether stdout is a broken pipe. Errors of the connection have types of their own, so they do not count.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[track_caller]
    fn check_refused(arguments: &[&str], why: &str) {
        let refusal = Arguments::try_parse_from(arguments).err().unwrap();
        assert_eq!(refusal.exit_code(), 2);
        assert!(refusal.to_string().contains(why), "{refusal}");
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        check_refused(&["gateway-client", "chat"], "--user <ID>");
        check_refused(&["gateway-client", "chat", "--user", "0"], "1..=2147483647");
        check_refused(&["gateway-client", "ping", "--interval-ms", "0"], "0 is not in 1..");
        check_refused(&["gateway-client", "ping", "--url", "http://example.org/ws"], "ws:// and wss:// only");
        check_refused(&["gateway-client", "arena", "--json"], "--bots <N>");
        check_refused(&["gateway-client", "arena", "--bots", "0"], "0 is not in 1..");
        check_refused(&["gateway-client", "send", "0x100", "hi"], "a route is a number from 0 to 255");
        check_refused(&["gateway-client", "load"], "request");
        check_refused(&["gateway-client", "load", "loop"], "--rate <R>");
        check_refused(&["gateway-client", "load", "fanout"], "--rate <R>");
        check_refused(&["gateway-client", "load", "fanout", "--rate", "1", "--join", "x"], "--route <N>");
        let both = ["gateway-client", "load", "fanout", "--rate", "1", "--route", "9", "--redis", "x"];
        check_refused(&both, "cannot be used with");
        check_refused(&["gateway-client", "load", "ping", "--rate", "0"], "a rate is a number");
        check_refused(&["gateway-client", "load", "ping", "--rate", "1", "--pipeline", "1"], "cannot be used with");
        check_refused(&["gateway-client", "load", "idle", "--pipeline", "1"], "--pipeline");
        check_refused(&["gateway-client", "load", "ping", "--game", "mmo"], "--game");
        check_refused(&["gateway-client", "load", "request", "--game", "a b"], "A-Z, a-z");
        check_refused(&["gateway-client", "load", "ping", "--duration-s=-1"], "seconds are a number");
    }

    #[test]
    fn a_broken_pipe_of_stdout_is_told_from_other_errors() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&pipe().into()));
        assert!(!is_broken_pipe(&gateway_connection::Ended::Lost(pipe().to_string()).into()));
    }
}
