//! The processor time and memory of a process, from Linux' /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};

/// The unit of times in /proc (`getconf CLK_TCK`). It is 100 a second on every architecture that Linux supports.
const TICK: Duration = Duration::from_millis(10);

/// The place of `utime` among the fields of /proc/PID/stat behind the name. The next fields are `stime`, and `cutime` and
/// `cstime`, the times of children that have ended.
const UTIME: usize = 11;

/// The number of these times.
const TIMES: usize = 4;

/// A process whose costs are accounted.
#[derive(Clone, Copy)]
pub(crate) enum Process {
    This,
    Other(u32),
}

impl Process {
    /// The processor time that all threads of the process have used, user and system, in steps of 10 ms. That of a child
    /// process is added when the child has ended: the gateway compiles plugins in children.
    pub(crate) fn cpu(self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        // The name is in parentheses, and may hold any characters.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let times: Result<Vec<u32>, _> =
            fields.split_ascii_whitespace().skip(UTIME).take(TIMES).map(str::parse).collect();
        match times {
            Ok(times) if times.len() == TIMES => Ok(times.into_iter().map(|ticks| TICK * ticks).sum()),
            _ => bail!("no times in {}", self.path("stat")),
        }
    }

    /// The resident memory of the process, in bytes.
    pub(crate) fn resident_bytes(self) -> anyhow::Result<u64> {
        let status = self.read("status")?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: u64| kib * 1024).with_context(|| format!("no VmRSS in {}", self.path("status")))
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| match self {
            Self::This => format!("cannot read {path}"),
            Self::Other(pid) => format!("--pid {pid}: cannot read {path}; does the process run, on this machine?"),
        })
    }

    fn path(self, file: &str) -> String {
        match self {
            Self::This => format!("/proc/self/{file}"),
            Self::Other(pid) => format!("/proc/{pid}/{file}"),
        }
    }
}

/// The number of files, sockets included, that this process may have open. Returns `None` if it is unknown or
/// unlimited.
pub(crate) fn max_open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().next());
    soft?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};
    use std::thread::sleep;
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = Process::This.cpu().unwrap();
        let begin = Instant::now();
        // Other tests may use the processor meanwhile, so the time is not known beforehand.
        while Process::This.cpu().unwrap() < before + 3 * TICK {
            assert!(begin.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn the_time_of_a_child_is_added_when_it_has_ended() {
        // The child works until its limit of 1 s ends it. The shell only waits, first for the child and then for a line.
        let script = "(ulimit -t 1; while :; do :; done); read line";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut shell = shell.spawn().unwrap();
        let begin = Instant::now();
        while Process::Other(shell.id()).cpu().unwrap() < Duration::from_millis(900) {
            assert!(begin.elapsed() < Duration::from_secs(60));
            sleep(TICK);
        }
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_by_its_id_is_the_same_one() {
        let this = Process::Other(std::process::id());
        assert!(this.cpu().unwrap() <= Process::This.cpu().unwrap());
        let resident = this.resident_bytes().unwrap();
        assert!((1 << 20..1 << 36).contains(&resident), "{resident}");
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let refusal = Process::Other(u32::MAX).cpu().unwrap_err().to_string();
        assert!(refusal.starts_with("--pid 4294967295: cannot read /proc/4294967295/stat"), "{refusal}");
    }

    #[test]
    fn open_files_are_limited() {
        assert!(max_open_files().is_none_or(|files| files > 3));
    }
}
