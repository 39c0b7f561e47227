//! Properties of the codec: what is written is read back, and no bytes make it panic.

mod golden;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    option::of(prop_oneof![
        3 => vec(any::<u8>(), 0..80),
        1 => vec(any::<u8>(), 0..20_000),
    ])
    .prop_map(|bytes| bytes.map(Bytes::from))
}

fn any_header() -> impl Strategy<Value = Header> {
    ("\\PC{1,20}", any_bytes()).prop_map(|(key, value)| Header { key, value })
}

fn any_timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        4 => 1_700_000_000_000_i64..1_700_000_100_000,
        1 => any::<i64>(),
        1 => Just(i64::MIN),
        1 => Just(i64::MAX),
        1 => Just(-1),
    ]
    .prop_map(Timestamp)
}

fn any_record() -> impl Strategy<Value = Record> {
    (any_timestamp(), any_bytes(), any_bytes(), vec(any_header(), 0..4)).prop_map(
        |(timestamp, key, value, headers)| Record {
            key,
            value,
            headers,
            timestamp: Some(timestamp),
        },
    )
}

fn any_producer() -> impl Strategy<Value = Option<ProducerFields>> {
    option::of(
        (0..=i64::MAX, 0..=i16::MAX, 0..=i32::MAX).prop_map(|(id, epoch, sequence)| ProducerFields {
            id: ProducerId(id),
            epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
        }),
    )
}

/// Pushes the records and checks on the way that every announced size is exact.
fn build(records: &[Record]) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for record in records {
        let timestamp = record.timestamp.unwrap();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let before = builder.encoded_bytes();
        let announced = builder.encoded_bytes_with(timestamp, key, value, &record.headers);
        builder.push(timestamp, key, value, &record.headers);
        assert_eq!(builder.encoded_bytes(), announced);
        let added = u64::try_from(announced - before).unwrap();
        assert!(added <= record.encoded_bytes_max(), "{record:?}");
    }
    builder
}

fn decode(header: &BatchHeader, batch: &Bytes) -> Vec<Record> {
    Records::new(header, batch)
        .map(|view| view.unwrap().to_record(batch))
        .collect()
}

/// Reads the bytes in every way there is; only a panic or an endless walk can make it fail.
fn read_in_every_way(bytes: &Bytes) {
    let _ = validate(bytes.clone(), u32::MAX);
    if let Ok(header) = BatchHeader::parse(bytes) {
        let _ = check_crc(&header, bytes);
        let _ = (header.last_offset(), header.last_sequence(), header.total_bytes());
        read_records(&header, bytes);
    }
    for cut in Batches::new(bytes.clone()) {
        let Ok((header, batch)) = cut else { continue };
        assert_eq!(u64::try_from(batch.len()).unwrap(), header.total_bytes());
        let _ = check_crc(&header, &batch);
        read_records(&header, &batch);
    }
}

fn read_records(header: &BatchHeader, batch: &Bytes) {
    let mut records = Records::new(header, batch);
    for view in records.by_ref().flatten() {
        assert_eq!(view.headers().len(), usize::try_from(view.header_count).unwrap());
        assert_eq!(view.to_record(batch).headers, view.headers());
    }
    assert_eq!(records.next(), None, "it must stay ended");
}

fn small_batch() -> Bytes {
    let headers = [Header {
        key: "h".to_owned(),
        value: Some(Bytes::from_static(b"w")),
    }];
    let mut builder = BatchBuilder::new();
    builder.push(Timestamp(1_700_000_000_000), Some(b"k"), Some(b"value"), &headers);
    builder.push(Timestamp(1_700_000_000_300), None, None, &[]);
    builder.finish(Some(ProducerFields {
        id: ProducerId(7),
        epoch: ProducerEpoch(1),
        base_sequence: Sequence(3),
    }))
}

proptest! {
    #[test]
    fn encoded_records_are_valid_and_are_read_back(
        records in vec(any_record(), 1..20),
        producer in any_producer(),
    ) {
        let sealed = build(&records).seal(producer);
        let bytes = build(&records).finish(producer);
        prop_assert_eq!(&sealed.to_bytes(), &bytes);
        let validated = validate(bytes.clone(), u32::MAX);
        prop_assert_eq!(validated.as_ref(), Ok(&sealed));
        prop_assert_eq!(decode(sealed.header(), &bytes), records);
        let fields = sealed.header().producer.map(|(id, epoch, base_sequence)| ProducerFields {
            id,
            epoch,
            base_sequence,
        });
        prop_assert_eq!(fields, producer);
        prop_assert_eq!(check_crc(sealed.header(), &bytes), Ok(()));
        for (offset, view) in Records::new(sealed.header(), &bytes).enumerate() {
            prop_assert_eq!(view.unwrap().offset.get(), i64::try_from(offset).unwrap());
        }
    }

    #[test]
    fn stamping_changes_only_offset_and_epoch_and_keeps_the_batch_valid(
        records in vec(any_record(), 1..5),
        base in 0_i64..i64::MAX / 2,
        epoch in any::<i32>(),
    ) {
        let mut sealed = build(&records).seal(None);
        let before = *sealed.header();
        sealed.stamp(Offset::new(base).unwrap(), LeaderEpoch(epoch));
        let bytes = sealed.to_bytes();
        let expected = BatchHeader {
            base_offset: Offset::new(base).unwrap(),
            leader_epoch: LeaderEpoch(epoch),
            ..before
        };
        prop_assert_eq!(sealed.header(), &expected);
        prop_assert_eq!(BatchHeader::parse(&bytes), Ok(expected));
        let validated = validate(bytes.clone(), u32::MAX);
        prop_assert_eq!(validated.as_ref(), Ok(&sealed));
        prop_assert_eq!(sealed.whole_crc(), crc32c(&bytes));
        prop_assert_eq!(outer_crc(sealed.head()), crc32c(&bytes[..21]));
        prop_assert_eq!(usize::try_from(sealed.total_bytes()).unwrap(), bytes.len());
    }

    #[test]
    fn a_concatenation_is_cut_into_its_batches(
        batches in vec(vec(any_record(), 1..4), 0..6),
        lost_bytes in 1_usize..61,
    ) {
        let batches: Vec<Bytes> = batches.iter().map(|records| build(records).finish(None)).collect();
        let all = Bytes::from(batches.concat());
        let cut: Vec<Bytes> = Batches::new(all.clone()).map(|cut| cut.unwrap().1).collect();
        prop_assert_eq!(&cut, &batches);
        let Some((last, whole)) = batches.split_last() else { return Ok(()) };
        let cut: Vec<_> = Batches::new(all.slice(..all.len() - lost_bytes)).collect();
        prop_assert_eq!(cut.len(), batches.len());
        for (cut, batch) in cut.iter().zip(whole) {
            prop_assert_eq!(&cut.as_ref().unwrap().1, batch);
        }
        let actual = u64::try_from(last.len() - lost_bytes).unwrap();
        let expected = if actual < 61 { 61 } else { u64::try_from(last.len()).unwrap() };
        let error = cut.last().unwrap().as_ref().unwrap_err();
        prop_assert_eq!(error, &BatchError::Truncated { expected, actual });
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_in_every_way(&Bytes::from(bytes));
    }

    /// Behind a sound header and with a CRC that fits, so that the walk gets to see the bytes.
    #[test]
    fn arbitrary_records_never_panic(
        body in vec(prop_oneof![0_u8..8, any::<u8>()], 0..200),
        count in 0_u32..20,
    ) {
        let mut bytes = small_batch()[..61].to_vec();
        bytes.extend_from_slice(&body);
        let length = u32::try_from(bytes.len() - 12).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[23..27].copy_from_slice(&count.wrapping_sub(1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        read_in_every_way(&Bytes::from(bytes));
    }

    /// Damaged bytes of a real batch, CRC repaired: close to valid, which random bytes never are.
    #[test]
    fn damaged_batches_never_panic(
        records in vec(any_record(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = build(&records).finish(None).to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        read_in_every_way(&Bytes::from(bytes));
    }
}

#[test]
fn a_batch_stamped_with_a_producer_equals_one_built_with_it() {
    for records in [1, 2, 700] {
        let build = || {
            let mut builder = BatchBuilder::new();
            for i in 0..records {
                builder.push(Timestamp(i), Some(b"key"), Some(b"some value"), &[]);
            }
            builder
        };
        let mut stamped = build().seal(None);
        for (id, epoch, sequence) in [(7, 0, 0), (i64::MAX, i16::MAX, i32::MAX), (8, 1, 2)] {
            let fields = ProducerFields {
                id: ProducerId(id),
                epoch: ProducerEpoch(epoch),
                base_sequence: Sequence(sequence),
            };
            stamped.stamp_producer(fields);
            assert_eq!(stamped, build().seal(Some(fields)));
        }
    }
}

#[test]
fn append_time_is_the_time_of_every_record_and_the_checksum_still_fits() {
    for records in [1, 2, 700] {
        let mut builder = BatchBuilder::new();
        for i in 0..records {
            builder.push(Timestamp(i), None, Some(b"some value"), &[]);
        }
        let mut batch = builder.seal(None);
        for time in [1_700_000_000_000, 0, i64::MAX, -5] {
            batch.stamp_append_time(Timestamp(time));
            let bytes = batch.to_bytes();
            let header = BatchHeader::parse(&bytes).unwrap();
            assert_eq!(header, *batch.header());
            assert_eq!(check_crc(&header, &bytes), Ok(()), "{records} records at {time}");
            assert_eq!(crc32c(&bytes), batch.whole_crc());
            let times: Vec<_> = Records::new(&header, &bytes)
                .map(|r| r.unwrap().timestamp.0)
                .collect();
            assert_eq!(times, vec![time; usize::try_from(records).unwrap()]);
            assert_eq!(batch.records().count(), times.len());
            // Nobody but the broker may hand such a batch in.
            assert_eq!(validate(bytes, u32::MAX), Err(BatchError::TimestampType));
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let good = small_batch();
    let sealed = validate(good.clone(), u32::MAX).unwrap();
    let mut harmless_bits = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let bytes = Bytes::from(bytes);
        match validate(bytes.clone(), u32::MAX) {
            Ok(other) => {
                harmless_bits += 1;
                assert!(
                    matches!(bit / 8, 0..8 | 12..16),
                    "bit {bit} lies in no field that is stamped"
                );
                let expected = BatchHeader {
                    base_offset: other.header().base_offset,
                    leader_epoch: other.header().leader_epoch,
                    ..*sealed.header()
                };
                assert_eq!(other.header(), &expected);
                assert_ne!(other.header(), sealed.header());
                assert_eq!(other.body(), sealed.body());
            }
            Err(BatchError::Crc { stored, computed }) => assert_ne!(stored, computed),
            Err(BatchError::Invalid(_) | BatchError::Truncated { .. }) => {
                assert!(
                    matches!(bit / 8, 0..12 | 16),
                    "bit {bit} is covered by the CRC, which must speak first"
                );
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
    // All bits of base offset and leader epoch but the sign of the base offset.
    assert_eq!(harmless_bits, 95);
}

#[test]
fn every_truncation_of_a_batch_is_an_error() {
    let good = small_batch();
    for length in 0..good.len() {
        let actual = u64::try_from(length).unwrap();
        let expected = if length < HEADER_BYTES {
            61
        } else {
            u64::try_from(good.len()).unwrap()
        };
        let error = BatchError::Truncated { expected, actual };
        let bytes = good.slice(..length);
        assert_eq!(validate(bytes.clone(), u32::MAX), Err(error.clone()));
        let cut: Vec<_> = Batches::new(bytes).collect();
        assert_eq!(cut, if length == 0 { vec![] } else { vec![Err(error)] });
    }
}

#[test]
fn owned_records_share_the_bytes_of_their_batch() {
    let batch = small_batch();
    let header = BatchHeader::parse(&batch).unwrap();
    let record = Records::new(&header, &batch)
        .next()
        .unwrap()
        .unwrap()
        .to_record(&batch);
    let range = batch.as_ptr_range();
    for part in [record.key, record.value, record.headers[0].value.clone()] {
        assert!(range.contains(&part.unwrap().as_ptr()));
    }
    let (_, cut) = Batches::new(batch.clone()).next().unwrap().unwrap();
    assert_eq!(cut.as_ptr(), batch.as_ptr());
    let sealed = validate(batch.clone(), u32::MAX).unwrap();
    assert_eq!(sealed.body().as_ptr(), batch[61..].as_ptr());
}

/// A stored batch of any origin: the header is changed and the records are given, each as the bytes behind its length.
fn stored(last_offset_delta: u32, attributes: u16, records: &[&[u8]]) -> (BatchHeader, Bytes) {
    let mut bytes = small_batch()[..HEADER_BYTES].to_vec();
    for record in records {
        bytes.push(u8::try_from(record.len() * 2).unwrap());
        bytes.extend_from_slice(record);
    }
    let length = u32::try_from(bytes.len() - 12).unwrap();
    bytes[..8].copy_from_slice(&100_i64.to_be_bytes());
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    bytes[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    bytes[57..61].copy_from_slice(&u32::try_from(records.len()).unwrap().to_be_bytes());
    let bytes = Bytes::from(bytes);
    (BatchHeader::parse(&bytes).unwrap(), bytes)
}

#[test]
fn compacted_batches_are_read_with_their_gaps() {
    let third = [0, 0, 4, 1, 1, 0];
    let eighth = [0, 0, 14, 1, 1, 0];
    let (header, batch) = stored(9, 0, &[&third, &eighth]);
    let offsets: Vec<i64> = Records::new(&header, &batch)
        .map(|view| view.unwrap().offset.get())
        .collect();
    assert_eq!(offsets, [102, 107]);
    assert_eq!(header.last_offset().get(), 109);
    let (header, batch) = stored(9, 0, &[]);
    assert_eq!(Records::new(&header, &batch).next(), None);
}

#[test]
fn control_batches_and_empty_header_keys_of_others_are_read() {
    let marker = [0, 0, 0, 4, b'k', b'k', 1, 2, 0, 1];
    let (header, batch) = stored(0, 0b11_0000, &[&marker]);
    let view = Records::new(&header, &batch).next().unwrap().unwrap();
    assert_eq!(view.key, Some(&b"kk"[..]));
    let expected = Header {
        key: String::new(),
        value: None,
    };
    assert_eq!(view.headers(), [expected]);
}

#[test]
fn records_of_append_time_batches_have_the_greatest_time() {
    let late = [0, 100, 0, 1, 1, 0];
    let (header, batch) = stored(0, 0, &[&late]);
    let view = Records::new(&header, &batch).next().unwrap().unwrap();
    assert_eq!(view.timestamp, Timestamp(1_700_000_000_050));
    let (header, batch) = stored(0, 1 << 3, &[&late]);
    let view = Records::new(&header, &batch).next().unwrap().unwrap();
    assert_eq!(view.timestamp, Timestamp(1_700_000_000_300));
}

#[test]
fn reading_ends_after_the_first_error() {
    let sound = [0, 0, 0, 1, 1, 0];
    let malformed = [0, 0, 2, 1, 1];
    let outside = [0, 0, 2, 1, 1, 0];
    let before = [0, 0, 1, 1, 1, 0];
    for (bad, what) in [
        (&malformed[..], "its header count is malformed or negative"),
        (&outside, "its offset lies outside of the batch"),
        (&before, "its offset lies outside of the batch"),
    ] {
        let (header, batch) = stored(0, 0, &[&sound, bad, &sound]);
        let read: Vec<_> = Records::new(&header, &batch).collect();
        assert_eq!(read.len(), 2);
        assert!(read[0].is_ok());
        let what = what.to_owned();
        assert_eq!(read[1], Err(BatchError::Record { index: 1, what }));
    }
    let (mut header, batch) = stored(0, 0, &[&sound, &sound]);
    header.count = 1;
    let read: Vec<_> = Records::new(&header, &batch).skip(1).collect();
    let what = "7 bytes follow the last record of the batch".to_owned();
    assert_eq!(read, [Err(BatchError::Invalid(what))]);
}

#[test]
fn a_batch_is_checked_against_its_crc_without_what_follows_it() {
    let batch = small_batch();
    let header = BatchHeader::parse(&batch).unwrap();
    let two = [&batch[..], &batch[..]].concat();
    assert_eq!(check_crc(&header, &two), Ok(()));
    let short = BatchError::Truncated {
        expected: header.total_bytes(),
        actual: header.total_bytes() - 1,
    };
    assert_eq!(check_crc(&header, &batch[..batch.len() - 1]), Err(short));
    let mut damaged = batch.to_vec();
    damaged[30] ^= 4;
    let computed = crc32c(&damaged[21..]);
    let stored = header.crc;
    assert_eq!(
        check_crc(&header, &damaged),
        Err(BatchError::Crc { stored, computed })
    );
}
