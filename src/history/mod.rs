//! Histories: what clients asked of a broker, what they were told, and whether that can be so.
//!
//! Whoever drives a broker writes down an [`Event`] before each request leaves and another one after its answer is understood.
//! [`check`] takes the events of all processes together and names every [`Anomaly`]: a promise of `docs/guarantees.md` or
//! `docs/groups.md` that was not kept, with the events that prove it. What may or may not have happened counts as possible, so a
//! finding is always a defect.
//!
//! One function for each anomaly, over the tables that `index` makes in one pass. Pure; it must not know a broker, a client or
//! a file.

mod anomaly;
mod claims;
mod commits;
mod conclude;
mod event;
mod finals;
mod groups;
mod health;
mod index;
mod lines;
mod names;
mod order;
mod reads;
mod records;
mod register;
mod report;
mod steps;
mod through;
mod written;

#[cfg(test)]
mod tests;

pub use anomaly::{Anomaly, Severity};
pub use event::{
    Body, Done, Edge, Event, Fault, FaultKind, Found, Held, Level, Note, Numbered, Op, Output, Phase, Range,
    Reset, Start, Stored, View,
};
pub use lines::{BadEvent, parse, read, write};
pub use names::{At, Uid};
pub use report::{Figures, Finding, Report, TOLD_MAX};

use index::Index;

/// Checks a history: the events of all its processes in any order; those of one process in the order in which they were written.
pub fn check(mut events: Vec<Event>) -> Report {
    // Stable: events of one process stay in their order also where the clock did not move.
    events.sort_by_key(|event| event.t);
    let mut report = Report::default();
    {
        let index = Index::new(&events);
        for check in CHECKS {
            check(&index, &mut report.findings);
        }
        report.figures = index.figures();
    }
    report.events = events;
    report
}

const CHECKS: [fn(&Index<'_>, &mut Vec<Finding>); 32] = [
    records::lost_write,
    records::moved_write,
    records::inconsistent_offset,
    records::duplicate,
    records::duplicate_ack,
    records::phantom,
    records::corrupt_read,
    records::failed_visible,
    records::coverage,
    finals::unstable_read,
    finals::second_read_differs,
    finals::offset_hole,
    finals::corrupt_silent,
    finals::false_quarantine,
    order::realtime_order,
    order::session_order,
    order::torn_batch,
    order::end_offset_stale,
    reads::poll_nonmonotonic,
    reads::poll_skip,
    reads::start_too_early,
    reads::redelivery,
    commits::start_wrong,
    commits::commit_lost,
    commits::commit_regress,
    commits::commit_beyond,
    groups::split_owner,
    groups::zombie_commit,
    steps::torn_step,
    steps::step_doubled,
    health::stuck,
    health::info_rate,
];
