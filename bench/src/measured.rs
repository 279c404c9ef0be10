//! The figures of one load.

use serde_json::Value;

use crate::contender::Contender;
use crate::work::Work;

/// The figures of `gateway-client load` that have to be 0.
const FAULTS: [&str; 5] = ["lost", "doubled", "reordered", "miscounted", "refused"];

/// One measurement: the figures, or the error if there are none.
pub(crate) type Run = Result<Value, String>;

/// The figures of one load, of every server and round.
pub(crate) struct Measured {
    pub(crate) work: Work,
    pub(crate) runs: Vec<(Contender, Run)>,
}

impl Measured {
    /// The median of a figure over the rounds, or `None` if the figure was never measured.
    pub(crate) fn median(&self, contender: Contender, figure: &str) -> Option<f64> {
        let of = self.runs.iter().filter(|(other, _)| *other == contender);
        let mut values: Vec<f64> = of.filter_map(|(_, run)| run.as_ref().ok()?.get(figure)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        quantile(&values, 0.5)
    }

    /// The median of one contender as a multiple of another one's.
    pub(crate) fn quotient(&self, one: Contender, other: Contender, figure: &str) -> Option<f64> {
        Some(self.median(one, figure)? / self.median(other, figure)?)
    }

    /// The gateway's median as a multiple of the baseline's.
    pub(crate) fn ratio(&self, figure: &str) -> Option<f64> {
        self.quotient(Contender::Gateway, Contender::Baseline, figure)
    }

    /// The gateway's median as a multiple of that of uWebSockets.
    pub(crate) fn uws_ratio(&self, figure: &str) -> Option<f64> {
        self.quotient(Contender::Gateway, Contender::Uws, figure)
    }

    /// The gateway's median over TLS, as a multiple of its median without.
    pub(crate) fn tls_ratio(&self, figure: &str) -> Option<f64> {
        self.quotient(Contender::Tls, Contender::Gateway, figure)
    }

    /// Whether this contender was measured.
    pub(crate) fn has(&self, contender: Contender) -> bool {
        self.runs.iter().any(|(other, _)| *other == contender)
    }

    /// The first cell of the row, with a mark if anything went wrong.
    pub(crate) fn name(&self) -> String {
        let mark = if self.faults().next().is_some() { " †" } else { "" };
        format!("{}{mark}", self.work.name)
    }

    /// The faults, with a line for each measurement that has any.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        self.runs.iter().filter_map(|(contender, run)| {
            let what = match run {
                Err(error) => error.clone(),
                Ok(figures) => faults(figures)?,
            };
            Some(format!("{}, {}: {what}", self.work.name, contender.name()))
        })
    }
}

/// The loads under which the gateway was compared with the others.
pub(crate) fn compared(works: &[Measured]) -> impl Iterator<Item = &Measured> {
    works.iter().filter(|measured| measured.has(Contender::Baseline))
}

/// The contenders that have a column in a table of these loads.
pub(crate) fn columns(works: &[Measured]) -> Vec<Contender> {
    let all = [Contender::Gateway, Contender::Baseline, Contender::Node, Contender::Uws];
    all.into_iter().filter(|contender| works.iter().any(|measured| measured.has(*contender))).collect()
}

/// The value below which this part of the values lie, which are in ascending order. Between two values, it is in
/// proportion. Returns `None` if there are no values.
pub(crate) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let place = values.len().checked_sub(1)? as f64 * part;
    let [below, above] = [place.floor(), place.ceil()].map(|place| values[place as usize]);
    Some(below + (above - below) * place.fract())
}

/// The faults among the figures of a measurement, or `None` if there are none.
pub(crate) fn faults(figures: &Value) -> Option<String> {
    let count = |fault: &str| figures.get(fault).and_then(Value::as_u64).filter(|count| *count > 0);
    let faults = FAULTS.iter().filter_map(|fault| Some(format!("{} {fault}", count(fault)?)));
    let faults: Vec<_> = faults.collect();
    (!faults.is_empty()).then(|| faults.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::work;

    fn measured(runs: Vec<(Contender, Run)>) -> Measured {
        let [work, ..] = work::idle(10);
        Measured { work, runs }
    }

    #[test]
    fn medians_are_those_of_one_contender() {
        let gateway = [3.0, 1.0, 2.0].map(|cpu| (Contender::Gateway, Ok(json!({ "cpu": cpu, "rss": null }))));
        let baseline = [1.0, 2.0].map(|cpu| (Contender::Baseline, Ok(json!({ "cpu": cpu }))));
        let measured = measured(gateway.into_iter().chain(baseline).collect());
        assert_eq!(measured.median(Contender::Gateway, "cpu"), Some(2.0));
        assert_eq!(measured.median(Contender::Baseline, "cpu"), Some(1.5));
        assert_eq!(measured.ratio("cpu"), Some(2.0 / 1.5));
        assert_eq!(measured.uws_ratio("cpu"), None);
        assert_eq!(measured.median(Contender::Node, "cpu"), None);
        assert_eq!(measured.median(Contender::Gateway, "rss"), None);
        assert_eq!(measured.name(), "10 sessions opened");
    }

    #[test]
    fn quantiles_lie_between_values() {
        let values = [1.0, 2.0, 4.0, 8.0, 9.0];
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|part| quantile(&values, part)), [1.0, 2.0, 4.0, 9.0].map(Some));
        assert_eq!(quantile(&values[1..3], 0.25), Some(2.5));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn what_went_wrong_is_told() {
        let runs =
            [Ok(json!({ "lost": 0, "doubled": 0 })), Ok(json!({ "lost": 2, "refused": 1 })), Err("no".to_owned())];
        let measured = measured(runs.map(|run| (Contender::Node, run)).into());
        let faults: Vec<_> = measured.faults().collect();
        assert_eq!(measured.name(), "10 sessions opened †");
        assert_eq!(faults, ["10 sessions opened, node: 2 lost, 1 refused", "10 sessions opened, node: no"]);
    }
}
