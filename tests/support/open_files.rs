//! The limit of open files of the test process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit of open files, of which each connection takes one. Fails if the hard limit permits fewer
/// than `needed`.
pub fn raise_open_files(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let is_enough = limit.maximum.is_none_or(|maximum| maximum >= needed);
    assert!(is_enough, "this test needs {needed} open files, and the hard limit (ulimit -Hn) is {:?}", limit.maximum);
}
