//! The real binary as a broker of its own: started in a directory of its own, killed, started again on the same ports.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use naru::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::peer::{PATIENCE, until};

/// A command without whatever the environment of the tests says.
pub(crate) fn naru() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_naru")))
}

fn clean(mut command: Command) -> Command {
    for name in [
        "NARU_SERVER",
        "NARU_FORMAT",
        "NARU_TIMEOUT",
        "NARU_LOG",
        "NARU_SERVER__HTTP",
    ] {
        command.env_remove(name);
    }
    command
}

/// `naru serve` on any free ports.
pub(crate) fn serve(data_dir: &Path) -> Command {
    let mut command = naru();
    Setup::default().add_to(&mut command, data_dir);
    command
}

/// How a broker is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) journal_file_bytes: &'static str,
    /// What fits such a file.
    pub(crate) request_bytes_max: &'static str,
    pub(crate) listen: String,
    pub(crate) http: String,
    /// The seed of a disk that loses what was not synced; another one for every start. Takes a binary with the feature.
    pub(crate) lossy: Option<u64>,
    /// A file: as long as it is locked, the disk stands still. Takes a binary with the feature.
    pub(crate) gate: Option<PathBuf>,
    /// More settings, as `--set` takes them.
    pub(crate) settings: Vec<String>,
    /// A program that runs the broker, with its arguments; it must leave the process id to the broker.
    pub(crate) under: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            journal_file_bytes: "1MiB",
            request_bytes_max: "512KiB",
            listen: "127.0.0.1:0".to_owned(),
            http: "127.0.0.1:0".to_owned(),
            lossy: None,
            gate: None,
            // Many tests at once on a small disk, or in memory.
            settings: vec!["storage.reserve_bytes=1MiB".to_owned()],
            under: Vec::new(),
        }
    }
}

impl Setup {
    /// The smallest ring there is, so that journal files are used again and again.
    pub(crate) fn small_journal() -> Self {
        Self {
            journal_file_bytes: "64KiB",
            request_bytes_max: "16KiB",
            ..Self::default()
        }
    }

    fn add_to(&self, command: &mut Command, data_dir: &Path) {
        command
            .args(["serve", "--log-level", "info", "--log-format", "json"])
            .args(["--listen", &self.listen, "--http", &self.http])
            .args(["--journal-file-bytes", self.journal_file_bytes])
            .args([
                "--set",
                &format!("limits.request_bytes_max={}", self.request_bytes_max),
            ])
            .args(self.settings.iter().flat_map(|entry| ["--set", entry]))
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null());
    }

    fn command(&self, data_dir: &Path, port_file: &Path) -> Command {
        let mut command = match self.under.split_first() {
            Some((program, args)) => {
                let mut command = clean(Command::new(program));
                command.args(args).arg(env!("CARGO_BIN_EXE_naru"));
                command
            }
            None => naru(),
        };
        if let Some(seed) = self.lossy {
            command.env("NARU_TEST_LOSSY_DISK", seed.to_string());
        }
        if let Some(gate) = &self.gate {
            command.env("NARU_TEST_DISK_GATE", gate);
        }
        self.add_to(&mut command, data_dir);
        command.arg("--port-file").arg(port_file).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(self) -> Broker {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        self.start_on(home, data)
    }

    /// Starts a broker whose data is not in its home.
    pub(crate) fn start_on(self, home: tempfile::TempDir, data: PathBuf) -> Broker {
        let mut broker = self.spawn_on(home, data);
        broker.log.wait_for("ready");
        broker.read_addresses();
        broker
    }

    /// Starts a process that may end, or wait, before it is ready: its addresses are not known yet.
    pub(crate) fn spawn_on(self, home: tempfile::TempDir, data: PathBuf) -> Broker {
        let (child, log) = spawn(&self, home.path(), &data);
        Broker {
            child,
            dir: home,
            data,
            native: self.listen.clone(),
            http: self.http.clone(),
            log,
            setup: self,
        }
    }
}

/// A broker in a directory of its own, killed at the end.
pub(crate) struct Broker {
    pub(crate) child: Child,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) data: PathBuf,
    pub(crate) native: String,
    pub(crate) http: String,
    pub(crate) log: Log,
    setup: Setup,
}

fn port_file(home: &Path) -> PathBuf {
    home.join("ports.json")
}

fn spawn(setup: &Setup, home: &Path, data: &Path) -> (Child, Log) {
    let port_file = port_file(home);
    // An old one must not be taken for the new one; the first time there is none.
    let _ = fs::remove_file(&port_file);
    let mut child = setup.command(data, &port_file).spawn().unwrap();
    let log = Log::of(child.stderr.take().unwrap());
    (child, log)
}

impl Broker {
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts a process that has ended again: same directory, same ports.
    pub(crate) fn restart(&mut self) {
        self.spawn_again();
        self.log.wait_for("ready");
        self.read_addresses();
    }

    /// Starts a process that has ended again, and kills it after so long, ready or not.
    pub(crate) async fn die_while_starting(&mut self, after: Duration) {
        self.spawn_again();
        tokio::time::sleep(after).await;
        self.kill();
    }

    fn spawn_again(&mut self) {
        self.setup.listen.clone_from(&self.native);
        self.setup.http.clone_from(&self.http);
        self.setup.under.clear();
        self.setup.lossy = self.setup.lossy.map(|seed| seed.wrapping_add(1).max(1));
        (self.child, self.log) = spawn(&self.setup, self.dir.path(), &self.data);
    }

    /// Starts a process that has ended again; false if it refuses to start.
    pub(crate) fn restart_if_it_will(&mut self) -> bool {
        self.spawn_again();
        self.is_ready()
    }

    /// Waits until it is ready, and then knows its addresses; false if it ended before.
    pub(crate) fn is_ready(&mut self) -> bool {
        let ready = self.log.find(|line| line["event"] == "ready").is_some();
        if ready {
            self.read_addresses();
        }
        ready
    }

    fn read_addresses(&mut self) {
        let is_lossy = self.log.event("lossy_disk").is_some();
        assert_eq!(
            is_lossy,
            self.setup.lossy.is_some(),
            "the disk is as it was asked for"
        );
        let is_gated = self.log.event("gated_disk").is_some();
        assert_eq!(is_gated, self.setup.gate.is_some(), "so is the way to it");
        let text = fs::read_to_string(port_file(self.dir.path())).unwrap();
        let ports: Value = serde_json::from_str(&text).unwrap();
        let (native, http) = (ports["native"].as_str().unwrap(), ports["http"].as_str().unwrap());
        assert_eq!(text, format!(r#"{{"native": "{native}", "http": "{http}"}}"#));
        (self.native, self.http) = (native.to_owned(), http.to_owned());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self::signal(&self.child, signal);
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the broker's end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("naru://{}", self.native)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url()).await.unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that the process has now, and had at most, in KiB.
    pub(crate) fn rss_kib(&self) -> (u64, u64) {
        (self.memory_kib("VmRSS:"), self.memory_kib("VmHWM:"))
    }

    /// Memory that the process has now and that is of no file, in KiB: the same for every build.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        self.memory_kib("RssAnon:")
    }

    fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

impl Drop for Broker {
    fn drop(&mut self) {
        if thread::panicking() && std::env::var_os("NARU_TEST_KEEP").is_some() {
            eprintln!("what the broker has left is in {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
            let log: Vec<String> = self.log.lock().lines.iter().map(Value::to_string).collect();
            let _ = fs::write(self.dir.path().join("broker.log"), log.join("\n"));
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The log of a broker, read all the time so that the pipe never fills.
#[derive(Clone)]
pub(crate) struct Log(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<Value>,
    ended: bool,
}

impl Log {
    pub(crate) fn of(stderr: ChildStderr) -> Self {
        let log = Self(Arc::default());
        let writer = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                // What is no JSON is kept too: it may be the reason of a failure.
                let line = line.unwrap();
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                writer.lock().lines.push(line);
                writer.0.1.notify_all();
            }
            writer.lock().ended = true;
            writer.0.1.notify_all();
        });
        log
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.0.lock().unwrap()
    }

    /// The first line of this event, now or later.
    pub(crate) fn wait_for(&self, event: &str) -> Value {
        self.wait(event, |line| line["event"] == event)
    }

    /// The first line like this, now or later.
    pub(crate) fn wait_where(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        self.wait("as expected", is_it)
    }

    fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.find(is_it)
            .unwrap_or_else(|| panic!("no event {what} in the broker's log:\n{:#?}", self.lock().lines))
    }

    /// The first line like this, now or later; none if the log ends before, or nothing comes for long.
    pub(crate) fn find(&self, is_it: impl Fn(&Value) -> bool) -> Option<Value> {
        let has_it = |lines: &Lines| lines.lines.iter().find(|line| is_it(line)).cloned();
        let (lines, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), PATIENCE, |l| !l.ended && has_it(l).is_none())
            .unwrap();
        has_it(&lines)
    }

    /// Waits until there will be no more lines.
    pub(crate) fn wait_for_end(&self) {
        let (lines, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), PATIENCE, |lines| !lines.ended)
            .unwrap();
        assert!(lines.ended, "the log goes on");
    }

    /// The line of this event, if there was one.
    pub(crate) fn event(&self, event: &str) -> Option<Value> {
        self.lock()
            .lines
            .iter()
            .find(|line| line["event"] == event)
            .cloned()
    }
}

pub(crate) fn http_get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
