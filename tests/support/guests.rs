//! The plugins that only tests need. `make guests` builds them from the packages in `tests/guests`. This module
//! compiles the WAT files in that folder.

use crate::root;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A block of bytes in a guest, which a test overwrites to change what the guest is.
struct Block {
    /// The bytes at the start of the block, by which it is found in the component.
    mark: &'static str,
    /// The bytes after the mark, as far as they are in every build.
    initially: &'static str,
    /// The length of the block in bytes. Blanks fill it after the text.
    bytes: usize,
}

/// The block in `tests/guests/variant`.
const VARIANT: Block = Block { mark: "variant:", initially: "        ", bytes: 512 };
/// The block in `tests/guests/probe`.
const IDENTITY: Block = Block { mark: "identity:", initially: "probe 0 true ", bytes: 64 };

/// Returns version 0.2.0 of the chat plugin in plugins/chat.
#[must_use]
pub fn chat_next() -> Vec<u8> {
    built("chat_next")
}

/// Returns a plugin that answers each packet with the plugin's version, or with `greeting` of the plugin's config. On
/// the payload `trap` the plugin traps, on `loop` it loops for ever, and on `grow` it allocates 32 MiB.
#[must_use]
pub fn greeter(name: &str, version: &str, routes: &[u8]) -> Vec<u8> {
    variant(&json!({ "name": name, "version": version, "routes": routes }))
}

/// Returns a plugin like [`greeter`], which may also have faults. The keys are the fields of `Variant` in
/// `tests/guests/variant`.
#[must_use]
pub fn variant(variant: &Value) -> Vec<u8> {
    VARIANT.overwritten(built("variant"), &variant.to_string())
}

/// Returns the plugin of `tests/guests/probe`, which does what its packets, messages and queries ask for.
#[must_use]
pub fn probe() -> Vec<u8> {
    built("probe")
}

/// Returns the plugin of `tests/guests/fourth`, which names the trace of its call on the payload `join`.
#[must_use]
pub fn fourth() -> Vec<u8> {
    built("fourth")
}

/// Returns the plugin of `tests/guests/fifth`, which says how it was called.
#[must_use]
pub fn fifth() -> Vec<u8> {
    built("fifth")
}

/// Returns a plugin like [`probe`] with another name, another format of its state, or no gatekeeper.
#[must_use]
pub fn probe_as(name: &str, state_format: u32, gatekeeper: bool) -> Vec<u8> {
    IDENTITY.overwritten(built("probe"), &format!("{name} {state_format} {gatekeeper}"))
}

impl Block {
    fn overwritten(&self, mut component: Vec<u8>, text: &str) -> Vec<u8> {
        let mut block = [self.mark, text].concat().into_bytes();
        assert!(block.len() <= self.bytes, "the block is too short for {text}");
        block.resize(self.bytes, b' ');
        let initially = [self.mark, self.initially].concat();
        let at = component.windows(initially.len()).position(|bytes| bytes == initially.as_bytes());
        let at = at.unwrap_or_else(|| panic!("the component has no block {:?}", self.mark));
        component[at..at + self.bytes].copy_from_slice(&block);
        component
    }
}

/// Writes the content to a temporary file and then renames that file, as `make plugins` does. So the gateway never sees
/// an incomplete file.
pub fn put(file: &Path, content: &[u8]) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let whole = file.with_file_name(format!(".{name}.new"));
    fs::write(&whole, content).unwrap();
    fs::rename(whole, file).unwrap();
}

/// Returns the path of a guest that `make guests` has built.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    // The tests are built into target/PROFILE/deps.
    let tests = std::env::current_exe().unwrap();
    let target: PathBuf = tests.ancestors().nth(3).unwrap().to_owned();
    target.join(format!("wasm32-wasip2/plugin/guest_{name}.wasm"))
}

/// Returns the text of the hand-written guest in `tests/guests/NAME.wat`.
#[must_use]
pub fn wat(name: &str) -> String {
    let file = root().join(format!("tests/guests/{name}.wat"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Compiles the text of a hand-written guest to a component.
#[must_use]
pub fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"))
}

fn built(name: &str) -> Vec<u8> {
    let file = guest(name);
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error} (make guests builds it)", file.display()))
}
