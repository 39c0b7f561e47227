//! CRC-32C (Castagnoli): over bytes, continued, and combined. Knows nothing of batches but where their own CRC begins.

use crc_fast::{CrcAlgorithm, Digest};

use super::HEADER_BYTES;

/// Bytes at the front of a batch that its own CRC leaves out, so that base offset and leader epoch can be stamped.
pub(super) const OUTER_BYTES: usize = 21;

/// CRC-32C of these bytes.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of some bytes followed by these, from the CRC-32C of the former. Of no bytes it is 0.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    low_half(digest.finalize())
}

/// CRC-32C of the bytes of a batch header that the batch's own CRC leaves out: base offset to CRC field.
pub fn outer_crc(head: &[u8; HEADER_BYTES]) -> u32 {
    let (outer, _) = head.split_at(OUTER_BYTES);
    crc32c(outer)
}

/// CRC-32C of two pieces in a row from that of each, in time that hardly depends on the length.
///
/// Not the function of `crc_fast`: that one squares 64 x 64 bit matrices for each bit of the length, which takes longer than
/// to read a usual batch again. Here the powers of x are in tables. Source: M. Adler, zlib 1.2.12, `crc32_combine`.
pub(super) fn combine(first: u32, second: u32, second_bytes: u32) -> u32 {
    let [b0, b1, b2, b3] = second_bytes.to_le_bytes();
    let [t0, t1, t2, t3] = &POWERS;
    let mut shifted = first;
    for (table, byte) in [(t0, b0), (t1, b1), (t2, b2), (t3, b3)] {
        if byte != 0 {
            // A byte is always an index into 256 entries; `get` costs nothing.
            let power = table.get(usize::from(byte)).copied().unwrap_or(ONE);
            shifted = multiply(power, shifted);
        }
    }
    shifted ^ second
}

/// The generator polynomial, lowest power in the highest bit, as all polynomials here.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x to the power of 0.
const ONE: u32 = 1 << 31;

/// `POWERS[k][n]` is x to the power of 8 n 256^k: what appending n 256^k bytes multiplies a CRC by.
static POWERS: [[u32; 256]; 4] = powers();

/// Product modulo the generator polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32_u32;
    while bit > 0 {
        bit = bit.wrapping_sub(1);
        // Masks instead of branches, whose direction nobody could predict.
        product ^= b & 0_u32.wrapping_sub(a.wrapping_shr(bit) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
    }
    product
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "runs in the compiler, which refuses an index out of range; iterators are not const"
)]
const fn powers() -> [[u32; 256]; 4] {
    let mut tables = [[ONE; 256]; 4];
    // x to the power of 8.
    let mut step = ONE >> 8;
    let mut k = 0;
    while k < 4 {
        let mut n = 1;
        while n < 256 {
            tables[k][n] = multiply(tables[k][n - 1], step);
            n += 1;
        }
        step = multiply(tables[k][255], step);
        k += 1;
    }
    tables
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a 32-bit CRC comes in the low half of the word"
)]
const fn low_half(crc: u64) -> u32 {
    crc as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_check_values_hold() {
        // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn appended_and_combined_crcs_equal_the_straight_one() {
        let bytes: Vec<u8> = (0..200_000_u32)
            .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        for length in [
            0, 1, 2, 20, 21, 22, 255, 256, 257, 4096, 65_535, 65_536, 65_537, 200_000,
        ] {
            for cut in [0, 1, 21, 100, 256, 65_536, length] {
                let Some((first, second)) = bytes[..length].split_at_checked(cut) else {
                    continue;
                };
                let straight = crc32c(&bytes[..length]);
                assert_eq!(
                    crc32c_append(crc32c(first), second),
                    straight,
                    "{length} at {cut}"
                );
                let second_bytes = u32::try_from(second.len()).unwrap();
                assert_eq!(
                    combine(crc32c(first), crc32c(second), second_bytes),
                    straight,
                    "{length} at {cut}"
                );
            }
        }
    }

    #[test]
    fn combining_agrees_with_the_slow_way_for_lengths_up_to_four_gigabytes() {
        let lengths = (0..32).flat_map(|bit| [1_u32 << bit, (1 << bit) - 1, u32::MAX >> bit]);
        for length in lengths {
            let slow = crc_fast::checksum_combine(
                CrcAlgorithm::Crc32Iscsi,
                0x1234_5678,
                0x9abc_def0,
                u64::from(length),
            );
            assert_eq!(
                u64::from(combine(0x1234_5678, 0x9abc_def0, length)),
                slow,
                "{length}"
            );
        }
    }
}
