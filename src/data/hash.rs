//! A hash of the bytes of a row, by which equal rows are found.

/// A hash of bytes by products of 64 by 64 bits. It is fast, and wide enough to take rows with the same hash for equal.
#[derive(Clone, Copy)]
pub(super) struct Hash(pub u128);

impl Default for Hash {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

impl Hash {
    /// Continues the hash with more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let [mut low, mut high] = [self.0 as u64, (self.0 >> 64) as u64];
        let mut mix = |word: u64, k: u64| {
            let product = u128::from(low ^ word) * u128::from(0xa076_1d64_78bd_642fu64);
            low = (product as u64) ^ ((product >> 64) as u64) ^ k;
            high = (high.rotate_left(23) ^ word).wrapping_mul(0xe703_7ed1_a0b4_28db);
        };
        let words = bytes.chunks_exact(8);
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        for (word, k) in words.filter_map(|word| word.try_into().ok()).zip(1..) {
            mix(u64::from_le_bytes(word), k);
        }
        mix(u64::from_le_bytes(rest), bytes.len() as u64);
        self.0 = u128::from(high) << 64 | u128::from(low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_in_a_bit_hash_apart() {
        let hash = |bytes: &[u8]| {
            let mut hash = Hash::default();
            hash.add(bytes);
            hash.0
        };
        let row: Vec<u8> = (0..100).collect();
        let mut hashes = vec![hash(&row), hash(&row[..99])];
        for bit in 0..800 {
            let mut other = row.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            hashes.push(hash(&other));
        }
        hashes.push(hash(&row.iter().rev().copied().collect::<Vec<_>>()));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 803);
    }
}
