//! A hash of all feature values that a run can see.

use super::array::FeatureFile;
use super::features::Features;
use super::local::Local;
use super::sample::sample;
use super::{Dataset, Side, Split};
use crate::Result;
use crate::device::Device;
use crate::io::RowList;
use std::ops::Range;
use xxhash_rust::xxh3::Xxh3Default;

/// Of a side with more rows than this, the hash covers a sample.
const ALL: u64 = u32::MAX as u64;

/// Rows of the sample.
const SOME: usize = 1 << 16;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 22;

impl Dataset {
    /// A hash (XXH3) of the feature values of every row that a split has: pooled and local ones. It changes when any
    /// of these values changes. It is the same for a folder and a safetensors file. Of a side with more than 2^32 rows it covers
    /// 65,536, in runs of neighbours from the first to the last. The first call reads these rows, at
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

    /// [`Dataset::content_hash`] on a device that processes share: the first of them reads the rows, and the others learn the
    /// hash. Without others, nothing is read until the hash is needed.
    ///
    /// # Errors
    /// Those of [`Dataset::content_hash`].
    pub(crate) fn share_content_hash(&self, device: &Device) -> Result<()> {
        let [place, size] = device.place();
        if size == 1 {
            return Ok(());
        }
        let own = if place == 0 { self.content_hash().map(|hash| vec![hash]) } else { Ok(Vec::new()) };
        for hash in device.join("hash of the features", own)? {
            // The first process has it.
            let _ = self.content.set(Ok(hash));
        }
        Ok(())
    }

    /// Reads the rows.
    pub(super) fn hashed(&self) -> Result<u64> {
        let (mut hash, mut piece) = (Xxh3Default::new(), Vec::new());
        for side in [Side::Image, Side::Text] {
            let Features { pooled, local, .. } = &self.sides[side as usize];
            let items = self.runs(side);
            let pooled = pooled.iter().map(|file| (file, items.clone()));
            // Padding between the items of a run may hold anything.
            let rows =
                |local: &Local| joined(items.iter().cloned().flatten().map(|item| local.rows_of(item)));
            let local = local.iter().map(|local| (&local.rows, rows(local)));
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
        let rows = RowList::union(Split::ALL.iter().map(|&split| self.split(split).of(side)));
        let rows = if rows.len() as u64 > ALL { sample(&rows, SOME) } else { rows };
        rows.runs().map(|(start, len)| start as usize..start as usize + len).collect()
    }
}

/// Ranges that ascend, those joined that touch.
fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
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
    fn splits(arrays: Arrays) -> u64 {
        let arrays = arrays
            .with_rows("text_to_image", &[0, 1, 2, 4, 5, 6, 7, 9, 9, 3])
            .with_rows("split_train", &[4, 0, 1, 2])
            .with_rows("split_val", &[5, 6])
            .with_rows("split_test", &[9, 7]);
        Dataset::from_arrays("made", arrays).unwrap().content_hash().unwrap()
    }

    fn hash_with(side: Side, at: usize, value: f32) -> u64 {
        let mut features = [[0.5; 20], [0.25; 20]];
        features[side as usize][at] = value;
        let [images, texts] = &features;
        splits(Arrays::new().with_features("images", &[10, 2], images).with_features(
            "texts",
            &[10, 2],
            texts,
        ))
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

    /// Ten images with 2 regions each; texts with 1 and 3 tokens in turn; and the same texts padded to 3 tokens.
    fn local_hash(name: &str, at: usize, value: f32) -> u64 {
        let offsets = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20];
        let mut features = vec![0.5; if name == "padded" { 30 } else { 20 }];
        features[at] = value;
        let other = [0.25; 20];
        let arrays = Arrays::new().with_features("texts", &[10, 2], &other);
        splits(match name {
            "regions" => arrays.with_features("image_regions", &[10, 2, 1], &features),
            "tokens" => arrays
                .with_features("images", &[10, 2], &other)
                .with_features("text_tokens", &[20, 1], &features)
                .with_rows("text_offsets", &offsets),
            _ => arrays
                .with_features("images", &[10, 2], &other)
                .with_features("text_tokens", &[10, 3, 1], &features)
                .with_rows("text_offsets", &offsets),
        })
    }

    #[test]
    fn the_hash_covers_the_local_features_of_the_splits() {
        for (name, count, unused) in [
            ("regions", 20, &[6, 7, 16, 17][..]),
            ("tokens", 20, &[17, 18, 19]),
            // Texts with one token have two rows of padding.
            ("padded", 30, &[1, 2, 7, 8, 13, 14, 19, 20, 25, 26, 27, 28, 29]),
        ] {
            let same = local_hash(name, 0, 0.5);
            for at in 0..count {
                assert_eq!(local_hash(name, at, 0.75) == same, unused.contains(&at), "{name} {at}");
            }
        }
    }
}
