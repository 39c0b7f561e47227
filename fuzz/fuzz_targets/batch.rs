//! A record batch under a length and a checksum that fit, so that what is behind them is reached.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use naru::record::{
    BatchHeader, DECOMPRESSED_BYTES_MAX, Records, check_crc, crc32c, uncompressed, validate,
};

const BATCH_BYTES_MAX: u32 = 1 << 20;

/// Where length, magic, checksum and attributes stand.
const LENGTH: std::ops::Range<usize> = 8..12;
const MAGIC: usize = 16;
const CRC: std::ops::Range<usize> = 17..21;

fn fitting(mut batch: Vec<u8>) -> Vec<u8> {
    if batch.len() < CRC.end {
        return batch;
    }
    let length = u32::try_from(batch.len() - LENGTH.end).expect("inputs are short");
    batch[LENGTH].copy_from_slice(&length.to_be_bytes());
    batch[MAGIC] = 2;
    let crc = crc32c(&batch[CRC.end..]);
    batch[CRC].copy_from_slice(&crc.to_be_bytes());
    batch
}

fuzz_target!(|input: &[u8]| {
    let _ = validate(Bytes::copy_from_slice(input), BATCH_BYTES_MAX);
    let batch = Bytes::from(fitting(input.to_vec()));
    // What no rule has looked at must not panic either: consumers walk what a broker sends.
    if let Ok(header) = BatchHeader::parse(&batch) {
        let _ = Records::new(&header, &batch).take(100_000).count();
    }
    let Ok(sealed) = validate(batch, BATCH_BYTES_MAX) else {
        return;
    };
    let bytes = sealed.to_bytes();
    check_crc(sealed.header(), &bytes).expect("what is corrected has the checksum that fits");
    let (header, plain) = uncompressed(sealed.header(), &bytes, DECOMPRESSED_BYTES_MAX)
        .expect("a valid batch can be decompressed");
    let mut count = 0;
    let mut greatest = i64::MIN;
    for record in Records::new(&header, &plain) {
        let record = record.expect("a valid batch has valid records");
        greatest = greatest.max(record.timestamp.0);
        count += 1;
    }
    assert_eq!(count, sealed.header().count);
    assert_eq!(greatest, sealed.header().max_timestamp.0);
});
