//! The identity of a dataset: hashes of its row numbers and of a sample of its features.

use super::dataset::Dataset;
use super::features::Features;
use super::splits::SplitRows;
use crate::Result;
use crate::io::RowList;

impl Dataset {
    /// A stable hash of shapes, types, `text_to_image` and the splits opened, but not of feature values. With it, a
    /// resumed run notices another dataset. It is the same for a folder and a safetensors file of the same arrays.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// A hash of feature values of 16 rows of every array. Unlike [`Dataset::fingerprint`], it changes when the
    /// features are computed again. It is the same for a folder and a safetensors file.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sample_hash(&self) -> Result<u64> {
        const ROWS: usize = 16;
        let (mut bytes, mut hash) = (Vec::new(), FNV_OFFSET);
        for file in self.files() {
            for k in 0..ROWS.min(file.rows) {
                let last = file.rows - 1;
                file.read_bytes(if file.rows <= ROWS { k } else { k * last / (ROWS - 1) }, &mut bytes)?;
                hash = fnv(hash, bytes.iter().copied());
            }
        }
        Ok(hash)
    }
}

/// Hashes the numbers and the lengths of the lists. Local features come last, then pairs, and only if there are any. Of a
/// list with more than 2^32 rows, it hashes the runs of neighbours.
pub(super) fn fingerprint(
    sides: &[Features; 2],
    text_image: &RowList,
    splits: &[SplitRows; 3],
    pairs: &[[u64; 2]],
) -> u64 {
    let lists = [text_image, &splits[0].images, &splits[1].images, &splits[2].images];
    let numbers = lists.iter().flat_map(|list| std::iter::once(list.len() as u64).chain(to_hash(list)));
    let local = sides.iter().zip(1u64..).filter_map(|(side, tag)| Some((side.local.as_ref()?, tag)));
    let bytes = sides
        .iter()
        .flat_map(Features::pooled_shape)
        .chain(numbers)
        .chain(local.flat_map(|(local, tag)| std::iter::once(tag).chain(local.numbers())))
        .chain(pairs.iter().flatten().copied())
        .flat_map(u64::to_le_bytes);
    fnv(FNV_OFFSET, bytes)
}

/// The numbers of a list that a fingerprint covers: its rows, or the runs of neighbours where there are more than 2^32 rows.
pub(super) fn to_hash(list: &RowList) -> impl Iterator<Item = u64> + '_ {
    let (rows, runs) = if list.len() > u32::MAX as usize { (0, usize::MAX) } else { (list.len(), 0) };
    list.between(0..rows).chain(list.runs().take(runs).flat_map(|(start, len)| [start, len as u64]))
}

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues a 64-bit FNV-1a hash with more bytes.
pub(crate) fn fnv(hash: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
