//! A plugin whose manifest and faults are read from [`BLOCK`]. The tests overwrite this block in the bytes of the
//! component, so that one build serves as any number of plugins. `tests/support/guests.rs` writes the block.

use gateway_plugin_sdk::{
    Action, Exported, Manifest, Packet, Policy, Rejection, Settings, bindings::exports::gateway::policy::policy::Guest,
};
use serde::Deserialize;
use std::hint::black_box;

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

impl Policy for Greeter {
    const NAME: &str = "variant";
    const ROUTES: &[u8] = &[];
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

std::thread_local! {
    static POLICY: Exported<Greeter> = const { Exported::new() };
}

/// The component's exports. The SDK's `export!` cannot make these exports, since it needs a constant manifest.
pub struct Component;

impl Guest for Component {
    fn describe() -> Manifest {
        let variant = Variant::read();
        variant.fail_in("describe");
        Manifest { name: variant.name, version: variant.version, routes: variant.routes }
    }

    fn configure(settings: String) -> Result<Vec<String>, String> {
        POLICY.with(|policy| policy.configure(&settings))
    }

    fn on_packet(packet: Packet, payload: Vec<u8>) -> Result<Vec<Action>, Rejection> {
        POLICY.with(|policy| policy.on_packet(&packet, &payload))
    }

    fn on_message(topic: String, payload: Vec<u8>) -> Result<Vec<Action>, Rejection> {
        POLICY.with(|policy| policy.on_message(&topic, &payload))
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "the exported functions are called by the gateway")]
mod exported {
    use super::Component;
    gateway_plugin_sdk::bindings::export_component!(Component with_types_in gateway_plugin_sdk::bindings);
}
