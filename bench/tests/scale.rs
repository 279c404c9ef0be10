//! The table in docs/scaling.md is what `gateway-bench scale` prints.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_table_in_the_docs_is_what_the_calculation_prints() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scaling.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("<!-- scale:begin -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- scale:end -->").unwrap();
    let printed = Command::new(env!("CARGO_BIN_EXE_gateway-bench")).arg("scale").output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    assert_eq!(table, String::from_utf8(printed.stdout).unwrap());
}
