//! Kafka's `RangeAssignor`: topic by topic, the subscribers in the order of their ids get runs of neighbouring partitions,
//! the first of them one more where it does not come out even.

use super::{Assignment, Input, Subscriber};
use crate::model::{MemberId, PartitionId, PartitionKey, TopicId};

pub(super) fn assign(input: &Input<'_>) -> Assignment {
    let mut assignment = Assignment::new();
    for (topic, count) in input.topics {
        let members = subscribers(&input.members, *topic);
        let Ok(wanted) = u32::try_from(members.len()) else {
            continue;
        };
        let Some(each) = count.checked_div(wanted) else {
            continue;
        };
        let more = count - each * wanted;
        let mut next = 0;
        for (place, member) in (0..wanted).zip(members) {
            let run = each + u32::from(place < more);
            for index in next..next + run {
                let key = PartitionKey {
                    topic: *topic,
                    partition: PartitionId(index),
                };
                assignment.insert(key, member.clone());
            }
            next += run;
        }
    }
    assignment
}

/// Who subscribes to a topic, by id.
fn subscribers<'a>(members: &[Subscriber<'a>], topic: TopicId) -> Vec<&'a MemberId> {
    let subscribed = members.iter().filter(|member| member.topics.contains(&topic));
    let mut ids: Vec<_> = subscribed.map(|member| member.id).collect();
    ids.sort_unstable();
    ids
}
