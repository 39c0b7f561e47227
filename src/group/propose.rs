//! An assignment that the leader proposes is taken only if nothing is wrong with it (LE8).

use std::collections::BTreeMap;

use super::change::GroupChange;
use super::error::GroupError;
use super::machine::{Machine, Propose, Reply};
use super::record::GroupRecord;
use super::state::Membership;
use crate::machine::Effects;
use crate::model::{GroupId, MemberId, PartitionKey};

impl Machine {
    pub(super) fn propose(&self, propose: &Propose) -> Result<Effects<GroupRecord, Reply>, GroupError> {
        let group: GroupId = propose.group.parse()?;
        let membership = self.members_of(&propose.group, &propose.member)?;
        let (id, _) = membership.not_ahead(&propose.member)?;
        if membership.leader() != Some(id) {
            return Err(refused("only the leader of a group proposes".to_owned()));
        }
        if propose.epoch != membership.epoch || membership.assignment_epoch == membership.epoch {
            let epoch = membership.epoch;
            return Err(refused(format!(
                "it is for group epoch {}, and the group is in {epoch}{}",
                propose.epoch,
                if membership.assignment_epoch == epoch {
                    ", which has its assignment"
                } else {
                    ""
                }
            )));
        }
        let target = match propose.assignments.is_empty() {
            // It leaves it to the broker.
            true => membership.best(),
            false => self.checked(membership, propose)?,
        };
        let mut draft = membership.clone();
        draft.settle_on(target);
        let change = GroupChange::between(membership, &draft);
        let record = |change| GroupRecord::Changed {
            group,
            change: Box::new(change),
        };
        Ok(Effects {
            records: change.map(record).into_iter().collect(),
            reply: Reply::Done,
        })
    }

    fn checked(
        &self,
        membership: &Membership,
        propose: &Propose,
    ) -> Result<BTreeMap<PartitionKey, MemberId>, GroupError> {
        let mut target = BTreeMap::new();
        for (name, keys) in &propose.assignments {
            let Some((id, member)) = membership.members.get_key_value(name.as_str()) else {
                return Err(refused(format!("{name:?} is not a member")));
            };
            for key in keys {
                let shown = self.show_key(*key);
                let count = membership.resolved.get(&key.topic).copied().unwrap_or_default();
                if key.partition.0 >= count {
                    return Err(refused(format!("nobody subscribes to a partition {shown}")));
                }
                if !member.topics.contains(&key.topic) {
                    return Err(refused(format!(
                        "{shown} goes to {id}, which does not subscribe to the topic"
                    )));
                }
                if let Some(other) = target.insert(*key, id.clone()) {
                    return Err(refused(format!("{shown} goes to {other} and to {id}")));
                }
            }
        }
        match membership.all_partitions().find(|key| !target.contains_key(key)) {
            Some(missing) => Err(refused(format!("{} goes to nobody", self.show_key(missing)))),
            None => Ok(target),
        }
    }

    fn show_key(&self, key: PartitionKey) -> String {
        match self.topics().name(key.topic) {
            Some(name) => format!("{name}/{}", key.partition),
            None => key.to_string(),
        }
    }
}

fn refused(reason: String) -> GroupError {
    GroupError::InvalidAssignment { reason }
}
