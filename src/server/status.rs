//! How the process stands, for `/livez` and `/readyz`.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::http::{Check, Probe};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The storage engine reads what the last run left.
    Recovering,
    /// Requests are taken.
    Serving,
    /// The end has begun.
    Draining,
}

/// How the storage engine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineHealth {
    /// It failed for good; the process is about to end.
    pub(crate) poisoned: bool,
    /// Why it takes no writes right now.
    pub(crate) read_only: Option<String>,
    /// Why its disk answers nothing right now.
    pub(crate) stalled: Option<String>,
    /// Journal files that are ready, and how many there shall be.
    pub(crate) journal_files: Option<(u32, u32)>,
}

type Engine = Box<dyn Fn() -> EngineHealth + Send + Sync>;

struct State {
    phase: Phase,
    /// What recovery waits for.
    held_by: Option<&'static str>,
    engine: Option<Engine>,
}

/// The state of the process; asked by the HTTP listener.
pub(crate) struct Status(Mutex<State>);

impl Status {
    /// Before recovery.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            phase: Phase::Recovering,
            held_by: None,
            engine: None,
        }))
    }

    /// The next phase.
    pub(crate) fn enter(&self, phase: Phase) {
        self.with(|state| state.phase = phase);
    }

    /// Recovery cannot go on until somebody does something about this.
    pub(crate) fn hold_recovery(&self, why: &'static str) {
        self.with(|state| state.held_by = Some(why));
    }

    /// From now on the engine can be asked.
    pub(crate) fn watch_engine(&self, engine: impl Fn() -> EngineHealth + Send + Sync + 'static) {
        self.with(|state| state.engine = Some(Box::new(engine)));
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // A panic elsewhere must not take the health pages with it: they are what tells about it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self) -> (Phase, Option<&'static str>, EngineHealth) {
        self.with(|state| {
            let engine = state.engine.as_ref().map(|ask| ask());
            (state.phase, state.held_by, engine.unwrap_or_default())
        })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Status").field(&self.look()).finish()
    }
}

const POISONED: &str = "a write or sync of the journal failed; the broker is stopping";

impl Probe for Status {
    fn liveness(&self) -> Vec<Check> {
        let (_, _, engine) = self.look();
        let failed = engine.poisoned.then(|| POISONED.to_owned());
        vec![Check::new("engine", failed)]
    }

    fn readiness(&self) -> Vec<Check> {
        let (phase, held_by, engine) = self.look();
        let recovering = phase == Phase::Recovering;
        let not_yet = "waiting for recovery".to_owned();
        let recovery = held_by.map_or("recovering".to_owned(), |why| format!("recovering: {why}"));
        let storage = engine.poisoned.then(|| POISONED.to_owned());
        let mut checks = vec![
            Check::new("recovery", recovering.then_some(recovery)),
            Check::new("storage", storage.or(engine.read_only)),
            Check::new("disk", engine.stalled),
            Check::new("listeners", recovering.then_some(not_yet)),
            Check::new(
                "draining",
                (phase == Phase::Draining).then(|| "the broker is stopping".to_owned()),
            ),
        ];
        if let Some((ready, all)) = engine.journal_files {
            checks.push(Check::note("journal files", format!("{ready} of {all} ready")));
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Query, verdict};

    fn ready(status: &Status) -> (bool, String) {
        let query = Query {
            verbose: true,
            ..Query::default()
        };
        let seen = verdict("readyz", &status.readiness(), &query);
        (seen.good, seen.text)
    }

    #[test]
    fn ready_only_between_recovery_and_drain() {
        let status = Status::new();
        let (good, text) = ready(&status);
        assert!(!good && text.contains("[-]recovery failed: recovering"), "{text}");
        status.enter(Phase::Serving);
        assert!(ready(&status).0);
        status.enter(Phase::Draining);
        let (good, text) = ready(&status);
        assert!(!good && text.contains("[-]draining failed"), "{text}");
        assert!(verdict("livez", &status.liveness(), &Query::default()).good);
    }

    #[test]
    fn journal_files_are_told_and_fail_nothing() {
        let status = Status::new();
        status.enter(Phase::Serving);
        status.watch_engine(|| EngineHealth {
            journal_files: Some((2, 4)),
            ..EngineHealth::default()
        });
        let (good, text) = ready(&status);
        assert!(good);
        assert!(text.contains("journal files 2 of 4 ready"), "{text}");
    }

    #[test]
    fn a_stalled_disk_ends_readiness_and_not_liveness() {
        let status = Status::new();
        status.enter(Phase::Serving);
        status.watch_engine(|| EngineHealth {
            stalled: Some("the disk stands still".to_owned()),
            ..EngineHealth::default()
        });
        let (good, text) = ready(&status);
        assert!(
            !good && text.contains("[-]disk failed: the disk stands still"),
            "{text}"
        );
        assert!(verdict("livez", &status.liveness(), &Query::default()).good);
    }

    #[test]
    fn a_full_disk_ends_readiness_and_a_poisoned_engine_ends_both() {
        let status = Status::new();
        status.enter(Phase::Serving);
        status.watch_engine(|| EngineHealth {
            read_only: Some("the disk is full".to_owned()),
            ..EngineHealth::default()
        });
        let (good, text) = ready(&status);
        assert!(
            !good && text.contains("[-]storage failed: the disk is full"),
            "{text}"
        );
        assert!(verdict("livez", &status.liveness(), &Query::default()).good);
        status.watch_engine(|| EngineHealth {
            poisoned: true,
            ..EngineHealth::default()
        });
        assert!(!ready(&status).0);
        assert!(!verdict("livez", &status.liveness(), &Query::default()).good);
    }
}
