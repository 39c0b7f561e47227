//! Correct histories, made by a small group in memory, are clean; each kind of damage to one is found, and nothing else with it.

mod damage;
mod reference;

use super::*;
use reference::history;

const CASES: u64 = 600;

#[test]
fn correct_histories_are_clean() {
    let mut sum = Figures::default();
    for seed in 0..CASES {
        let report = check(history(seed));
        assert!(report.is_clean(), "seed {seed}: {report}");
        sum.redelivered += report.figures.redelivered;
        sum.refused += report.figures.refused;
        sum.claims += report.figures.claims;
        sum.commits += report.figures.commits;
    }
    // Histories without trouble would prove nothing.
    assert!(sum.redelivered > 10_000 && sum.refused > 1_000, "{sum:?}");
    assert!(sum.claims > 10_000 && sum.commits > 5_000, "{sum:?}");
}

#[test]
fn a_history_is_read_as_it_was_written_without_the_line_that_a_kill_cut_off() {
    let events = history(7);
    let mut text: String = events.iter().map(write).collect();
    assert_eq!(read(&text).unwrap(), events);
    text.truncate(text.len() - 1);
    assert_eq!(read(&text).unwrap(), events[..events.len() - 1]);
    assert_eq!(read("{\"t\":1").unwrap(), []);
    let line = r#"{"t":5,"process":2,"op":9,"is":{"invoke":{"produce":{"at":"a/b/3","uid":"2-7"}}}}"#;
    let at = At {
        topic: "a/b".to_owned(),
        partition: 3,
    };
    let uid = Uid {
        process: 2,
        number: 7,
    };
    let event = Event {
        t: 5,
        process: 2,
        op: 9,
        is: Body::Invoke(Op::Produce { at, uid }),
    };
    assert_eq!(read(&format!("{line}\n")).unwrap(), [event]);
    let bad = read(&format!("{line}\n{{\"t\":5}}\n")).unwrap_err();
    assert!(matches!(bad, BadEvent::Line { line: 2, .. }), "{bad}");
    assert_eq!("a".parse::<At>(), Err(BadEvent::At("a".to_owned())));
    assert_eq!("3".parse::<Uid>(), Err(BadEvent::Uid("3".to_owned())));
}

#[test]
fn a_report_names_what_was_found_and_shows_the_events() {
    let mut events = history(7);
    assert!(damage::poll_again(&mut events));
    let text = check(events).to_string();
    assert!(
        text.contains("poll-nonmonotonic: 1\n") && text.contains(r#"{"polled":{"group":"g""#),
        "{text}"
    );
}

/// Damages many histories in one way; all those that can be damaged so must show the anomaly and no other one.
fn found(anomaly: Anomaly, damage: fn(&mut Vec<Event>) -> bool) {
    let mut damaged = 0;
    for seed in 0..400 {
        let mut events = history(seed);
        if !damage(&mut events) {
            continue;
        }
        damaged += 1;
        let report = check(events);
        let names: Vec<_> = report.anomalies().into_keys().collect();
        assert_eq!(names, [anomaly], "seed {seed}: {report}");
    }
    assert!(damaged >= 20, "only {damaged} histories could be damaged so");
}

#[test]
fn two_records_at_one_offset_are_found() {
    found(Anomaly::InconsistentOffset, damage::another_record);
}

#[test]
fn a_record_at_two_offsets_is_found() {
    found(Anomaly::Duplicate, damage::record_again);
}

#[test]
fn a_record_that_was_passed_over_is_found() {
    found(Anomaly::Coverage, damage::forget_last_poll);
}

#[test]
fn two_holders_are_found_however_they_show() {
    found(Anomaly::SplitOwner, damage::assign_twice);
    found(Anomaly::SplitOwner, damage::hold_twice);
    found(Anomaly::SplitOwner, damage::epoch_back);
    found(Anomaly::SplitOwner, damage::read_on);
    found(Anomaly::SplitOwner, damage::read_unasked);
}

#[test]
fn a_commit_after_the_next_holder_began_is_found() {
    found(Anomaly::ZombieCommit, damage::commit_late);
}

#[test]
fn a_start_where_nobody_committed_is_found() {
    found(Anomaly::StartWrong, damage::start_later);
}

#[test]
fn a_commit_that_was_lost_is_found_however_it_shows() {
    found(Anomaly::CommitLost, damage::start_earlier);
    found(Anomaly::CommitLost, damage::see_less);
    found(Anomaly::CommitLost, damage::see_nothing);
}

#[test]
fn a_committed_offset_that_goes_back_is_found() {
    found(Anomaly::CommitRegress, damage::see_back_and_forth);
}

#[test]
fn records_out_of_order_and_left_out_are_found() {
    found(Anomaly::PollNonmonotonic, damage::poll_again);
    found(Anomaly::PollSkip, damage::skip);
}

#[test]
fn a_redelivery_without_its_mark_is_found() {
    found(Anomaly::Redelivery, damage::unmark);
}
