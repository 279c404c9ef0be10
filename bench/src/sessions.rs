//! The table of sessions that do nothing.

use crate::contender::Contender;
use crate::measured::{Measured, columns, compared};
use crate::table::{Table, cell, judged};

/// The MB that a gateway may take without a session.
const AT_REST: f64 = 30.0;

/// The KiB that a session may take when it is opened, and when it has done nothing for 30 s.
const OPENED: f64 = 5.0;
const IDLE: f64 = 1.5;

/// The largest allowed cost of a connect, as a multiple of its cost with uWebSockets.
const CONNECT: f64 = 1.0;

/// A figure of sessions that do nothing.
struct Row {
    name: String,
    /// The key among the figures of `gateway-client load idle`.
    figure: &'static str,
    /// The factor from the unit of the figure to that of the row, and the decimals.
    unit: (f64, usize),
    /// The largest allowed figure of the gateway.
    target: Option<f64>,
    /// The largest allowed figure of the gateway, as a multiple of that of uWebSockets.
    uws_target: Option<f64>,
}

/// Memory and processor time of sessions that do nothing, from the load that opens them and the one that keeps them. A
/// load that was not measured has no rows.
pub(crate) fn sessions(opened: Option<&Measured>, held: Option<&Measured>) -> Table {
    let [opened, held] = [opened, held].map(|measured| compared(measured).next());
    let [of_opened, of_held] = [opened, held].map(|measured| measured.map(Measured::name).unwrap_or_default());
    let columns = columns(opened.into_iter().chain(held));
    let names = columns.iter().map(|contender| contender.name());
    let head = [""].into_iter().chain(names).chain(["target", ""]);
    let mut table = Table::new(head.chain(["gateway ÷ uWebSockets", "target", ""]));
    let (mb, kib) = ((1e-6, 1), (1.0 / 1024.0, 2));
    let row = |name: &str, figure, unit| Row { name: name.to_owned(), figure, unit, target: None, uws_target: None };
    let rows = [
        (
            opened,
            Row { target: Some(AT_REST), ..row("resident memory without a session, MB", "server_bytes_at_rest", mb) },
        ),
        (
            opened,
            Row {
                target: Some(OPENED),
                ..row(&format!("memory of a session, KiB ({of_opened})"), "server_bytes_per_session", kib)
            },
        ),
        (
            held,
            Row {
                target: Some(IDLE),
                ..row(&format!("memory of an idle session, KiB ({of_held})"), "server_bytes_per_idle_session", kib)
            },
        ),
        (
            opened,
            Row {
                uws_target: Some(CONNECT), ..row("a connect, µs of server CPU", "server_cpu_us_per_open", (1.0, 1))
            },
        ),
        (held, row(&format!("server CPU, ms in a second ({of_held})"), "server_cpu_ms_per_idle_s", (1.0, 2))),
    ];
    for (measured, Row { name, figure, unit: (factor, decimals), target, uws_target }) in rows {
        let Some(measured) = measured else { continue };
        let value = |contender| measured.median(contender, figure).map(|value| value * factor);
        let cells = columns.iter().map(|contender| cell(value(*contender), decimals));
        let ratio = measured.uws_ratio(figure).filter(|ratio| ratio.is_finite());
        let verdict = judged(value(Contender::Gateway), target);
        let versus = [cell(ratio, 2)].into_iter().chain(judged(ratio, uws_target));
        table.row([name].into_iter().chain(cells).chain(verdict).chain(versus).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::work;

    #[test]
    fn figures_are_judged_in_the_unit_of_their_row() {
        let run = |contender, factor: u64| {
            let figures = json!({
                "server_bytes_at_rest": 20_000_000 * factor, "server_bytes_per_session": 2048 * factor,
                "server_bytes_per_idle_session": 1024 * factor, "server_cpu_us_per_open": 20 * factor,
                "server_cpu_ms_per_idle_s": 0,
            });
            (contender, Ok(figures))
        };
        let runs = || [(Contender::Gateway, 2), (Contender::Baseline, 1), (Contender::Uws, 1)];
        let measured = |work| Measured { work, runs: runs().map(|(who, factor)| run(who, factor)).into() };
        let (opened, held) = (measured(work::opened(10)), measured(work::held(10)));
        let table = sessions(Some(&opened), Some(&held)).to_string();
        let rows: Vec<_> = table.lines().filter(|line| !line.starts_with("|---")).collect();
        assert_eq!(
            rows,
            [
                "|  | gateway | baseline | uWebSockets | target |  | gateway ÷ uWebSockets | target |  |",
                "| resident memory without a session, MB | 40.0 | 20.0 | 20.0 | ≤ 30 | missed | 2.00 |  |  |",
                "| memory of a session, KiB (10 sessions opened) | 4.00 | 2.00 | 2.00 | ≤ 5 | met | 2.00 |  |  |",
                "| memory of an idle session, KiB (10 sessions held, measured once) | 2.00 | 1.00 | 1.00 | ≤ 1.5 | missed | 2.00 |  |  |",
                "| a connect, µs of server CPU | 40.0 | 20.0 | 20.0 |  |  | 2.00 | ≤ 1 | missed |",
                "| server CPU, ms in a second (10 sessions held, measured once) | 0.00 | 0.00 | 0.00 |  |  | – |  |  |",
            ]
        );
        // One of the loads has its rows without the other.
        let alone = [sessions(Some(&opened), None), sessions(None, Some(&held))].map(|table| table.to_string());
        assert_eq!(alone.map(|table| table.lines().count() - 2), [3, 2]);
    }
}
