//! Plugins that only tests want: `make guests` builds them, from the packages under `tests/guests`. What is WAT there is built right here.

use crate::root;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The length of the block in `tests/guests/variant`, and the mark that it begins with.
const BLOCK: usize = 512;
const MARK: &[u8] = b"variant:";

/// The chat plugin of plugins/chat, as version 0.2.0.
#[must_use]
pub fn chat_next() -> Vec<u8> {
    built("chat_next")
}

/// A plugin that answers each packet with its version, unless `greeting` in its config says otherwise. But `trap` makes it
/// trap, `loop` never end, and `grow` take 32 MiB of memory.
#[must_use]
pub fn greeter(name: &str, version: &str, routes: &[u8]) -> Vec<u8> {
    variant(&json!({ "name": name, "version": version, "routes": routes }))
}

/// The same with faults: the keys are the fields of `Variant` in `tests/guests/variant`.
#[must_use]
pub fn variant(variant: &Value) -> Vec<u8> {
    let mut component = built("variant");
    let json = variant.to_string();
    assert!(MARK.len() + json.len() <= BLOCK, "the block is too short for {json}");
    let mut block = [MARK, json.as_bytes()].concat();
    block.resize(BLOCK, b' ');
    let empty = [MARK, &[b' '; 64]].concat();
    let at = component.windows(empty.len()).position(|bytes| bytes == empty).expect("the block, in one piece");
    component[at..at + BLOCK].copy_from_slice(&block);
    component
}

/// Puts a file into its place when it is whole, as `make plugins` does.
pub fn put(file: &Path, content: &[u8]) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let whole = file.with_file_name(format!(".{name}.new"));
    fs::write(&whole, content).unwrap();
    fs::rename(whole, file).unwrap();
}

/// The file of the guest in `tests/guests` with this name.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    // The tests are built into target/PROFILE/deps.
    let tests = std::env::current_exe().unwrap();
    let target: PathBuf = tests.ancestors().nth(3).unwrap().to_owned();
    target.join(format!("wasm32-wasip2/plugin/guest_{name}.wasm"))
}

/// The text of the guest that is written by hand in `tests/guests/NAME.wat`.
#[must_use]
pub fn wat(name: &str) -> String {
    let file = root().join(format!("tests/guests/{name}.wat"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The component of such a text.
#[must_use]
pub fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"))
}

fn built(name: &str) -> Vec<u8> {
    let file = guest(name);
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error} (make guests builds it)", file.display()))
}
