//! The plugins that serve, by route and by topic.
//!
//! A snapshot is immutable: a reload makes a new one. A packet is served under one snapshot, so it never sees half a
//! reload.

use super::loops::LoopLimit;
use crate::{
    bus,
    plugin::Plugin,
    telemetry::metrics::{Count, Metrics},
};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

/// The plugins that serve, by route and by topic.
pub struct Snapshot {
    served: Vec<Arc<ServingPlugin>>,
    routes: [Option<Route>; 256],
    topics: HashMap<String, Vec<Arc<ServingPlugin>>>,
}

/// A plugin that serves, and its use of the bus.
pub struct ServingPlugin {
    /// The generation of the plugin that serves.
    pub plugin: Arc<Plugin>,
    /// The plugin's use of the bus.
    pub account: Arc<Account>,
}

/// A plugin's use of the bus, over all its generations.
#[derive(Default)]
pub struct Account {
    /// The plugin's share of the bus's queue.
    pub share: bus::Share,
    /// The limit on publishes that lead back to the topic of the message that caused them.
    pub loops: LoopLimit,
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
    /// Returns the snapshot of these plugins, no two of which may claim the same route. A plugin keeps the account that
    /// it has in the snapshot `before`.
    #[must_use]
    pub fn new(plugins: Vec<Arc<Plugin>>, before: Option<&Self>, metrics: &Metrics) -> Self {
        let mut routes = [const { None }; 256];
        let mut topics: HashMap<String, Vec<Arc<ServingPlugin>>> = HashMap::new();
        let account = |plugin: &Plugin| before.and_then(|before| before.account(plugin.name())).unwrap_or_default();
        let served: Vec<_> =
            plugins.into_iter().map(|plugin| Arc::new(ServingPlugin { account: account(&plugin), plugin })).collect();
        for served in &served {
            for route in served.plugin.routes() {
                routes[usize::from(*route)] =
                    Some(Route { served: Arc::clone(served), received: metrics.received(*route) });
            }
            for topic in &served.plugin.topics {
                topics.entry(topic.clone()).or_default().push(Arc::clone(served));
            }
        }
        Self { served, routes, topics }
    }

    fn account(&self, plugin: &str) -> Option<Arc<Account>> {
        let served = self.served.iter().find(|served| &**served.plugin.name() == plugin)?;
        Some(Arc::clone(&served.account))
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

    /// Returns all topics that a plugin subscribes to.
    #[must_use]
    pub fn topics(&self) -> BTreeSet<String> {
        self.topics.keys().cloned().collect()
    }

    /// Returns the plugins that serve.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.served.iter().map(|served| &served.plugin)
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
