//! What a generation starts its instances with.

use super::{
    described::{Described, LoadError},
    fault::Fault,
    instance::Instance,
    kept::Kept,
    settings::Settings,
    trace,
};
use crate::telemetry::{metrics::PluginMetrics, text};
use std::sync::Arc;

/// Starts the instances of a generation.
pub(super) struct Starter {
    pub(super) described: Arc<Described>,
    pub(super) settings: Settings,
    /// What the host keeps for the plugin over all its generations.
    pub(super) kept: Arc<Kept>,
    pub(super) metrics: PluginMetrics,
}

impl Starter {
    /// Creates an instance and gives it its settings. Returns it with the topics that it subscribes to.
    ///
    /// # Errors
    /// Returns a [`LoadError`] if the plugin fails or refuses its settings.
    pub(super) fn configured(&self) -> Result<(Instance, Vec<String>), LoadError> {
        let Self { described, settings, kept, metrics } = self;
        let fault = |step| move |fault| LoadError::Fault(step, fault);
        let name = Arc::clone(&described.name);
        let kept = Some((Arc::clone(kept), described.state_format));
        let mut instance =
            Instance::new(&described.linked, name, settings.limits, Some(metrics), kept).map_err(fault("start"))?;
        let traced = trace::begin(|| trace::configure(&described.name, &described.version));
        let answer = instance.configure(&settings.json);
        trace::end(traced, || trace::outcome(&answer));
        let topics = answer
            .map_err(fault("configure"))?
            .map_err(|refusal| LoadError::Settings(Arc::clone(&described.name), text::bounded(refusal)))?;
        Ok((instance, topics))
    }

    /// Starts an instance in place of one that has failed.
    pub(super) fn instance(&self) -> Result<Instance, Fault> {
        match self.configured() {
            Ok((instance, _)) => Ok(instance),
            Err(LoadError::Fault(_, fault)) => Err(fault),
            Err(other) => Err(Fault::Answer(other.to_string())),
        }
    }
}
