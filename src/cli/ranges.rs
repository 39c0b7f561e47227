//! From what was written behind `-o` to offsets of each partition: asks the broker for what it takes, no more.

use super::failure::Stopped;
use super::offset_range::{Begin, OffsetRange, Time, Until};
use crate::client::{Client, OffsetSpec, Start};
use crate::model::{Offset, PartitionId};
use crate::rt::{Clock as _, SystemClock};

/// What is to be read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) partition: PartitionId,
    pub(crate) start: Start,
    /// Exclusive; `None`: for ever.
    pub(crate) end: Option<Offset>,
}

/// What the broker says of one partition.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    earliest: Offset,
    latest: Offset,
    /// Where the times begin that the range names.
    begin_at: Offset,
    until_at: Offset,
}

/// Turns a range into offsets of these partitions. Those with nothing to read are left out if reading ends.
pub(crate) async fn resolve(
    client: &Client,
    topic: &str,
    partitions: &[u32],
    range: OffsetRange,
    exit_at_end: bool,
) -> Result<Vec<Range>, Stopped> {
    let ends = exit_at_end || range.until != Until::Forever;
    let simple = match range.begin {
        Begin::Start => Some(Start::Earliest),
        Begin::End => Some(Start::Latest),
        Begin::At(offset) => Some(Start::Offset(offset)),
        Begin::AfterStart(_) | Begin::BeforeEnd(_) | Begin::Time(_) => None,
    };
    if let Some(start) = simple.filter(|_| !ends) {
        let forever = |partition: &u32| Range {
            partition: PartitionId(*partition),
            start,
            end: None,
        };
        return Ok(partitions.iter().map(forever).collect());
    }
    let known = ask(client, topic, partitions, range).await?;
    let ranges = partitions.iter().zip(known).filter_map(|(partition, known)| {
        let first = first_of(range.begin, &known);
        let end = end_of(range.until, exit_at_end, &known);
        end.is_none_or(|end| first < end).then_some(Range {
            partition: PartitionId(*partition),
            start: Start::Offset(first),
            end,
        })
    });
    Ok(ranges.collect())
}

/// Where reading one partition begins.
pub(crate) async fn resolve_begin(
    client: &Client,
    topic: &str,
    partition: u32,
    begin: Begin,
) -> Result<Offset, Stopped> {
    if let Begin::At(offset) = begin {
        return Ok(offset);
    }
    let range = OffsetRange {
        begin,
        until: Until::Forever,
    };
    let known = ask(client, topic, &[partition], range).await?;
    Ok(known.first().map_or(Offset::ZERO, |known| first_of(begin, known)))
}

async fn ask(
    client: &Client,
    topic: &str,
    partitions: &[u32],
    range: OffsetRange,
) -> Result<Vec<Known>, Stopped> {
    let mut known = vec![Known::default(); partitions.len()];
    let now = SystemClock::new().wall();
    let at = |time: Time| OffsetSpec::AtTimestamp(time.resolve(now));
    let begin_at = match range.begin {
        Begin::Time(time) => Some(at(time)),
        _ => None,
    };
    let until_at = match range.until {
        Until::Time(time) => Some(at(time)),
        _ => None,
    };
    // The ends come first: what is appended meanwhile lies behind them in any case.
    type Slot = fn(&mut Known) -> &mut Offset;
    let wanted: [(Option<OffsetSpec>, Slot); 4] = [
        (Some(OffsetSpec::Latest), |known| &mut known.latest),
        (until_at, |known| &mut known.until_at),
        (Some(OffsetSpec::Earliest), |known| &mut known.earliest),
        (begin_at, |known| &mut known.begin_at),
    ];
    for (spec, slot) in wanted {
        let Some(spec) = spec else { continue };
        let listed = client.list_offsets(topic, partitions, spec).await?;
        for (known, offset) in known.iter_mut().zip(listed) {
            *slot(known) = offset?;
        }
    }
    Ok(known)
}

fn first_of(begin: Begin, known: &Known) -> Offset {
    match begin {
        Begin::Start => known.earliest,
        Begin::End => known.latest,
        Begin::At(offset) => offset,
        // As far as there is anything: who asks for the last ten of three gets three.
        Begin::AfterStart(count) => {
            let first = known.earliest.checked_add(count).unwrap_or(known.latest);
            first.min(known.latest)
        }
        Begin::BeforeEnd(count) => {
            let first = Offset::new(known.latest.get() - i64::from(count));
            first.unwrap_or(Offset::ZERO).max(known.earliest)
        }
        Begin::Time(_) => known.begin_at,
    }
}

fn end_of(until: Until, exit_at_end: bool, known: &Known) -> Option<Offset> {
    match until {
        Until::Forever => exit_at_end.then_some(known.latest),
        Until::End => Some(known.latest),
        Until::Offset(end) if exit_at_end => Some(end.min(known.latest)),
        Until::Offset(end) => Some(end),
        Until::Time(_) => Some(known.until_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn o(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn known() -> Known {
        Known {
            earliest: o(10),
            latest: o(20),
            begin_at: o(13),
            until_at: o(17),
        }
    }

    #[test]
    fn counts_are_cut_at_what_there_is() {
        for (begin, first) in [
            (Begin::Start, 10),
            (Begin::End, 20),
            (Begin::At(o(3)), 3),
            (Begin::AfterStart(0), 10),
            (Begin::AfterStart(4), 14),
            (Begin::AfterStart(u32::MAX), 20),
            (Begin::BeforeEnd(0), 20),
            (Begin::BeforeEnd(4), 16),
            (Begin::BeforeEnd(u32::MAX), 10),
            (Begin::Time(Time::FromNow(0)), 13),
        ] {
            assert_eq!(first_of(begin, &known()), o(first), "{begin:?}");
        }
    }

    #[test]
    fn an_offset_as_the_end_is_waited_for_unless_told_otherwise() {
        for (until, exit, end) in [
            (Until::Forever, false, None),
            (Until::Forever, true, Some(20)),
            (Until::End, false, Some(20)),
            (Until::Offset(o(15)), false, Some(15)),
            (Until::Offset(o(99)), false, Some(99)),
            (Until::Offset(o(99)), true, Some(20)),
            (Until::Time(Time::FromNow(0)), false, Some(17)),
        ] {
            assert_eq!(end_of(until, exit, &known()), end.map(o), "{until:?}, {exit}");
        }
    }
}
