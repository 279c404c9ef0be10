//! `gateway-client load`: makes the messages of many clients, and measures what a gateway does with them.
//!
//! It has to be much cheaper than what it measures, on whose machine it often runs. So it speaks WebSocket and RESP2 itself, over
//! plain sockets: messages are built once and only numbered when they are sent, many with one write; what comes in is read in
//! large pieces, cut by the lengths that it says itself, and compared with what is expected, never decoded.

mod bus;
mod carry;
mod client;
mod clock;
mod frame;
mod histogram;
mod idle;
mod message;
mod order;
mod pace;
mod plan;
mod process;
mod report;
mod resp;
mod run;
mod session;
mod socket;
mod stream;
mod tally;
mod tasks;
mod template;
mod traffic;
mod verdict;

use std::io::{self, Write};

use anyhow::anyhow;
use tokio::runtime::{Builder, Runtime};

use self::plan::{Load, Mode, Plan};
use crate::interrupt::interrupted;

/// Put load on a gateway, and measure throughput, latency and CPU time
///
/// Every message is numbered, for each client by itself, and what goes wrong is counted: messages that are lost, doubled,
/// reordered, or refused with a status, and pushes whose delivery counter was miscounted. Stray is what is not of this load. Latencies are
/// those of messages sent in the measured time; the other figures are of those that arrived in it. CPU times have a resolution of
/// 10 ms. A token is one user's, so with --token and more than one client only ping and idle make sense.
///
/// Exit status: 0 if every message arrived once and in order, 1 if not, or if the run failed.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    mode: Mode,
}

/// Runs the load and prints the figures. An error if anything went wrong.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let plan = Plan::new(options.mode)?;
    let runtime = runtime(plan.threads)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&plan) => outcome,
            () = interrupted() => Err(anyhow!("interrupted")),
        }
    });
    // A thread that keeps the times of an open loop is not waited for.
    runtime.shutdown_background();
    let (report, verdict) = outcome?;
    io::stdout().lock().write_all(report.as_bytes())?;
    verdict
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// The figures in the form that was asked for, and an error if they tell of one.
async fn measure(plan: &Plan) -> anyhow::Result<(String, anyhow::Result<()>)> {
    let (report, verdict) = match &plan.load {
        Load::Idle => (idle::run(plan).await?, Ok(())),
        Load::Flow(flow) => {
            let run = run::run(plan, flow).await?;
            (verdict::report(plan, flow, &run), verdict::verdict(&run))
        }
    };
    Ok((report.format(plan.load.name(), plan.format), verdict))
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
