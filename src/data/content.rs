//! A hash of all feature values that a run can see.

use super::array::FeatureFile;
use super::{Dataset, Features, Side, Split};
use crate::Result;
use std::ops::Range;
use xxhash_rust::xxh3::Xxh3Default;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 22;

impl Dataset {
    /// A hash (XXH3) of the feature values of every row that a split has, and of all local features. It changes when any
    /// of these values changes. It is the same for a folder and a safetensors file. The first call reads these rows, at
    /// the speed of the disk. For features of 64 MiB or more, the result is cached in a file, until the size or the time
    /// of a file changes.
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

    /// Reads the rows.
    pub(super) fn hashed(&self) -> Result<u64> {
        let (mut hash, mut piece) = (Xxh3Default::new(), Vec::new());
        for side in [Side::Image, Side::Text] {
            let Features { pooled, local, .. } = &self.sides[side as usize];
            let pooled = pooled.iter().map(|file| (file, self.runs(side)));
            let whole = |file: &FeatureFile| std::iter::once(0..file.rows).collect::<Vec<_>>();
            let local = local.iter().map(|local| (&local.rows, whole(&local.rows)));
            for (file, runs) in pooled.chain(local) {
                let most = (PIECE / file.row_bytes().max(1)).max(1);
                for run in runs {
                    for first in run.clone().step_by(most) {
                        read_rows(file, first..(first + most).min(run.end), &mut piece)?;
                        hash.update(&piece);
                    }
                }
            }
        }
        Ok(hash.digest())
    }

    /// The rows of a side that a split has, ascending, as runs of neighbours.
    fn runs(&self, side: Side) -> Vec<Range<usize>> {
        let of = |split| self.split(split).of(side).iter().map(|&row| row as usize);
        let mut rows: Vec<usize> = [Split::Train, Split::Val, Split::Test].into_iter().flat_map(of).collect();
        rows.sort_unstable();
        rows.dedup();
        let runs = rows.chunk_by(|row, next| row + 1 == *next);
        runs.map(|run| run[0]..run[0] + run.len()).collect()
    }
}

/// Reads rows one after the other, as they are in the file, with little-endian values.
fn read_rows(file: &FeatureFile, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
    out.resize(rows.len() * file.row_bytes(), 0);
    file.read_values(|| file.place(rows.start), out, rows.start as u64 * file.row_bytes() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Arrays;

    /// Rows 3 and 8 of the images, and text 9, are in no split.
    fn hash_with(side: Side, at: usize, value: f32) -> u64 {
        let mut features = [[0.5; 20], [0.25; 20]];
        features[side as usize][at] = value;
        let arrays = Arrays::new()
            .with_features("images", &[10, 2], &features[0])
            .with_features("texts", &[10, 2], &features[1])
            .with_rows("text_to_image", &[0, 1, 2, 4, 5, 6, 7, 9, 9, 3])
            .with_rows("split_train", &[4, 0, 1, 2])
            .with_rows("split_val", &[5, 6])
            .with_rows("split_test", &[9, 7]);
        Dataset::from_arrays("made", arrays).unwrap().content_hash().unwrap()
    }

    #[test]
    fn the_hash_covers_the_rows_of_the_splits() {
        let same = hash_with(Side::Image, 0, 0.5);
        for side in [Side::Image, Side::Text] {
            for at in 0..20 {
                let is_unused = match side {
                    Side::Image => [3, 8].contains(&(at / 2)),
                    Side::Text => at / 2 == 9,
                };
                assert_eq!(hash_with(side, at, 0.75) == same, is_unused, "{side:?} {at}");
            }
        }
    }
}
