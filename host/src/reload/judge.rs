//! A stranger's file is judged elsewhere: in a child process under limits, which compiles it, starts it and asks who it is. Only
//! bytes that passed there are handed to this process, which finds their compiled code in the cache.
//!
//! The compiler recurses over what it parses and takes time and memory that a file of 3 KB can make as large as it likes. A stack
//! overflow cannot be caught, and memory that was taken does not come back: in a child both are an ordinary error.

pub mod child;

use crate::{
    config::CompileLimits,
    memory::PURGE_DELAY,
    plugin::{Compiler, Described},
    telemetry::text,
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

/// The largest plugin file.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The largest component that is made of a core module: its bytes again, and as much for the adapters around it.
const MAX_COMPONENT_BYTES: u64 = 2 * MAX_FILE_BYTES;

/// The bytes that are kept of what a child writes to its log. Of a plugin that says more than this before it serves, the rest is lost.
const MAX_LOG_BYTES: u64 = 64 << 10;

/// The stack of a thread on which judged bytes are loaded into this process. It is larger than the child's
/// ([`child::STACK_BYTES`]), so that what passed there passes here.
pub const STACK_BYTES: usize = 4 * child::STACK_BYTES;

/// The hidden command of the gateway that judges its stdin.
pub const COMMAND: &str = "judge-plugin";

/// How much longer by the clock than in processor time a child may take, and at least. It runs with little priority, so it may get a
/// small share of the processors.
const CLOCK_TIMES_CPU: u32 = 10;
const MIN_DEADLINE: Duration = Duration::from_secs(60);

/// Why a file was not loaded.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The file is no plugin, or not one that can be loaded within the limits.
    Rejected(String),
    /// A limit ended the work on it. On a machine that is less busy the same bytes may pass.
    Ended(String),
    /// The system refused something, so it has to be tried again.
    Retry(String),
    /// It is not wanted any more.
    Cancelled,
}

/// Loads plugin files.
pub struct Loader {
    compiler: Compiler,
    cache: PathBuf,
    limits: CompileLimits,
}

impl Loader {
    /// A loader that keeps compiled code in the directory.
    ///
    /// # Errors
    /// Where the machine cannot run WebAssembly.
    pub fn new(cache: &Path, limits: CompileLimits) -> anyhow::Result<Self> {
        let compiler = Compiler::with_cache(cache)
            .map_err(|error| anyhow::anyhow!("this machine cannot run WebAssembly: {error:#}"))?;
        Ok(Self { compiler, cache: cache.to_owned(), limits })
    }

    /// Judges a file's bytes in a child and then loads them. Takes milliseconds to minutes, and needs a stack of [`STACK_BYTES`].
    ///
    /// # Errors
    /// [`Failure`] says why not.
    pub fn load(&self, bytes: &[u8], cancel: &Cancel) -> Result<Described, Failure> {
        let component = self.judge(bytes, cancel)?;
        // It passed in the child, so that what is missing here is likely the system's: memory, or a descriptor.
        Described::load(&self.compiler, &component).map_err(|error| Failure::Retry(text::bounded(error)))
    }

    /// Returns the component, which is another one than the file if that is a core module.
    fn judge<'a>(&self, bytes: &'a [u8], cancel: &Cancel) -> Result<Cow<'a, [u8]>, Failure> {
        let retry = |error: io::Error| Failure::Retry(format!("no process can be started to compile it: {error}"));
        let mut child = self.command().spawn().map_err(retry)?;
        cancel.started(&child);
        let outcome = converse(&mut child, bytes);
        cancel.ended();
        let status = child.wait().map_err(retry)?;
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let (answer, log) = outcome.map_err(retry)?;
        match answer {
            Some(child::Verdict::Good) => Ok(Cow::Borrowed(bytes)),
            Some(child::Verdict::Component(component)) => Ok(Cow::Owned(component)),
            Some(child::Verdict::Rejected(why)) => {
                relay(&log);
                Err(Failure::Rejected(why))
            }
            None => Err(Failure::Ended(self.cause_of_death(status, &relay(&log)))),
        }
    }

    fn deadline(&self) -> Duration {
        (CLOCK_TIMES_CPU * self.limits.cpu).max(MIN_DEADLINE)
    }

    fn command(&self) -> Command {
        // The file of this process itself, even if another one has taken its place since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("gateway").args(["--log-format", "json", COMMAND]);
        command.arg("--cpu-s").arg(self.limits.cpu.as_secs().to_string());
        command.arg("--deadline-s").arg(self.deadline().as_secs().to_string());
        command.arg("--memory-bytes").arg(self.limits.memory.to_string());
        command.arg("--cache").arg(&self.cache);
        // Only what the plugin says. This process decides which of it goes into its own log.
        command.env("RUST_LOG", "off,plugin=debug");
        // The allocator takes memory as it needs it, not a gigabyte at once, of which the limit would count every byte.
        command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
        // It ends soon, and gives back everything then.
        command.env_remove(PURGE_DELAY);
        // A process group of its own does not get the Ctrl-C that is meant for this process, and is killed as a whole.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Which limit ended a child that gave no answer.
    fn cause_of_death(&self, status: ExitStatus, said: &str) -> String {
        let CompileLimits { cpu, memory } = self.limits;
        if status.signal() == Some(Signal::XCPU.as_raw()) {
            return format!(
                "to compile and start it takes more than {} s of processor time (`plugins.compile_cpu_s`)",
                cpu.as_secs()
            );
        }
        if status.code() == Some(i32::from(child::LATE)) {
            let deadline = self.deadline().as_secs();
            return format!(
                "to compile and start it took more than {deadline} s by the clock: the machine is busy, or \
                 `plugins.compile_cpu_s` is too small"
            );
        }
        if said.contains("overflowed its stack") {
            return format!(
                "it is nested too deeply: the compiler needs more than {} MiB of stack",
                child::STACK_BYTES >> 20
            );
        }
        if said.contains("memory allocation of") {
            return format!(
                "to compile and start it takes more than {} MiB of memory (`plugins.compile_memory_mb`)",
                memory >> 20
            );
        }
        text::bounded(format_args!("the process that compiled it ended without an answer ({status}): {}", said.trim()))
    }
}

/// Hands the bytes to a child. Returns its verdict, if it came to one, and its log.
fn converse(child: &mut Child, bytes: &[u8]) -> io::Result<(Option<child::Verdict>, Vec<u8>)> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("a pipe is missing"));
    };
    thread::scope(|scope| {
        let log = thread::Builder::new().spawn_scoped(scope, move || {
            let (mut log, mut stderr) = (Vec::new(), stderr);
            let kept = (&mut stderr).take(MAX_LOG_BYTES).read_to_end(&mut log);
            // What is not read would make the child wait.
            kept.and_then(|_| io::copy(&mut stderr, &mut io::sink())).map(|_| log)
        })?;
        // A child that has ended does not read, and its end says why.
        let _ = stdin.write_all(bytes);
        drop(stdin);
        let answer = child::Verdict::read(&mut BufReader::new(stdout).take(MAX_COMPONENT_BYTES));
        let log = log.join().unwrap_or_else(|_| Err(io::Error::other("the reader of its log panicked")))?;
        Ok((answer, log))
    })
}

/// Writes the log lines of a plugin that failed in a child to this process's log. One that is good says the same here. Returns all other lines, such as those of a crash.
fn relay(log: &[u8]) -> String {
    let mut others = String::new();
    for line in log.lines().map_while(Result::ok) {
        let parsed = serde_json::from_str::<child::LogLine>(&line).ok();
        match parsed.and_then(child::LogLine::of_plugin) {
            Some((true, line)) => tracing::warn!(target: "plugin", plugin = "(new)", line = text::bounded(line)),
            Some((false, line)) => tracing::info!(target: "plugin", plugin = "(new)", line = text::bounded(line)),
            None => others.extend([&line, "\n"]),
        }
    }
    others
}

/// Ends the work on a file that is not wanted any more.
#[derive(Debug, Default)]
pub struct Cancel(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    cancelled: bool,
    child: Option<Pid>,
}

impl Cancel {
    /// Kills the child, if there is one, and every later one.
    pub fn cancel(&self) {
        let mut progress = self.progress();
        progress.cancelled = true;
        progress.kill();
    }

    /// Whether the work is not wanted any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.progress().cancelled
    }

    fn started(&self, child: &Child) {
        let mut progress = self.progress();
        progress.child = Some(Pid::from_child(child));
        if progress.cancelled {
            progress.kill();
        }
    }

    /// From here on its process id may become another process's.
    fn ended(&self) {
        self.progress().child = None;
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn kill(&self) {
        if let Some(child) = self.child {
            // An error means that it has ended.
            let _ = kill_process_group(child, Signal::KILL);
        }
    }
}
