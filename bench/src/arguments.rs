//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use gateway_bench::scale::Scale;

/// Measure the gateway beside gateways that are written by hand.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The measurements of each server under each load, whose medians are reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// The measured seconds of each measurement
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Measure only the loads whose name contains this, or only the rows of the table `TLS`, `limits`, `gateways`,
    /// `fanout`, `arena` or `swaps`
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,
    /// A file in which the report replaces the text between the lines with `bench:begin` and `bench:end`
    #[arg(long, value_name = "FILE")]
    pub(crate) into: Option<PathBuf>,
}

/// What is done instead of measurements.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Calculate what deliveries to single users cost Redis and the gateways
    Scale(Scale),
}
