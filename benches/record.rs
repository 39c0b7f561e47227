//! How long the record codec takes per record: `cargo bench --bench record`. Batches of 64 KiB, median of many rounds.

#![expect(clippy::print_stdout, reason = "prints its result")]
#![expect(
    clippy::disallowed_methods,
    reason = "measures real time, which no clock of the broker needs to know"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use naru::model::{LeaderEpoch, Offset, Timestamp};
use naru::record::{BatchBuilder, BatchHeader, Codec, Records, crc32c, validate};

const BATCH_BYTES: usize = 64 << 10;
const VALUE_BYTES: usize = 100;
const ROUNDS: usize = 400;
const NOW: i64 = 1_700_000_000_000;

fn main() {
    let batch = build();
    let header = BatchHeader::parse(&batch).expect("the builder writes sound headers");
    let records = header.count;
    println!(
        "batch: {} bytes, {records} records of {VALUE_BYTES} bytes",
        batch.len()
    );
    report("BatchBuilder push and finish", records, || {
        black_box(build());
    });
    report("validate", records, || {
        black_box(validate(black_box(batch.clone()), u32::MAX)).expect("the batch is valid");
    });
    report("crc32c alone", records, || {
        black_box(crc32c(black_box(&batch)));
    });
    report("Records, key and value", records, || {
        for view in Records::new(&header, &batch) {
            black_box(view.expect("the batch is valid"));
        }
    });
    report("Records, to_record", records, || {
        for view in Records::new(&header, &batch) {
            black_box(view.expect("the batch is valid").to_record(&batch));
        }
    });
    for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
        let compressed = build_compressed(codec);
        println!("{codec}: {} bytes", compressed.len());
        report(&format!("{codec}, build and compress"), records, || {
            black_box(build_compressed(codec));
        });
        report(&format!("{codec}, validate"), records, || {
            black_box(validate(black_box(compressed.clone()), u32::MAX)).expect("the batch is valid");
        });
    }
    let mut sealed = validate(batch, u32::MAX).expect("the batch is valid");
    report("stamp and whole_crc, per batch", 1, || {
        sealed.stamp(Offset::ZERO, LeaderEpoch(1));
        black_box(sealed.whole_crc());
    });
}

fn build() -> Bytes {
    builder().finish(None)
}

fn build_compressed(codec: Codec) -> Bytes {
    builder().compressed(codec).finish(None)
}

fn builder() -> BatchBuilder {
    let value = [b'v'; VALUE_BYTES];
    let mut builder = BatchBuilder::with_capacity(BATCH_BYTES);
    let mut timestamp = NOW;
    while builder.encoded_bytes_with(Timestamp(timestamp), None, Some(&value), &[]) <= BATCH_BYTES {
        builder.push(Timestamp(timestamp), None, Some(black_box(&value)), &[]);
        // Some records per millisecond, as a busy producer has them.
        timestamp += i64::from(builder.count().is_multiple_of(4));
    }
    builder
}

fn report(what: &str, records: u32, mut run: impl FnMut()) {
    // Many runs per round: a single batch is over before the clock moves.
    const RUNS: u32 = 50;
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..RUNS {
                run();
            }
            start.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    let nanos = rounds[ROUNDS / 2].as_secs_f64() * 1e9 / f64::from(RUNS) / f64::from(records);
    println!("{what}: {nanos:.1} ns per record");
}
