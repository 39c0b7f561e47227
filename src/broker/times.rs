//! Times of records as a topic wants them: how far a producer's clock may be off, and the broker's time instead.

use super::errors;
use crate::api::ApiError;
use crate::model::{Timestamp, TimestampType, TopicConfig};
use crate::record::{SealedBatch, TimedRecord};

/// Kafka's word for "no time": a producer may send it, and no limit applies to it.
pub(super) const NO_TIME: Timestamp = Timestamp(-1);

/// Which side of the broker's clock a timestamp lies on, and how far, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    Behind(u64),
    Ahead(u64),
}

/// A record whose time is too far off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFarOff {
    /// Index in its batch, from 0.
    pub(super) record: u32,
    pub(super) timestamp: Timestamp,
    pub(super) off: Off,
    /// What the topic allows in this direction, in ms.
    pub(super) max_ms: u64,
}

/// Checks the times of a batch against the topic's limits, if they are the producer's.
pub(super) fn check(config: &TopicConfig, now: Timestamp, batch: &SealedBatch) -> Result<(), ApiError> {
    if config.timestamp_type == TimestampType::LogAppendTime {
        return Ok(());
    }
    // The greatest time is in the header. Only a limit on the other side asks for a look at every record.
    let newest = batch.header().max_timestamp;
    if config.timestamp_before_max_ms.is_none() && judge(config, now, newest).is_ok() {
        return Ok(());
    }
    if let Some(extremes) = batch.extremes() {
        return extremes
            .into_iter()
            .try_for_each(|record| judge_record(config, now, record));
    }
    for (index, record) in (0_u32..).zip(batch.records()) {
        let timestamp = record.map_err(|bad| errors::bad_batch(&bad))?.timestamp;
        judge_record(config, now, TimedRecord { index, timestamp })?;
    }
    Ok(())
}

fn judge_record(config: &TopicConfig, now: Timestamp, record: TimedRecord) -> Result<(), ApiError> {
    let TimedRecord { index, timestamp } = record;
    judge(config, now, timestamp).map_err(|(off, max_ms)| {
        errors::time_too_far_off(&TooFarOff {
            record: index,
            timestamp,
            off,
            max_ms,
        })
    })
}

/// Whether one timestamp is near enough; otherwise how far it is off, and what is allowed.
fn judge(config: &TopicConfig, now: Timestamp, timestamp: Timestamp) -> Result<(), (Off, u64)> {
    if timestamp == NO_TIME {
        return Ok(());
    }
    let apart = now.0.abs_diff(timestamp.0);
    let (off, max) = if timestamp > now {
        (Off::Ahead(apart), config.timestamp_after_max_ms)
    } else {
        (Off::Behind(apart), config.timestamp_before_max_ms)
    };
    match max {
        Some(max) if apart > max => Err((off, max)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorCode;
    use crate::record::{BatchBuilder, Codec, validate};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn batch(times: &[i64]) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        for time in times {
            builder.push(Timestamp(*time), None, Some(b"v"), &[]);
        }
        builder.seal(None)
    }

    fn limits(before: Option<u64>, after: Option<u64>) -> TopicConfig {
        TopicConfig {
            timestamp_before_max_ms: before,
            timestamp_after_max_ms: after,
            ..TopicConfig::default()
        }
    }

    #[test]
    fn a_compressed_batch_is_judged_by_its_least_and_greatest_time() {
        let config = limits(Some(60_000), Some(5000));
        let compressed = |times: &[i64]| {
            let mut builder = BatchBuilder::new();
            for time in times {
                builder.push(Timestamp(*time), None, Some(&[b'v'; 200]), &[]);
            }
            let batch = builder.compressed(Codec::Lz4).finish(None);
            validate(batch, u32::MAX).unwrap()
        };
        let fine = compressed(&[NOW.0, -1, NOW.0 - 60_000, NOW.0 + 5000]);
        assert_eq!(Codec::of(fine.header()), Ok(Codec::Lz4));
        assert_eq!(check(&config, NOW, &fine), Ok(()));
        let late = check(&config, NOW, &compressed(&[NOW.0, NOW.0, NOW.0 - 60_001])).unwrap_err();
        assert!(late.message.contains("record 2"), "{}", late.message);
        let ahead = check(&config, NOW, &compressed(&[NOW.0, NOW.0 + 5001, NOW.0])).unwrap_err();
        assert!(ahead.message.contains("record 1"), "{}", ahead.message);
    }

    #[test]
    fn limits_are_exact_and_the_error_names_record_and_distance() {
        let config = limits(Some(60_000), Some(5000));
        let fine = batch(&[NOW.0 - 60_000, NOW.0, NOW.0 + 5000, -1]);
        assert_eq!(check(&config, NOW, &fine), Ok(()));
        let ahead = check(&config, NOW, &batch(&[NOW.0, NOW.0 + 5001])).unwrap_err();
        assert_eq!(ahead.code, ErrorCode::InvalidTimestamp);
        assert!(ahead.message.contains("record 1"), "{}", ahead.message);
        assert!(
            ahead.message.contains("5001ms ahead of the broker's clock"),
            "{}",
            ahead.message
        );
        assert!(ahead.message.contains("5s"), "{}", ahead.message);
        assert_eq!(
            (ahead.details.limit, ahead.details.actual),
            (Some(5000), Some(5001))
        );
        let behind = check(&config, NOW, &batch(&[NOW.0, NOW.0, NOW.0 - 60_001])).unwrap_err();
        assert!(behind.message.contains("record 2"), "{}", behind.message);
        assert!(behind.message.contains("60001ms behind"), "{}", behind.message);
        assert_eq!(
            behind.details.field.as_deref(),
            Some("message.timestamp.before.max.ms")
        );
    }

    #[test]
    fn without_limits_any_time_goes_and_the_brokers_own_time_has_none() {
        let wild = batch(&[i64::MIN, i64::MAX]);
        assert_eq!(check(&limits(None, None), NOW, &wild), Ok(()));
        assert!(check(&limits(None, Some(1)), NOW, &wild).is_err());
        assert!(check(&limits(Some(1), None), NOW, &wild).is_err());
        let appended = TopicConfig {
            timestamp_type: TimestampType::LogAppendTime,
            ..limits(Some(0), Some(0))
        };
        assert_eq!(check(&appended, NOW, &wild), Ok(()));
    }
}
