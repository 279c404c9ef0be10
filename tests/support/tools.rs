//! Programs in other languages that some tests need.

use std::{
    env,
    io::{Write, stderr},
};

/// Returns whether what a test needs is there. Otherwise says on stderr that the test is skipped because of `missing`. On
/// CI, that is an error.
#[must_use]
pub fn is_there(what: &str, missing: Option<&str>) -> bool {
    let Some(missing) = missing else { return true };
    assert!(env::var("CI").as_deref() != Ok("true"), "{what}: {missing}");
    // The macro `eprintln!` is not used, since the test harness hides that output if the test passes.
    stderr().write_all(format!("SKIPPED: {what}: {missing}\n").as_bytes()).unwrap();
    false
}
