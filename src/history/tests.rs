//! Correct histories, made by a small group in memory, are clean; each kind of damage to one is found, and nothing else with it.

mod damage;
mod damage_records;
mod reference;

use super::*;
use damage_records as records_of;
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
        is: Body::Invoke(Op::Produce {
            at,
            uids: vec![uid],
            session: None,
            sequence: None,
        }),
    };
    assert_eq!(read(&format!("{line}\n")).unwrap(), [event]);
    let bad = read(&format!("{line}\n{{\"t\":5}}\n")).unwrap_err();
    assert!(matches!(bad, BadEvent::Line { line: 2, .. }), "{bad}");
    assert_eq!("a".parse::<At>(), Err(BadEvent::At("a".to_owned())));
    assert_eq!("3".parse::<Uid>(), Err(BadEvent::Uid("3".to_owned())));
}

/// The lines of the example in the documentation.
fn example() -> Vec<String> {
    let page = include_str!("../../docs/histories.md");
    let (_, example) = page.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    example.lines().map(|line| format!("{line}\n")).collect()
}

fn names_in(lines: &[String]) -> Vec<&'static str> {
    let report = check(read(&lines.concat()).unwrap());
    report.anomalies().into_keys().map(Anomaly::name).collect()
}

#[test]
fn the_example_of_the_page_is_clean_and_its_lines_are_needed() {
    let example = example();
    let report = check(read(&example.concat()).unwrap());
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.figures.produced, 4);
    assert_eq!(report.figures.recoveries, 1);
    assert_eq!(report.figures.read_through, 1);
    let without = |part: &str| -> Vec<String> { example.iter().map(|line| line.replace(part, "")).collect() };
    assert_eq!(names_in(&without(r#"{"offset":2,"uid":"1-3"},"#)), ["lost-write"]);
    // It was in doubt, so it may be missing from both readings.
    assert_eq!(names_in(&without(r#",{"offset":3,"uid":"1-4"}"#)), [""; 0]);
    let stands_nowhere: Vec<String> = example
        .iter()
        .map(|line| line.replace(r#""committed":[["orders/0",1]]"#, r#""committed":[]"#))
        .collect();
    assert_eq!(names_in(&stands_nowhere), ["torn-step"]);
}

#[test]
fn the_page_names_every_anomaly() {
    let page = include_str!("../../docs/histories.md");
    for anomaly in Anomaly::ALL {
        assert!(
            page.contains(&format!("\n| `{}` | ", anomaly.name())),
            "{}",
            anomaly.name()
        );
    }
}

#[test]
fn older_histories_are_read_as_they_were_meant() {
    let lines = [
        r#"{"t":1,"process":1,"op":1,"is":{"invoke":{"produce":{"at":"a/0","uid":"1-1"}}}}"#,
        r#"{"t":2,"process":1,"op":1,"is":{"ok":{"produced":7}}}"#,
        r#"{"t":3,"process":1,"op":2,"is":{"invoke":{"join":{"group":"g","instance":null,"auto_commit":true}}}}"#,
    ];
    let events = read(&format!("{}\n", lines.join("\n"))).unwrap();
    assert_eq!(events[1].is, Body::Ok(Done::Produced(Stored::fsync(7))));
    let Body::Invoke(Op::Produce { uids, session, .. }) = &events[0].is else {
        panic!("{:?}", events[0]);
    };
    assert_eq!((uids.len(), *session), (1, None));
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

/// Histories that are damaged in each way.
const DAMAGED: usize = 20;

/// Damages many histories in one way; all those that can be damaged so must show the anomaly and no other one. A hole may be
/// all that is left of what only the reading at the end knew.
fn found(anomaly: Anomaly, damage: fn(&mut Vec<Event>) -> bool) {
    let mut damaged = 0;
    for seed in 0..3_000 {
        let mut events = history(seed);
        if !damage(&mut events) {
            continue;
        }
        let report = check(events);
        let names = report.anomalies().into_keys();
        let names: Vec<_> = names
            .filter(|name| *name == anomaly || name.severity() == Severity::Error)
            .collect();
        assert_eq!(names, [anomaly], "seed {seed}: {report}");
        damaged += 1;
        if damaged == DAMAGED {
            return;
        }
    }
    panic!("only {damaged} histories could be damaged so");
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

#[test]
fn records_that_are_lost_moved_or_taken_back_are_found() {
    found(Anomaly::LostWrite, records_of::lose);
    found(Anomaly::MovedWrite, records_of::move_last);
    found(Anomaly::UnstableRead, records_of::take_back);
    found(Anomaly::SecondReadDiffers, records_of::differ);
    found(Anomaly::OffsetHole, records_of::punch);
}

#[test]
fn records_that_should_not_be_there_are_found() {
    found(Anomaly::DuplicateAck, records_of::acknowledge_twice);
    found(Anomaly::Phantom, records_of::read_what_nobody_sent);
    found(Anomaly::CorruptRead, records_of::alter);
    found(Anomaly::CorruptRead, records_of::forget_the_name);
    found(Anomaly::FailedVisible, records_of::refuse);
}

#[test]
fn records_out_of_order_and_batches_in_part_are_found() {
    found(Anomaly::RealtimeOrder, records_of::send_late);
    found(Anomaly::SessionOrder, records_of::swap_in_session);
    found(Anomaly::TornBatch, records_of::tear_batch);
    found(Anomaly::EndOffsetStale, records_of::end_too_early);
}

#[test]
fn what_readers_without_a_group_are_handed_is_checked_as_well() {
    found(Anomaly::PollNonmonotonic, records_of::read_again);
    found(Anomaly::PollSkip, records_of::read_past);
    found(Anomaly::PollSkip, records_of::read_past_the_first);
    found(Anomaly::StartWrong, records_of::begin_too_early);
}

#[test]
fn a_commit_behind_the_end_is_found() {
    found(Anomaly::CommitBeyond, records_of::commit_beyond);
}

#[test]
fn half_a_step_is_found_whichever_half_and_a_second_one_too() {
    found(Anomaly::TornStep, records_of::tear_step);
    found(Anomaly::TornStep, records_of::forget_the_commit);
    found(Anomaly::TornStep, records_of::forget_the_outputs);
    found(Anomaly::StepDoubled, records_of::step_again);
}

#[test]
fn damage_that_is_hidden_or_made_up_is_found() {
    found(Anomaly::CorruptSilent, records_of::keep_silent);
    found(Anomaly::FalseQuarantine, records_of::blame);
}

#[test]
fn operations_that_never_end_or_tell_nothing_are_found() {
    found(Anomaly::Stuck, records_of::hang);
    found(Anomaly::InfoRate, records_of::ask_in_vain);
}

/// Something in the line of an event is another number now: one that meets others, or one that is too great.
fn with_another_number(event: &Event, random: &mut fastrand::Rng) -> Option<Event> {
    let line = write(event);
    let starts: Vec<usize> = line
        .char_indices()
        .filter(|(at, c)| c.is_ascii_digit() && !line[..*at].ends_with(|c: char| c.is_ascii_digit()))
        .map(|(at, _)| at)
        .collect();
    let start = starts[random.usize(0..starts.len())];
    let end = start + line[start..].find(|c: char| !c.is_ascii_digit()).unwrap();
    let numbers = [
        "0",
        "1",
        "2",
        "-1",
        "4294967295",
        "9223372036854775807",
        "-9223372036854775808",
    ];
    let number = numbers[random.usize(0..numbers.len())];
    parse(1, &format!("{}{number}{}", &line[..start], &line[end..])).ok()
}

#[test]
fn what_makes_no_sense_is_checked_without_a_panic() {
    let mut odd = 0;
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut events = history(seed);
        for _ in 0..random.usize(1..120) {
            let (one, other) = (random.usize(0..events.len()), random.usize(0..events.len()));
            match random.u32(0..5) {
                0 => drop(events.remove(one)),
                1 => events.insert(one, events[other].clone()),
                2 => events.swap(one, other),
                3 => events[one].t = events[other].t,
                _ => {
                    if let Some(event) = with_another_number(&events[one], &mut random) {
                        events[one] = event;
                    }
                }
            }
        }
        let report = check(events.clone());
        assert!(!report.to_string().is_empty());
        odd += usize::from(report.has_errors());
        assert_eq!(
            check(events).findings,
            report.findings,
            "the same again says the same"
        );
    }
    assert!(odd > 100, "only {odd} histories made no sense");
}
