//! The processes that end with this program.

use std::ffi::OsStr;
use std::process::Command;

/// A command that runs `program`. Its process is killed when this program ends, even if a signal ends it and nothing is
/// dropped. More precisely, it is killed when the thread ends that starts it, so the main thread starts it.
///
/// Only the new process can ask the kernel for this, and code that runs before the program is `unsafe` in Rust. So
/// `setpriv` of util-linux asks, and then becomes the program, with the same process id.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::{fs, thread};

    use super::*;

    #[test]
    fn a_process_ends_with_the_thread_that_has_started_it() {
        let starter = thread::spawn(|| {
            let child = command("sleep").arg("600").spawn().unwrap();
            let name = format!("/proc/{}/comm", child.id());
            while fs::read_to_string(&name).unwrap() != "sleep\n" {
                thread::yield_now();
            }
            child
        });
        let status = starter.join().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(9));
    }
}
