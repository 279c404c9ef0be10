//! Sessions that do nothing: what it takes to open them and to keep them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::frame::Scanner;
use super::histogram::Histogram;
use super::plan::Plan;
use super::process::Process;
use super::report::{Figure, Report, micros_each};
use super::session::{self, Dialer, Session};
use super::socket::{Outlet, Reader};

/// What the server has used so far.
struct Meters {
    at: Instant,
    cpu: Option<Duration>,
    resident_bytes: Option<u64>,
}

impl Meters {
    fn read(plan: &Plan) -> anyhow::Result<Self> {
        let cpu = plan.server.map(Process::cpu).transpose()?;
        let resident_bytes = plan.server.map(Process::resident_bytes).transpose()?;
        Ok(Self { at: Instant::now(), cpu, resident_bytes })
    }

    fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    fn cpu_since(&self, before: &Self) -> Option<Duration> {
        self.cpu?.checked_sub(before.cpu?)
    }
}

/// Opens the sessions, keeps them for the planned time, and leaves. An error if one of them ends before.
pub(super) async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let dialer = Dialer::new(plan.target.clone()).await?;
    let (mut sessions, mut outlets, mut opening) = (JoinSet::new(), Vec::new(), Histogram::new());
    let before = Meters::read(plan)?;
    let mut hold = |session: Session, took| {
        opening.record(took);
        let (reader, outlet) = (session.reader, Arc::new(session.outlet));
        outlets.push(Arc::clone(&outlet));
        sessions.spawn(keep(reader, outlet));
    };
    let first = first(plan.clients);
    session::open_all(&dialer, first, &mut hold).await?;
    let some = Meters::read(plan)?;
    session::open_all(&dialer, plan.clients - first, &mut hold).await?;
    let opened = Meters::read(plan)?;
    let course = async {
        sleep(plan.warmup).await;
        let settled = Meters::read(plan)?;
        sleep(plan.duration).await;
        anyhow::Ok((settled, Meters::read(plan)?))
    };
    let (settled, end) = tokio::select! {
        outcome = course => outcome?,
        Some(ended) = sessions.join_next() => return Err(ended.unwrap_or_else(anyhow::Error::from)),
    };
    session::close_all(outlets.iter().map(Arc::as_ref), &mut sessions).await;
    Ok(report(plan, &opening, &[before, some, opened, settled, end]))
}

/// Sessions after which the memory of one is counted: what a server has left over from its start serves the first ones.
fn first(clients: usize) -> usize {
    clients / 10
}

/// Answers pings until the session ends.
async fn keep(reader: Reader, outlet: Arc<Outlet>) -> anyhow::Error {
    let mut scanner = Scanner::default();
    let reading = reader.read(|piece| scanner.feed(piece, |frame| session::message(&frame, &outlet).map(|_| ())));
    tokio::select! {
        error = reading => error.context("a session"),
        never = outlet.drain() => never,
    }
}

fn report(plan: &Plan, opening: &Histogram, [before, some, opened, settled, end]: &[Meters; 5]) -> Report {
    let clients = plan.clients as u64;
    let seconds = opened.seconds_since(before);
    let grown = settled.resident_bytes.zip(some.resident_bytes);
    let counted = (plan.clients - first(plan.clients)) as f64;
    let bytes_each = grown.map(|(all, some)| (all as f64 - some as f64) / counted);
    let idle_seconds = end.seconds_since(settled);
    let idle_cpu = end.cpu_since(settled).map(|cpu| cpu.as_secs_f64() * 1e3 / idle_seconds);
    let mut report = Report::default();
    report.line("", [Figure::count("clients", "clients", clients, "")]);
    report.line(
        "opening",
        [
            Figure::number("open_seconds", "", Some(seconds), 3, "s"),
            Figure::number("opens_per_s", "", Some(clients as f64 / seconds), 0, "sessions/s"),
        ],
    );
    report.times("each", ["open_p50_ms", "open_p99_ms", "open_p999_ms", "open_max_ms"], opening);
    let cpu_each = micros_each(opened.cpu_since(before), clients);
    report.line("server CPU", [Figure::number("server_cpu_us_per_open", "", cpu_each, 1, "µs/session opened")]);
    report.line("server RSS", [Figure::number("server_bytes_per_session", "", bytes_each, 0, "bytes/session")]);
    report.line(
        "idle",
        [
            Figure::number("idle_seconds", "", Some(idle_seconds), 3, "s"),
            Figure::number("server_cpu_ms_per_idle_s", "server CPU", idle_cpu, 2, "ms/s"),
        ],
    );
    report
}
