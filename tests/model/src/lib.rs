//! An exhaustive search of the states of a model.

pub mod line;
pub mod search;
