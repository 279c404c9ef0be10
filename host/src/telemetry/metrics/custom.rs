//! The metrics that plugins declare for themselves. They have no labels, so their number is bounded by the plugins'
//! manifests.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

/// The upper bounds of a histogram's buckets. The unit of the values is the plugin's choice.
const BOUNDS: [f64; 8] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

/// A metric that a plugin declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The name: 1 to 64 characters of `a-z 0-9 _`.
    pub name: String,
    /// A sentence that says what the metric counts.
    pub help: String,
    /// The kind of the metric.
    pub kind: Kind,
}

/// The kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution, in buckets from 0.001 to 10000.
    Histogram,
}

/// Two metrics would have the same name in the report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its metric would be reported as `gateway_{name}`, which plugin `{plugin}` reports already: rename the metric")]
pub struct NameTaken {
    name: String,
    plugin: String,
}

/// The metrics of all plugins. Clones share the metrics.
#[derive(Clone, Debug, Default)]
pub struct Custom(Arc<Mutex<BTreeMap<String, Vec<Shown>>>>);

/// The metrics of one plugin, in the order of its declaration.
#[derive(Clone, Debug)]
pub struct Handles(Arc<[Value]>);

/// A metric as it is reported.
#[derive(Debug)]
struct Shown {
    /// The name without the prefix that all metrics of the gateway have.
    name: String,
    help: String,
    kind: Kind,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(Counter<f64, AtomicU64>),
    Gauge(Gauge<f64, AtomicU64>),
    Histogram(Histogram),
}

impl Custom {
    /// Replaces the metrics of a plugin. A metric that had the same name and kind before keeps its value, and every
    /// other metric starts at zero. An empty list removes the plugin from the report.
    ///
    /// # Errors
    /// Returns an error if two metrics would have the same name in the report. Then nothing changes, so the first plugin
    /// keeps the name.
    pub fn declare(&self, plugin: &str, metrics: &[Declared]) -> Result<Handles, NameTaken> {
        let mut plugins = self.plugins();
        let old = plugins.get(plugin).map_or(&[][..], Vec::as_slice);
        let shown = metrics.iter().map(|Declared { name, help, kind }| {
            // The library adds this suffix to the names of counters.
            let name = if *kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
            let name = format!("custom_{}_{name}", in_report(plugin));
            let same = old.iter().find(|old| old.name == name && old.kind == *kind);
            let value = same.map_or_else(|| Value::new(*kind), |old| old.value.clone());
            Shown { name, help: escaped(help), kind: *kind, value }
        });
        let shown: Vec<_> = shown.collect();
        check_names(&plugins, plugin, &shown)?;
        let handles = Handles(shown.iter().map(|shown| shown.value.clone()).collect());
        plugins.insert(plugin.to_owned(), shown);
        plugins.retain(|_, shown| !shown.is_empty());
        Ok(handles)
    }

    fn plugins(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Shown>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Custom {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Shown { name, help, value, .. } in self.plugins().values().flatten() {
            let value: &dyn EncodeMetric = match value {
                Value::Counter(counter) => counter,
                Value::Gauge(gauge) => gauge,
                Value::Histogram(histogram) => histogram,
            };
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        Ok(())
    }
}

impl Handles {
    /// Adds the value to a counter, sets a gauge to it, or records it in a histogram. `index` is the position of the
    /// metric in the declaration, from 0. The caller has checked that there is such a metric, that the value is finite,
    /// and that a counter's value is not negative.
    pub fn measure(&self, index: u32, value: f64) {
        match usize::try_from(index).ok().and_then(|index| self.0.get(index)) {
            Some(Value::Counter(counter)) => drop(counter.inc_by(value)),
            Some(Value::Gauge(gauge)) => drop(gauge.set(value)),
            Some(Value::Histogram(histogram)) => histogram.observe(value),
            None => debug_assert!(false, "there is no metric {index}"),
        }
    }
}

impl Value {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Counter::default()),
            Kind::Gauge => Self::Gauge(Gauge::default()),
            Kind::Histogram => Self::Histogram(Histogram::new(BOUNDS)),
        }
    }
}

impl Shown {
    /// Returns all names under which the report has values of this metric, and the name of the metric itself.
    fn names(&self) -> impl Iterator<Item = String> {
        let suffixes = match self.kind {
            Kind::Counter => &["", "_total"][..],
            Kind::Gauge => &[""],
            Kind::Histogram => &["", "_bucket", "_count", "_sum"],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", self.name))
    }
}

/// Checks that no name in the report is used twice. Different plugins may have the same names, because the names of
/// plugins and metrics are joined, and because the report has fewer characters than names of plugins.
fn check_names(plugins: &BTreeMap<String, Vec<Shown>>, plugin: &str, shown: &[Shown]) -> Result<(), NameTaken> {
    let others = plugins.iter().filter(|(other, _)| *other != plugin);
    let names = others.flat_map(|(other, shown)| shown.iter().flat_map(Shown::names).map(move |name| (name, &**other)));
    let mut taken: BTreeMap<_, _> = names.collect();
    for name in shown.iter().flat_map(Shown::names) {
        if let Some(by) = taken.insert(name.clone(), plugin) {
            return Err(NameTaken { name, plugin: by.to_owned() });
        }
    }
    Ok(())
}

/// Returns the name of a plugin in the characters that a metric may have.
fn in_report(plugin: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    plugin.chars().map(legal).collect()
}

/// Returns a help text in which an end of line cannot begin another line of the report. The library writes help texts
/// as they are.
fn escaped(help: &str) -> String {
    help.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text, registry::Registry};

    fn declared(name: &str, kind: Kind) -> Declared {
        Declared { name: name.to_owned(), help: format!("The {name}."), kind }
    }

    fn report(custom: &Custom) -> String {
        let (mut registry, mut out) = (Registry::with_prefix("gateway"), String::new());
        registry.register_collector(Box::new(custom.clone()));
        text::encode(&mut out, &registry).unwrap();
        out
    }

    /// Returns the lines of the report with values, without the prefix of all custom metrics.
    fn values(custom: &Custom) -> Vec<String> {
        report(custom).lines().filter_map(|line| line.strip_prefix("gateway_custom_").map(str::to_owned)).collect()
    }

    #[test]
    fn a_counter_whose_name_has_the_suffix_already_gets_no_second_one() {
        let custom = Custom::default();
        let handles = custom.declare("a", &[declared("events_total", Kind::Counter)]).unwrap();
        handles.measure(0, 1.0);
        assert_eq!(values(&custom), ["a_events_total 1.0"]);
        let both = ["events", "events_total"].map(|name| declared(name, Kind::Counter));
        assert_eq!(custom.declare("b", &both).unwrap_err().name, "custom_b_events");
    }

    #[test]
    fn metrics_of_every_kind_are_reported() {
        let custom = Custom::default();
        let metrics = [("ticks", Kind::Counter), ("rooms", Kind::Gauge), ("late", Kind::Histogram)];
        let handles = custom.declare("My-Arena.2", &metrics.map(|(name, kind)| declared(name, kind))).unwrap();
        for (index, value) in [(0, 2.0), (0, 0.5), (1, 7.0), (1, -3.0), (2, 0.001), (2, 5.0), (2, 20_000.0)] {
            handles.measure(index, value);
        }
        assert_eq!(
            report(&custom),
            r#"# HELP gateway_custom_my_arena_2_ticks The ticks.
# TYPE gateway_custom_my_arena_2_ticks counter
gateway_custom_my_arena_2_ticks_total 2.5
# HELP gateway_custom_my_arena_2_rooms The rooms.
# TYPE gateway_custom_my_arena_2_rooms gauge
gateway_custom_my_arena_2_rooms -3.0
# HELP gateway_custom_my_arena_2_late The late.
# TYPE gateway_custom_my_arena_2_late histogram
gateway_custom_my_arena_2_late_sum 20005.001
gateway_custom_my_arena_2_late_count 3
gateway_custom_my_arena_2_late_bucket{le="0.001"} 1
gateway_custom_my_arena_2_late_bucket{le="0.01"} 1
gateway_custom_my_arena_2_late_bucket{le="0.1"} 1
gateway_custom_my_arena_2_late_bucket{le="1.0"} 1
gateway_custom_my_arena_2_late_bucket{le="10.0"} 2
gateway_custom_my_arena_2_late_bucket{le="100.0"} 2
gateway_custom_my_arena_2_late_bucket{le="1000.0"} 2
gateway_custom_my_arena_2_late_bucket{le="10000.0"} 2
gateway_custom_my_arena_2_late_bucket{le="+Inf"} 3
# EOF
"#
        );
    }

    #[test]
    fn metrics_keep_their_values_until_they_change_or_vanish() {
        let custom = Custom::default();
        let [counter, gauge] = [Kind::Counter, Kind::Gauge].map(|kind| move |name| declared(name, kind));
        let first = custom.declare("a", &[counter("x"), gauge("y"), gauge("z")]).unwrap();
        for index in 0..3 {
            first.measure(index, 5.0);
        }
        let second = custom.declare("a", &[counter("y"), counter("x")]).unwrap();
        assert_eq!(values(&custom), ["a_y_total 0.0", "a_x_total 5.0"]);
        // The generation before may still make calls.
        for index in 0..3 {
            first.measure(index, 1.0);
        }
        second.measure(1, 1.0);
        assert_eq!(values(&custom), ["a_y_total 0.0", "a_x_total 7.0"]);
        custom.declare("a", &[]).unwrap();
        assert_eq!((values(&custom), custom.plugins().len()), (Vec::new(), 0));
        custom.declare("a", &[counter("x")]).unwrap();
        assert_eq!(values(&custom), ["a_x_total 0.0"]);
    }

    #[test]
    fn the_first_plugin_keeps_a_name() {
        let custom = Custom::default();
        let handles = custom.declare("a", &[declared("b_c", Kind::Gauge), declared("n", Kind::Histogram)]).unwrap();
        handles.measure(0, 1.0);
        let taken = custom.declare("A.b", &[declared("d", Kind::Gauge), declared("c", Kind::Gauge)]).unwrap_err();
        assert_eq!(
            taken.to_string(),
            "its metric would be reported as `gateway_custom_a_b_c`, which plugin `a` reports already: rename the metric"
        );
        assert_eq!(custom.declare("a_n", &[declared("sum", Kind::Gauge)]).unwrap_err().name, "custom_a_n_sum");
        assert_eq!(custom.declare("A", &[declared("n", Kind::Counter)]).unwrap_err().name, "custom_a_n");
        let own = [declared("m", Kind::Counter), declared("m_total", Kind::Gauge)];
        assert_eq!(custom.declare("b", &own).unwrap_err().name, "custom_b_m_total");
        assert_eq!(values(&custom)[0], "a_b_c 1.0");
        assert!(values(&custom).iter().all(|value| value.starts_with("a_b_c") || value.starts_with("a_n_")));
        custom.declare("a_n", &[declared("other", Kind::Gauge)]).unwrap();
        custom.declare("a", &[]).unwrap();
        custom.declare("A.b", &[declared("c", Kind::Gauge)]).unwrap();
        assert_eq!(values(&custom), ["a_b_c 0.0", "a_n_other 0.0"]);
    }

    #[test]
    fn a_help_text_stays_in_its_line() {
        let custom = Custom::default();
        let help = "The \\ and\n# EOF\n\"x\"".to_owned();
        custom.declare("a", &[Declared { help, ..declared("x", Kind::Gauge) }]).unwrap();
        let report = report(&custom);
        assert_eq!(report.lines().next(), Some(r#"# HELP gateway_custom_a_x The \\ and\n# EOF\n\"x\""#));
        assert_eq!(report.lines().count(), 4);
    }
}
