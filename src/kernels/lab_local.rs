//! The small batch of local features that the checks of pooling and batch norm share.

use super::lab::{Lab, Pair};
use crate::Result;

/// Lengths of the items of a batch. `LENGTH_BUCKETS` lists the distinct lengths.
pub(crate) const LENGTHS: [u32; 7] = [5, 23, 1, 5, 12, 23, 2];

pub(crate) const LENGTH_BUCKETS: [u32; 5] = [1, 2, 5, 12, 23];

pub(crate) const LONGEST: usize = 23;

pub(crate) const SLOTS: usize = 24;

/// Rows of all items. `COLS` is the number of columns of their features.
pub(crate) const ROWS: usize = 71;

pub(crate) const COLS: usize = 37;

/// Units of the GRU. `STATES` is the number of rows of its chains.
pub(crate) const HIDDEN: usize = 13;

pub(crate) const STATES: usize = (1 + LENGTH_BUCKETS.len()) * SLOTS;

/// Numbers so small that a GRU forgets.
pub(crate) fn small(lab: &mut Lab, rows: usize, cols: usize) -> Result<Pair<f32>> {
    let values = lab.matrix(rows, cols)?.host.iter().map(|x| 0.3 * x).collect();
    lab.pair(values)
}

/// Number of padding rows that the last row stands for.
pub(crate) const REPEATS: usize = 9;
