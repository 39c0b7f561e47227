//! Identities: topics, partitions, brokers, producers and their fencing numbers.

use std::fmt;

use uuid::Uuid;

/// Identity of a topic; its name is an alias. A topic created again under an old name has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(Uuid);

impl TopicId {
    /// The internal topic `__meta`, which has one partition.
    pub const META: Self = Self(Uuid::from_u128(1));

    /// The internal topic `__groups`, which has one partition.
    pub const GROUPS: Self = Self(Uuid::from_u128(2));

    /// The id with these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id in a slice of exactly 16 bytes, otherwise `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self)
    }

    /// The 16 bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Ids below 2^16 are the broker's own topics.
    pub const fn is_internal(&self) -> bool {
        self.0.as_u128() < 1 << 16
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a partition in its topic, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a partition. Ordered by (topic id, index): the order in which locks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The topic.
    pub topic: TopicId,
    /// The index in it.
    pub partition: PartitionId,
}

impl PartitionKey {
    /// The only partition of `__meta`.
    pub const META: Self = Self {
        topic: TopicId::META,
        partition: PartitionId(0),
    };

    /// The only partition of `__groups`.
    pub const GROUPS: Self = Self {
        topic: TopicId::GROUPS,
        partition: PartitionId(0),
    };
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Number of a broker in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub u32);

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a client's connection in this run of the broker; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fencing number of the broker that sequences a partition; grows with every start. Fits 31 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaderEpoch(pub i32);

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of an idempotent producer; not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fencing number of an idempotent producer; not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProducerEpoch(pub i16);

impl fmt::Display for ProducerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a record in the stream of one producer to one partition: 0 to `i32::MAX`, then 0 again.
/// Source: KIP-98.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence(pub i32);

impl Sequence {
    /// The first of a producer epoch.
    pub const ZERO: Self = Self(0);

    /// The sequence `count` records later, wrapping behind `i32::MAX`.
    pub const fn plus(self, count: u32) -> Self {
        #[expect(clippy::cast_sign_loss, reason = "sequences are not negative")]
        let sum = (self.0 as u64).wrapping_add(count as u64);
        let wrapped = (sum % (1 << 31)) as i32;
        Self(wrapped)
    }

    /// The sequence that follows this one.
    pub const fn next(self) -> Self {
        self.plus(1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_from_the_largest_to_zero() {
        assert_eq!(Sequence(i32::MAX).next(), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(4), Sequence(2));
        assert_eq!(Sequence(7).plus(0), Sequence(7));
    }

    #[test]
    fn internal_ids_are_small() {
        assert!(TopicId::META.is_internal() && TopicId::GROUPS.is_internal());
        assert!(!TopicId::from_bytes([1; 16]).is_internal());
        assert_eq!(TopicId::from_slice(&[1; 15]), None);
    }
}
