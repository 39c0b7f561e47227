//! CreateGroup, AlterGroup and DeleteGroup: what operators do to groups.

use super::members::other_kind;
use super::{Groups, Now, State, Undone};
use crate::api::{
    AlterGroup, AlteredGroup, ConfigEntry, CreateGroup, CreatedGroup, DeleteGroup, Outcome, Reply, Request,
    Response,
};
use crate::broker::Broker;
use crate::broker::coordinator::not_admitted;
use crate::group::{self, Command, Configure};
use crate::storage::LogStore;

impl<S: LogStore> Broker<S> {
    pub(in crate::broker) fn create_group(&self, create: CreateGroup) -> Outcome {
        let entries = create.configs.iter();
        let command = Command::Configure(Configure {
            group: create.group.clone(),
            create: true,
            entries: entries
                .map(|(name, value)| (name.clone(), Some(value.clone())))
                .collect(),
        });
        let mut state = self.groups.lock();
        let reply = match self.groups.carry_out(&mut state, command, &[]) {
            Err(Undone::NotAdmitted(refused)) => return not_admitted(refused, Request::CreateGroup(create)),
            Err(Undone::Refused(error)) => Err(*error),
            Ok(group::Reply::Configured { changed }) => {
                self.groups.retime(&mut state, &create.group);
                Ok(Response::CreateGroup(CreatedGroup {
                    created: changed,
                    configs: configs(&state, &create.group),
                }))
            }
            Ok(_) => Err(other_kind()),
        };
        self.answer(&state, reply)
    }

    pub(in crate::broker) fn alter_group(&self, alter: AlterGroup) -> Outcome {
        let set = alter
            .set
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone())));
        let unset = alter.unset.iter().map(|name| (name.clone(), None));
        let command = Command::Configure(Configure {
            group: alter.group.clone(),
            create: false,
            entries: set.chain(unset).collect(),
        });
        let mut state = self.groups.lock();
        let reply = match self.groups.carry_out(&mut state, command, &[]) {
            Err(Undone::NotAdmitted(refused)) => return not_admitted(refused, Request::AlterGroup(alter)),
            Err(Undone::Refused(error)) => Err(*error),
            Ok(group::Reply::Configured { changed }) => {
                self.groups.retime(&mut state, &alter.group);
                Ok(Response::AlterGroup(AlteredGroup {
                    configs: configs(&state, &alter.group),
                    changed,
                }))
            }
            Ok(_) => Err(other_kind()),
        };
        self.answer(&state, reply)
    }

    pub(in crate::broker) fn delete_group(&self, delete: DeleteGroup) -> Outcome {
        let command = Command::Delete {
            group: delete.group.clone(),
        };
        let mut state = self.groups.lock();
        let reply = match self.groups.carry_out(&mut state, command, &[]) {
            Err(Undone::NotAdmitted(refused)) => return not_admitted(refused, Request::DeleteGroup(delete)),
            Err(Undone::Refused(error)) => Err(*error),
            Ok(_) => {
                state.forget_group(&delete.group);
                Ok(Response::DeleteGroup)
            }
        };
        self.answer(&state, reply)
    }

    pub(super) fn answer(&self, state: &State<S::Log>, reply: Reply) -> Outcome {
        Outcome::AfterLsn {
            lsn: self.groups.lsn(state),
            reply,
        }
    }
}

impl<S: LogStore> Groups<S> {
    /// Its settings are others: timers that they are for.
    fn retime(&self, state: &mut State<S::Log>, group: &str) {
        if let Ok(group) = group.parse() {
            state.time_offsets(Now::by(&*self.clock), &group);
            self.poke(state);
        }
    }
}

impl<L> State<L> {
    fn forget_group(&mut self, group: &str) {
        self.seen.retain(|(of, _), _| of.as_str() != group);
        if let Ok(group) = group.parse() {
            self.sessions.forget_group(&group);
        }
    }
}

/// All settings of a group as they are shown.
pub(super) fn configs<L>(state: &State<L>, group: &str) -> Vec<ConfigEntry> {
    let membership = state.driver.machine.membership(group);
    let config = membership
        .map(|membership| membership.config.clone())
        .unwrap_or_default();
    let entries = config
        .entries()
        .into_iter()
        .map(|(name, value, own)| ConfigEntry {
            name: name.to_owned(),
            value,
            source: if own { "group" } else { "default" }.to_owned(),
            has_effect: true,
        });
    entries.collect()
}
