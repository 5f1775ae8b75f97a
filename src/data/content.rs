//! A hash of all feature values.

use super::Dataset;
use super::array::FeatureFile;
use crate::Result;
use std::ops::Range;
use xxhash_rust::xxh3::Xxh3Default;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 22;

impl Dataset {
    /// A hash (XXH3) of the values of every row of every array of features. It changes when any value changes. It is the
    /// same for a folder and a safetensors file. The first call reads all features, at the speed of the disk. For
    /// features of 64 MiB or more, the result is cached in a file, until the size or the time of a file changes.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn content_hash(&self) -> Result<u64> {
        #[cfg(feature = "native")]
        let hash = || self.cached_hash();
        #[cfg(not(feature = "native"))]
        let hash = || self.hashed();
        self.content.get_or_init(hash).clone()
    }

    /// Reads all rows.
    pub(super) fn hashed(&self) -> Result<u64> {
        let (mut hash, mut piece) = (Xxh3Default::new(), Vec::new());
        for file in self.files() {
            let rows = (PIECE / file.row_bytes().max(1)).max(1);
            for first in (0..file.rows).step_by(rows) {
                read_rows(file, first..(first + rows).min(file.rows), &mut piece)?;
                hash.update(&piece);
            }
        }
        Ok(hash.digest())
    }
}

/// Reads rows one after the other, as they are in the file, with little-endian values.
fn read_rows(file: &FeatureFile, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
    out.resize(rows.len() * file.row_bytes(), 0);
    file.read_values(|| file.place(rows.start), out, rows.start as u64 * file.row_bytes() as u64)
}
