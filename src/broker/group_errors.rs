//! What a client hears when the machine of groups refuses.

use super::errors::{bad_argument, bad_group, field, of_item, too_large};
use crate::api::{ApiError, ErrorDetails, OffsetToCommit};
use crate::group::GroupError;
use crate::model::ErrorCode;

/// `items` are the offsets of the request, which some refusals name.
pub(super) fn group(error: GroupError, items: &[OffsetToCommit]) -> ApiError {
    let text = error.to_string();
    let in_place = |index: usize, error: ApiError| match items.get(index) {
        Some(item) => of_item(error, index, item),
        None => error,
    };
    match error {
        GroupError::Id(bad) => bad_group(&bad),
        GroupError::Twice { index } => in_place(
            index,
            ApiError::new(ErrorCode::InvalidArgument, text).hint("commit one offset per partition"),
        ),
        GroupError::MetadataTooLarge { index, bytes, max } => {
            in_place(index, too_large(text, number(max), number(bytes)))
        }
        GroupError::TooManyGroups { max } => full(text, number(max), None),
        GroupError::TooManyOffsets { would_be, max } => full(text, number(max), Some(number(would_be))),
        GroupError::StateFull { would_be, max } => full(text, max, Some(would_be)),
        GroupError::NotHeld { index, current } => in_place(
            index,
            with_epoch(ApiError::new(ErrorCode::FencedMemberEpoch, text), current)
                .hint("commit before you release a partition; its new holder commits from then on"),
        ),
        error => member(error, text),
    }
}

fn member(error: GroupError, text: String) -> ApiError {
    let with = |code| ApiError::new(code, text.clone());
    let argument = |name: &str| bad_argument(name, text.clone());
    match error {
        GroupError::UnknownMember { .. } => with(ErrorCode::UnknownMemberId)
            .hint("join again with epoch 0 under a new member id; what this member held is others' now"),
        GroupError::StaleEpoch { current, .. } => with_epoch(with(ErrorCode::StaleMemberEpoch), current)
            .hint("send a heartbeat, and try again for what is still assigned"),
        GroupError::FencedEpoch { current, .. } => with_epoch(with(ErrorCode::FencedMemberEpoch), current)
            .hint("join again with epoch 0 under a new member id"),
        GroupError::FencedInstance { .. } => with(ErrorCode::FencedInstanceId)
            .hint("stop: two processes are configured with the same instance id, and the newer one goes on"),
        GroupError::UnknownGroup { .. } => {
            with(ErrorCode::UnknownGroup).hint("'naru group list' shows the groups")
        }
        GroupError::NotEmpty { .. } => with(ErrorCode::GroupNotEmpty).hint(
            "members commit with their id and epoch; who assigns itself uses another group, and a group is deleted when its members have left",
        ),
        GroupError::InvalidAssignment { .. } => with(ErrorCode::InvalidAssignment)
            .hint("give each partition to one member that subscribes to its topic"),
        GroupError::GroupFull { max } => with(ErrorCode::GroupFull)
            .hint("more members than partitions would be idle anyway")
            .details(limit(number(max), None)),
        GroupError::TooManyMembers { max } => with(ErrorCode::LimitExceeded)
            .hint("close consumers that are not needed")
            .details(limit(number(max), None)),
        GroupError::MemberId(_) => argument("member_id"),
        GroupError::InstanceId(_) => argument("instance_id"),
        GroupError::TopicName(_) => argument("subscription.topics"),
        GroupError::Pattern { .. } => argument("subscription.patterns"),
        GroupError::NoSubscription => argument("subscription"),
        GroupError::SubscriptionTooLarge { .. } => with(ErrorCode::TooManyElements)
            .hint("use a pattern instead of many names")
            .details(field("subscription")),
        GroupError::TooManyPatterns { would_be, max } => with(ErrorCode::LimitExceeded)
            .hint("members that subscribe alike count once")
            .details(limit(number(max), Some(number(would_be)))),
        GroupError::ClientIdTooLong { .. } => argument("client_id"),
        GroupError::Config(bad) => ApiError::new(ErrorCode::InvalidConfig, bad.to_string())
            .details(field("configs")),
        GroupError::StaleProducer { current, .. } => with(ErrorCode::InvalidProducerEpoch)
            .hint("a newer instance of this producer steps here")
            .details(ErrorDetails {
                current_epoch: Some(i32::from(current.0)),
                ..ErrorDetails::default()
            }),
        GroupError::StepOutOfOrder { expected, .. } => with(ErrorCode::OutOfOrderSequence)
            .hint("a step before this one is missing: bump the epoch, then send all that was not acknowledged")
            .details(ErrorDetails {
                expected_sequence: Some(expected.0),
                ..ErrorDetails::default()
            }),
        GroupError::TooManyAppends { max, .. } => with(ErrorCode::LimitExceeded)
            .hint("make smaller steps")
            .details(limit(number(max), None)),
        GroupError::Id(_)
        | GroupError::Twice { .. }
        | GroupError::MetadataTooLarge { .. }
        | GroupError::TooManyGroups { .. }
        | GroupError::TooManyOffsets { .. }
        | GroupError::StateFull { .. }
        | GroupError::NotHeld { .. } => group(error, &[]),
    }
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn full(text: String, max: u64, actual: Option<u64>) -> ApiError {
    ApiError::new(ErrorCode::LimitExceeded, text)
        .hint("committed offsets go with their topics, and with their groups: 'naru group delete'")
        .details(limit(max, actual))
}

fn limit(max: u64, actual: Option<u64>) -> ErrorDetails {
    ErrorDetails {
        limit: Some(max),
        actual,
        ..ErrorDetails::default()
    }
}

fn with_epoch(error: ApiError, epoch: u32) -> ApiError {
    error.details(ErrorDetails {
        member_epoch: Some(epoch),
        ..ErrorDetails::default()
    })
}
