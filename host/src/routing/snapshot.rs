//! Which plugin serves which route and hears which topic, all of one moment. Immutable: a reload makes a new one, and a packet
//! that holds one never sees half a reload.

use crate::{
    plugin::Plugin,
    telemetry::metrics::{Count, Metrics},
};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

/// The plugins that serve.
pub struct Snapshot {
    plugins: Vec<Arc<Plugin>>,
    routes: [Option<Route>; 256],
    topics: HashMap<String, Vec<Arc<Plugin>>>,
}

/// A route that is served.
#[derive(Clone)]
pub struct Route {
    /// Who serves it.
    pub plugin: Arc<Plugin>,
    /// Its packets.
    pub received: Count,
}

impl Snapshot {
    /// The table of these plugins, of which no two claim one route.
    #[must_use]
    pub fn new(plugins: Vec<Arc<Plugin>>, metrics: &Metrics) -> Self {
        let mut routes = [const { None }; 256];
        let mut topics: HashMap<String, Vec<Arc<Plugin>>> = HashMap::new();
        for plugin in &plugins {
            for route in plugin.routes() {
                routes[usize::from(*route)] =
                    Some(Route { plugin: Arc::clone(plugin), received: metrics.received(*route) });
            }
            for topic in &plugin.topics {
                topics.entry(topic.clone()).or_default().push(Arc::clone(plugin));
            }
        }
        Self { plugins, routes, topics }
    }

    /// Who serves the route.
    #[must_use]
    pub fn route(&self, route: u8) -> Option<&Route> {
        self.routes[usize::from(route)].as_ref()
    }

    /// Who hears the topic.
    #[must_use]
    pub fn subscribers(&self, topic: &str) -> &[Arc<Plugin>] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Every topic that somebody hears.
    #[must_use]
    pub fn topics(&self) -> BTreeSet<String> {
        self.topics.keys().cloned().collect()
    }

    /// The plugins that serve.
    #[must_use]
    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for plugin in &self.plugins {
            let routes: Vec<_> = plugin.routes().iter().map(|route| format!("0x{route:02x}")).collect();
            write!(f, "{separator}{} {} (", plugin.name(), plugin.version())?;
            write!(f, "routes [{}], topics [{}])", routes.join(", "), plugin.topics.join(", "))?;
            separator = "; ";
        }
        if self.plugins.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}
