//! Whether everybody got on when all was well again, and whether a history is worth checking.

use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::Anomaly;
use super::event::{Body, Note, Op, Phase};
use super::index::{Index, Moment};
use super::report::Finding;

/// Fewer operations say nothing about shares.
const OPERATIONS_MIN: usize = 100;
/// Of operations with an unknown outcome, at most.
const UNKNOWN_PERCENT_MAX: usize = 20;
/// Of operations that succeed, at least.
const OK_PERCENT_MIN: usize = 1;

/// [`Anomaly::Stuck`]: begun before the last reading, by a process that is still there then, and never ended.
pub(super) fn stuck(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let phase = |wanted: Phase| index.phases.iter().rfind(|(phase, _)| *phase == wanted);
    let Some((_, end)) = phase(Phase::FinalRead) else {
        return;
    };
    let healed = phase(Phase::Healed).map_or(0, |(_, healed)| *healed);
    let mut last: BTreeMap<u32, Moment> = BTreeMap::new();
    for (moment, event) in index.events.iter().enumerate() {
        last.insert(event.process, moment);
    }
    let open = index.open.iter();
    for ((process, op), open) in open.filter(|(_, open)| !open.is_given_up && open.invoked < *end) {
        // A process that was killed leaves its operations open; after healing nobody is.
        let is_there = last.get(process).is_some_and(|last| last > end);
        if is_there || open.invoked > healed {
            findings.push(Finding {
                anomaly: Anomaly::Stuck,
                what: format!("operation {op} of process {process} never ended, although all was well again"),
                events: vec![open.invoked, *end],
            });
        }
    }
}

/// [`Anomaly::InfoRate`].
pub(super) fn info_rate(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let [mut all, mut ok, mut failed] = [0_usize; 3];
    let mut begun: BTreeSet<(u32, u64)> = BTreeSet::new();
    let mut is_chaos = index.phases.is_empty();
    for event in index.events {
        let id = (event.process, event.op);
        match &event.is {
            Body::Note(Note::Phase(phase)) => is_chaos = *phase == Phase::Chaos,
            Body::Invoke(Op::Produce { .. } | Op::Commit { .. } | Op::Step { .. }) if is_chaos => {
                all += 1;
                begun.insert(id);
            }
            Body::Ok(_) => ok += usize::from(begun.remove(&id)),
            Body::Fail(_) => failed += usize::from(begun.remove(&id)),
            Body::Invoke(_) | Body::Info(_) | Body::Note(_) => {}
        }
    }
    if all < OPERATIONS_MIN {
        return;
    }
    let unknown = all - ok - failed;
    let is_too_much = unknown * 100 > all * UNKNOWN_PERCENT_MAX;
    if is_too_much || ok * 100 < all * OK_PERCENT_MIN {
        findings.push(Finding {
            anomaly: Anomaly::InfoRate,
            what: format!(
                "of {all} operations {ok} succeeded and {unknown} have an unknown outcome: this proves little"
            ),
            events: Vec::new(),
        });
    }
}
