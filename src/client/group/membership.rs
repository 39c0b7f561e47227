//! What a member of a group has been told, what it holds, what it is to release, and what it says next. Pure: no network, no
//! time; member ids come in as arguments.

use std::collections::BTreeMap;

use crate::client::{AssignedPartition, GroupMember, Membership, TopicPartition};

/// One life of a member, until it is told that the group does not know it any more.
#[derive(Debug)]
pub(super) struct Member {
    id: String,
    instance: Option<String>,
    /// 0: it has not joined.
    epoch: u32,
    revision: u64,
    held: BTreeMap<TopicPartition, Hold>,
    /// The next heartbeat says everything and is answered at once: the broker, or the connection, may be a new one.
    tells_all: bool,
}

/// How a partition is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Assigned,
    /// To be released; what was handed out is being finished.
    Revoking,
    /// Finished, and the broker does not know yet.
    Finished,
}

/// A heartbeat to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) member: GroupMember,
    /// Of the answer heard last; 0: none. What this says counts as said after that answer.
    pub(super) revision: u64,
    /// The broker may hold it back until there is news.
    waits: bool,
    /// With the subscription.
    pub(super) subscribes: bool,
    pub(super) owned: Option<Vec<TopicPartition>>,
}

impl Beat {
    /// The broker may hold it back until there is news.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }
}

/// What is to be done after an answer, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Gone: nothing may be committed for them.
    pub(super) lose: Vec<TopicPartition>,
    /// To be finished, committed and then [`finished`](Member::finished).
    pub(super) release: Vec<TopicPartition>,
    /// To be read.
    pub(super) take: Vec<AssignedPartition>,
}

impl Member {
    pub(super) fn new(id: String, instance: Option<String>) -> Self {
        Self {
            id,
            instance,
            epoch: 0,
            revision: 0,
            held: BTreeMap::new(),
            tells_all: true,
        }
    }

    /// For requests.
    pub(super) fn identity(&self) -> GroupMember {
        GroupMember {
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
        }
    }

    /// What to send next. `urgent`: to be answered at once.
    pub(super) fn next_beat(&self, urgent: bool) -> Beat {
        let unfinished = self.held.iter().filter(|(_, hold)| **hold != Hold::Finished);
        let owned = self
            .tells_all
            .then(|| unfinished.map(|(partition, _)| partition.clone()).collect());
        Beat {
            member: self.identity(),
            revision: self.revision,
            waits: !urgent && !self.tells_all,
            subscribes: self.tells_all,
            owned,
        }
    }

    /// The broker has answered the heartbeat sent last.
    pub(super) fn answered(&mut self, answer: &Membership) -> Orders {
        let mut orders = Orders::default();
        (self.epoch, self.revision) = (answer.member_epoch, answer.revision);
        let mut before = std::mem::take(&mut self.held);
        for assigned in &answer.assigned {
            let hold = match before.remove(&assigned.partition) {
                // The broker took it back and has given it again, or never heard that it was given back.
                None | Some(Hold::Finished) => {
                    orders.take.push(assigned.clone());
                    Hold::Assigned
                }
                Some(hold) => hold,
            };
            self.held.insert(assigned.partition.clone(), hold);
        }
        for partition in &answer.revoking {
            let hold = match before.remove(partition) {
                // An earlier life of a static member read it: nothing of it is in hand here.
                None | Some(Hold::Finished) => Hold::Finished,
                Some(Hold::Assigned) => {
                    orders.release.push(partition.clone());
                    Hold::Revoking
                }
                Some(Hold::Revoking) => Hold::Revoking,
            };
            self.held.insert(partition.clone(), hold);
        }
        let lost = before.into_iter().filter(|(_, hold)| *hold != Hold::Finished);
        orders.lose = lost.map(|(partition, _)| partition).collect();
        self.tells_all = self.held.values().any(|hold| *hold == Hold::Finished);
        orders
    }

    /// What was to be released is finished and committed; the next heartbeat says so.
    pub(super) fn finished(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(hold @ Hold::Revoking) = self.held.get_mut(partition) {
                *hold = Hold::Finished;
                self.tells_all = true;
            }
        }
    }

    /// No answer came, or one that says to try again. The member stays who it is and where it is: a new id would leave a
    /// ghost behind whose session had to end first.
    pub(super) fn unanswered(&mut self) {
        self.tells_all = true;
    }

    /// The group does not know this member, or knows better: everything is lost, and another one joins.
    pub(super) fn join_again(&mut self, id: String) -> Vec<TopicPartition> {
        let held = std::mem::take(&mut self.held);
        *self = Self::new(id, self.instance.take());
        let lost = held.into_iter().filter(|(_, hold)| *hold != Hold::Finished);
        lost.map(|(partition, _)| partition).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::MemberRole;
    use crate::model::{GroupState, Offset, PartitionId, TopicId};
    use std::time::Duration;

    const NOTHING: &[u32] = &[];

    fn at(index: u32) -> TopicPartition {
        TopicPartition {
            topic: "orders".into(),
            topic_id: TopicId::from_bytes([9; 16]),
            partition: PartitionId(index),
        }
    }

    fn all(indexes: &[u32]) -> Vec<TopicPartition> {
        indexes.iter().copied().map(at).collect()
    }

    fn answer(epoch: u32, assigned: &[u32], revoking: &[u32]) -> Membership {
        let assigned = assigned.iter().map(|index| AssignedPartition {
            partition: at(*index),
            committed: Some(Offset::ZERO),
            maybe_seen_upto: None,
        });
        Membership {
            member_epoch: epoch,
            group_epoch: epoch,
            revision: u64::from(epoch) * 10,
            leader_id: "m".to_owned(),
            is_leader: true,
            role: MemberRole::Active,
            state: GroupState::Stable,
            heartbeat: Duration::from_secs(3),
            session_timeout: Duration::from_secs(10),
            handoff_timeout: Duration::from_secs(30),
            proposal_wanted: None,
            assigned: assigned.collect(),
            revoking: all(revoking),
        }
    }

    /// Lost, to be released, to be taken.
    fn orders(orders: &Orders) -> [Vec<u32>; 3] {
        let index = |partition: &TopicPartition| partition.partition.0;
        [
            orders.lose.iter().map(index).collect(),
            orders.release.iter().map(index).collect(),
            orders.take.iter().map(|taken| index(&taken.partition)).collect(),
        ]
    }

    fn told(member: &mut Member, answer: &Membership) -> [Vec<u32>; 3] {
        orders(&member.answered(answer))
    }

    fn joined(assigned: &[u32]) -> Member {
        let mut member = Member::new("m".to_owned(), None);
        assert_eq!(
            told(&mut member, &answer(1, assigned, &[])),
            [NOTHING, &[], assigned]
        );
        member
    }

    #[test]
    fn it_joins_with_its_subscription_and_then_waits_for_news() {
        let member = Member::new("m".to_owned(), Some("desk".to_owned()));
        let beat = member.next_beat(false);
        assert_eq!((beat.member.member_epoch, beat.revision), (0, 0));
        assert_eq!(beat.member.instance_id.as_deref(), Some("desk"));
        assert!(beat.subscribes && !beat.waits());
        assert_eq!(beat.owned, Some(vec![]));

        let beat = joined(&[0, 1]).next_beat(false);
        assert_eq!((beat.member.member_epoch, beat.revision), (1, 10));
        assert!(!beat.subscribes && beat.waits());
        assert_eq!(beat.owned, None);
        assert!(!joined(&[0]).next_beat(true).waits());
    }

    #[test]
    fn what_is_revoked_is_owned_until_it_is_finished_and_released_in_the_epoch_that_was_told() {
        let mut member = joined(&[0, 1, 2]);
        assert_eq!(
            told(&mut member, &answer(1, &[0], &[1, 2])),
            [NOTHING, &[1, 2], &[]]
        );
        // Told again: nothing is asked for twice.
        assert_eq!(told(&mut member, &answer(1, &[0], &[1, 2])), [NOTHING, &[], &[]]);
        assert!(member.next_beat(false).waits());
        member.finished(&all(&[1]));
        let beat = member.next_beat(false);
        assert_eq!(beat.owned, Some(all(&[0, 2])));
        assert_eq!((beat.revision, beat.member.member_epoch), (10, 1));
        assert!(!beat.waits());
        assert_eq!(told(&mut member, &answer(1, &[0], &[2])), [NOTHING, &[], &[]]);
        member.finished(&all(&[2]));
        assert_eq!(member.next_beat(false).owned, Some(all(&[0])));
        assert_eq!(told(&mut member, &answer(2, &[0, 7], &[])), [NOTHING, &[], &[7]]);
        let beat = member.next_beat(false);
        assert_eq!((beat.member.member_epoch, beat.owned), (2, None));
    }

    #[test]
    fn a_release_that_the_broker_did_not_take_is_said_again() {
        let mut member = joined(&[0, 1]);
        told(&mut member, &answer(1, &[0], &[1]));
        member.finished(&all(&[1]));
        // The answer to a heartbeat that had not said so yet.
        assert_eq!(told(&mut member, &answer(1, &[0], &[1])), [NOTHING, &[], &[]]);
        assert_eq!(member.next_beat(false).owned, Some(all(&[0])));
    }

    #[test]
    fn what_was_given_back_and_is_given_again_is_taken_again() {
        let mut member = joined(&[0]);
        told(&mut member, &answer(1, &[], &[0]));
        member.finished(&all(&[0]));
        assert_eq!(told(&mut member, &answer(3, &[0], &[])), [NOTHING, &[], &[0]]);
    }

    #[test]
    fn what_is_neither_assigned_nor_revoked_is_lost() {
        let mut member = joined(&[0, 1, 2]);
        told(&mut member, &answer(1, &[0, 1], &[2]));
        assert_eq!(told(&mut member, &answer(2, &[1], &[])), [&[0, 2][..], &[], &[]]);
        member.finished(&all(&[2]));
        assert_eq!(
            member.next_beat(true).owned,
            None,
            "it holds nothing of it any more"
        );
    }

    #[test]
    fn over_a_lost_connection_it_stays_who_it_is_and_tells_everything() {
        let mut member = joined(&[0, 1]);
        told(&mut member, &answer(1, &[0], &[1]));
        member.unanswered();
        let beat = member.next_beat(false);
        assert_eq!(
            (beat.member.member_id.as_str(), beat.member.member_epoch),
            ("m", 1)
        );
        assert_eq!((beat.revision, beat.subscribes, beat.waits()), (10, true, false));
        assert_eq!(beat.owned, Some(all(&[0, 1])));
        assert_eq!(told(&mut member, &answer(1, &[0], &[1])), [NOTHING, &[], &[]]);
        assert!(member.next_beat(false).waits());
    }

    #[test]
    fn a_member_that_is_not_known_any_more_has_lost_everything_and_joins_as_another() {
        let mut member = Member::new("m".to_owned(), Some("desk".to_owned()));
        told(&mut member, &answer(4, &[0, 1], &[]));
        told(&mut member, &answer(4, &[0], &[1]));
        member.finished(&all(&[1]));
        assert_eq!(member.join_again("n".to_owned()), all(&[0]));
        let beat = member.next_beat(false);
        let identity = (beat.member.member_id.as_str(), beat.member.member_epoch);
        assert_eq!((identity, beat.revision), (("n", 0), 0));
        assert_eq!(beat.member.instance_id.as_deref(), Some("desk"));
        assert_eq!((beat.subscribes, beat.owned), (true, Some(vec![])));
    }

    #[test]
    fn a_static_member_that_starts_again_gives_back_at_once_what_its_earlier_life_was_to_release() {
        let mut member = Member::new("n".to_owned(), Some("desk".to_owned()));
        assert_eq!(told(&mut member, &answer(4, &[0], &[1])), [NOTHING, &[], &[0]]);
        assert_eq!(member.next_beat(false).owned, Some(all(&[0])));
    }
}
