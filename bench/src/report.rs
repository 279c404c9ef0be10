//! The figures as tables in Markdown.

use std::fmt;

use crate::contender::Contender;
use crate::measured::Measured;
use crate::table::{Table, cell, judged};

/// The line of a file before the report.
const BEGIN: &str = "<!-- bench:begin -->\n";

/// The line of a file behind the report.
const END: &str = "<!-- bench:end -->\n";

/// The key of the server's processor time, among the figures of `gateway-client load`.
const CPU: &str = "server_cpu_us_per_message";

/// The key of the 99th percentile of the latency, among the figures of `gateway-client load`.
const P99: &str = "latency_p99_ms";

/// The nanoseconds that a call of a plugin may take.
const PLUGIN_CALL: f64 = 500.0;

/// The KiB that an idle session may take.
const SESSION: f64 = 5.0;

/// All figures of a run.
pub(crate) struct Report {
    pub(crate) machine: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) contenders: Vec<Contender>,
    /// The cost of a plugin's call in nanoseconds.
    pub(crate) plugin_call: f64,
    pub(crate) messages: Vec<Measured>,
    pub(crate) loops: Vec<Measured>,
    pub(crate) idle: Vec<Measured>,
    pub(crate) crowds: Vec<Measured>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.machine {
            writeln!(f, "- {line}")?;
        }
        writeln!(f, "- rounds, whose medians are told: {}, of {} s for each measurement", self.rounds, self.seconds)?;
        writeln!(f)?;
        let sections = [
            ("Server CPU per message, µs", self.costs(&self.messages, "work")),
            ("Throughput and latency", self.throughput()),
            ("The whole loop, ms", self.latency()),
            ("Sessions that do nothing", self.sessions()),
            ("One plugin call, ns", self.call()),
            ("Server CPU per message with ever more sessions, µs", self.costs(&self.crowds, "20000/s")),
        ];
        // A table is empty if none of its loads was measured.
        for (title, table) in sections.iter().filter(|(_, table)| !table.is_empty()) {
            writeln!(f, "### {title}\n\n{table}")?;
        }
        writeln!(f, "### † Lost, doubled, reordered, miscounted or refused\n")?;
        let works = [&self.messages, &self.loops, &self.idle, &self.crowds].into_iter().flatten();
        let faults: Vec<_> = works.flat_map(Measured::faults).collect();
        if faults.is_empty() {
            return writeln!(f, "None, at any row.");
        }
        faults.iter().try_for_each(|fault| writeln!(f, "- {fault}"))
    }
}

impl Report {
    fn names(&self) -> impl Iterator<Item = String> {
        self.contenders.iter().map(|contender| contender.name().to_owned())
    }

    /// The cells of one figure, one for each contender.
    fn medians(&self, measured: &Measured, figure: &str, decimals: usize) -> impl Iterator<Item = String> {
        self.contenders.iter().map(move |contender| cell(measured.median(*contender, figure), decimals))
    }

    fn costs(&self, works: &[Measured], first: &str) -> Table {
        let ratio = ["gateway ÷ baseline", "target", ""].map(str::to_owned);
        let mut table = Table::new([first.to_owned()].into_iter().chain(self.names()).chain(ratio));
        for measured in works {
            let ratio = measured.ratio(CPU);
            let cells = [measured.name()].into_iter().chain(self.medians(measured, CPU, 2));
            table.row(cells.chain([cell(ratio, 2)]).chain(judged(ratio, measured.work.target)).collect());
        }
        table
    }

    fn throughput(&self) -> Table {
        let heads = self.names().flat_map(|name| [format!("{name}: messages/s"), "p50, ms".into(), "p99, ms".into()]);
        let mut table = Table::new(["work".to_owned()].into_iter().chain(heads));
        for measured in &self.messages {
            let figures = [("messages_per_s", 0), ("latency_p50_ms", 2), (P99, 2)];
            let cells = self.contenders.iter().flat_map(|contender| {
                figures.map(|(figure, decimals)| cell(measured.median(*contender, figure), decimals))
            });
            table.row([measured.name()].into_iter().chain(cells).collect());
        }
        table
    }

    fn latency(&self) -> Table {
        let head = ["rate", "", "p50", "p99", "p99.9", "server CPU, µs", "p99, gateway ÷ baseline", "target", ""];
        let mut table = Table::new(head);
        for measured in &self.loops {
            for contender in &self.contenders {
                let figures = [("latency_p50_ms", 3), (P99, 3), ("latency_p999_ms", 3), (CPU, 1)];
                let figures = figures.map(|(figure, decimals)| cell(measured.median(*contender, figure), decimals));
                let verdict = if *contender == Contender::Gateway {
                    let ratio = measured.ratio(P99);
                    let [target, verdict] = judged(ratio, measured.work.target);
                    [cell(ratio, 2), target, verdict]
                } else {
                    Default::default()
                };
                let names = [measured.name(), contender.name().to_owned()];
                table.row(names.into_iter().chain(figures).chain(verdict).collect());
            }
        }
        table
    }

    fn sessions(&self) -> Table {
        let mut table =
            Table::new([String::new()].into_iter().chain(self.names()).chain(["target".to_owned(), String::new()]));
        let [opened, held] = self.idle.as_slice() else { return table };
        let kib = |contender| opened.median(contender, "server_bytes_per_session").map(|bytes| bytes / 1024.0);
        let memory = self.contenders.iter().map(|contender| cell(kib(*contender), 2));
        let name = format!("memory of a session, KiB ({})", opened.name());
        table.row([name].into_iter().chain(memory).chain(judged(kib(Contender::Gateway), Some(SESSION))).collect());
        let connects = self.medians(opened, "server_cpu_us_per_open", 1);
        table.row(
            ["a connect, µs of server CPU".to_owned()].into_iter().chain(connects).chain(judged(None, None)).collect(),
        );
        let name = format!("server CPU, ms in a second ({})", held.name());
        let cpu = self.medians(held, "server_cpu_ms_per_idle_s", 2);
        table.row([name].into_iter().chain(cpu).chain(judged(None, None)).collect());
        table
    }

    fn call(&self) -> Table {
        let mut table = Table::new(["", "gateway", "target", ""]);
        let [target, verdict] = judged(Some(self.plugin_call), Some(PLUGIN_CALL));
        table.row(vec!["chat request, 64 B, warm".to_owned(), cell(Some(self.plugin_call), 0), target, verdict]);
        table
    }
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
}
