//! The engine's threads: journal, applier, the maker of journal files, and the scrub.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::applier::Applier;
use super::engine::{Control, Engine};
use super::journal::{Journal, Round};
use super::journal_files::Waited;
use super::queue::Work;
use super::scrub::Scrub;
use crate::storage::SharedSnapshots;

/// How often the applier looks at the disk and the clock when nobody calls it.
const TICK: Duration = Duration::from_secs(1);
/// Between two steps of removing files, and between two tries on a full disk.
const PAUSE: Duration = Duration::from_millis(20);

/// What runs, or waits to be run.
#[derive(Debug)]
pub(super) struct Threads {
    machines: Option<(Journal, Applier)>,
    journal: Option<JoinHandle<()>>,
    applier: Option<JoinHandle<io::Result<()>>>,
    maker: Option<JoinHandle<()>>,
    scrub: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn new(journal: Journal, applier: Applier) -> Self {
        Self {
            machines: Some((journal, applier)),
            journal: None,
            applier: None,
            maker: None,
            scrub: None,
        }
    }

    /// The machines, to be driven by the caller.
    pub(super) fn take(&mut self) -> (Journal, Applier) {
        self.machines
            .take()
            .expect("machines are taken once, before any thread is started")
    }

    pub(super) fn start(&mut self, engine: &Arc<Engine>, snapshots: SharedSnapshots) -> io::Result<()> {
        let (journal, applier) = self.take();
        let shared = Arc::clone(engine);
        self.journal = Some(thread("naru-journal", move || journal_loop(&shared, journal))?);
        let shared = Arc::clone(engine);
        self.applier = Some(thread("naru-applier", move || {
            applier_loop(&shared, applier, &snapshots)
        })?);
        let shared = Arc::clone(engine);
        self.maker = Some(thread("naru-files", move || maker_loop(&shared))?);
        let scrub = Scrub::new(Arc::clone(engine));
        let shared = Arc::clone(engine);
        self.scrub = Some(thread("naru-scrub", move || scrub_loop(&shared, scrub))?);
        Ok(())
    }

    pub(super) fn shutdown(&mut self, engine: &Engine) -> io::Result<()> {
        engine.scrub_rest.stop();
        join(self.scrub.take());
        // What was taken in is written first; the files end when the journal needs no more of them.
        engine.queue.close();
        join(self.journal.take());
        engine.files.stop();
        join(self.maker.take());
        engine.stop_applier();
        match self.applier.take().map(JoinHandle::join) {
            Some(Ok(result)) => result?,
            Some(Err(_)) => return Err(io::Error::other("the applier thread panicked")),
            None => {}
        }
        // A checkpoint that waited for a failed journal was not written, and says so only here.
        match engine.control().failure.clone() {
            Some(failure) => Err(io::Error::other(failure)),
            None => Ok(()),
        }
    }

    /// Ends the threads without a checkpoint, as a crash would.
    pub(super) fn abandon(&mut self, engine: &Engine) {
        if self.journal.is_none() && self.applier.is_none() {
            return;
        }
        engine.abandon();
        join(self.journal.take());
        join(self.maker.take());
        join(self.scrub.take());
        if let Some(applier) = self.applier.take() {
            // Its result was an interrupted round.
            let _ = applier.join();
        }
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(body)
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!(
            event = "thread_panicked",
            severity = "critical",
            "a thread of the storage engine panicked"
        );
    }
}

fn journal_loop(engine: &Engine, mut journal: Journal) {
    loop {
        let seal_after = journal.wants_seal().then_some(engine.settings.seal_after);
        let mut round = match engine.queue.wait(seal_after) {
            Work::Group(group) => journal.write(group),
            Work::Idle => journal.seal(),
            Work::Closed => return,
        };
        while round == Round::NoFile {
            match engine.files.wait() {
                Waited::MayBeFree => {}
                Waited::MakeExtra => {
                    if let Err(error) = engine.files.make_extra(false) {
                        if error.kind() == io::ErrorKind::StorageFull && engine.disk_is_full() {
                            // With the space that was set aside it may do.
                            engine.files.want_extra();
                        }
                        tracing::warn!(event = "journal_file_failed", error = %error, "no further journal file could be made");
                    }
                }
                Waited::Stop => return,
            }
            round = journal.round();
        }
    }
}

fn applier_loop(engine: &Engine, mut applier: Applier, snapshots: &SharedSnapshots) -> io::Result<()> {
    let mut was_full = false;
    loop {
        let pause = if applier.trash.is_empty() && !was_full {
            TICK
        } else {
            PAUSE
        };
        let asked = engine.wait_for_applier_work(pause);
        if asked.failure.is_some() {
            return Err(io::Error::other("the storage engine failed before"));
        }
        match applier_round(engine, &mut applier, &asked, snapshots) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                was_full = false;
                engine.control().storage_full = false;
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                let again = engine.disk_is_full();
                if !was_full {
                    tracing::warn!(event = "storage_full", error = %error, "the disk is full: produce is refused until there is room");
                }
                was_full = true;
                engine.control().storage_full = true;
                if asked.stop && !again {
                    return Err(error);
                }
            }
            Err(error) => {
                engine.poison("writing segments or a checkpoint failed", &error);
                return Err(error);
            }
        }
    }
}

/// One round; true if it was the last.
fn applier_round(
    engine: &Engine,
    applier: &mut Applier,
    asked: &Control,
    snapshots: &SharedSnapshots,
) -> io::Result<bool> {
    let mut until_durable = |lsn| engine.wait_durable(lsn);
    applier.round(asked, &**snapshots, &mut until_durable)?;
    if asked.stop {
        applier.checkpoint(&**snapshots, true, &mut until_durable)?;
    }
    Ok(asked.stop)
}

fn scrub_loop(engine: &Engine, mut scrub: Scrub) {
    while let Some(rest) = scrub.round() {
        if engine.scrub_rest.rest(rest) {
            return;
        }
    }
}

fn maker_loop(engine: &Engine) {
    loop {
        let made = if engine.has_room_for_journal_file() {
            engine.files.make_one(true)
        } else {
            // Begun, it would fill the disk up to the last byte, be removed, and begin again.
            Err(io::ErrorKind::StorageFull.into())
        };
        match made {
            Ok(more) => {
                engine.account_journal();
                if !more {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(event = "journal_file_failed", error = %error, "a journal file could not be made; trying again");
                // Giving up would leave the journal waiting for a file that nobody makes.
                if engine.files.rest(TICK) {
                    return;
                }
            }
        }
    }
}
