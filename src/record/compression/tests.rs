//! Every codec: what is written is read back, nothing makes it panic, nothing passes the limit.

use proptest::prelude::*;

use super::*;
use crate::model::Timestamp;
use crate::record::{BatchBuilder, Records, validate};

const REAL: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Records of one batch that compress well.
fn records() -> Vec<u8> {
    (0..200_000_u32).map(|n| (n / 1000).to_le_bytes()[0]).collect()
}

#[test]
fn names_and_numbers_are_kafkas() {
    let all: Vec<_> = Codec::ALL
        .iter()
        .map(|codec| (codec.number(), codec.name()))
        .collect();
    assert_eq!(
        all,
        [(0, "none"), (1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")]
    );
    for codec in Codec::ALL {
        assert_eq!(codec.name().parse(), Ok(codec));
    }
    assert!("zip".parse::<Codec>().unwrap_err().to_string().contains("gzip"));
}

#[test]
fn the_limit_is_exact() {
    let records = records();
    for codec in REAL {
        let compressed = codec.compress(&records).unwrap();
        let whole = codec.decompress(&compressed, records.len()).unwrap();
        assert_eq!(whole, records, "{codec}");
        let max = records.len() - 1;
        let error = codec.decompress(&compressed, max).unwrap_err();
        assert_eq!(error, BatchError::Expands { max: max as u64 }, "{codec}");
    }
}

#[test]
fn records_that_do_not_shrink_are_left_as_they_are() {
    let mut random = 7_u64;
    let noise: Vec<u8> = (0..1_000)
        .map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            random.to_be_bytes()[0]
        })
        .collect();
    for codec in REAL {
        assert_eq!(codec.compress(&noise), None, "{codec}");
        let mut builder = BatchBuilder::new();
        builder.push(Timestamp(1), None, Some(&noise), &[]);
        let batch = builder.compressed(codec).finish(None);
        assert_eq!(Codec::of(&BatchHeader::parse(&batch).unwrap()), Ok(Codec::None));
    }
}

#[test]
fn a_bomb_is_given_up_at_the_limit() {
    // 64 MiB of zeros in a few kilobytes, and a Zstandard frame of 10 GiB in about one.
    let zeros = vec![0; 64 << 20];
    for codec in REAL {
        let bomb = codec.compress(&zeros).unwrap();
        let error = codec.decompress(&bomb, DECOMPRESSED_BYTES_MAX).unwrap_err();
        assert_eq!(
            error,
            BatchError::Expands {
                max: DECOMPRESSED_BYTES_MAX as u64
            },
            "{codec}"
        );
    }
    let mut gigabytes = Vec::new();
    let mut encoder = zstd::stream::write::Encoder::new(&mut gigabytes, 1).unwrap();
    for _ in 0..16 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    assert!(gigabytes.len() < 256 << 10, "{}", gigabytes.len());
    let error = Codec::Zstd.decompress(&gigabytes, 1 << 20).unwrap_err();
    assert_eq!(error, BatchError::Expands { max: 1 << 20 });
}

#[test]
fn a_lying_size_takes_no_memory() {
    // Declares 2 GiB - 1 and holds nothing.
    let liar = [0xff, 0xff, 0xff, 0xff, 0x07, 0];
    let error = Codec::Snappy.decompress(&liar, usize::MAX).unwrap_err();
    assert!(matches!(error, BatchError::Invalid(_)), "{error}");
    // A Zstandard frame that asks for a window of 2 GiB.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let error = Codec::Zstd.decompress(&frame, 1 << 20).unwrap_err();
    assert!(matches!(error, BatchError::Invalid(_)), "{error}");
}

#[test]
fn snappy_is_read_with_and_without_frame() {
    let records = records();
    let raw = snap::raw::Encoder::new().compress_vec(&records).unwrap();
    assert_eq!(Codec::Snappy.decompress(&raw, records.len()).unwrap(), records);
    let framed = Codec::Snappy.compress(&records).unwrap();
    assert!(framed.starts_with(&XERIAL_MAGIC));
    for cut in [9, 15, 17, 19, framed.len() - 1] {
        let error = Codec::Snappy
            .decompress(&framed[..cut], records.len())
            .unwrap_err();
        assert!(matches!(error, BatchError::Invalid(_)), "cut at {cut}: {error}");
    }
}

/// Consumers of other makes stop at a stream that is not whole, or at what follows it, so none is stored.
#[test]
fn a_stream_is_whole_and_the_only_one() {
    // More than one block of every codec.
    let records = records();
    for codec in REAL {
        let whole = codec.compress(&records).unwrap();
        for cut in 0..whole.len() {
            if let Ok(found) = codec.decompress(&whole[..cut], records.len()) {
                // Blocks of Snappy do not say whether more follow: the count of records does.
                let may_end = codec == Codec::Snappy || found.is_empty();
                assert!(may_end, "{codec}: cut at {cut} of {} is taken", whole.len());
                assert!(found.len() < records.len());
            }
        }
        for behind in [&[0][..], &[0; 12], b"behind it", &whole[..whole.len() / 2]] {
            let longer = [&whole, behind].concat();
            let error = codec.decompress(&longer, 1 << 20).unwrap_err();
            assert!(matches!(error, BatchError::Invalid(_)), "{codec}: {error}");
        }
    }
}

#[test]
fn lz4_frames_are_measured_with_all_their_options() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let records = records();
    for options in 0..16_u8 {
        let on = |bit: u8| options & (1 << bit) != 0;
        let mode = if on(0) {
            BlockMode::Linked
        } else {
            BlockMode::Independent
        };
        let info = FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .block_mode(mode)
            .block_checksums(on(1))
            .content_checksum(on(2))
            .content_size(on(3).then_some(records.len() as u64));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&records).unwrap();
        let whole = encoder.finish().unwrap();
        assert_eq!(
            Codec::Lz4.decompress(&whole, records.len()).unwrap(),
            records,
            "{options}"
        );
        for cut in 0..whole.len() {
            assert!(
                Codec::Lz4.decompress(&whole[..cut], records.len()).is_err(),
                "{options}: {cut}"
            );
        }
        // Another frame: most readers see the first one alone.
        let twice = [&whole[..], &whole].concat();
        assert!(
            Codec::Lz4.decompress(&twice, 2 * records.len()).is_err(),
            "{options}"
        );
        if on(2) {
            let mut damaged = whole.clone();
            *damaged.last_mut().unwrap() ^= 1;
            assert!(
                Codec::Lz4.decompress(&damaged, records.len()).is_err(),
                "{options}"
            );
        }
    }
    // What only its decoder knows: the format before frames, a block of no bytes.
    let block = lz4_flex::block::compress(&records[..1000]);
    let size = u32::try_from(block.len()).unwrap().to_le_bytes();
    let legacy = [&0x184c_2102_u32.to_le_bytes()[..], &size, &block].concat();
    assert!(Codec::Lz4.decompress(&legacy, 1 << 20).is_err());
    let mut empty_block = Codec::Lz4.compress(&records).unwrap();
    empty_block.splice(7..7, (1_u32 << 31).to_le_bytes());
    assert!(Codec::Lz4.decompress(&empty_block, 1 << 20).is_err());
}

/// Several members of gzip and several frames of Zstandard are one stream by their formats.
#[test]
fn members_and_frames_add_up_under_one_limit() {
    let half = records();
    for codec in [Codec::Gzip, Codec::Zstd] {
        let part = codec.compress(&half).unwrap();
        let two = [&part[..], &part].concat();
        let read = codec.decompress(&two, 2 * half.len()).unwrap();
        assert_eq!(read, [&half[..], &half].concat(), "{codec}");
        let error = codec.decompress(&two, 2 * half.len() - 1).unwrap_err();
        assert!(matches!(error, BatchError::Expands { .. }), "{codec}: {error}");
    }
    // One byte in a frame of Zstandard, and the same for a dictionary that nobody has.
    let alone = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 0x09, 0, 0, b'x'];
    assert_eq!(&*Codec::Zstd.decompress(&alone, 1).unwrap(), b"x");
    let bound = [0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 1, 0x09, 0, 0, b'x'];
    assert!(Codec::Zstd.decompress(&bound, 1).is_err());
}

#[test]
fn a_compressed_batch_is_walked_as_an_uncompressed_one() {
    for codec in REAL {
        let mut builder = BatchBuilder::new();
        for n in 0..50_u8 {
            builder.push(Timestamp(n.into()), Some(&[n]), Some(&[7; 100]), &[]);
        }
        let batch = builder.compressed(codec).finish(None);
        let sealed = validate(batch.clone(), 1 << 20).unwrap();
        assert_eq!(Codec::of(sealed.header()), Ok(codec));
        let walked: Vec<_> = Records::new(sealed.header(), &batch).collect();
        assert_eq!(walked, [Err(BatchError::Compression(codec.number()))]);
        let (header, plain) = uncompressed(sealed.header(), &batch, DECOMPRESSED_BYTES_MAX).unwrap();
        assert_eq!(BatchHeader::parse(&plain), Ok(header));
        assert_eq!(header.total_bytes(), plain.len() as u64);
        let keys: Vec<_> = Records::new(&header, &plain)
            .map(|record| record.unwrap().key.unwrap()[0])
            .collect();
        assert!(keys.into_iter().eq(0..50), "{codec}");
    }
}

proptest! {
    #[test]
    fn any_records_come_back(records in prop::collection::vec(0..4_u8, 0..5_000)) {
        for codec in REAL {
            if let Some(compressed) = codec.compress(&records) {
                prop_assert!(compressed.len() < records.len());
                let back = codec.decompress(&compressed, records.len()).unwrap();
                prop_assert_eq!(&*back, records.as_slice());
            }
        }
    }

    #[test]
    fn no_bytes_panic_or_pass_the_limit(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        real in any::<bool>(),
    ) {
        const MAX: usize = 4_096;
        for codec in REAL {
            if real {
                // Damaged bytes get further than random ones.
                bytes = codec.compress(&[b'x'; 10_000]).unwrap();
                let at = flip.index(bytes.len());
                bytes[at] ^= 0x11;
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            if let Ok(records) = codec.decompress(&bytes, MAX) {
                prop_assert!(records.len() <= MAX);
            }
        }
    }
}
