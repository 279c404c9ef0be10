//! The figures as tables in Markdown.

use std::collections::BTreeMap;
use std::fmt;

use crate::bursts::Burst;
use crate::contender::Contender;
use crate::limits::{Checks, Limited, Toggled};
use crate::measured::{Measured, columns, compared};
use crate::sessions::sessions;
use crate::table::{Table, cell, judged, judged_quotient};
use crate::{arena, fanout, fleet, swaps};

/// The line of a file before the report.
const BEGIN: &str = "<!-- bench:begin -->\n";

/// The line of a file behind the report.
const END: &str = "<!-- bench:end -->\n";

/// The key of the server's processor time, among the figures of `gateway-client load`.
const CPU: &str = "server_cpu_us_per_message";

/// The key of the 99th percentile of the latency, among the figures of `gateway-client load`.
const P99: &str = "latency_p99_ms";

/// The nanoseconds that a call of a plugin may take.
const PLUGIN_CALL: f64 = 300.0;

/// The KiB that a session may take over TLS when it is opened, and when it has done nothing for 30 s.
const TLS_SESSION: f64 = 10.0;
const TLS_IDLE_SESSION: f64 = 8.0;

/// The largest allowed cost of a message with limits, as a multiple of its cost without.
const LIMITS: f64 = 1.02;

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) machine: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    /// The cost of a plugin's call in nanoseconds, or why it is unknown. `None` if it was not selected, as below.
    pub(crate) plugin_call: Option<Result<f64, String>>,
    /// The number of all threads, and the cost of the messages of a burst.
    pub(crate) bursts: Option<Result<(usize, Vec<Burst>), String>>,
    /// The budget of instructions for each step of a packet's way.
    pub(crate) budget: BTreeMap<String, u64>,
    pub(crate) messages: Vec<Measured>,
    pub(crate) loops: Vec<Measured>,
    /// Sessions that are opened, and sessions that do nothing.
    pub(crate) opened: Option<Measured>,
    pub(crate) held: Option<Measured>,
    pub(crate) crowds: Vec<Measured>,
    pub(crate) fanout: Vec<Measured>,
    pub(crate) arena: Vec<Measured>,
    pub(crate) swaps: Vec<Measured>,
    pub(crate) limits: Vec<Toggled>,
    pub(crate) fleet: Vec<fleet::Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.machine {
            writeln!(f, "- {line}")?;
        }
        writeln!(
            f,
            "- the figures are medians of {} rounds, with {} s for each measurement, unless a row says \"measured once\"",
            self.rounds, self.seconds
        )?;
        writeln!(f)?;
        let sections = [
            ("Server CPU per message, µs", costs(&self.messages, "work")),
            ("Throughput and latency", self.throughput()),
            ("The whole loop, ms", self.latency()),
            ("One message to many sessions", fanout::table(&self.fanout)),
            ("The game", arena::table(&self.arena)),
            ("A swap of a plugin", swaps::table(&self.swaps)),
            ("Sessions that do nothing", sessions(self.opened.as_ref(), self.held.as_ref())),
            ("One plugin call, ns", self.call()),
            ("A burst of bus messages, µs of time per message", self.bursts()),
            ("Server CPU per message with ever more sessions, µs", costs(&self.crowds, "20000/s")),
            ("TLS", self.tls()),
            ("Limits: server CPU per message, µs", self.limits()),
            ("Many gateways", fleet::table(&self.fleet)),
            ("Subscribe to all topics again after a break", fleet::resubscribed(&self.fleet)),
        ];
        // A table is empty if none of its loads was measured.
        for (title, table) in sections.iter().filter(|(_, table)| !table.is_empty()) {
            writeln!(f, "### {title}\n\n{table}")?;
        }
        writeln!(f, "### † Lost, doubled, reordered, miscounted or refused\n")?;
        let faults: Vec<_> = self.faults().collect();
        if faults.is_empty() {
            return writeln!(f, "None, at any row.");
        }
        faults.iter().try_for_each(|fault| writeln!(f, "- {fault}"))
    }
}

impl Report {
    /// What went wrong, with a line for each measurement.
    fn faults(&self) -> impl Iterator<Item = String> {
        let here = [error(&self.plugin_call), error(&self.bursts)].into_iter().flatten().cloned();
        let works = [&self.messages, &self.loops, &self.crowds, &self.fanout, &self.arena, &self.swaps];
        let works = works.into_iter().flatten().chain(&self.opened).chain(&self.held);
        let (limits, fleet) =
            (self.limits.iter().filter_map(Toggled::fault), self.fleet.iter().flat_map(fleet::Row::faults));
        here.chain(works.flat_map(Measured::faults)).chain(limits).chain(fleet)
    }

    fn throughput(&self) -> Table {
        let columns = columns(&self.messages);
        let heads = columns.iter().map(|contender| contender.name());
        let heads = heads.flat_map(|name| [format!("{name}: messages/s"), "p50, ms".into(), "p99, ms".into()]);
        let mut table = Table::new(["work".to_owned()].into_iter().chain(heads));
        for measured in compared(&self.messages) {
            let figures = [("messages_per_s", 0), ("latency_p50_ms", 2), (P99, 2)];
            let cells = columns.iter().flat_map(|contender| {
                figures.map(|(figure, decimals)| cell(measured.median(*contender, figure), decimals))
            });
            table.row([measured.name()].into_iter().chain(cells).collect());
        }
        table
    }

    fn latency(&self) -> Table {
        let head = ["rate", "", "p50", "p99", "p99.9", "server CPU, µs", "p99, gateway ÷ baseline", "target", ""];
        let mut table = Table::new(head);
        for measured in compared(&self.loops) {
            for contender in &columns(&self.loops) {
                let figures = [("latency_p50_ms", 3), (P99, 3), ("latency_p999_ms", 3), (CPU, 1)];
                let figures = figures.map(|(figure, decimals)| cell(measured.median(*contender, figure), decimals));
                let verdict = if *contender == Contender::Gateway {
                    judged_quotient(measured.ratio(P99), measured.work.target)
                } else {
                    Default::default()
                };
                let names = [measured.name(), contender.name().to_owned()];
                table.row(names.into_iter().chain(figures).chain(verdict).collect());
            }
        }
        table
    }

    /// The gateway over TLS, and without.
    fn tls(&self) -> Table {
        let mut table = Table::new(["", "plain", "TLS", "TLS ÷ plain", "target", ""]);
        for measured in self.messages.iter().filter(|measured| measured.has(Contender::Tls)) {
            let name = format!("{}, µs of server CPU", measured.name());
            let ratio = measured.tls_ratio(CPU);
            tls_row(&mut table, name, measured, CPU, (1.0, 2), judged(ratio, measured.work.tls_target));
        }
        let kib = (1.0 / 1024.0, 2);
        for (measured, what, figure, target) in [
            (&self.opened, "memory of a session", "server_bytes_per_session", TLS_SESSION),
            (&self.held, "memory of an idle session", "server_bytes_per_idle_session", TLS_IDLE_SESSION),
        ] {
            let Some(measured) = measured else { continue };
            let verdict = measured.median(Contender::Tls, figure).map(|bytes| bytes * kib.0);
            let name = format!("{what}, KiB ({})", measured.name());
            tls_row(&mut table, name, measured, figure, kib, judged(verdict, Some(target)));
        }
        if let Some(opened) = &self.opened {
            let name = "a connect, µs of server CPU".to_owned();
            tls_row(&mut table, name, opened, "server_cpu_us_per_open", (1.0, 1), judged(None, None));
        }
        table
    }

    /// The gateway with limits, and without.
    fn limits(&self) -> Table {
        let head = ["work", "off", "on", "on ÷ off", "±", "target", "", "instructions"];
        let mut table = Table::new(head);
        for toggled in &self.limits {
            let [off, on] = toggled.medians().map(|figure| cell(figure, 2));
            let (ratio, margin) = (toggled.ratio(), toggled.margin());
            let [target, mut verdict] = judged(ratio, Some(LIMITS));
            if let Some((ratio, margin)) = ratio.zip(margin)
                && (ratio - LIMITS).abs() < margin
            {
                verdict += ", within ±";
            }
            table.row(vec![
                toggled.name(),
                off,
                on,
                cell(ratio, 3),
                cell(margin, 3),
                target,
                verdict,
                self.instructions(&toggled.work),
            ]);
        }
        table
    }

    /// The instructions for limits and those without limits, as the budget has them.
    fn instructions(&self, work: &Limited) -> String {
        let of = |step: &str| self.budget.get(step).copied().unwrap_or_default();
        let (limits, others) = (of("limits"), work.steps.iter().map(|step| of(step)).sum::<u64>());
        match work.checks {
            Checks::Never => format!("0 + {others}"),
            Checks::Shared => format!("< {limits} + {others}"),
            Checks::Once => format!("{limits} + {others}"),
        }
    }

    fn bursts(&self) -> Table {
        let Some(Ok((threads, bursts))) = &self.bursts else { return Table::default() };
        let mut table =
            Table::new(["plugin".to_owned(), "1 thread".into(), format!("{threads} threads"), "quotient".into()]);
        for Burst { plugin, micros: [alone, together] } in bursts {
            let cells = [cell(Some(*alone), 2), cell(Some(*together), 2), cell(Some(together / alone), 2)];
            table.row([(*plugin).to_owned()].into_iter().chain(cells).collect());
        }
        table
    }

    fn call(&self) -> Table {
        let Some(Ok(nanos)) = self.plugin_call else { return Table::default() };
        let mut table = Table::new(["", "gateway", "target", ""]);
        let [target, verdict] = judged(Some(nanos), Some(PLUGIN_CALL));
        table.row(vec!["chat request, 64 B, warm".to_owned(), cell(Some(nanos), 0), target, verdict]);
        table
    }
}

fn error<T>(part: &Option<Result<T, String>>) -> Option<&String> {
    part.as_ref()?.as_ref().err()
}

/// The costs of a message with each contender.
fn costs(works: &[Measured], first: &str) -> Table {
    let columns = columns(works);
    let names = columns.iter().map(|contender| contender.name());
    let has_uws = columns.contains(&Contender::Uws);
    let versus = if has_uws { &["gateway ÷ uWebSockets", "target", ""][..] } else { &[] };
    let head = [first].into_iter().chain(names).chain(["gateway ÷ baseline", "target", ""]);
    let mut table = Table::new(head.chain(versus.iter().copied()));
    for measured in compared(works) {
        let mut row = vec![measured.name()];
        row.extend(columns.iter().map(|contender| cell(measured.median(*contender, CPU), 2)));
        row.extend(judged_quotient(measured.ratio(CPU), measured.work.target));
        if has_uws {
            row.extend(judged_quotient(measured.uws_ratio(CPU), measured.work.uws_target));
        }
        table.row(row);
    }
    table
}

/// Adds a row about one figure of the gateway, in the unit that is `factor` times the figure's, and with this number of
/// decimals.
fn tls_row(
    table: &mut Table,
    name: String,
    measured: &Measured,
    figure: &str,
    (factor, decimals): (f64, usize),
    verdict: [String; 2],
) {
    let median = |contender| cell(measured.median(contender, figure).map(|median| median * factor), decimals);
    let cells = [name, median(Contender::Gateway), median(Contender::Tls), cell(measured.tls_ratio(figure), 2)];
    table.row(cells.into_iter().chain(verdict).collect());
}

/// The text with the report between its two lines, or `None` if the text has no such lines.
pub(crate) fn replaced(text: &str, report: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, report, END, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_takes_the_place_of_the_last_one() {
        let text = format!("a\n{BEGIN}old\n{END}z\n");
        assert_eq!(replaced(&text, "new\n"), Some(format!("a\n{BEGIN}new\n{END}z\n")));
        assert_eq!(replaced("no place", "new\n"), None);
    }

    #[test]
    fn a_part_that_failed_leaves_the_others_in_the_report() {
        let bursts = (2, vec![Burst { plugin: "chat", micros: [2.0, 1.0] }]);
        let plugin_call = Some(Err("one plugin call: no plugin".to_owned()));
        let report = Report { plugin_call, bursts: Some(Ok(bursts)), ..Report::default() }.to_string();
        assert!(report.contains("### A burst of bus messages"), "{report}");
        assert!(!report.contains("### One plugin call"), "{report}");
        assert!(report.ends_with("refused\n\n- one plugin call: no plugin\n"), "{report}");
    }
}
