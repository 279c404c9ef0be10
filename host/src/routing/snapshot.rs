//! The plugins that serve, by route and by topic.
//!
//! A snapshot is immutable: a reload makes a new one. A packet is served under one snapshot, so it never sees half a
//! reload.

use super::accounts::{Account, Accounts};
use crate::{
    plugin::{self, Metric, MetricKind, Plugin},
    telemetry::metrics::{
        Count, Metrics,
        custom::{Declared, Handles, Kind},
    },
};
use foldhash::fast::RandomState;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

/// The plugins that serve, by route and by topic.
pub struct Snapshot {
    served: Vec<Arc<ServingPlugin>>,
    routes: [Option<Route>; 256],
    topics: HashMap<String, Vec<Arc<ServingPlugin>>, RandomState>,
    /// The plugins that are asked when a session begins, in the order of their names.
    asked: Vec<Arc<ServingPlugin>>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { served: Vec::new(), routes: [const { None }; 256], topics: HashMap::default(), asked: Vec::new() }
    }
}

/// A plugin that serves.
pub struct ServingPlugin {
    /// The generation of the plugin that serves.
    pub plugin: Arc<Plugin>,
    /// What is kept for the plugin over all its generations.
    pub account: Arc<Account>,
    /// The metrics of the plugin's own. `None` if their names are taken by another plugin.
    pub metrics: Option<Handles>,
}

/// A route that a plugin serves.
#[derive(Clone)]
pub struct Route {
    /// The plugin that serves the route.
    pub served: Arc<ServingPlugin>,
    /// The counter of packets on the route.
    pub received: Count,
}

impl Snapshot {
    /// Returns the snapshot of these plugins, no two of which may claim the same route.
    #[must_use]
    pub fn new(plugins: Vec<Arc<Plugin>>, accounts: &Accounts, metrics: &Metrics) -> Self {
        let mut snapshot = Self::default();
        for plugin in plugins {
            let account = accounts.of(plugin.name());
            let served = Arc::new(ServingPlugin { account, metrics: declared(&plugin, metrics), plugin });
            for route in served.plugin.routes() {
                snapshot.routes[usize::from(*route)] =
                    Some(Route { served: Arc::clone(&served), received: metrics.received(*route) });
            }
            for topic in &served.plugin.topics {
                snapshot.topics.entry(topic.clone()).or_default().push(Arc::clone(&served));
            }
            snapshot.served.push(served);
        }
        let asked = snapshot.served.iter().filter(|served| served.plugin.takes().sessions);
        snapshot.asked = asked.cloned().collect();
        snapshot.asked.sort_by(|a, b| a.plugin.name().cmp(b.plugin.name()));
        snapshot
    }

    /// Returns the route, if a plugin serves it.
    #[must_use]
    pub fn route(&self, route: u8) -> Option<&Route> {
        self.routes[usize::from(route)].as_ref()
    }

    /// Returns the plugins that subscribe to the topic.
    #[must_use]
    pub fn subscribers(&self, topic: &str) -> &[Arc<ServingPlugin>] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Returns the plugins that are asked when a session begins, in the order of their names.
    #[must_use]
    pub fn asked(&self) -> &[Arc<ServingPlugin>] {
        &self.asked
    }

    /// Returns all plugins that serve, with what is kept for them.
    pub(super) fn served(&self) -> &[Arc<ServingPlugin>] {
        &self.served
    }

    /// Returns all topics that a plugin subscribes to, and the host's own.
    #[must_use]
    pub fn topics(&self) -> BTreeSet<String> {
        self.topics.keys().cloned().chain([plugin::HOST_TOPIC.to_owned()]).collect()
    }

    /// Returns the plugins that serve.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.served.iter().map(|served| &served.plugin)
    }
}

/// Declares the metrics of the plugin's own.
fn declared(plugin: &Plugin, metrics: &Metrics) -> Option<Handles> {
    let metric = |metric: &Metric| Declared {
        name: metric.name.clone(),
        help: metric.help.clone(),
        kind: match metric.kind {
            MetricKind::Counter => Kind::Counter,
            MetricKind::Gauge => Kind::Gauge,
            MetricKind::Histogram => Kind::Histogram,
        },
    };
    let declared: Vec<_> = plugin.metrics().iter().map(metric).collect();
    match metrics.custom.declare(plugin.name(), &declared) {
        Ok(handles) => Some(handles),
        Err(error) => {
            tracing::error!(plugin = &**plugin.name(), "the plugin's metrics are not shown: {error}");
            // The metrics of the generation before are not shown either, since nothing would change them.
            let _ = metrics.custom.declare(plugin.name(), &[]);
            None
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for plugin in self.plugins() {
            let routes: Vec<_> = plugin.routes().iter().map(|route| format!("0x{route:02x}")).collect();
            write!(f, "{separator}{} {} (", plugin.name(), plugin.version())?;
            write!(f, "routes [{}], topics [{}])", routes.join(", "), plugin.topics.join(", "))?;
            separator = "; ";
        }
        if self.served.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}
