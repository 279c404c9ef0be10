//! The plugin's manifest. It is read from [`BLOCK`], which the tests overwrite in the bytes of the component, so that
//! one build serves as several plugins. `tests/support/guests.rs` writes the block.

use crate::Probe;
use gateway_plugin_sdk::{
    Calls, Exported, Instance, Manifest, Plugin, bindings::plugin::exports::gateway::policy::plugin,
};
use std::{hint::black_box, thread::LocalKey};

/// The length of the block in bytes. Blanks fill the block after the text.
const BYTES: usize = 64;

/// The mark by which the tests find the block, and then a name, a state format, and whether it is a gatekeeper.
static BLOCK: [u8; BYTES] = *b"identity:probe 0 true                                           ";

const MARK: &[u8] = b"identity:";

/// What the manifest says besides the constants of the plugin.
pub(crate) struct Identity {
    pub(crate) name: String,
    state_format: u32,
    gatekeeper: bool,
}

impl Identity {
    pub(crate) fn read() -> Self {
        // `black_box` keeps the compiler from replacing the block by its initial value.
        let text = String::from_utf8_lossy(&black_box(&BLOCK)[MARK.len()..]);
        let words: Vec<_> = text.split_whitespace().collect();
        let [name, state_format, gatekeeper] = words[..] else { panic!("the tests wrote three words") };
        Self {
            name: name.to_owned(),
            state_format: state_format.parse().expect("a number"),
            gatekeeper: gatekeeper.parse().expect("a boolean"),
        }
    }
}

std::thread_local! {
    static INSTANCE: Instance<Probe> = const { Instance::new() };
}

impl Exported for Probe {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const INSTANCE: &'static LocalKey<Instance<Self>> = &INSTANCE;
    const CALLS: Calls<Self> = Calls::NONE.Policy().Hearing().Sessions().Presence().Timers();
}

/// The export of the interface `plugin`. The SDK's `export!` cannot make it, since it needs a constant manifest.
pub struct Described;

impl plugin::Guest for Described {
    fn describe() -> Manifest {
        let Identity { name, state_format, gatekeeper } = Identity::read();
        let metric = |it: &gateway_plugin_sdk::Metric| plugin::Metric {
            name: it.name.to_owned(),
            help: it.help.to_owned(),
            kind: it.kind,
        };
        Manifest {
            name,
            version: Probe::VERSION.to_owned(),
            routes: Probe::ROUTES.to_vec(),
            metrics: Probe::METRICS.iter().map(metric).collect(),
            state_format,
            gatekeeper,
        }
    }

    fn configure(settings: String) -> Result<Vec<String>, String> {
        INSTANCE.with(|instance| instance.configure(&settings))
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "the exported functions are called by the gateway")]
mod exported {
    use super::{Described, Probe};
    use gateway_plugin_sdk::{Component, bindings, export_interface};

    type Calls = Component<Probe>;
    bindings::plugin::export_component!(Described with_types_in bindings::plugin);
    export_interface!(Policy for Calls);
    export_interface!(Hearing for Calls);
    export_interface!(Sessions for Calls);
    export_interface!(Presence for Calls);
    export_interface!(Timers for Calls);
}
