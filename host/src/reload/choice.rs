//! Chooses the plugins that serve among the generations that have started. Only one plugin may have a given name or a
//! given route.

use crate::{plugin::Plugin, reload::entry::Entry, telemetry::metrics::Metrics};
use std::sync::Arc;

/// The choice for one file.
pub(super) struct Choice<'a> {
    name: String,
    file: &'a mut Entry,
    /// The generation that the file shall serve with.
    pub(super) plugin: Option<Arc<Plugin>>,
    /// Why the newest generation was not chosen.
    conflict: Option<String>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(name: String, file: &'a mut Entry) -> Self {
        let plugin = file.fit.clone();
        Self { name, file, plugin, conflict: None }
    }

    /// Falls back from the newest generation to the generation in use, and from the generation in use to none.
    fn step_back(&mut self, why: String) {
        let last = self.file.serving.clone();
        let same = |last: &Arc<Plugin>| self.plugin.as_ref().is_some_and(|plugin| Arc::ptr_eq(plugin, last));
        self.plugin = last.filter(|last| !same(last));
        self.conflict.get_or_insert(why);
    }

    /// Returns whether the generation in use has this name or this route.
    fn holds(&self, name: &str, route: Option<u8>) -> bool {
        let holds =
            |last: &Arc<Plugin>| &**last.name() == name || route.is_some_and(|route| last.routes().contains(&route));
        self.file.serving.as_ref().is_some_and(holds)
    }

    /// Stores the choice in the file's entry. Returns the news to report once the generation serves.
    ///
    /// While other files are still being loaded (`final_word` is false), a conflict is not reported yet. The conflict
    /// may be temporary, because two plugins may exchange their routes.
    pub(super) fn settle(&mut self, final_word: bool, metrics: &Metrics) -> Option<News> {
        if final_word || self.conflict.is_none() {
            if let Some(why) = &self.conflict
                && self.file.conflict != self.conflict
            {
                metrics.reloaded(self.file.fit.as_ref().map_or("", |fit| fit.name()), "rejected");
                tracing::error!(file = self.name, keeps = self.plugin.is_some(), "plugin rejected: {why}");
            }
            self.file.conflict = self.conflict.take();
        }
        let last = std::mem::replace(&mut self.file.serving, self.plugin.clone());
        let plugin = self.plugin.clone()?;
        self.file.awaited = false;
        let same = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &plugin));
        (!same).then(|| News { file: self.name.clone(), plugin, swapped: last.is_some() })
    }
}

/// Makes files fall back until no two of them claim the same name or route.
pub(super) fn resolve(chosen: &mut [Choice]) {
    while let Some((loser, why)) = first_conflict(chosen) {
        chosen[loser].step_back(why);
    }
}

/// Returns the index of a file that has to fall back, and why. If two plugins claim the same name or route, the plugin
/// that already serves with it stays. If that does not decide, the plugin of the earlier file stays.
fn first_conflict(chosen: &[Choice]) -> Option<(usize, String)> {
    for (i, a) in chosen.iter().enumerate() {
        for (j, b) in chosen.iter().enumerate().skip(i + 1) {
            let (Some(x), Some(y)) = (&a.plugin, &b.plugin) else { continue };
            let route = x.routes().iter().copied().find(|route| y.routes().contains(route));
            if x.name() != y.name() && route.is_none() {
                continue;
            }
            let name = if x.name() == y.name() { x.name() } else { "" };
            let (loser, winner) = if b.holds(name, route) && !a.holds(name, route) { (i, y) } else { (j, x) };
            return Some((loser, conflict_message(route.filter(|_| name.is_empty()), winner)));
        }
    }
    None
}

fn conflict_message(route: Option<u8>, winner: &Plugin) -> String {
    let name = winner.name();
    match route {
        None => format!("another file is plugin `{name}` already: take one of the two away"),
        Some(route) => format!(
            "it claims route 0x{route:02x}, which plugin `{name}` serves: give one of them another in \
             plugins.settings.NAME.routes"
        ),
    }
}

/// The plugins that shall serve.
pub struct Assembly {
    /// All generations that shall serve.
    pub plugins: Vec<Arc<Plugin>>,
    /// The generations that did not serve before.
    pub news: Vec<News>,
}

/// The news of a generation that was put to use.
pub struct News {
    file: String,
    plugin: Arc<Plugin>,
    swapped: bool,
}

impl News {
    /// Counts and logs that the generation was put to use.
    pub fn report(&self, metrics: &Metrics) {
        let Self { file, plugin, swapped } = self;
        plugin.put_to_use();
        let (outcome, what) = if *swapped { ("swapped", "plugin swapped") } else { ("loaded", "plugin loaded") };
        metrics.reloaded(plugin.name(), outcome);
        let (name, version) = (&**plugin.name(), plugin.version());
        let (routes, topics) = (plugin.routes(), &plugin.topics);
        tracing::info!(file, plugin = name, version, ?routes, ?topics, "{what}");
    }
}
