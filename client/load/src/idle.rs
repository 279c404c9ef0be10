//! Sessions that do nothing: the cost of opening and of keeping them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::frame::Scanner;
use crate::plan::Plan;
use crate::process::Process;
use crate::report::{Figure, Report, micros_each};
use crate::session::{self, Dialer, Session};
use crate::socket::{Outlet, Reader};
use crate::times::Times;

/// The resources that the server has used up to a point in time.
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

/// Opens the sessions, keeps them for the planned time, and closes them. Fails if a session ends before.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let dialer = Dialer::new(plan.target.clone()).await?;
    let (mut sessions, mut outlets, mut opening) = (JoinSet::new(), Vec::new(), Times::new()?);
    let before = Meters::read(plan)?;
    let mut hold = |session: Session, took| {
        opening.record(took);
        let (reader, outlet) = (session.reader, Arc::new(session.outlet));
        outlets.push(Arc::clone(&outlet));
        sessions.spawn(keep(reader, outlet));
    };
    let first = uncounted(plan.clients);
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

/// The number of sessions whose memory is not counted. A server serves the first ones with memory that is left from its
/// start.
fn uncounted(clients: usize) -> usize {
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

fn report(plan: &Plan, opening: &Times, [before, some, opened, settled, end]: &[Meters; 5]) -> Report {
    let clients = plan.clients as u64;
    let seconds = opened.seconds_since(before);
    let counted = (plan.clients - uncounted(plan.clients)) as f64;
    let bytes_each = |now: &Meters| Some((now.resident_bytes? as f64 - some.resident_bytes? as f64) / counted);
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
    let at_rest = before.resident_bytes.map(|bytes| bytes as f64);
    report.line(
        "server RSS",
        [
            Figure::number("server_bytes_per_session", "", bytes_each(settled), 0, "bytes/session"),
            Figure::number("server_bytes_at_rest", "before", at_rest, 0, "bytes"),
        ],
    );
    report.line(
        "idle",
        [
            Figure::number("idle_seconds", "", Some(idle_seconds), 3, "s"),
            Figure::number("server_cpu_ms_per_idle_s", "server CPU", idle_cpu, 2, "ms/s"),
            Figure::number("server_bytes_per_idle_session", "server RSS", bytes_each(end), 0, "bytes/session"),
        ],
    );
    report
}
