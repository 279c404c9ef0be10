//! The plugins that only tests need. `make guests` builds them from the packages below `tests/guests`; WAT files are
//! compiled here.

use crate::root;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The length of the block in `tests/guests/variant`, in bytes.
const BLOCK: usize = 512;
/// The mark at the start of the block, by which the block is found.
const MARK: &[u8] = b"variant:";

/// Returns the chat plugin of plugins/chat as version 0.2.0.
#[must_use]
pub fn chat_next() -> Vec<u8> {
    built("chat_next")
}

/// Returns a plugin that answers each packet with its version, or with `greeting` of its config. The payload `trap`
/// makes it trap, `loop` makes it loop forever, and `grow` makes it allocate 32 MiB.
#[must_use]
pub fn greeter(name: &str, version: &str, routes: &[u8]) -> Vec<u8> {
    variant(&json!({ "name": name, "version": version, "routes": routes }))
}

/// Returns such a plugin with faults. The keys are the fields of `Variant` in `tests/guests/variant`.
#[must_use]
pub fn variant(variant: &Value) -> Vec<u8> {
    let mut component = built("variant");
    let json = variant.to_string();
    assert!(MARK.len() + json.len() <= BLOCK, "the block is too short for {json}");
    let mut block = [MARK, json.as_bytes()].concat();
    block.resize(BLOCK, b' ');
    let empty = [MARK, &[b' '; 64]].concat();
    let at = component.windows(empty.len()).position(|bytes| bytes == empty).expect("the component contains the block");
    component[at..at + BLOCK].copy_from_slice(&block);
    component
}

/// Moves a file into place once it is complete, as `make plugins` does.
pub fn put(file: &Path, content: &[u8]) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let whole = file.with_file_name(format!(".{name}.new"));
    fs::write(&whole, content).unwrap();
    fs::rename(whole, file).unwrap();
}

/// Returns the path of the built guest with this name.
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

/// Compiles such a text to a component.
#[must_use]
pub fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"))
}

fn built(name: &str) -> Vec<u8> {
    let file = guest(name);
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error} (make guests builds it)", file.display()))
}
