//! `gateway-client load`: makes the messages of many clients, and measures what a gateway does with them.
//!
//! The load generator often runs on the machine of the gateway that it measures, so it has to be much cheaper than the
//! gateway. It uses plain sockets and no client library. Messages are built once and only numbered when they are sent,
//! many with one write. Received bytes are read in large pieces, cut into frames, and compared with the expected bytes.
//! No message is decoded.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod bus;
mod carry;
mod client;
mod clock;
mod frame;
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
mod times;
mod tls;
mod traffic;
mod verdict;

use std::io::{self, Write};

use anyhow::anyhow;
use gateway_connection::interrupted;
use tokio::runtime::{Builder, Runtime};

use self::plan::{Load, Mode, Plan};

/// Put load on a gateway, and measure throughput, latency and CPU time
///
/// The messages of each client are numbered, and faults are counted: messages that are lost, doubled, reordered, or
/// refused with a status, and pushes with a wrong delivery counter (miscounted). Messages that are not of this load are
/// stray. Latencies are those of messages sent in the measured time. The other figures are those of messages that
/// arrived in it. CPU times have a resolution of 10 ms. A token belongs to one user, so with --token and more than one
/// client only ping and idle make sense. With wss://, each session begins with a full TLS handshake.
///
/// Exit status: 0 if every message arrived once and in order, 1 if not, or if the run failed.
#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    mode: Mode,
}

/// Runs the load and prints the figures.
///
/// # Errors
/// Says why the run failed, or which faults its messages had.
pub fn run(options: Options) -> anyhow::Result<()> {
    let plan = Plan::new(options.mode)?;
    let runtime = runtime(plan.threads)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&plan) => outcome,
            () = interrupted() => Err(anyhow!("interrupted")),
        }
    });
    // If the run failed, the thread of an open loop is not waited for.
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

/// Runs the load. Returns the figures in the form that was asked for, and the verdict on them.
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
mod tests;
