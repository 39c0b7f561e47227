//! The memory tail: the newest groups, which answer recent reads and feed the applier.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock};

use super::group::Group;
use crate::model::Lsn;

#[derive(Debug, Default)]
struct Inner {
    /// Without gaps, oldest first.
    groups: VecDeque<Arc<Group>>,
    bytes: u64,
}

/// Groups in memory, first in, first out by LSN.
#[derive(Debug, Default)]
pub(super) struct Tail(RwLock<Inner>);

impl Tail {
    /// Adds the newest group. Must happen before it is published as durable.
    pub(super) fn push(&self, group: Arc<Group>) {
        let mut inner = self.0.write().expect("no panics while locked");
        inner.bytes += group.memory_bytes();
        inner.groups.push_back(group);
    }

    /// The group with this number, if it is still there.
    pub(super) fn get(&self, lsn: Lsn) -> Option<Arc<Group>> {
        let inner = self.0.read().expect("no panics while locked");
        let first = inner.groups.front()?.lsn.0;
        let index = usize::try_from(lsn.0.checked_sub(first)?).ok()?;
        inner.groups.get(index).cloned()
    }

    /// Groups behind `after` up to `upto`, oldest first, until they have `bytes_max` bytes; at least one if there is one.
    pub(super) fn range(&self, after: Lsn, upto: Lsn, bytes_max: u64) -> Vec<Arc<Group>> {
        let inner = self.0.read().expect("no panics while locked");
        let mut bytes = 0;
        let mut out = Vec::new();
        for group in inner
            .groups
            .iter()
            .skip_while(|g| g.lsn <= after)
            .take_while(|g| g.lsn <= upto)
        {
            if bytes >= bytes_max {
                break;
            }
            bytes += group.blocks.len() as u64;
            out.push(Arc::clone(group));
        }
        out
    }

    /// Drops the oldest groups up to `applied` while there are more than `bytes_max` bytes, and tells their partitions.
    pub(super) fn evict(&self, applied: Lsn, bytes_max: u64) {
        loop {
            let group = {
                let mut inner = self.0.write().expect("no panics while locked");
                if inner.bytes <= bytes_max || inner.groups.front().is_none_or(|g| g.lsn > applied) {
                    return;
                }
                let group = inner.groups.pop_front().expect("there is a first group");
                inner.bytes -= group.memory_bytes();
                group
            };
            for batch in &group.appends {
                batch.log.forget(group.lsn);
            }
        }
    }

    /// Drops everything, to break the circle between groups and partitions.
    pub(super) fn clear(&self) {
        let groups = std::mem::take(&mut *self.0.write().expect("no panics while locked"));
        drop(groups);
    }
}
