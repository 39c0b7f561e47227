//! Every request in every state of a group, with ids and epochs of every kind: one answer each.

use std::collections::BTreeSet;

use super::rig::{Rig, beat, commit, id, subscribed, topic, who};
use crate::group::*;
use crate::machine::StateMachine;
use crate::model::{Acks, GroupState, PartitionKey, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// A group in one of its states, and who `one` is in it.
struct Case {
    rig: Rig,
    /// Epoch of `one`, or the one that it had.
    now: u32,
    held: PartitionKey,
    foreign: PartitionKey,
}

/// As `one` was told last, before that, what nobody was told, and ids that are not its own.
const ASKERS: [&str; 5] = ["now", "old", "ahead", "stranger", "instance"];

fn asker(case: &Case, kind: &str) -> MemberRef {
    let member = |name: &str, epoch| who(name, epoch);
    match kind {
        "now" => member("one", case.now),
        "old" => member("one", case.now - 1),
        "ahead" => member("one", case.now + 1),
        "stranger" => member("who", case.now),
        _ => MemberRef {
            instance: Some("first".to_owned()),
            ..member("one", case.now)
        },
    }
}

fn three(rig: &mut Rig) {
    rig.join("one");
    rig.join("two");
    rig.settle();
    rig.join_static("three", "first");
}

fn case(state: &str) -> Case {
    let mut rig = Rig::new(6);
    let configure = |assignor: &str| {
        Command::Configure(Configure {
            group: "g".to_owned(),
            create: true,
            entries: vec![("assignor".to_owned(), Some(assignor.to_owned()))],
        })
    };
    let expected = match state {
        "none" => None,
        "empty" => {
            rig.join("one");
            rig.remove("one");
            Some(GroupState::Empty)
        }
        "assigning" => {
            rig.run(configure("leader"));
            rig.join("one");
            rig.join("two");
            rig.run(Command::Fallback {
                group: "g".parse().unwrap(),
                epoch: 2,
            });
            rig.settle();
            rig.join_static("three", "first");
            Some(GroupState::Assigning)
        }
        "reconciling" => {
            three(&mut rig);
            Some(GroupState::Reconciling)
        }
        _ => {
            three(&mut rig);
            rig.settle();
            Some(GroupState::Stable)
        }
    };
    let known = rig.machine.membership("g");
    assert_eq!(known.map(Membership::state), expected);
    let holds = |name: &str| {
        let member = known.and_then(|known| known.members.get(name));
        member.and_then(|member| member.assigned.keys().next().copied())
    };
    let now = known.and_then(|known| Some(known.member_epoch(known.members.get("one")?)));
    Case {
        now: now.unwrap_or(2),
        held: holds("one").unwrap_or(super::key(1, 0)),
        foreign: holds("two").unwrap_or(super::key(1, 5)),
        rig,
    }
}

/// Name of the answer, without what it carries.
fn answer(case: &Case, command: Command) -> String {
    let effects = case.rig.machine.handle(Timestamp(7), command);
    let reply = if let Reply::Refused(error) = effects.reply {
        assert_eq!(effects.records, [], "a refusal changes nothing");
        format!("{error:?}")
    } else {
        let written = if effects.records.is_empty() { "" } else { "+" };
        format!("{:?}{written}", effects.reply)
    };
    let name: String = reply.chars().take_while(char::is_ascii_alphanumeric).collect();
    name + if reply.ends_with('+') { "+" } else { "" }
}

fn of_asker(case: &Case, what: &str, member: MemberRef) -> String {
    let offsets = |key: PartitionKey| {
        let mut offsets = commit(None, 0, 3).offsets;
        offsets[0].0 = key;
        offsets
    };
    let group = || "g".to_owned();
    let command = match what {
        "heartbeat" => Command::Heartbeat(Heartbeat {
            member,
            ..beat("one", 0)
        }),
        "heartbeat, owns a foreign partition" => Command::Heartbeat(Heartbeat {
            member,
            owned: Some(BTreeSet::from([case.foreign])),
            ..beat("one", 0)
        }),
        "fetch" => {
            let may = case.rig.machine.check_fetch("g", &member, case.held);
            return may.map_or_else(|error| format!("{error:?}"), |()| "Ok".to_owned());
        }
        "fetch a foreign partition" => {
            let may = case.rig.machine.check_fetch("g", &member, case.foreign);
            return may.map_or_else(|error| format!("{error:?}"), |()| "Ok".to_owned());
        }
        "commit" | "commit a foreign partition" => Command::CommitOffsets(CommitOffsets {
            group: group(),
            member: Some(member),
            offsets: offsets(if what == "commit" { case.held } else { case.foreign }),
        }),
        "step" => Command::Step(StepCommand {
            group: group(),
            member: Some(member),
            stamp: StepStamp {
                producer: ProducerId(1),
                epoch: ProducerEpoch(0),
                sequence: Sequence(0),
            },
            offsets: offsets(case.held),
            acks: Acks::Fsync,
            appends: Vec::new(),
        }),
        "close" | "close with a commit" => Command::Close(Close {
            group: group(),
            member,
            offsets: if what == "close" {
                Vec::new()
            } else {
                offsets(case.held)
            },
        }),
        _ => Command::Propose(Propose {
            group: group(),
            member,
            epoch: case.rig.machine.membership("g").map_or(1, |known| known.epoch),
            assignments: vec![(
                "two".to_owned(),
                (0..6).map(|index| super::key(1, index)).collect(),
            )],
        }),
    };
    answer(case, command)
}

const OF_MEMBERS: [&str; 10] = [
    "heartbeat",
    "heartbeat, owns a foreign partition",
    "fetch",
    "fetch a foreign partition",
    "commit",
    "commit a foreign partition",
    "step",
    "close",
    "close with a commit",
    "propose",
];

/// Requests that do not come from a member.
fn others() -> Vec<(&'static str, Command)> {
    let group = || "g".to_owned();
    let id_of = || "g".parse().unwrap();
    let join = |name: &str, subscription| {
        Command::Heartbeat(Heartbeat {
            subscription,
            ..beat(name, 0)
        })
    };
    let configure = |create, entries: &[(&str, &str)]| {
        let entries = entries.iter();
        Command::Configure(Configure {
            group: group(),
            create,
            entries: entries
                .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
                .collect(),
        })
    };
    let remove = |name: &str| Command::Remove {
        group: id_of(),
        member: id(name),
    };
    vec![
        ("join", join("new", Some(subscribed(&["a"])))),
        ("join without a subscription", join("new", None)),
        ("join again", join("two", Some(subscribed(&["a"])))),
        ("commit of nobody", Command::CommitOffsets(commit(None, 0, 3))),
        ("remove", remove("two")),
        ("remove a stranger", remove("who")),
        ("refresh", Command::Refresh { group: id_of() }),
        (
            "fallback",
            Command::Fallback {
                group: id_of(),
                epoch: 3,
            },
        ),
        (
            "late fallback",
            Command::Fallback {
                group: id_of(),
                epoch: 2,
            },
        ),
        ("create", configure(true, &[])),
        ("alter", configure(false, &[("session.timeout.ms", "20000")])),
        ("alter the assignor", configure(false, &[("assignor", "range")])),
        ("alter badly", configure(false, &[("assignor", "best")])),
        ("delete", Command::Delete { group: group() }),
        ("delete the topic", Command::DeleteTopic(topic(1))),
    ]
}

fn matrix() -> String {
    let states = ["none", "empty", "assigning", "reconciling", "stable"];
    let cases = states.map(case);
    let mut lines = Vec::new();
    let mut line = |name: String, answers: Vec<String>| {
        let answers: Vec<_> = answers
            .iter()
            .map(|answer| answer.split([' ', '{']).next().unwrap_or_default())
            .collect();
        lines.push(format!("{name}: {}", answers.join(" | ")));
    };
    line("in".to_owned(), states.map(str::to_owned).to_vec());
    for what in OF_MEMBERS {
        for kind in ASKERS {
            let answers = cases.iter().map(|case| of_asker(case, what, asker(case, kind)));
            line(format!("{what}, {kind}"), answers.collect());
        }
    }
    for (name, command) in others() {
        let answers = cases.iter().map(|case| answer(case, command.clone()));
        line(name.to_owned(), answers.collect());
    }
    lines.join("\n")
}

#[test]
fn every_request_has_one_answer_in_every_state() {
    assert_eq!(matrix(), include_str!("matrix.txt").trim_end());
}
