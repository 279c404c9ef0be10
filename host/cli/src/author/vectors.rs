//! `gateway plugin test`: runs a table of test vectors against a component.

use super::load::{load, settings};
use anyhow::Context;
use gateway::{config::Config, plugin::trial::Trial};
use gateway_plugin_vectors::{self as vectors, Failure, Outcome, Subject, Table};
use std::{fs, path::Path};

/// Runs the table in the file `vectors` against the component in the file `path`. Returns the number of checks that
/// passed, and the checks that failed.
///
/// The limits are those of the plugin in the configuration. The settings that `configure` receives are those of the
/// table.
///
/// # Errors
/// Fails if a file cannot be read, if the table is malformed, or if the component is not a plugin.
pub(crate) fn test(path: &Path, vectors: &Path, config: Option<&Config>) -> anyhow::Result<(usize, Vec<Failure>)> {
    let table = fs::read_to_string(vectors).with_context(|| format!("{} cannot be read", vectors.display()))?;
    let table: Table =
        serde_json::from_str(&table).with_context(|| format!("{} is no table of vectors", vectors.display()))?;
    let described = load(path, config)?;
    let limits = settings(&described, config).limits;
    Ok(vectors::run(&table, || Trial::new(&described, limits).map(Tested).map_err(|fault| fault.to_string())))
}

/// The component under test.
struct Tested(Trial);

impl Subject for Tested {
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String> {
        self.0.configure(settings).map_err(|fault| fault.to_string())
    }

    fn packet(&mut self, packet: &vectors::Packet, route: u8) -> Outcome {
        self.0
            .on_packet(self::packet(packet, route), &packet.payload.0)
            .map(decision)
            .map_err(|fault| fault.to_string())
    }

    fn message(&mut self, message: &vectors::Message) -> Outcome {
        self.0.on_message(&message.topic, &message.payload.0).map(decision).map_err(|fault| fault.to_string())
    }
}

vectors::conversions!(gateway::plugin);
