//! What was acknowledged against what was found. Pure bookkeeping: every record of the demo has a number.

use std::collections::BTreeMap;

use crate::model::{Offset, PartitionId};

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its partition.
    pub(crate) partition: PartitionId,
    /// Its offset.
    pub(crate) offset: Offset,
}

/// A record that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it was.
    pub(crate) place: Place,
    /// Its number; `None` if it is none of ours.
    pub(crate) number: Option<usize>,
    /// Key and value are what was sent under this number.
    pub(crate) as_sent: bool,
}

/// How the two compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Tally {
    /// Records that were sent.
    pub(crate) sent: usize,
    /// Of these, acknowledged.
    pub(crate) acknowledged: usize,
    /// Records that were read back.
    pub(crate) found: usize,
    /// Acknowledged and not found.
    pub(crate) missing: usize,
    /// Found more than once.
    pub(crate) duplicated: usize,
    /// Found elsewhere than where they were acknowledged.
    pub(crate) moved: usize,
    /// Found with another key or value, or not ours at all.
    pub(crate) changed: usize,
    /// Found behind a record of the same partition that was sent later.
    pub(crate) out_of_order: usize,
    /// Found although nobody acknowledged them: allowed, their fate was unknown.
    pub(crate) unacknowledged: usize,
}

impl Tally {
    /// Everything was acknowledged, and every acknowledged record is there once, in its place, in order, as it was sent.
    pub(crate) fn agrees(&self) -> bool {
        self.acknowledged == self.sent
            && self.missing + self.duplicated + self.moved + self.changed + self.out_of_order == 0
    }
}

/// Compares. `found` is in offset order within each partition.
pub(crate) fn compare(acknowledged: &[Option<Place>], found: &[Found]) -> Tally {
    let mut tally = Tally {
        sent: acknowledged.len(),
        acknowledged: acknowledged.iter().flatten().count(),
        found: found.len(),
        ..Tally::default()
    };
    let mut seen = vec![0_u32; acknowledged.len()];
    let mut in_place = vec![false; acknowledged.len()];
    let mut newest: BTreeMap<PartitionId, usize> = BTreeMap::new();
    for record in found {
        let Some(number) = record.number.filter(|n| *n < acknowledged.len()) else {
            tally.changed += 1;
            continue;
        };
        seen[number] += 1;
        if !record.as_sent {
            tally.changed += 1;
        }
        in_place[number] |= acknowledged[number] == Some(record.place);
        let newest = newest.entry(record.place.partition).or_insert(number);
        // A second copy is told as a duplicate, not as out of order as well.
        if number < *newest && seen[number] == 1 {
            tally.out_of_order += 1;
        }
        *newest = number.max(*newest);
    }
    for (number, place) in acknowledged.iter().enumerate() {
        match (place, seen[number]) {
            (Some(_), 0) => tally.missing += 1,
            (None, 0) => {}
            (None, copies) => {
                tally.unacknowledged += 1;
                tally.duplicated += usize::from(copies > 1);
            }
            (Some(_), copies) => {
                tally.duplicated += usize::from(copies > 1);
                tally.moved += usize::from(!in_place[number]);
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: u32, offset: i64) -> Place {
        Place {
            partition: PartitionId(partition),
            offset: Offset::new(offset).unwrap(),
        }
    }

    fn found(number: usize, partition: u32, offset: i64) -> Found {
        Found {
            place: place(partition, offset),
            number: Some(number),
            as_sent: true,
        }
    }

    fn acknowledged() -> Vec<Option<Place>> {
        vec![Some(place(0, 0)), Some(place(1, 0)), Some(place(0, 1))]
    }

    fn whole() -> Vec<Found> {
        vec![found(0, 0, 0), found(2, 0, 1), found(1, 1, 0)]
    }

    #[test]
    fn what_was_acknowledged_and_found_agrees() {
        let tally = compare(&acknowledged(), &whole());
        assert!(tally.agrees(), "{tally:?}");
        assert_eq!((tally.acknowledged, tally.found), (3, 3));
    }

    #[test]
    fn every_kind_of_disagreement_is_counted_and_fails() {
        type Count = fn(&Tally) -> usize;
        let cases: [(Vec<Found>, Count, &str); 6] = [
            (whole()[..2].to_vec(), |t| t.missing, "missing"),
            (
                [whole(), vec![found(1, 1, 1)]].concat(),
                |t| t.duplicated,
                "duplicated",
            ),
            (
                vec![found(0, 0, 0), found(2, 0, 1), found(1, 2, 0)],
                |t| t.moved,
                "moved",
            ),
            (
                vec![
                    Found {
                        as_sent: false,
                        ..found(0, 0, 0)
                    },
                    found(2, 0, 1),
                    found(1, 1, 0),
                ],
                |t| t.changed,
                "changed",
            ),
            (
                [
                    whole(),
                    vec![Found {
                        number: None,
                        ..found(9, 2, 0)
                    }],
                ]
                .concat(),
                |t| t.changed,
                "strange",
            ),
            (
                vec![found(2, 0, 0), found(0, 0, 1), found(1, 1, 0)],
                |t| t.out_of_order,
                "order",
            ),
        ];
        for (records, count, name) in cases {
            let tally = compare(&acknowledged(), &records);
            assert_eq!(count(&tally), 1, "{name}: {tally:?}");
            assert!(!tally.agrees(), "{name}");
        }
    }

    #[test]
    fn an_unacknowledged_record_may_be_found_but_fails_the_demo_because_it_was_to_be_acknowledged() {
        let mut places = acknowledged();
        places[1] = None;
        let tally = compare(&places, &whole());
        assert_eq!((tally.unacknowledged, tally.missing, tally.moved), (1, 0, 0));
        assert!(!tally.agrees());
    }
}
