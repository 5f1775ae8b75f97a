//! The small batch of local features that the checks of pooling and batch norm share.

use super::lab::{Lab, Pair};
use super::{Chains, Ragged};
use crate::Result;
use crate::device::{Mat, padded};

/// Lengths of the items of a batch, and those that occur.
pub(crate) const LENGTHS: [u32; 7] = [5, 23, 1, 5, 12, 23, 2];

pub(crate) const KINDS: [u32; 5] = [1, 2, 5, 12, 23];

pub(crate) const LONGEST: usize = 23;

pub(crate) const SLOTS: usize = 24;

/// Rows of the items, and columns of their features.
pub(crate) const ROWS: usize = 71;

pub(crate) const COLS: usize = 37;

/// Units of the GRU, and rows of its chains.
pub(crate) const HIDDEN: usize = 13;

pub(crate) const STATES: usize = (1 + KINDS.len()) * SLOTS;

/// Numbers of a size at which a GRU forgets.
pub(crate) fn small(lab: &mut Lab, rows: usize, cols: usize) -> Result<Pair<f32>> {
    let values = lab.matrix(rows, cols)?.host.iter().map(|x| 0.3 * x).collect();
    lab.pair(values)
}

pub(crate) fn chains(lengths: &Pair<u32>) -> Chains<'_> {
    Chains { lengths: lengths.get(), count: KINDS.len(), longest: LONGEST }
}

/// The items of a batch, weights for each length, and any order of their rows.
pub(crate) struct Items {
    pub offsets: Pair<u32>,
    pub kind: Pair<u32>,
    pub theta: Pair<f32>,
    pub order: Pair<u32>,
}

impl Items {
    pub fn new(lab: &mut Lab) -> Result<Self> {
        let (mut offsets, mut order) = (vec![0], Vec::new());
        for length in LENGTHS {
            let rows = 0..length * padded(COLS) as u32;
            order.extend(rows.map(|at| (at / padded(COLS) as u32 + at % padded(COLS) as u32) % length));
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let kind = LENGTHS.iter().map(|length| KINDS.partition_point(|kind| kind < length) as u32).collect();
        let mut theta: Vec<f32> = lab.numbers(KINDS.len() * SLOTS).iter().map(|x| 1.5 + x).collect();
        for (theta, length) in theta.chunks_exact_mut(SLOTS).zip(KINDS) {
            theta.iter_mut().for_each(|w| *w /= length as f32);
            theta[length as usize..].fill(0.0);
        }
        let (offsets, kind) = (lab.pair(offsets)?, lab.pair(kind)?);
        Ok(Self { offsets, kind, theta: lab.pair(theta)?, order: lab.pair(order)? })
    }

    pub fn ragged(&self) -> Ragged<'_> {
        let (offsets, kind) = (self.offsets.get(), self.kind.get());
        Ragged { offsets, kind, count: LENGTHS.len(), longest: LONGEST }
    }

    pub fn host(&self) -> (&[u32], &[u32]) {
        (&self.offsets.host, &self.kind.host)
    }

    pub fn theta(&self) -> Mat<'_> {
        self.theta.mat(KINDS.len(), SLOTS)
    }
}

/// Rows of padding that the last stands for.
pub(crate) const REPEATS: usize = 9;
