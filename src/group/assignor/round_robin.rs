//! Kafka's `RoundRobinAssignor`: all partitions in their order, each to the next member, by id, that subscribes to its topic.

use super::{Assignment, Input, partitions};

pub(super) fn assign(input: &Input<'_>) -> Assignment {
    let mut members = input.members.clone();
    members.sort_unstable_by_key(|member| member.id);
    let mut assignment = Assignment::new();
    let mut turn = 0;
    for key in partitions(input.topics) {
        let steps = (0..members.len()).map(|step| (turn + step) % members.len());
        let mut subscribed = steps.filter_map(|place| Some((place, members.get(place)?)));
        let found = subscribed.find(|(_, member)| member.topics.contains(&key.topic));
        if let Some((place, member)) = found {
            assignment.insert(key, member.id.clone());
            turn = place + 1;
        }
    }
    assignment
}
