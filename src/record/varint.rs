//! Variable-length integers of records: zigzag, seven bits to a byte, lowest bits first. Source: Protocol Buffers, "Encoding".
//!
//! Longer forms of a number than necessary are read, as Kafka reads them, up to the width of the number.

/// The zigzag form: small numbers of either sign are small.
#[inline]
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The zigzag form of a length.
#[inline]
pub(super) fn zigzag_length(length: usize) -> u64 {
    // No slice is longer than `isize::MAX`, so that doubling loses nothing.
    u64::try_from(length).map_or(u64::MAX, |length| length << 1)
}

/// The number of a zigzag form.
#[inline]
pub(super) const fn unzigzag(encoded: u64) -> i64 {
    (encoded >> 1).cast_signed() ^ (encoded & 1).cast_signed().wrapping_neg()
}

/// The number of a zigzag form of 32 bits.
#[inline]
pub(super) const fn unzigzag_u32(encoded: u32) -> i32 {
    (encoded >> 1).cast_signed() ^ (encoded & 1).cast_signed().wrapping_neg()
}

/// Bytes that `put` appends for this number.
#[inline]
pub(super) const fn encoded_bytes(encoded: u64) -> usize {
    // A division by seven without a division: exact for 1 to 64 bits.
    let highest_bit = 63_u32.wrapping_sub((encoded | 1).leading_zeros());
    (highest_bit.wrapping_mul(9).wrapping_add(73) >> 6) as usize
}

/// Appends a number that is already in zigzag form.
#[inline(always)]
pub(super) fn put(buffer: &mut Vec<u8>, encoded: u64) {
    // Nearly all deltas, counts and lengths have one or two bytes, and neighbours mostly the same, so that these branches
    // are predicted well.
    if encoded < 1 << 7 {
        buffer.push(low_byte(encoded));
    } else if encoded < 1 << 14 {
        buffer.extend_from_slice(&[low_byte(encoded) | 0x80, low_byte(encoded >> 7)]);
    } else {
        put_long(buffer, encoded);
    }
}

#[inline(never)]
fn put_long(buffer: &mut Vec<u8>, mut encoded: u64) {
    while encoded >= 0x80 {
        buffer.push(low_byte(encoded) | 0x80);
        encoded >>= 7;
    }
    buffer.push(low_byte(encoded));
}

/// Takes a number of at most 32 bits and 5 bytes from the front, still in zigzag form. `None` if it is cut short or too wide.
#[inline(always)]
pub(super) fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    match **rest {
        [first, ref tail @ ..] if first < 0x80 => {
            *rest = tail;
            Some(u32::from(first))
        }
        [first, second, ref tail @ ..] if second < 0x80 => {
            *rest = tail;
            Some(u32::from(first & 0x7f) | (u32::from(second) << 7))
        }
        _ => take_wide(rest, 5).and_then(|encoded| u32::try_from(encoded).ok()),
    }
}

/// Takes a number of at most 64 bits and 10 bytes from the front, still in zigzag form. `None` if it is cut short or too wide.
#[inline(always)]
pub(super) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    match **rest {
        [first, ref tail @ ..] if first < 0x80 => {
            *rest = tail;
            Some(u64::from(first))
        }
        [first, second, ref tail @ ..] if second < 0x80 => {
            *rest = tail;
            Some(u64::from(first & 0x7f) | (u64::from(second) << 7))
        }
        _ => take_wide(rest, 10),
    }
}

#[inline(never)]
fn take_wide(rest: &mut &[u8], bytes_max: usize) -> Option<u64> {
    let mut value = 0_u64;
    let mut shift = 0_u32;
    for (at, &byte) in rest.iter().take(bytes_max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit only.
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits.wrapping_shl(shift);
        if byte < 0x80 {
            *rest = rest.get(at.checked_add(1)?..)?;
            return Some(value);
        }
        shift = shift.wrapping_add(7);
    }
    None
}

#[inline]
fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoding written the obvious way.
    fn reference(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(value & 0x7f).unwrap();
            value >>= 7;
            if value == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    }

    /// Numbers around every power of two.
    fn interesting() -> impl Iterator<Item = u64> {
        (0..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [
                power - 1,
                power,
                power + 1,
                power ^ 0x5555_5555_5555_5555 & (power - 1),
            ]
        })
    }

    #[test]
    fn written_numbers_have_the_reference_form_and_are_read_back() {
        for value in interesting().chain([u64::MAX, u64::MAX - 1]) {
            let mut buffer = vec![0xaa];
            put(&mut buffer, value);
            let expected = reference(value);
            assert_eq!(&buffer[1..], expected, "{value:#x}");
            assert_eq!(encoded_bytes(value), expected.len());
            let mut rest = [&expected[..], &[7, 8]].concat();
            let mut slice = &rest[..];
            assert_eq!(take_u64(&mut slice), Some(value));
            assert_eq!(slice, [7, 8]);
            rest.truncate(expected.len() - 1);
            assert_eq!(take_u64(&mut &rest[..]), None, "{value:#x} cut short");
        }
    }

    #[test]
    fn zigzag_maps_signs_to_the_lowest_bit() {
        for (value, encoded) in [
            (0, 0),
            (-1, 1),
            (1, 2),
            (-2, 3),
            (i64::MAX, u64::MAX - 1),
            (i64::MIN, u64::MAX),
        ] {
            assert_eq!(zigzag(value), encoded);
            assert_eq!(unzigzag(encoded), value);
        }
        assert_eq!(zigzag_length(0), 0);
        assert_eq!(zigzag_length(100), 200);
    }

    #[test]
    fn numbers_wider_than_their_type_are_refused() {
        let max_u32 = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(take_u32(&mut &max_u32[..]), Some(u32::MAX));
        let too_wide_u32 = [0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(take_u32(&mut &too_wide_u32[..]), None);
        let too_long_u32 = [0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
        assert_eq!(take_u32(&mut &too_long_u32[..]), None);
        let too_wide_u64 = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(take_u64(&mut &too_wide_u64[..]), None);
        let too_long_u64 = [0x80; 11];
        assert_eq!(take_u64(&mut &too_long_u64[..]), None);
        assert_eq!(take_u32(&mut &[][..]), None);
    }

    #[test]
    fn longer_forms_than_necessary_are_read() {
        for long in [
            &[0x85, 0x00][..],
            &[0x85, 0x80, 0x00],
            &[0x85, 0x80, 0x80, 0x80, 0x00],
        ] {
            let mut rest = long;
            assert_eq!(take_u32(&mut rest), Some(5));
            assert!(rest.is_empty());
        }
    }
}
