//! Judges plugin files, which are not trusted. A child process under limits compiles the file, starts an instance and
//! calls its `describe`. This process loads only bytes that have passed in a child, and finds their compiled code in
//! the cache.
//!
//! The compiler recurses over its input, and a file of 3 KB can make it take any amount of time and memory. A stack
//! overflow cannot be caught, and a process does not give back the memory that it took. In a child process, both are
//! ordinary errors.

pub mod child;

pub use child::MAX_FILE_BYTES;

use crate::{
    config::{CompileLimits, Config},
    memory::PURGE_DELAY,
    plugin::{Compiler, Described},
    reload::cache,
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

/// The maximum size of a component that is made of a core module, in bytes. It leaves as much space for the adapters as
/// for the module.
const MAX_COMPONENT_BYTES: u64 = 2 * MAX_FILE_BYTES;

/// The number of bytes of a child's log that are kept. If a plugin logs more than this while it is judged, the rest is
/// lost.
const MAX_LOG_BYTES: u64 = 64 << 10;

/// The stack size of a thread on which judged bytes are loaded into this process, in bytes. It is larger than the
/// child's stack ([`child::STACK_BYTES`]), so that bytes that have passed in the child pass here too.
pub const STACK_BYTES: usize = 4 * child::STACK_BYTES;

/// The hidden command of the gateway that judges the file on its stdin.
pub const COMMAND: &str = "judge-plugin";

/// The wall-clock deadline of a child as a multiple of its limit on processor time. A child runs with low priority, so it
/// may get only a small share of the processors.
const CLOCK_TIMES_CPU: u32 = 10;

/// The shortest wall-clock deadline of a child.
const MIN_DEADLINE: Duration = Duration::from_secs(60);

/// Why a file was not loaded.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The file is not a plugin that can be loaded.
    Rejected(String),
    /// A limit ended the child that judged the file. The same bytes may pass on a machine that is less busy.
    Ended(String),
    /// The system refused a resource, so loading has to be tried again.
    Retry(String),
    /// Loading was cancelled, or the file changed while it was read.
    Cancelled,
}

/// What a file may have of the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A share, because somebody waits for the file.
    Low,
    /// What the threads that serve players leave, as long as that is enough.
    Background,
}

/// Loads plugin files.
#[derive(Clone)]
pub struct Loader {
    compiler: Compiler,
    cache: PathBuf,
    limits: CompileLimits,
    /// The maximum memory of an instance whose plugin is not known yet, in bytes.
    pub instance_memory: usize,
}

impl Loader {
    /// Returns a loader with the limits of the configuration. It keeps compiled code in the directory `cache`.
    ///
    /// # Errors
    /// Returns an error if the machine cannot run WebAssembly.
    pub fn new(cache: &Path, config: &Config) -> anyhow::Result<Self> {
        let compiler = Compiler::with_cache(cache)
            .map_err(|error| anyhow::anyhow!("this machine cannot run WebAssembly: {error:#}"))?;
        let (limits, instance_memory) = (config.compile, config.largest_memory());
        Ok(Self { compiler, cache: cache.to_owned(), limits, instance_memory })
    }

    /// Judges the bytes of a file in a child process, and then loads them into this process. This takes milliseconds to
    /// minutes, and needs a stack of [`STACK_BYTES`].
    ///
    /// # Errors
    /// Returns a [`Failure`] that says why the file was not loaded.
    pub fn load(&self, bytes: &[u8], priority: Priority, cancel: &Cancel) -> Result<Described, Failure> {
        // The directory may have been replaced since the last load.
        cache::check(&self.cache).map_err(|error| {
            let directory = self.cache.display();
            Failure::Retry(format!("the directory of compiled code, {directory}, cannot be used: {error}"))
        })?;
        let loaded = self.judge(bytes, priority, cancel).and_then(|component| {
            // The bytes have passed in the child, so this process probably lacks a resource, such as memory or a file
            // descriptor.
            Described::load(&self.compiler, &component, self.instance_memory)
                .map_err(|error| Failure::Retry(text::bounded(error)))
        });
        // The directory may have thousands of files. So it is swept here, on a thread with a low priority.
        cache::sweep(&self.cache);
        loaded
    }

    /// Judges the bytes in a child process. Returns the file itself if it is a component, or the component that was
    /// made of a core module.
    fn judge<'a>(&self, bytes: &'a [u8], priority: Priority, cancel: &Cancel) -> Result<Cow<'a, [u8]>, Failure> {
        let retry = |error: io::Error| Failure::Retry(format!("no process can be started to compile it: {error}"));
        let mut ended = self.run(bytes, priority, cancel).map_err(retry)?;
        if ended.status.code() == Some(i32::from(child::EXIT_STARVED)) && !cancel.is_cancelled() {
            ended = self.run(bytes, Priority::Low, cancel).map_err(retry)?;
        }
        let Ended { status, outcome } = ended;
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let (answer, log) = outcome.map_err(retry)?;
        match answer {
            Some(child::Verdict::Good) => Ok(Cow::Borrowed(bytes)),
            Some(child::Verdict::Component(component)) => Ok(Cow::Owned(component)),
            Some(child::Verdict::Rejected(why)) => {
                // Without memory, the compiler panics at some places and ends the process at others.
                let log = relay(&log);
                Err(if lacked_memory(&log) { Failure::Ended(self.too_much_memory()) } else { Failure::Rejected(why) })
            }
            None => Err(Failure::Ended(self.why_ended(status, &relay(&log)))),
        }
    }

    /// Runs a child until it has ended.
    fn run(&self, bytes: &[u8], priority: Priority, cancel: &Cancel) -> io::Result<Ended> {
        let mut child = self.command(priority).spawn()?;
        cancel.started(&child);
        let outcome = converse(&mut child, bytes);
        cancel.ended();
        Ok(Ended { status: child.wait()?, outcome })
    }

    /// Returns the wall-clock deadline of a child.
    fn deadline(&self) -> Duration {
        (CLOCK_TIMES_CPU * self.limits.cpu).max(MIN_DEADLINE)
    }

    fn command(&self, priority: Priority) -> Command {
        // This path names the executable of the current process, even if the file has been replaced since the start.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("gateway").args(["--log-format", "json", COMMAND]);
        command.arg("--cpu-s").arg(self.limits.cpu.as_secs().to_string());
        command.arg("--deadline-s").arg(self.deadline().as_secs().to_string());
        command.arg("--memory-bytes").arg(self.limits.memory.to_string());
        command.arg("--instance-memory-bytes").arg(self.instance_memory.to_string());
        command.arg("--cache").arg(&self.cache);
        command.args((priority == Priority::Background).then_some("--background"));
        // The child logs only the plugin's lines. This process decides which of those lines go into its own log.
        command.env("RUST_LOG", "off,plugin=debug");
        // With this option the allocator commits memory as needed. Otherwise it would commit a gigabyte at once, and
        // the memory limit would count every byte of the gigabyte.
        command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
        // The child ends soon and then gives back all its memory, so it need not purge memory earlier.
        command.env_remove(PURGE_DELAY);
        // The compiler's threads are those of rayon. Neither a low priority nor the class for idle processors keeps them
        // from slowing down the threads that serve players, so one file leaves half of the processors to these.
        command.env("RAYON_NUM_THREADS", compiler_threads().to_string());
        // A backtrace takes memory and processor time, of which a child may have run out.
        command.env("RUST_BACKTRACE", "0");
        // The child gets its own process group. So it does not receive the Ctrl-C that is meant for this process, and
        // the whole group can be killed.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn too_much_memory(&self) -> String {
        let limit = self.limits.memory >> 20;
        format!("to compile and start it takes more than {limit} MiB of memory (`plugins.compile_memory_mb`)")
    }

    /// Returns why a child ended without a verdict: the limit that it reached, or its exit status and its log.
    fn why_ended(&self, status: ExitStatus, log: &str) -> String {
        let CompileLimits { cpu, .. } = self.limits;
        if status.signal() == Some(Signal::XCPU.as_raw()) {
            return format!(
                "to compile and start it takes more than {} s of processor time (`plugins.compile_cpu_s`)",
                cpu.as_secs()
            );
        }
        if status.code() == Some(i32::from(child::EXIT_DEADLINE)) {
            let deadline = self.deadline().as_secs();
            return format!(
                "to compile and start it took more than {deadline} s by the clock: the machine is busy, or \
                 `plugins.compile_cpu_s` is too small"
            );
        }
        if log.contains("overflowed its stack") {
            return format!(
                "it is nested too deeply: the compiler needs more than {} MiB of stack",
                child::STACK_BYTES >> 20
            );
        }
        if lacked_memory(log) {
            return self.too_much_memory();
        }
        text::bounded(format_args!("the process that compiled it ended without an answer ({status}): {}", log.trim()))
    }
}

/// How a child has ended.
struct Ended {
    status: ExitStatus,
    /// The verdict, if there is one, and the log.
    outcome: io::Result<(Option<child::Verdict>, Vec<u8>)>,
}

/// Returns the number of threads on which a child compiles.
fn compiler_threads() -> usize {
    thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// Returns whether a child's log says that it got no more memory.
fn lacked_memory(log: &str) -> bool {
    log.contains("memory allocation of") || log.contains("unhandled out-of-memory error")
}

/// Sends the bytes to a child. Returns the child's verdict, if there is one, and its log.
fn converse(child: &mut Child, bytes: &[u8]) -> io::Result<(Option<child::Verdict>, Vec<u8>)> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("a pipe is missing"));
    };
    thread::scope(|scope| {
        let log = thread::Builder::new().spawn_scoped(scope, move || {
            let (mut log, mut stderr) = (Vec::new(), stderr);
            let kept = (&mut stderr).take(MAX_LOG_BYTES).read_to_end(&mut log);
            // The rest of the log is read and discarded, because a full pipe would block the child.
            kept.and_then(|_| io::copy(&mut stderr, &mut io::sink())).map(|_| log)
        })?;
        // An error means that the child ended before it had read everything. Its exit status tells the cause.
        let _ = stdin.write_all(bytes);
        drop(stdin);
        let answer = child::Verdict::read(&mut BufReader::new(stdout).take(MAX_COMPONENT_BYTES));
        let log = log.join().unwrap_or_else(|_| Err(io::Error::other("the reader of its log panicked")))?;
        Ok((answer, log))
    })
}

/// Writes the log lines of a plugin that failed in a child to this process's log. Returns all other lines, such as
/// those of a crash. A plugin that passes needs no relay, because it logs the same lines again in this process.
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

/// Cancels the loading of a file.
#[derive(Debug, Default)]
pub struct Cancel(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    cancelled: bool,
    child: Option<Pid>,
}

impl Cancel {
    /// Kills the child process, if there is one, and every child that is started later for the same file.
    pub fn cancel(&self) {
        let mut progress = self.progress();
        progress.cancelled = true;
        progress.kill();
    }

    /// Returns whether loading was cancelled.
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

    /// Forgets the child before the system may give its process id to another process.
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
            // An error means that the child has already ended.
            let _ = kill_process_group(child, Signal::KILL);
        }
    }
}
