//! Every rule broken once, with the exact error; and that what the rules allow is accepted.

use super::*;
use crate::model::{ProducerEpoch, ProducerId, Sequence};
use crate::record::{BatchBuilder, Header, ProducerFields, crc32c};

const BASE: i64 = 1_700_000_000_000;

/// Three records; producer 7, epoch 1, sequence 3. The second has the greatest time, the third has two headers.
fn good() -> Vec<u8> {
    let headers = [header("h", Some(b"w")), header("n", None)];
    let mut builder = BatchBuilder::new();
    builder.push(Timestamp(BASE), Some(b"k"), Some(b"v"), &[]);
    builder.push(Timestamp(BASE + 20), None, Some(b"w"), &[]);
    builder.push(Timestamp(BASE + 10), None, None, &headers);
    let producer = ProducerFields {
        id: ProducerId(7),
        epoch: ProducerEpoch(1),
        base_sequence: Sequence(3),
    };
    builder.finish(Some(producer)).to_vec()
}

fn header(key: &str, value: Option<&'static [u8]>) -> Header {
    Header {
        key: key.to_owned(),
        value: value.map(Bytes::from_static),
    }
}

/// Makes length and CRC fit again, so that only the rule under test is broken.
fn repair(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// A batch without producer of these records, each given as the bytes behind its length.
fn batch_of(records: &[&[u8]]) -> Vec<u8> {
    let mut bytes = good()[..61].to_vec();
    for record in records {
        assert!(record.len() < 64, "the length must fit one byte");
        bytes.push(u8::try_from(record.len() * 2).unwrap());
        bytes.extend_from_slice(record);
    }
    let count = u32::try_from(records.len()).unwrap();
    put(&mut bytes, 23, &(count.saturating_sub(1)).to_be_bytes());
    put(&mut bytes, 35, &BASE.to_be_bytes());
    put(&mut bytes, 57, &count.to_be_bytes());
    repair(&mut bytes);
    bytes
}

fn check(bytes: Vec<u8>) -> Result<SealedBatch, BatchError> {
    validate(Bytes::from(bytes), 1_048_588)
}

fn invalid(what: &str) -> BatchError {
    BatchError::Invalid(what.to_owned())
}

fn record(index: u32, what: &str) -> BatchError {
    BatchError::Record {
        index,
        what: what.to_owned(),
    }
}

#[test]
fn the_undamaged_batch_is_accepted() {
    let sealed = check(good()).unwrap();
    assert_eq!(sealed.to_bytes(), good());
    assert_eq!(sealed.header().count, 3);
    assert_eq!(sealed.header().max_timestamp, Timestamp(BASE + 20));
}

#[test]
fn the_limit_on_the_size_is_inclusive() {
    let bytes = Bytes::from(good());
    let size = u32::try_from(bytes.len()).unwrap();
    assert_eq!(validate(bytes.clone(), size).unwrap().total_bytes(), size);
    let too_large = BatchError::TooLarge {
        actual: u64::from(size),
        max: u64::from(size - 1),
    };
    assert_eq!(validate(bytes, size - 1), Err(too_large));
}

#[test]
fn bytes_that_are_not_exactly_one_batch_are_refused() {
    let size = u64::try_from(good().len()).unwrap();
    let two = [good(), good()].concat();
    assert_eq!(
        check(two),
        Err(invalid(&format!(
            "the batch has {size} bytes, {} were sent: exactly one batch is expected",
            2 * size
        )))
    );
    let mut cut = good();
    cut.pop();
    let truncated = BatchError::Truncated {
        expected: size,
        actual: size - 1,
    };
    assert_eq!(check(cut), Err(truncated));
    let no_header = BatchError::Truncated {
        expected: 61,
        actual: 60,
    };
    assert_eq!(check(good()[..60].to_vec()), Err(no_header));
    for length in [48, 0, -1, i32::MIN] {
        let mut bytes = good();
        put(&mut bytes, 8, &length.to_be_bytes());
        let what = format!("the length field says that {length} bytes follow, the header alone has 49");
        assert_eq!(check(bytes), Err(invalid(&what)));
    }
    let mut bytes = good();
    put(&mut bytes, 8, &i32::MAX.to_be_bytes());
    let truncated = BatchError::Truncated {
        expected: u64::from(i32::MAX.cast_unsigned()) + 12,
        actual: size,
    };
    assert_eq!(check(bytes), Err(truncated));
}

#[test]
fn other_format_versions_are_refused() {
    for magic in [0_u8, 1, 3, 255] {
        let mut bytes = good();
        bytes[16] = magic;
        let what = format!("the batch has format version (magic) {magic}, only 2 is supported");
        assert_eq!(check(bytes), Err(invalid(&what)));
    }
}

#[test]
fn a_false_crc_is_told_before_any_rule_under_it() {
    let mut bytes = good();
    let stored = crc32c(&bytes[21..]);
    // Attributes, count and records make no sense any more.
    bytes[21..].fill(0xff);
    let computed = crc32c(&bytes[21..]);
    assert_eq!(check(bytes), Err(BatchError::Crc { stored, computed }));
}

#[test]
fn attributes_that_only_the_broker_sets_or_nobody_knows_are_refused() {
    let unknown = |attributes: u16| {
        invalid(&format!(
            "the batch has attributes {attributes:#06x}, of which bits 6 to 15 must be clear"
        ))
    };
    let control = || invalid("the batch is a control batch, which only the broker may write");
    let mut cases = vec![
        (5, BatchError::Compression(5)),
        (6, BatchError::Compression(6)),
        (7, BatchError::Compression(7)),
        (1 << 3, BatchError::TimestampType),
        (1 << 4, BatchError::Transactional),
        (1 << 5, control()),
        // A control batch of a transaction is a control batch; compression is told last.
        (1 << 5 | 1 << 4, control()),
        (1 << 4 | 4, BatchError::Transactional),
    ];
    cases.extend((6..16).map(|bit| (1 << bit, unknown(1 << bit))));
    for (attributes, error) in cases {
        let mut bytes = good();
        put(&mut bytes, 21, &u16::to_be_bytes(attributes));
        repair(&mut bytes);
        assert_eq!(check(bytes), Err(error), "{attributes:#06x}");
    }
}

#[test]
fn negative_fields_of_the_header_are_refused() {
    for (at, field, what) in [
        (
            0,
            &i64::MIN.to_be_bytes()[..],
            "base offset is -9223372036854775808",
        ),
        (0, &(-1_i64).to_be_bytes(), "base offset is -1"),
        (23, &(-1_i32).to_be_bytes(), "last offset delta is -1"),
        (57, &(-3_i32).to_be_bytes(), "record count is -3"),
    ] {
        let mut bytes = good();
        put(&mut bytes, at, field);
        repair(&mut bytes);
        let what = format!("the {what}, it must not be negative");
        assert_eq!(check(bytes), Err(invalid(&what)));
    }
}

#[test]
fn the_count_must_fit_the_last_offset_and_the_records() {
    for (count, last_offset_delta, what) in [
        (0_u32, 2_u32, "the batch has no records"),
        (3, 3, "the batch counts 3 records, but its last offset delta is 3"),
        (3, 1, "the batch counts 3 records, but its last offset delta is 1"),
        (4, 3, "the batch counts 4 records, but holds 3"),
        (5, 4, "the batch counts 5 records, but holds 3"),
        (2, 1, "14 bytes follow the last record of the batch"),
        (
            0x7fff_ffff,
            0x7fff_fffe,
            "the batch counts 2147483647 records, but holds 3",
        ),
    ] {
        let mut bytes = good();
        put(&mut bytes, 23, &last_offset_delta.to_be_bytes());
        put(&mut bytes, 57, &count.to_be_bytes());
        repair(&mut bytes);
        assert_eq!(check(bytes), Err(invalid(what)));
    }
    let none = batch_of(&[]);
    assert_eq!(check(none), Err(invalid("the batch has no records")));
}

#[test]
fn producer_fields_are_all_there_or_all_absent() {
    for (id, epoch, sequence, accepted) in [
        (-1_i64, -1_i16, -1_i32, true),
        (0, 0, 0, true),
        (i64::MAX, i16::MAX, i32::MAX, true),
        (-1, 0, -1, false),
        (-1, -1, 0, false),
        (7, -1, 0, false),
        (7, 0, -1, false),
        (-2, -1, -1, false),
        (-2, 0, 0, false),
        (7, -2, 0, false),
        (7, 0, -2, false),
    ] {
        let mut bytes = good();
        put(&mut bytes, 43, &id.to_be_bytes());
        put(&mut bytes, 51, &epoch.to_be_bytes());
        put(&mut bytes, 53, &sequence.to_be_bytes());
        repair(&mut bytes);
        let result = check(bytes);
        if accepted {
            let expected = (id >= 0).then_some((ProducerId(id), ProducerEpoch(epoch), Sequence(sequence)));
            assert_eq!(result.unwrap().header().producer, expected);
        } else {
            let what = format!(
                "producer id {id}, epoch {epoch} and sequence {sequence} must all be -1 or none negative"
            );
            assert_eq!(result, Err(invalid(&what)));
        }
    }
}

#[test]
fn a_greatest_timestamp_that_is_not_the_records_is_corrected() {
    for lie in [BASE + 19, BASE + 21, i64::MIN, -1, i64::MAX] {
        let mut bytes = good();
        put(&mut bytes, 35, &lie.to_be_bytes());
        repair(&mut bytes);
        let sealed = check(bytes).unwrap();
        assert_eq!(sealed.header().max_timestamp, Timestamp(BASE + 20), "{lie}");
        // As if it had been right from the start.
        assert_eq!(sealed.to_bytes(), good(), "{lie}");
        assert_eq!(sealed.whole_crc(), crc32c(&good()), "{lie}");
    }
}

#[test]
fn a_greatest_timestamp_is_corrected_in_a_compressed_batch_too() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new();
        for n in 0..50 {
            builder.push(Timestamp(BASE + n), None, Some(&[7; 100]), &[]);
        }
        let right = builder.compressed(codec).finish(None);
        let mut wrong = right.to_vec();
        put(&mut wrong, 35, &0_i64.to_be_bytes());
        repair(&mut wrong);
        assert_eq!(check(wrong).unwrap().to_bytes(), right, "{codec}");
    }
}

/// A record is: attributes, timestamp delta, offset delta, key, value, headers; lengths in zigzag form, so that 1 is null,
/// 2 one byte, 3 the length -2.
#[test]
fn malformed_records_are_refused_by_name() {
    const KEY: &str = "its key has a malformed length or is longer than the record";
    const VALUE: &str = "its value has a malformed length or is longer than the record";
    const COUNT: &str = "its header count is malformed or negative";
    const HEADER_KEY: &str = "a header key is null, has a malformed length or is longer than the record";
    const HEADER_VALUE: &str = "a header value has a malformed length or is longer than the record";
    let cases: &[(&[u8], &str)] = &[
        (&[], "it has no attributes"),
        (&[1, 0, 0, 1, 1, 0], "its attributes must be 0"),
        (&[0x80, 0, 0, 1, 1, 0], "its attributes must be 0"),
        (&[0], "its timestamp delta is malformed"),
        (&[0, 0x80], "its timestamp delta is malformed"),
        (
            &[
                0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0, 1, 1, 0,
            ],
            "its timestamp delta is malformed",
        ),
        (&[0, 0], "its offset delta is malformed"),
        (
            &[0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 1, 1, 0],
            "its offset delta is malformed",
        ),
        (&[0, 0, 2, 1, 1, 0], "its offset delta must be its index"),
        (&[0, 0, 1, 1, 1, 0], "its offset delta must be its index"),
        (&[0, 0, 0], KEY),
        (&[0, 0, 0, 3, 1, 0], KEY),
        (&[0, 0, 0, 8, 1, 0], KEY),
        (&[0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 0], KEY),
        (&[0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0], KEY),
        (&[0, 0, 0, 1], VALUE),
        (&[0, 0, 0, 1, 3, 0], VALUE),
        (&[0, 0, 0, 1, 4, 0], VALUE),
        (&[0, 0, 0, 1, 1], COUNT),
        (&[0, 0, 0, 1, 1, 1], COUNT),
        (&[0, 0, 0, 1, 1, 0x80], COUNT),
        (&[0, 0, 0, 1, 1, 0, 0], "bytes follow its last header"),
        (&[0, 0, 0, 1, 1, 2, 2, b'h', 1, 9], "bytes follow its last header"),
        (&[0, 0, 0, 1, 1, 2], HEADER_KEY),
        (&[0, 0, 0, 1, 1, 2, 1, 1], HEADER_KEY),
        (&[0, 0, 0, 1, 1, 2, 4, b'h'], HEADER_KEY),
        // Two thousand million headers in two bytes: no allocation, the bytes end.
        (
            &[0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 2, b'h', 1],
            HEADER_KEY,
        ),
        (&[0, 0, 0, 1, 1, 2, 2, 0xff, 1], "a header key is not UTF-8"),
        (&[0, 0, 0, 1, 1, 2, 0, 1], "a header key is empty"),
        (&[0, 0, 0, 1, 1, 2, 2, b'h'], HEADER_VALUE),
        (&[0, 0, 0, 1, 1, 2, 2, b'h', 3], HEADER_VALUE),
        (&[0, 0, 0, 1, 1, 2, 2, b'h', 2], HEADER_VALUE),
    ];
    for &(bytes, what) in cases {
        assert_eq!(check(batch_of(&[bytes])), Err(record(0, what)), "{bytes:?}");
    }
    assert!(check(batch_of(&[&[0, 0, 0, 1, 1, 0]])).is_ok());
}

#[test]
fn the_length_of_a_record_must_be_its_own() {
    const LONGER: &str = "it is longer than the rest of the batch";
    const MALFORMED: &str = "its length is malformed or negative";
    for (body, what) in [
        (&[0_u8][..], "it has no attributes"),
        (&[1, 0, 0, 0, 1, 1, 0], MALFORMED),
        (&[0x80], MALFORMED),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0], MALFORMED),
        (&[0xff, 0xff, 0xff, 0xff, 0x1f], MALFORMED),
        (&[14, 0, 0, 0, 1, 1, 0], LONGER),
        (&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0], LONGER),
        (
            &[10, 0, 0, 0, 1, 1, 0],
            "its header count is malformed or negative",
        ),
    ] {
        let mut bytes = batch_of(&[&[]]);
        bytes.truncate(61);
        bytes.extend_from_slice(body);
        repair(&mut bytes);
        assert_eq!(check(bytes), Err(record(0, what)), "{body:?}");
    }
}

#[test]
fn the_index_of_a_bad_record_is_told() {
    let sound = |index: u8| [0, 0, index * 2, 1, 1, 0];
    let bytes = batch_of(&[&sound(0), &sound(1), &sound(1)]);
    assert_eq!(check(bytes), Err(record(2, "its offset delta must be its index")));
    let bytes = batch_of(&[&sound(0), &sound(1), &sound(2)]);
    assert_eq!(check(bytes).unwrap().header().count, 3);
}

#[test]
fn headers_are_bounded_by_the_batch_only() {
    let headers = vec![header("h", Some(b"")); 10_000];
    let mut builder = BatchBuilder::new();
    builder.push(Timestamp(BASE), None, None, &headers);
    let sealed = check(builder.finish(None).to_vec()).unwrap();
    assert_eq!(sealed.total_bytes(), 61 + 3 + 1 + 1 + 1 + 1 + 1 + 3 + 30_000);
}
