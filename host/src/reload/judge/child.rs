//! The child process that judges a file. The command `gateway judge-plugin` reads the file from stdin and writes its
//! verdict to stdout.

use crate::{
    plugin::{Compiler, Described},
    telemetry::text,
};
use anyhow::Context;
use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit},
    time::{ClockId, clock_gettime},
};
use std::{
    borrow::Cow,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};
#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// The maximum size of a plugin file, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The stack size of the thread that parses and compiles, in bytes. Known plugins need a small part of this stack.
pub const STACK_BYTES: usize = 4 << 20;

/// The exit code of a child that exceeded its wall-clock deadline.
pub const EXIT_DEADLINE: u8 = 75;

/// The exit code of a child in the background to which the processors left too little time.
pub const EXIT_STARVED: u8 = 76;

/// The wall-clock time from which on a child in the background is checked for its share of the processors.
const STARVED_AFTER: Duration = Duration::from_secs(3);

/// A child in the background needs one processor divided by this number.
const MIN_SHARE: u32 = 4;

/// The maximum number of file descriptors of a child. The compiler and one instance need fewer.
const MAX_DESCRIPTORS: u64 = 64;

/// The maximum size of a file that a child may write, in bytes. A child writes compiled code.
const MAX_WRITTEN_BYTES: u64 = 1 << 30;

/// The arguments of `gateway judge-plugin`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The limit on processor time, in seconds.
    #[arg(long)]
    cpu_s: u64,
    /// The wall-clock deadline, in seconds.
    #[arg(long)]
    deadline_s: u64,
    /// The limit on memory, in bytes.
    #[arg(long)]
    memory_bytes: u64,
    /// The limit on the memory of the instance whose `describe` is called, in bytes.
    #[arg(long)]
    instance_memory_bytes: usize,
    /// The directory that keeps compiled code.
    #[arg(long)]
    cache: PathBuf,
    /// Run only while the processors have nothing else to do.
    #[arg(long)]
    background: bool,
}

/// Judges the file on stdin, and writes the verdict to stdout.
///
/// # Errors
/// Returns an error if the limits cannot be set, if no thread can be started, or if the parent process has ended.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.background {
        give_way();
    }
    limit(arguments).context("a limit cannot be set")?;
    let (deadline, in_background) = (Duration::from_secs(arguments.deadline_s), arguments.background);
    thread::Builder::new().name("deadline".to_owned()).spawn(move || {
        let code = watch(deadline, in_background);
        process::exit(i32::from(code));
    })?;
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    let (cache, memory) = (arguments.cache.clone(), arguments.instance_memory_bytes);
    let judge = move || anyhow::Ok(judge(&cache, &bytes, memory)?.write(&mut io::stdout().lock())?);
    let judging = thread::Builder::new().name("judge".to_owned()).stack_size(STACK_BYTES).spawn(judge)?;
    judging.join().map_err(|_| anyhow::anyhow!("the thread that compiles panicked"))?
}

/// Puts this thread, and those that it starts, into the scheduling class `SCHED_IDLE`: they give a processor up as soon as
/// another thread wants it. A thread that merely has a low priority keeps it for milliseconds.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        // After the class, this function sets the nice value, which fails without privileges and means nothing in this
        // class. Where there is no such class, the low priority remains.
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    }
}

/// Waits until the child has reached the deadline, or has got too little processor time in the background. Returns the
/// exit code.
fn watch(deadline: Duration, in_background: bool) -> u8 {
    let began = Instant::now();
    if in_background {
        thread::sleep(STARVED_AFTER);
        while began.elapsed() < deadline {
            if processor_time() < began.elapsed() / MIN_SHARE {
                return EXIT_STARVED;
            }
            thread::sleep(Duration::from_secs(1));
        }
    }
    thread::sleep(deadline.saturating_sub(began.elapsed()));
    EXIT_DEADLINE
}

/// Returns the processor time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn limit(arguments: &Arguments) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limits = [
        (Resource::Cpu, arguments.cpu_s),
        // The address space has no limit, because each linear memory reserves gigabytes of it that are never used.
        (Resource::Data, arguments.memory_bytes),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Fsize, MAX_WRITTEN_BYTES),
        (Resource::Core, 0),
    ];
    for (resource, limit) in limits {
        // The hard limit stays as the operator has set it, and this process cannot raise it. The soft limit is enough,
        // and it ends the process with a signal that names the resource.
        let maximum = getrlimit(resource).maximum;
        let current = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
        setrlimit(resource, Rlimit { current, maximum })?;
    }
    Ok(())
}

/// Makes a component of the bytes if necessary, compiles it, starts an instance and calls its `describe`. The parent
/// process then repeats the load, and finds the compiled code in the cache.
fn judge(cache: &Path, bytes: &[u8], memory: usize) -> anyhow::Result<Verdict> {
    let compiler = Compiler::with_cache(cache).map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let component = match compiler.componentize(bytes) {
        Ok(component) => component,
        Err(unfit) => return Ok(Verdict::Rejected(text::bounded(unfit))),
    };
    Ok(match (Described::load(&compiler, &component, memory), component) {
        (Err(error), _) => Verdict::Rejected(text::bounded(error)),
        (Ok(_), Cow::Borrowed(_)) => Verdict::Good,
        (Ok(_), Cow::Owned(component)) => Verdict::Component(component),
    })
}

/// The verdict on a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file is a plugin.
    Good,
    /// The file is a core module, and this component was made of it.
    Component(Vec<u8>),
    /// The file is not a plugin, for this reason.
    Rejected(String),
}

impl Verdict {
    /// Writes one line with the kind and the length of the verdict, and then its bytes.
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

    /// Reads a verdict. Returns `None` if the child ended before it had written the whole verdict.
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

/// A line of a child's log, which is in JSON.
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
    /// Returns the text of a line that the plugin wrote, and whether the line is a warning or an error. Returns `None`
    /// for a line of the child itself.
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
