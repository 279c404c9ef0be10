//! The man pages and the shell completions. Both are made from the arguments, so they cannot say anything else.

use crate::arguments::Arguments;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::{Man, roff::Roff, roff::bold, roff::roman};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What the man page says beyond the arguments: the name of a section, and its entries with their meanings.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "EXIT STATUS",
        &[
            ("0", "The command has done its work, or the gateway was stopped by a signal."),
            ("1", "The command has failed, a part of the gateway failed, or it did not stop in time."),
            ("78", "The configuration is not valid. The errors are on stderr."),
            ("143, 130", "A second signal, SIGTERM or SIGINT, has ended the gateway at once."),
        ],
    ),
    (
        "SIGNALS",
        &[
            ("SIGTERM, SIGINT", "The gateway drains: it accepts no new connections and ends the sessions."),
            (
                "SIGHUP",
                "The gateway looks at gateway.yaml and the plugins at once. It notices changes without it, too.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "GATEWAY_SECTION__KEY",
                "Takes the place of section.key in gateway.yaml, such as GATEWAY_SERVER__PORT=9000.",
            ),
            ("TOKIO_WORKER_THREADS", "The number of threads that serve players. By default, one for each processor."),
            ("RUST_LOG", "Filters the log, for example info,gateway=debug."),
            ("SSL_CERT_FILE", "The certificate authorities to trust instead of those of the system."),
            ("XDG_CACHE_HOME", "The parent of the directory of compiled code, without plugins.cache_directory."),
        ],
    ),
    ("FILES", &[("gateway.yaml", "The configuration. docs/configuration.md explains every key.")]),
];

/// Writes a man page for the command and one for each of its subcommands into the directory, as git has them. Returns
/// their paths.
///
/// # Errors
/// Returns an error if a page cannot be written.
pub(crate) fn man(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    fs::create_dir_all(directory)?;
    let mut paths = Vec::new();
    pages(&command, directory, &mut paths)?;
    let mut main = fs::OpenOptions::new().append(true).open(directory.join("gateway.1"))?;
    for (section, entries) in SECTIONS {
        let mut roff = Roff::new();
        roff.control("SH", [section]);
        for (entry, meaning) in entries {
            roff.control("TP", []).text([bold(*entry)]).text([roman(*meaning)]);
        }
        main.write_all(roff.to_roff().as_bytes())?;
    }
    Ok(paths)
}

fn pages(command: &Command, directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        pages(subcommand, directory, paths)?;
    }
    paths.push(Man::new(command.clone()).generate_to(directory)?);
    Ok(())
}

/// Writes the completions of a shell.
///
/// # Errors
/// Returns an error if they cannot be written.
pub(crate) fn completions(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    // The library panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "gateway", &mut script);
    out.write_all(&script)
}
