//! The plugins that only tests need. `make guests` builds them from the packages in `tests/guests`. This module
//! compiles the WAT files in that folder.

use crate::root;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The length of the settings block in the guest `tests/guests/variant`, in bytes.
const BLOCK: usize = 512;
/// The bytes at the start of the settings block. They mark the position of the block in the component.
const MARK: &[u8] = b"variant:";

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
    let mut component = built("variant");
    let json = variant.to_string();
    assert!(MARK.len() + json.len() <= BLOCK, "the block is too short for {json}");
    let mut block = [MARK, json.as_bytes()].concat();
    block.resize(BLOCK, b' ');
    let empty = [MARK, &[b' '; 64]].concat();
    let at =
        component.windows(empty.len()).position(|bytes| bytes == empty).expect("the component has no settings block");
    component[at..at + BLOCK].copy_from_slice(&block);
    component
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
