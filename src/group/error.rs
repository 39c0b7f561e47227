//! Why a command is refused.

use super::config::GroupConfigError;
use super::members::{PATTERNS_MAX, SUBSCRIBED_TOPICS_MAX};
use crate::model::{InvalidGroupId, InvalidMemberId, InvalidTopicName, ProducerEpoch, Sequence};

/// Why something is refused. `index` is the place in the command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The group id is not allowed.
    #[error("{0}")]
    Id(#[from] InvalidGroupId),
    /// A partition comes twice: which of the two offsets is meant cannot be known.
    #[error("a partition comes a second time")]
    Twice {
        /// The second place.
        index: usize,
    },
    /// Too much metadata.
    #[error("{bytes} bytes of metadata, at most {max} are allowed")]
    MetadataTooLarge {
        /// Where.
        index: usize,
        /// What was sent.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// No more groups.
    #[error("there are {max} groups, which is the limit")]
    TooManyGroups {
        /// The limit.
        max: usize,
    },
    /// No more offsets in this group.
    #[error("the group would have {would_be} committed offsets, at most {max} are allowed")]
    TooManyOffsets {
        /// With this commit.
        would_be: usize,
        /// The limit.
        max: usize,
    },
    /// Nobody with this id is in the group.
    #[error("member {member} is not in the group: its session has ended, or it has left or was removed")]
    UnknownMember {
        /// Who asked.
        member: String,
    },
    /// The epoch is behind the member's.
    #[error("member epoch {got} is over, the member is in {current}: a heartbeat tells what has changed")]
    StaleEpoch {
        /// The member's.
        current: u32,
        /// What was sent.
        got: u32,
    },
    /// The epoch is ahead of the member's, or the member thinks that it holds what it does not.
    #[error(
        "a member that knew what it may do would not ask this in member epoch {got}; the member is in {current}"
    )]
    FencedEpoch {
        /// The member's.
        current: u32,
        /// What was sent.
        got: u32,
    },
    /// A partition that the member does not hold.
    #[error("the member does not hold this partition")]
    NotHeld {
        /// Where.
        index: usize,
        /// The member's epoch.
        current: u32,
    },
    /// Another member has the instance id now.
    #[error("another member has taken the place of instance {instance}")]
    FencedInstance {
        /// The instance id.
        instance: String,
    },
    /// There is no such group.
    #[error("there is no group {group}")]
    UnknownGroup {
        /// What was asked for.
        group: String,
    },
    /// The group has members.
    #[error("the group has {members} members")]
    NotEmpty {
        /// How many.
        members: usize,
    },
    /// The proposal cannot be taken.
    #[error("the proposed assignment is refused: {reason}")]
    InvalidAssignment {
        /// Why.
        reason: String,
    },
    /// No more members in this group.
    #[error("the group has {max} members, which is the limit")]
    GroupFull {
        /// The limit.
        max: usize,
    },
    /// No more members in all.
    #[error("all groups together have {max} members, which is the limit")]
    TooManyMembers {
        /// The limit.
        max: usize,
    },
    /// The member id is not allowed.
    #[error("member id: {0}")]
    MemberId(InvalidMemberId),
    /// The instance id is not allowed.
    #[error("instance id: {0}")]
    InstanceId(InvalidMemberId),
    /// A topic name in a subscription is not allowed.
    #[error("subscription: {0}")]
    TopicName(InvalidTopicName),
    /// A pattern in a subscription is empty or longer than any name.
    #[error("subscription: a pattern has 1 to 200 bytes, this one has {bytes}")]
    Pattern {
        /// Its length.
        bytes: usize,
    },
    /// A member that joins wants to read nothing.
    #[error("a member that joins says which topics or patterns it subscribes to, one at least")]
    NoSubscription,
    /// A subscription with too much in it.
    #[error(
        "a subscription has at most {SUBSCRIBED_TOPICS_MAX} topics and {PATTERNS_MAX} patterns, this one has {topics} and {patterns}"
    )]
    SubscriptionTooLarge {
        /// Topics.
        topics: usize,
        /// Patterns.
        patterns: usize,
    },
    /// Too many different patterns in one group.
    #[error("the members of the group would subscribe to {would_be} patterns, at most {max} are allowed")]
    TooManyPatterns {
        /// With this subscription.
        would_be: usize,
        /// The limit.
        max: usize,
    },
    /// Too long words of a client about itself.
    #[error("a client id has at most 256 bytes, this one has {bytes}")]
    ClientIdTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A setting is refused.
    #[error(transparent)]
    Config(#[from] GroupConfigError),
    /// No more state in all.
    #[error("the members and offsets of all groups would take {would_be} bytes, at most {max} are allowed")]
    StateFull {
        /// With this command.
        would_be: u64,
        /// The limit.
        max: u64,
    },
    /// A newer epoch of the producer has stepped.
    #[error("producer epoch {got} is over, the newest is {current}")]
    StaleProducer {
        /// The newest.
        current: ProducerEpoch,
        /// What was sent.
        got: ProducerEpoch,
    },
    /// A step that does not follow the one before it.
    #[error("the next step of this producer has sequence {expected}, not {got}")]
    StepOutOfOrder {
        /// What would be right.
        expected: Sequence,
        /// What was sent.
        got: Sequence,
    },
    /// A step with too many appends.
    #[error("a step of {appends} appends, at most {max} are allowed")]
    TooManyAppends {
        /// What was sent.
        appends: usize,
        /// The limit.
        max: usize,
    },
}
