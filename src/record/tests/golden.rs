//! Batches that another implementation wrote, `tests/fixtures/record`: decoded, validated and written again byte by byte.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// What a batch must decode to.
struct Expected {
    codec: u8,
    producer: Option<ProducerFields>,
    records: Vec<Record>,
}

fn fixtures() -> Vec<(String, Bytes, Expected)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/record");
    let mut fixtures: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let json = fs::read_to_string(path.with_extension("json")).unwrap();
            let batch = Bytes::from(fs::read(&path).unwrap());
            (name, batch, parse(&serde_json::from_str(&json).unwrap()))
        })
        .collect();
    fixtures.sort_by(|(left, ..), (right, ..)| left.cmp(right));
    fixtures
}

fn parse(json: &Value) -> Expected {
    let number = |value: &Value| value.as_i64().unwrap();
    Expected {
        codec: u8::try_from(number(&json["codec"])).unwrap(),
        producer: json["producer"].as_array().map(|fields| ProducerFields {
            id: ProducerId(number(&fields[0])),
            epoch: ProducerEpoch(i16::try_from(number(&fields[1])).unwrap()),
            base_sequence: Sequence(i32::try_from(number(&fields[2])).unwrap()),
        }),
        records: json["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| Record {
                timestamp: Some(Timestamp(number(&record[0]))),
                key: hexadecimal(&record[1]),
                value: hexadecimal(&record[2]),
                headers: record[3].as_array().unwrap().iter().map(header).collect(),
            })
            .collect(),
    }
}

fn header(json: &Value) -> Header {
    Header {
        key: json[0].as_str().unwrap().to_owned(),
        value: hexadecimal(&json[1]),
    }
}

fn hexadecimal(json: &Value) -> Option<Bytes> {
    let text = json.as_str()?;
    let bytes = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap());
    Some(bytes.collect())
}

#[test]
fn every_golden_batch_is_there() {
    let names: Vec<String> = fixtures().into_iter().map(|(name, ..)| name).collect();
    let expected = [
        "empty_and_null",
        "gzip",
        "headers",
        "idempotent",
        "lz4",
        "many_headers",
        "negative_deltas",
        "null_key",
        "null_value",
        "one_record",
        "plain",
        "snappy",
        "snappy_raw",
        "thousand_records",
        "zstd",
    ];
    assert_eq!(names, expected);
}

#[test]
fn golden_batches_are_valid_and_decode_to_what_was_written() {
    for (name, batch, expected) in fixtures() {
        if expected.codec != 0 {
            continue;
        }
        let sealed = validate(batch.clone(), u32::MAX).unwrap_or_else(|error| panic!("{name}: {error}"));
        let fields = sealed
            .header()
            .producer
            .map(|(id, epoch, base_sequence)| ProducerFields {
                id,
                epoch,
                base_sequence,
            });
        assert_eq!(fields, expected.producer, "{name}");
        assert_eq!(decode(sealed.header(), &batch), expected.records, "{name}");
        assert_eq!(sealed.whole_crc(), crc32c(&batch), "{name}");
    }
}

#[test]
fn golden_batches_are_written_again_byte_by_byte() {
    for (name, batch, expected) in fixtures() {
        if expected.codec != 0 {
            continue;
        }
        assert_eq!(
            build(&expected.records).finish(expected.producer),
            batch,
            "{name}"
        );
    }
}

#[test]
fn compressed_golden_batches_are_valid_and_decode_to_what_was_written() {
    let mut codecs = Vec::new();
    for (name, batch, expected) in fixtures() {
        if expected.codec == 0 {
            continue;
        }
        codecs.push(expected.codec);
        let sealed = validate(batch.clone(), u32::MAX).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Stored as it came, under the checksum of whoever wrote it.
        assert_eq!(sealed.to_bytes(), batch, "{name}");
        let (header, plain) = uncompressed(sealed.header(), &batch, DECOMPRESSED_BYTES_MAX).unwrap();
        assert_eq!(decode(&header, &plain), expected.records, "{name}");
        assert!(!expected.records.is_empty(), "{name}");
    }
    codecs.sort_unstable();
    assert_eq!(codecs, [1, 2, 2, 3, 4]);
}

#[test]
fn the_last_sequence_wraps_as_the_golden_producer_crosses_the_largest() {
    let (_, batch, _) = fixtures()
        .into_iter()
        .find(|(name, ..)| name == "idempotent")
        .unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(header.last_sequence(), Some(Sequence(1)));
}
