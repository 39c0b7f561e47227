//! The `FORMAT` file: what this directory is, readable by people.

use uuid::Uuid;

use super::{DirectoryId, FormatError};
use crate::record::crc32c;

/// Version of everything below a data directory.
pub const FORMAT_VERSION: u32 = 1;

/// Text of `FORMAT`.
pub fn encode(id: DirectoryId) -> String {
    encode_as(FORMAT_VERSION, id)
}

/// The same of any version.
pub(in crate::storage::local) fn encode_as(version: u32, id: DirectoryId) -> String {
    let body = format!(
        "naru data directory, format {version}\nid {}\n",
        Uuid::from_bytes(id)
    );
    let crc = crc32c(body.as_bytes());
    format!("{body}crc32c {crc:08x}\n")
}

/// Reads `FORMAT`.
///
/// # Errors
/// `Version` for a whole one that is newer, otherwise what does not fit.
pub fn decode(text: &[u8]) -> Result<DirectoryId, FormatError> {
    let text = std::str::from_utf8(text).map_err(|_| FormatError::Magic("FORMAT file"))?;
    let (body, crc) = text
        .split_at_checked(text.rfind("crc32c ").ok_or(FormatError::Truncated)?)
        .ok_or(FormatError::Truncated)?;
    let mut lines = body.lines();
    let first = lines.next().unwrap_or_default();
    let version = first
        .strip_prefix("naru data directory, format ")
        .ok_or(FormatError::Magic("FORMAT file"))?;
    let stored = crc
        .strip_prefix("crc32c ")
        .map(str::trim_end)
        .and_then(|c| u32::from_str_radix(c, 16).ok());
    if stored != Some(crc32c(body.as_bytes())) {
        return Err(FormatError::Checksum);
    }
    // Not before: a flipped bit in the digit must not send anybody for a newer program.
    let version: u32 = version.parse().map_err(|_| FormatError::Field("version"))?;
    if version > FORMAT_VERSION {
        return Err(FormatError::Version(version));
    }
    let id = lines
        .next()
        .and_then(|l| l.strip_prefix("id "))
        .ok_or(FormatError::Field("id"))?;
    Uuid::parse_str(id)
        .map(Uuid::into_bytes)
        .map_err(|_| FormatError::Field("id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_comes_back_and_damage_is_seen() {
        let text = encode([7; 16]);
        assert_eq!(decode(text.as_bytes()), Ok([7; 16]));
        for at in 0..text.len() - 1 {
            for bit in 0..8 {
                let mut bad = text.clone().into_bytes();
                bad[at] ^= 1 << bit;
                // Hexadecimal digits of the checksum may change case and mean the same.
                if !bad.eq_ignore_ascii_case(text.as_bytes()) {
                    assert!(decode(&bad).is_err(), "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn newer_format_is_named() {
        let damaged = encode([7; 16]).replace("format 1", "format 3");
        assert_eq!(decode(damaged.as_bytes()), Err(FormatError::Checksum));
        let newer = encode_as(3, [7; 16]);
        assert_eq!(decode(newer.as_bytes()), Err(FormatError::Version(3)));
    }
}
