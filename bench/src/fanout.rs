//! One message to many sessions: the loads, and the table of their figures.

use crate::contender::Contender;
use crate::measured::Measured;
use crate::table::{Table, cell, judged_quotient};
use crate::work::Work;

/// The name of the table, on the command line.
pub(crate) const FANOUT: &str = "fanout";

/// The servers in the order of their turns. The gateway delivers to a user's sessions and to a group.
const LINEUP: &[Contender] =
    &[Contender::Gateway, Contender::Group, Contender::Baseline, Contender::Node, Contender::Uws];

/// The route of the plugin `probe` of the tests, and that of the server on uWebSockets for messages to a topic.
const ROUTE: &str = "112";

/// The largest allowed cost of a delivery, as a multiple of its cost with uWebSockets.
const CPU: f64 = 0.9;

/// The largest allowed 99th percentile of the time until the last session has the message, as a multiple of that of
/// uWebSockets.
const LAST: f64 = 0.5;

/// The loads.
pub(crate) fn works() -> Vec<Work> {
    let work = |sessions, rate| {
        let name = format!("one message to {sessions} sessions, {rate}/s");
        Work::new(name, format!("{FANOUT} --clients {sessions} --rate {rate}")).among(FANOUT, LINEUP)
    };
    vec![work(100, 500), work(1000, 100)]
}

/// The arguments of `gateway-client load fanout` for this server: who sends the messages.
pub(crate) fn arguments(contender: Contender, redis: u16) -> Vec<String> {
    match contender {
        Contender::Group => {
            ["--route", ROUTE, "--join", "join 1", "--before", "deliver group:1 always "].map(str::to_owned).into()
        }
        Contender::Uws => ["--route", ROUTE, "--join", "join"].map(str::to_owned).into(),
        _ => vec!["--redis".to_owned(), format!("127.0.0.1:{redis}")],
    }
}

/// The cost of a delivery, and the time until the last session has the message.
pub(crate) fn table(works: &[Measured]) -> Table {
    let head = ["messages", "", "server CPU for a delivery, µs", "÷ uWebSockets", "target", ""];
    let last = ["last arrival: p50, ms", "p99, ms", "p99 ÷ uWebSockets", "target", ""];
    let mut table = Table::new(head.into_iter().chain(last));
    for measured in works {
        for contender in LINEUP.iter().filter(|contender| measured.has(**contender)) {
            let name = if *contender == Contender::Gateway { "gateway, to a user" } else { contender.name() };
            let versus = |figure, target| {
                let ratio = measured.quotient(*contender, Contender::Uws, figure);
                judged_quotient(ratio, contender.is_gateway().then_some(target))
            };
            let figure = |figure, decimals| cell(measured.median(*contender, figure), decimals);
            let cpu =
                [figure("server_cpu_us_per_message", 2)].into_iter().chain(versus("server_cpu_us_per_message", CPU));
            let last = [figure("latency_p50_ms", 3), figure("latency_p99_ms", 3)];
            let last = last.into_iter().chain(versus("latency_p99_ms", LAST));
            table.row([measured.name(), name.to_owned()].into_iter().chain(cpu).chain(last).collect());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gateway_is_judged_by_uwebsockets_and_the_others_are_not() {
        let run = |contender, cpu: f64, p99: f64| {
            let figures =
                json!({ "server_cpu_us_per_message": cpu, "latency_p50_ms": 1.0, "latency_p99_ms": p99, "lost": 0 });
            (contender, Ok(figures))
        };
        let runs =
            vec![run(Contender::Gateway, 0.9, 1.2), run(Contender::Node, 8.0, 9.0), run(Contender::Uws, 1.0, 2.0)];
        let work = works().remove(0);
        let rows = table(&[Measured { work, runs }]).to_string();
        let rows: Vec<_> = rows.lines().skip(2).collect();
        let name = "one message to 100 sessions, 500/s";
        assert_eq!(
            rows,
            [
                format!(
                    "| {name} | gateway, to a user | 0.90 | 0.90 | ≤ 0.9 | met | 1.000 | 1.200 | 0.60 | ≤ 0.5 | missed |"
                ),
                format!("| {name} | node | 8.00 | 8.00 |  |  | 1.000 | 9.000 | 4.50 |  |  |"),
                format!("| {name} | uWebSockets | 1.00 | 1.00 |  |  | 1.000 | 2.000 | 1.00 |  |  |"),
            ]
        );
    }
}
