//! The checksum in the metadata of a head.

use std::ops::Range;
use xxhash_rust::xxh3::Xxh3Default;

/// The metadata begin with these words and the digits of the checksum.
pub(super) const CHECKSUM: &str = r#"{"checksum":""#;

/// The same words in the bytes of a file, where the metadata are a JSON string.
const ESCAPED: &[u8] = br#"{\"checksum\":\""#;

/// The hexadecimal digits of a checksum.
pub(super) const DIGITS: usize = 32;

/// Where the digits of the checksum are in the bytes of a file.
pub(super) fn digits(bytes: &[u8]) -> Option<Range<usize>> {
    let header = bytes.first_chunk().map_or(0, |&length| u64::from_le_bytes(length));
    let header = bytes.get(..usize::try_from(header).ok()?.checked_add(8)?)?;
    let at = header.windows(ESCAPED.len()).position(|found| found == ESCAPED)? + ESCAPED.len();
    (at + DIGITS <= header.len()).then_some(at..at + DIGITS)
}

/// The checksum of a file: XXH3 with 128 bits, over all bytes, with zeros for the digits of the checksum.
pub(super) fn checksum(bytes: &[u8], digits: Range<usize>) -> String {
    let mut hash = Xxh3Default::new();
    hash.update(&bytes[..digits.start]);
    hash.update(&[b'0'; DIGITS]);
    hash.update(&bytes[digits.end..]);
    format!("{:032x}", hash.digest128())
}
