//! Tools that the tests can do without.

use std::{
    env,
    io::{Write, stderr},
};

/// Returns whether the tools of a test are there, which lack `missing` otherwise. On CI, missing tools are an error.
/// Elsewhere they may not be installed, and the test is skipped with a message.
#[must_use]
pub fn has(test: &str, missing: Option<&str>) -> bool {
    let Some(missing) = missing else { return true };
    assert!(env::var("CI").as_deref() != Ok("true"), "{test}: {missing}");
    // The test does not use `eprintln!`, since the test harness hides that output if the test passes.
    stderr().write_all(format!("SKIPPED: {test}: {missing}\n").as_bytes()).unwrap();
    false
}

/// Returns whether all programs are installed, and otherwise skips the test.
#[must_use]
pub fn has_programs(test: &str, programs: &[&str]) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let is_missing = |program: &&&str| !env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    let missing =
        programs.iter().find(is_missing).map(|program| format!("{program} is not installed; .ci/run shows how"));
    has(test, missing.as_deref())
}
