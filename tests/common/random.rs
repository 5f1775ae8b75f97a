//! Seeded data for the tests.
#![allow(dead_code)]

use wgoal::device::pad_rows;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A number in [-1, 1) with all bits of an f32.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A multiple of 1/64, at most `limit` of them. Sums and differences are exact, and equal values are common.
    pub fn coarse(&mut self, limit: usize) -> f32 {
        (self.below(2 * limit + 1) as f32 - limit as f32) / 64.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform()).collect()
    }

    pub fn indices(&mut self, n: usize, below: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(below) as u32).collect()
    }

    /// A matrix as devices store it: rows padded with zeros.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        pad_rows(&self.values(rows * cols), cols).into_owned()
    }
}

/// The same numbers in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}
