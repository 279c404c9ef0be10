//! The commands for plugin authors: `gateway plugin new`, `gateway plugin check` and `gateway plugin test`. None of
//! these commands needs a running gateway.

mod check;
mod load;
mod new;
mod vectors;

pub(crate) use check::{Sample, check};
pub(crate) use new::{Language, Name, NewPlugin, new};
pub(crate) use vectors::test;
