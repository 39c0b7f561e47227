//! The broker that `demo` and `dev` start, and the demo kills and starts again: this very binary as a child process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use crate::cli::failure::Failure;

/// How long the broker may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often the port file is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How often a broker that runs is looked at.
const LOOK_AFTER_END_EVERY: Duration = Duration::from_millis(200);
/// A temporary directory need not hold the gigabyte of a busy broker's journal.
const JOURNAL_FILE: &str = "64MiB";
/// A configuration without entries: with it `serve` reads no other file.
const NO_CONFIGURATION: &str = "/dev/null";
/// Lines of the broker's log that are shown when it fails.
const LOG_LINES_SHOWN: usize = 5;

/// Where the broker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Ports {
    /// Of the native protocol.
    pub(crate) native: SocketAddr,
    /// Of HTTP.
    pub(crate) http: SocketAddr,
}

impl Ports {
    /// Any free ones.
    pub(crate) fn any() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            native: any,
            http: any,
        }
    }
}

/// A running broker; killed when dropped.
#[derive(Debug)]
pub(crate) struct BrokerProcess {
    child: Child,
    dir: PathBuf,
}

impl BrokerProcess {
    /// Starts a broker whose data, log and port file are in this directory.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn start(dir: &Path, ports: Ports) -> Result<Self, Failure> {
        let port_file = dir.join("ports.json");
        match fs::remove_file(&port_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&error)),
            Ok(()) | Err(_) => {}
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("broker.log"))
            .map_err(|e| cannot(&e))?;
        let program = std::env::current_exe().map_err(|e| cannot(&e))?;
        let child = alone(Command::new(program))
            .args(["serve", "--config", NO_CONFIGURATION])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--listen", &ports.native.to_string()])
            .args(["--http", &ports.http.to_string()])
            .arg("--port-file")
            .arg(&port_file)
            .args(["--journal-file-bytes", JOURNAL_FILE])
            .args(["--log-format", "json", "--log-level", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| cannot(&e))?;
        Ok(Self {
            child,
            dir: dir.to_owned(),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It ended instead, or took too long.
    pub(crate) async fn ready(&mut self) -> Result<Ports, Failure> {
        tokio::time::timeout(READY_WITHIN, self.port_file())
            .await
            .map_err(|_| self.failed("was not ready in time"))?
    }

    /// Waits until it ends by itself, which it should not.
    pub(crate) async fn ended(&mut self) -> Failure {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return self.failed(&format!("ended with {status}")),
                Ok(None) => tokio::time::sleep(LOOK_AFTER_END_EVERY).await,
                Err(error) => return cannot(&error),
            }
        }
    }

    /// SIGKILL: the process has no chance to do anything about it.
    ///
    /// # Errors
    /// It had ended before.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(self.failed(&format!("ended by itself with {status}")));
        }
        self.child.kill().map_err(|e| cannot(&e))?;
        self.child.wait().map_err(|e| cannot(&e))?;
        Ok(())
    }

    async fn port_file(&mut self) -> Result<Ports, Failure> {
        let path = self.dir.join("ports.json");
        loop {
            // The broker renames the file into place, so what is there is whole.
            if let Ok(text) = fs::read(&path) {
                return serde_json::from_slice(&text).map_err(|e| {
                    Failure::unexpected(format!("the broker's port file is not readable: {e}"))
                });
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("ended with {status}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn failed(&self, what: &str) -> Failure {
        let log = fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LOG_LINES_SHOWN).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        Failure::unexpected(format!("the broker {what}; end of its log:\n{}", tail.join("\n")))
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        // Already ended is just as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without any variable that configures a broker: what is shown must not depend on where it is shown.
fn alone(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"NARU_") {
            command.env_remove(name);
        }
    }
    command
}

fn cannot(error: &std::io::Error) -> Failure {
    Failure::unexpected(format!("cannot run the broker: {error}"))
}
