//! Histories: what clients asked of a broker, what they were told, and whether that can be so.
//!
//! Whoever drives a broker writes down an [`Event`] before each request leaves and another one after its answer is understood.
//! [`check`] takes the events of all processes together and names every [`Anomaly`]: a promise of `docs/guarantees.md` or
//! `docs/groups.md` that was not kept, with the events that prove it. What may or may not have happened counts as possible, so a
//! finding is always a defect.
//!
//! One function for each anomaly, over the tables that [`index`] makes in one pass. Pure; it must not know a broker, a client or
//! a file.

mod event;
mod groups;
mod index;
mod reads;
mod records;
mod report;

#[cfg(test)]
mod tests;

pub use event::{At, BadEvent, Body, Done, Event, Held, Note, Op, Uid, View, read, write};
pub use report::{Anomaly, Figures, Finding, Report};

use index::Index;

/// Checks a history: the events of all its processes in any order; those of one process in the order in which they were written.
pub fn check(mut events: Vec<Event>) -> Report {
    // Stable: events of one process stay in their order also where the clock did not move.
    events.sort_by_key(|event| event.t);
    let mut report = Report::default();
    {
        let index = Index::new(&events);
        let checks = [
            records::inconsistent_offset,
            records::duplicate,
            records::coverage,
            groups::split_owner,
            groups::zombie_commit,
            reads::start_wrong,
            reads::commit_lost,
            reads::commit_regress,
            reads::poll_nonmonotonic,
            reads::poll_skip,
            reads::redelivery,
        ];
        for check in checks {
            check(&index, &mut report.findings);
        }
        report.figures = index.figures();
    }
    report.events = events;
    report
}
