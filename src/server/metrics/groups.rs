//! Metrics of consumer groups.

use std::borrow::Cow;
use std::time::Duration;

use super::{GROUP_TOPICS_MAX, OTHER, seconds_since_1970};
use crate::broker::GroupNow;
use crate::telemetry::{Kind, Page};

pub(super) fn groups(page: &mut Page, (groups, all): &(Vec<GroupNow>, usize)) {
    page.one(
        Kind::Gauge,
        "naru_groups",
        "Groups with members, settings or committed offsets.",
        *all as u64,
    );
    page.one(
        Kind::Gauge,
        "naru_metrics_groups_dropped",
        "Groups above the limit on series, which are not shown.",
        all.saturating_sub(groups.len()) as u64,
    );
    let name = |group: &GroupNow| ("group", Cow::from(group.name.to_string()));
    let lag = page.family(
        Kind::Gauge,
        "naru_group_lag_records",
        "Records that a group still has to read.",
    );
    for group in groups {
        let rest: u64 = group.lag.values().skip(GROUP_TOPICS_MAX).sum();
        for (topic, behind) in group.lag.iter().take(GROUP_TOPICS_MAX) {
            lag.whole([name(group), ("topic", topic.to_string().into())], *behind);
        }
        if group.lag.len() > GROUP_TOPICS_MAX {
            lag.whole([name(group), ("topic", OTHER.into())], rest);
        }
    }
    let most = page.family(
        Kind::Gauge,
        "naru_group_lag_max_records",
        "The greatest lag of a group in one partition.",
    );
    for group in groups {
        most.whole([name(group)], group.lag_max);
    }
    let oldest = page.family(
        Kind::Gauge,
        "naru_group_lag_max_seconds",
        "Age of the oldest record that a group still has to read, by its append time.",
    );
    for group in groups {
        oldest.real([name(group)], Duration::from_millis(group.lag_ms).as_secs_f64());
    }
    let last = page.family(
        Kind::Gauge,
        "naru_group_last_commit_timestamp_seconds",
        "When a group committed last, in seconds since 1970.",
    );
    for group in groups {
        last.real([name(group)], seconds_since_1970(group.last_commit));
    }
    members(page, groups);
}

/// A value of a group.
type Of = fn(&GroupNow) -> u64;

fn members(page: &mut Page, groups: &[GroupNow]) {
    let gauges: [(&str, &str, Of); 5] = [
        ("naru_group_members", "Members of a group.", |group| group.members),
        (
            "naru_group_idle_members",
            "Members that hold nothing and are to have nothing: more members than partitions.",
            |group| group.idle_members,
        ),
        (
            "naru_group_unassigned_partitions",
            "Subscribed partitions that nobody holds.",
            |group| group.unassigned_partitions,
        ),
        (
            "naru_group_stalled_partitions",
            "Partitions whose holder lives but has not got on for progress.timeout.ms although there are records.",
            |group| group.stalled_partitions,
        ),
        (
            "naru_group_epoch",
            "Epoch of a group: one more with every change of members.",
            |group| group.epoch,
        ),
    ];
    for (metric, help, of) in gauges {
        let family = page.family(Kind::Gauge, metric, help);
        for group in groups.iter().filter(|group| group.epoch > 0) {
            family.whole([("group", Cow::from(group.name.to_string()))], of(group));
        }
    }
}
