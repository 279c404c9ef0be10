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

    /// The first cell of the row. It says if the load was measured only once, and has a mark if anything went wrong.
    pub(crate) fn name(&self) -> String {
        let once = if self.work.once { ", measured once" } else { "" };
        format!("{}{once}{}", self.work.name, mark(self.faults().next().is_some()))
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

/// The end of a row's first cell: a mark if anything went wrong.
pub(crate) fn mark(is_faulty: bool) -> &'static str {
    if is_faulty { " †" } else { "" }
}

/// The loads under which the gateway was compared with the others.
pub(crate) fn compared<'a>(works: impl IntoIterator<Item = &'a Measured>) -> impl Iterator<Item = &'a Measured> {
    works.into_iter().filter(|measured| measured.has(Contender::Baseline))
}

/// The contenders that have a column in a table of these loads.
pub(crate) fn columns<'a>(works: impl IntoIterator<Item = &'a Measured>) -> Vec<Contender> {
    let works: Vec<_> = works.into_iter().collect();
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

/// The 95 % confidence interval of the median, from values in ascending order. Returns `None` for fewer than 6 values.
///
/// Each value lies below the true median with a probability of 1/2. So the number of values below it is binomially
/// distributed, whatever the distribution of the values is. The interval is from the `place`th smallest value to the
/// `place`th largest one, and the true median lies beyond either end with a probability of at most 2.5 %.
pub(crate) fn median_interval(values: &[f64]) -> Option<[f64; 2]> {
    let count = values.len() as f64;
    // The probability that `place` values lie below the median. It may be less than the smallest number, so this is its
    // logarithm.
    let mut log_probability = -count * 2.0_f64.ln();
    let (mut place, mut probability_up_to_place) = (0_usize, log_probability.exp());
    while probability_up_to_place <= 0.025 {
        log_probability += ((count - place as f64) / (place + 1) as f64).ln();
        probability_up_to_place += log_probability.exp();
        place += 1;
    }
    Some([values[place.checked_sub(1)?], values[values.len() - place]])
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
        let work = work::opened(10);
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
    fn the_interval_of_a_median_is_the_exact_one() {
        let interval = |count: u32| median_interval(&(1..=count).map(f64::from).collect::<Vec<_>>());
        assert_eq!([0, 1, 5].map(interval), [None; 3]);
        // With 6 values, one outcome in 2^6 has no value below the median. With 9, ten in 2^9 have at most one.
        assert_eq!(
            [6, 8, 9, 12, 36, 1188].map(interval),
            [[1.0, 6.0], [1.0, 8.0], [2.0, 8.0], [3.0, 10.0], [12.0, 25.0], [560.0, 629.0]].map(Some)
        );
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
