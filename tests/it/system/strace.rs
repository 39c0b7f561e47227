//! The broker under `strace`, which strikes at chosen system calls.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{has, skipped};

/// A system call to be struck.
#[derive(Clone, Debug)]
pub(super) struct Strike {
    /// The call, or several with commas between.
    pub(super) call: &'static str,
    /// Which of them in a thread, as `when=` of strace has it: `7`, `7+`.
    pub(super) when: String,
    /// What happens: `signal=SIGKILL`, `error=EIO`, `retval=4096`, `delay_enter=2000000`.
    pub(super) what: String,
    /// Files and directories to which alone it happens; none: all.
    pub(super) paths: Vec<std::path::PathBuf>,
}

impl Strike {
    /// What runs the broker. The process id stays the broker's: the tracer is a grandchild.
    pub(super) fn under(&self) -> Vec<String> {
        let mut under = ["strace", "-D", "-qq"].map(str::to_owned).to_vec();
        under.extend(self.args());
        under
    }

    /// Without `--seccomp-bpf`, beside which no signal is injected.
    fn args(&self) -> Vec<String> {
        let Self { call, when, what, .. } = self;
        let mut args = ["-f", "-o", "/dev/null"].map(str::to_owned).to_vec();
        for path in &self.paths {
            args.extend(["-P".to_owned(), path.display().to_string()]);
        }
        args.extend(["-e".to_owned(), format!("trace={call}")]);
        args.extend(["-e".to_owned(), format!("inject={call}:{what}:when={when}")]);
        args
    }
}

/// A tracer of a process that runs already; it ends with the process.
#[derive(Debug)]
pub(super) struct Tracer(Child);

impl Tracer {
    /// Returns when all threads are traced. Their calls are counted from now on.
    pub(super) fn attach(pid: u32, strike: &Strike) -> Self {
        let mut command = Command::new("strace");
        command.args(strike.args()).args(["-p", &pid.to_string()]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert!(said.contains("attached"), "{said}");
        Self(child)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether strace is there; says what is skipped if not.
pub(super) fn is_there(what: &str) -> bool {
    let there = has("strace");
    if !there {
        skipped(what, "there is no strace; apt-get install strace");
    }
    there
}
