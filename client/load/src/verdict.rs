//! The figures of a run, and the verdict on its messages.

use std::time::Duration;

use anyhow::bail;
use gateway_connection::text;

use crate::plan::{Flow, Pace, Plan};
use crate::report::{Figure, Report, micros_each};
use crate::run::{Reading, Run};
use crate::tally::Tally;

/// Makes the report of a run.
pub(crate) fn report(plan: &Plan, flow: &Flow, run: &Run) -> Report {
    let Run { traffic, begin, end } = run;
    let tally = traffic.tally();
    let mut report = Report::default();
    report.line("", asked(plan, flow));
    let (messages, seconds) = (end.arrived - begin.arrived, (end.at - begin.at) as f64 / 1e9);
    report.line("messages", [Figure::count("messages", "", messages, "")]);
    report.line("seconds", [Figure::number("seconds", "", Some(seconds), 3, "")]);
    report.line("messages/s", [Figure::number("messages_per_s", "", Some(messages as f64 / seconds), 0, "")]);
    let each = micros_each(spent(begin, end, |reading| reading.server_cpu), messages);
    report.line("server CPU", [Figure::number("server_cpu_us_per_message", "", each, 2, "µs/message")]);
    let each = micros_each(spent(begin, end, |reading| reading.own_cpu), messages);
    report.line("own CPU", [Figure::number("own_cpu_us_per_message", "", each, 2, "µs/message")]);
    let keys = ["latency_p50_ms", "latency_p99_ms", "latency_p999_ms", "latency_max_ms"];
    report.times("latency", keys, &tally.latency);
    if let Pace::Rate(_) = flow.pace {
        let keys = ["late_p50_ms", "late_p99_ms", "late_p999_ms", "late_max_ms"];
        report.times("sent late", keys, &tally.lateness);
    }
    report.line("faults", faults(&tally, traffic.missing()));
    report
}

/// Fails unless every message arrived once and in order.
pub(crate) fn verdict(run: &Run) -> anyhow::Result<()> {
    let (tally, sent, lost) = (run.traffic.tally(), run.traffic.sent(), run.traffic.missing());
    let Tally { doubled, reordered, refused, miscounted, .. } = &*tally;
    if lost + doubled + reordered + refused + miscounted > 0 {
        let first_lost = run.traffic.first_missing().map_or(String::new(), |(user, number, of)| {
            format!("; the first lost one of user {user} is number {number} of {of}")
        });
        let refusal = tally.refusal.as_ref().map_or(String::new(), |text| format!("; refused: {}", text::clean(text)));
        bail!(
            "of {sent} messages {lost} lost, {doubled} doubled, {reordered} reordered, {refused} refused, \
             {miscounted} miscounted{first_lost}{refusal}"
        );
    }
    if tally.arrived == 0 {
        bail!("no message was sent; is --duration-s too short for --rate?");
    }
    Ok(())
}

fn asked(plan: &Plan, flow: &Flow) -> [Figure; 3] {
    [
        Figure::count("clients", "clients", plan.clients as u64, ""),
        match flow.pace {
            Pace::Window(window) => Figure::count("pipeline", "pipeline", window, ""),
            Pace::Rate(rate) => {
                Figure::number("rate", "rate", Some(rate), if rate.fract() == 0.0 { 0 } else { 3 }, "/s")
            }
        },
        Figure::count("payload_bytes", "payload", flow.payload as u64, "bytes"),
    ]
}

fn faults(tally: &Tally, lost: u64) -> [Figure; 6] {
    [
        Figure::count("lost", "lost", lost, ""),
        Figure::count("doubled", "doubled", tally.doubled, ""),
        Figure::count("reordered", "reordered", tally.reordered, ""),
        Figure::count("miscounted", "miscounted", tally.miscounted, ""),
        Figure::count("refused", "refused", tally.refused, ""),
        Figure::count("stray", "stray", tally.stray, ""),
    ]
}

fn spent(begin: &Reading, end: &Reading, cpu: impl Fn(&Reading) -> Option<Duration>) -> Option<Duration> {
    cpu(end)?.checked_sub(cpu(begin)?)
}
