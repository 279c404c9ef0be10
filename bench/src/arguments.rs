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
    /// Measure only the rows whose name contains this, or only those of the table `TLS`, `limits`, `gateways`, `fanout`,
    /// `arena` or `swaps`
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,
    /// A file in which the report replaces the text between the lines with `bench:begin` and `bench:end`. It is the whole
    /// report, so there is no `--only`
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    pub(crate) into: Option<PathBuf>,
}

impl Arguments {
    /// Whether a row is measured. `table` is the name by which `--only` selects all rows of its table, or is empty.
    pub(crate) fn selects(&self, row: &str, table: &str) -> bool {
        row.contains(&self.only) || table == self.only
    }
}

/// What is done instead of measurements.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Calculate what deliveries to single users cost Redis and the gateways
    Scale(Scale),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &str) -> Result<Arguments, String> {
        let arguments = ["gateway-bench"].into_iter().chain(arguments.split_whitespace());
        Arguments::try_parse_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn only_selects_rows_by_their_names_and_tables_by_theirs() {
        let all = parsed("").unwrap();
        assert!(all.selects("one plugin call", "") && all.selects("heartbeat", "limits"));
        let limits = parsed("--only limits").unwrap();
        assert!(limits.selects("heartbeat", "limits") && !limits.selects("heartbeat", ""));
        let heartbeat = parsed("--only heartbeat").unwrap();
        assert!(heartbeat.selects("heartbeat, 64 B", "limits") && !heartbeat.selects("one plugin call", ""));
    }

    #[test]
    fn a_part_of_the_report_does_not_replace_the_whole() {
        assert!(parsed("--into BENCH.md").is_ok());
        let error = parsed("--only heartbeat --into BENCH.md").err().unwrap();
        assert!(error.contains("cannot be used with '--into <FILE>'"), "{error}");
    }
}
