//! The small batch of local features that the checks of pooling and batch norm share.

use super::lab::{Lab, Pair};
use crate::Result;

/// Lengths of the items of a batch, and the distinct lengths.
pub(crate) const LENGTHS: [u32; 7] = [5, 23, 1, 5, 12, 23, 2];

pub(crate) const LENGTH_BUCKETS: [u32; 5] = [1, 2, 5, 12, 23];

pub(crate) const LONGEST: usize = 23;

pub(crate) const SLOTS: usize = 24;

/// Rows of the items, and columns of their features.
pub(crate) const ROWS: usize = 71;

pub(crate) const COLS: usize = 37;

/// Units of the GRU, and rows of its chains.
pub(crate) const HIDDEN: usize = 13;

pub(crate) const STATES: usize = (1 + LENGTH_BUCKETS.len()) * SLOTS;

/// Numbers of a size at which a GRU forgets.
pub(crate) fn small(lab: &mut Lab, rows: usize, cols: usize) -> Result<Pair<f32>> {
    let values = lab.matrix(rows, cols)?.host.iter().map(|x| 0.3 * x).collect();
    lab.pair(values)
}

/// Rows of padding that the last stands for.
pub(crate) const REPEATS: usize = 9;
