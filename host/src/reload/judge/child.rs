//! The child that judges a file: `gateway judge-plugin`, which reads the file from stdin and writes its verdict to stdout.

use super::MAX_FILE_BYTES;
use crate::{
    plugin::{Compiler, Described},
    telemetry::text,
};
use anyhow::Context;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use std::{
    borrow::Cow,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

/// The stack of the thread that parses. Known plugins need a small part of it.
pub const STACK_BYTES: usize = 4 << 20;

/// The exit code of a child that took too long by the clock.
pub const LATE: u8 = 75;

/// What the compiler and one instance need, with room.
const MAX_DESCRIPTORS: u64 = 64;

/// The largest file that a child may write, which is compiled code.
const MAX_WRITTEN_BYTES: u64 = 1 << 30;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Seconds of processor time.
    #[arg(long)]
    cpu_s: u64,
    /// Seconds by the clock.
    #[arg(long)]
    deadline_s: u64,
    /// Bytes of memory.
    #[arg(long)]
    memory_bytes: u64,
    /// Where compiled code is kept.
    #[arg(long)]
    cache: PathBuf,
}

/// Reads a file from stdin and writes what it is to stdout.
///
/// # Errors
/// If the limits cannot be set, or the parent is gone.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    limit(arguments).context("a limit cannot be set")?;
    let deadline = Duration::from_secs(arguments.deadline_s);
    thread::Builder::new().name("deadline".to_owned()).spawn(move || {
        thread::sleep(deadline);
        process::exit(i32::from(LATE));
    })?;
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    let cache = arguments.cache.clone();
    let judge = move || judge(&cache, &bytes).map(|verdict| verdict.write(&mut io::stdout().lock()));
    let judging = thread::Builder::new().name("judge".to_owned()).stack_size(STACK_BYTES).spawn(judge)?;
    judging.join().map_err(|_| anyhow::anyhow!("the thread that compiles panicked"))???;
    Ok(())
}

fn limit(arguments: &Arguments) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limits = [
        (Resource::Cpu, arguments.cpu_s),
        // Not the address space, of which each linear memory reserves gigabytes that it never uses.
        (Resource::Data, arguments.memory_bytes),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Fsize, MAX_WRITTEN_BYTES),
        (Resource::Core, 0),
    ];
    for (resource, limit) in limits {
        // The operator's own limits may be lower, and nobody can raise them. The soft limit is the one that ends a process with a
        // signal of its own.
        let maximum = getrlimit(resource).maximum;
        let current = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
        setrlimit(resource, Rlimit { current, maximum })?;
    }
    Ok(())
}

/// Does with the bytes what the parent will do, and more: the parent finds the compiled code in the cache.
fn judge(cache: &Path, bytes: &[u8]) -> anyhow::Result<Verdict> {
    let compiler = Compiler::with_cache(cache).map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let component = match compiler.componentize(bytes) {
        Ok(component) => component,
        Err(unfit) => return Ok(Verdict::Rejected(text::bounded(unfit))),
    };
    Ok(match (Described::load(&compiler, &component), component) {
        (Err(error), _) => Verdict::Rejected(text::bounded(error)),
        (Ok(_), Cow::Borrowed(_)) => Verdict::Good,
        (Ok(_), Cow::Owned(component)) => Verdict::Component(component),
    })
}

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A plugin.
    Good,
    /// A core module of which this plugin was made.
    Component(Vec<u8>),
    /// No plugin, and why.
    Rejected(String),
}

impl Verdict {
    /// A line with the kind of the verdict, and then its bytes.
    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, bytes): (&str, &[u8]) = match self {
            Self::Good => ("good", b""),
            Self::Component(component) => ("component", component),
            Self::Rejected(why) => ("rejected", why.as_bytes()),
        };
        writeln!(to, "{kind} {}", bytes.len())?;
        to.write_all(bytes)?;
        to.flush()
    }

    /// Nothing if the child ended before it had written it whole.
    pub(super) fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let (kind, length) = line.strip_suffix('\n')?.split_once(' ')?;
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok()?;
        if bytes.len() != length.parse::<usize>().ok()? {
            return None;
        }
        match kind {
            "good" => Some(Self::Good),
            "component" => Some(Self::Component(bytes)),
            "rejected" => Some(Self::Rejected(String::from_utf8(bytes).ok()?)),
            _ => None,
        }
    }
}

/// A line of a child's log, which is JSON.
#[derive(Debug, serde::Deserialize)]
pub(super) struct LogLine {
    level: String,
    target: String,
    fields: Fields,
}

#[derive(Debug, serde::Deserialize)]
struct Fields {
    line: Option<String>,
}

impl LogLine {
    /// What a plugin wrote, and whether as a warning or an error; nothing if the line is the child's own.
    pub(super) fn of_plugin(self) -> Option<(bool, String)> {
        let bad = self.level == "WARN" || self.level == "ERROR";
        self.fields.line.filter(|_| self.target == "plugin").map(|line| (bad, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_written_and_never_in_part() {
        for verdict in [Verdict::Good, Verdict::Component(b"\0asm\n".into()), Verdict::Rejected("why\nnot".to_owned())]
        {
            let mut written = Vec::new();
            verdict.write(&mut written).unwrap();
            for end in 0..written.len() {
                assert_eq!(Verdict::read(&mut &written[..end]), None, "{verdict:?} up to byte {end}");
            }
            assert_eq!(Verdict::read(&mut &written[..]), Some(verdict));
        }
    }
}
