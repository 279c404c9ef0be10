//! The figures of a run, as lines for people or as one JSON object for scripts.

use std::fmt::Write;
use std::time::Duration;

use crate::plan::Format;
use crate::times::Times;

/// Lines of figures.
#[derive(Default)]
pub(crate) struct Report(Vec<Line>);

struct Line {
    label: &'static str,
    figures: Vec<Figure>,
}

/// One figure. A figure that was not measured has no value.
pub(crate) struct Figure {
    /// The name in JSON, with the unit.
    key: &'static str,
    /// The word before the value on its line.
    name: &'static str,
    /// The word behind the value on its line.
    unit: &'static str,
    /// The value as a decimal number, which is its form in both text and JSON.
    value: Option<String>,
}

impl Report {
    /// Adds a line. A line without a label gets the mode as its label.
    pub(crate) fn line(&mut self, label: &'static str, figures: impl Into<Vec<Figure>>) {
        self.0.push(Line { label, figures: figures.into() });
    }

    /// Adds a line with the quantiles and the maximum of some times, under these keys.
    pub(crate) fn times(&mut self, label: &'static str, keys: [&'static str; 4], times: &Times) {
        let quantile = |part| times.quantile(part).map(millis);
        let [p50, p99, p999, pmax] = keys;
        self.line(
            label,
            [
                Figure::number(p50, "p50", quantile(0.5), 3, ""),
                Figure::number(p99, "p99", quantile(0.99), 3, ""),
                Figure::number(p999, "p99.9", quantile(0.999), 3, ""),
                Figure::number(pmax, "max", quantile(1.0), 3, "ms"),
            ],
        );
    }

    pub(crate) fn format(&self, mode: &str, format: Format) -> String {
        match format {
            Format::Text => self.text(mode),
            Format::Json => self.json(mode),
        }
    }

    fn text(&self, mode: &str) -> String {
        let width = self.0.iter().map(|line| line.label.len()).max().unwrap_or(0).max(mode.len());
        let mut text = String::new();
        for Line { label, figures } in &self.0 {
            let label = if label.is_empty() { mode } else { label };
            let figures: Vec<_> = figures.iter().map(Figure::text).collect();
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "{label:width$}  {}", figures.join("  "));
        }
        text
    }

    fn json(&self, mode: &str) -> String {
        let mut json = format!("{{\"mode\":\"{mode}\"");
        for Figure { key, value, .. } in self.0.iter().flat_map(|line| &line.figures) {
            let _ = write!(json, ",\"{key}\":{}", value.as_deref().unwrap_or("null"));
        }
        json + "}\n"
    }
}

impl Figure {
    pub(crate) fn count(key: &'static str, name: &'static str, value: u64, unit: &'static str) -> Self {
        Self { key, name, unit, value: Some(value.to_string()) }
    }

    pub(crate) fn number(
        key: &'static str,
        name: &'static str,
        value: Option<f64>,
        decimals: usize,
        unit: &'static str,
    ) -> Self {
        // JSON has neither infinity nor NaN.
        let value = value.filter(|value| value.is_finite()).map(|value| format!("{value:.decimals$}"));
        Self { key, name, unit, value }
    }

    fn text(&self) -> String {
        let Self { name, unit, value, .. } = self;
        let parts = [name, value.as_deref().unwrap_or("-"), unit];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// The microseconds for each of `count`.
pub(crate) fn micros_each(time: Option<Duration>, count: u64) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e6 / count as f64)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.line("", [Figure::count("clients", "clients", 50, "")]);
        report.line(
            "server CPU",
            [
                Figure::number("server_us", "", micros_each(Some(Duration::from_millis(30)), 8000), 2, "µs/message"),
                Figure::number("own_us", "own", micros_each(Some(Duration::ZERO), 0), 2, ""),
            ],
        );
        let mut times = Times::new().unwrap();
        [100_000, 200_000].into_iter().for_each(|nanos| times.record(nanos));
        report.times("latency", ["a", "b", "c", "d"], &times);
        report.times("late", ["e", "f", "g", "h"], &Times::new().unwrap());
        report
    }

    #[test]
    fn lines_are_aligned() {
        let text = "ping        clients 50\n\
                    server CPU  3.75 µs/message  own -\n\
                    latency     p50 0.100  p99 0.200  p99.9 0.200  max 0.200 ms\n\
                    late        p50 -  p99 -  p99.9 -  max - ms\n";
        assert_eq!(report().format("ping", Format::Text), text);
    }

    #[test]
    fn json_is_one_object() {
        let json = "{\"mode\":\"ping\",\"clients\":50,\"server_us\":3.75,\"own_us\":null,\"a\":0.100,\"b\":0.200,\
                    \"c\":0.200,\"d\":0.200,\"e\":null,\"f\":null,\"g\":null,\"h\":null}\n";
        assert_eq!(report().format("ping", Format::Json), json);
    }
}
