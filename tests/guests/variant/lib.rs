//! A plugin whose manifest and faults are read from [`BLOCK`]. The tests overwrite this block in the bytes of the
//! component, so that one build serves as any number of plugins. `tests/support/guests.rs` writes the block.

use gateway_plugin_sdk::{
    Action, Calls, Exported, Hearing, Instance, Manifest, Packet, Plugin, Policy, Rejection, Settings,
    bindings::plugin::exports::gateway::policy::plugin::Guest,
};
use serde::Deserialize;
use std::{hint::black_box, thread::LocalKey};

/// The memory in bytes that the packet `grow` allocates.
const GROWTH: usize = 32 << 20;

/// The length of the block in bytes. Blanks fill the block after the JSON.
const BYTES: usize = 512;

/// The mark by which the tests find the block, and then the [`Variant`] as JSON.
static BLOCK: [u8; BYTES] = block();

const MARK: &[u8] = b"variant:";

const fn block() -> [u8; BYTES] {
    let mut block = [b' '; BYTES];
    let mut i = 0;
    while i < MARK.len() {
        block[i] = MARK[i];
        i += 1;
    }
    block
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    version: String,
    routes: Vec<u8>,
    #[serde(default)]
    topics: Vec<String>,
    /// The exported function that panics: `describe` or `configure`.
    #[serde(default)]
    traps_in: Option<String>,
    /// The exported function that never returns: `describe` or `configure`.
    #[serde(default)]
    loops_in: Option<String>,
    /// The error text with which `configure` refuses its settings.
    #[serde(default)]
    refuses: Option<String>,
}

impl Variant {
    fn read() -> Self {
        // `black_box` keeps the compiler from replacing the block by its initial value.
        let block = black_box(&BLOCK);
        serde_json::from_slice(&block[MARK.len()..]).expect("the tests wrote a variant")
    }

    fn fail_in(&self, call: &str) {
        assert!(self.traps_in.as_deref() != Some(call), "this variant traps in {call}");
        while self.loops_in.as_deref() == Some(call) {
            std::hint::spin_loop();
        }
    }
}

/// The settings of the plugin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The answer to each packet. If this is `None`, the answer is the plugin's version.
    greeting: Option<String>,
}

struct Greeter {
    topics: Vec<String>,
    answer: String,
}

impl Plugin for Greeter {
    const NAME: &str = "variant";
    type Config = Config;

    fn configure(settings: Settings<Config>) -> Result<Self, String> {
        let variant = Variant::read();
        variant.fail_in("configure");
        match variant.refuses {
            Some(why) => Err(why),
            None => Ok(Self { topics: variant.topics, answer: settings.config.greeting.unwrap_or(variant.version) }),
        }
    }

    fn topics(&self) -> Vec<String> {
        self.topics.clone()
    }
}

impl Policy for Greeter {
    fn on_packet(&mut self, _: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        match payload {
            b"trap" => panic!("as it was told to"),
            b"loop" => loop {
                std::hint::spin_loop();
            },
            b"grow" => {
                let bytes = black_box(vec![1_u8; GROWTH]);
                Ok(vec![Action::reply(bytes.len().to_string())])
            }
            _ => Ok(vec![Action::reply(self.answer.clone())]),
        }
    }
}

impl Hearing for Greeter {
    fn on_message(&mut self, _: &str, _: &[u8], _: u64) -> Result<Vec<Action>, Rejection> {
        Ok(Vec::new())
    }
}

std::thread_local! {
    static INSTANCE: Instance<Greeter> = const { Instance::new() };
}

impl Exported for Greeter {
    const VERSION: &str = "0.0.0";
    const INSTANCE: &'static LocalKey<Instance<Self>> = &INSTANCE;
    const CALLS: Calls<Self> = Calls::NONE.Policy().Hearing();
}

/// The export of the interface `plugin`. The SDK's `export!` cannot make it, since it needs a constant manifest.
pub struct Described;

impl Guest for Described {
    fn describe() -> Manifest {
        let variant = Variant::read();
        variant.fail_in("describe");
        let Variant { name, version, routes, .. } = variant;
        Manifest { name, version, routes, metrics: Vec::new(), state_format: 0, gatekeeper: false }
    }

    fn configure(settings: String) -> Result<Vec<String>, String> {
        INSTANCE.with(|instance| instance.configure(&settings))
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "the exported functions are called by the gateway")]
mod exported {
    use super::{Described, Greeter};
    use gateway_plugin_sdk::{Component, bindings, export_interface};

    type Calls = Component<Greeter>;
    bindings::plugin::export_component!(Described with_types_in bindings::plugin);
    export_interface!(Policy for Calls);
    export_interface!(Hearing for Calls);
}
