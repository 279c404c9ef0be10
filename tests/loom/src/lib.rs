//! The bus queue of the host, compiled with the locks and atomics of loom. loom runs a test once for every interleaving
//! of its threads.
//!
//! This crate includes the files of the host. Building the host itself with loom would compile all its dependencies
//! once more.

#![allow(dead_code, reason = "the tests use only a part of each file")]
#![allow(missing_docs, reason = "the files are documented for the host")]
#![allow(unreachable_pub, reason = "the files are written for the host")]

pub mod bus;
pub mod sync;
pub mod traces;
