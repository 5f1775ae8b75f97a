//! The rows of a batch that one of several processes computes: strips of its own images against all texts, and of its own
//! texts against all images. Numbers per anchor are joined over the processes between the passes (docs/scaling.md).

use super::shared_bank::SharedBank;
use super::workspace::{Inputs, Similarity, Strip, Workspace, ranges};
use crate::Result;
#[cfg(feature = "native")]
use crate::cluster::exchange;
use crate::cluster::{Communicator, Slices};
use crate::device::{Buffer, Commands, Matrix};
use crate::kernels::{Product, matmul};
use std::ops::Range;
use std::sync::Arc;

/// Whether the slices of a batch also divide the memory bank. A page in a browser cannot wait for what it has mined.
pub(crate) const SHARES_BANK: bool = cfg!(feature = "native");

/// The slices of a batch that this process computes.
#[derive(Clone)]
pub(crate) struct Shard {
    pub ranks: Arc<dyn Communicator>,
    pub slices: Slices,
    pub own: Range<usize>,
}

impl Shard {
    /// The pairs of every own slice.
    pub fn parts(&self) -> Vec<Range<usize>> {
        self.own.clone().map(|slice| self.slices.pairs(slice)).collect()
    }

    /// The pairs of all own slices.
    pub fn own_pairs(&self) -> Range<usize> {
        self.slices.pairs(self.own.start).start..self.slices.pairs(self.own.end - 1).end
    }

    /// Joins rows of width `cols` that all processes hold, on the first one; `None` on the others. `own` has those of the
    /// own pairs of one batch after the other.
    #[cfg(feature = "native")]
    pub fn bring_to_first(&self, own: &[f32], cols: usize) -> Result<Option<Vec<f32>>> {
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        let lens: Vec<_> = self.slices.lens(size).into_iter().map(|pairs| pairs * cols).collect();
        let (mut to, mut from) = (vec![0; size], vec![0; size]);
        to[0] = lens[rank];
        if rank == 0 {
            from.clone_from(&lens);
        }
        let mut joined = Vec::new();
        for of_batch in own.chunks_exact(lens[rank]) {
            joined.extend(exchange(&*self.ranks, of_batch, [&to, &from])?);
        }
        Ok((rank == 0).then_some(joined))
    }
}

/// Receives what the pass over the own texts computes again: parts of the logits' gradients, losses and pulls. The pass
/// over the own images has written them.
pub(super) struct Scratch {
    pub parts: [Buffer<f32>; 2],
    pub losses: [Buffer<f32>; 2],
    pub pulls: [Buffer<f32>; 2],
}

/// Numbers per anchor: a buffer, and its elements per anchor.
pub(super) enum PerPair<'a> {
    F(&'a mut Buffer<f32>, usize),
    U(&'a mut Buffer<u32>),
}

/// Whose rows a strip holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Images,
    Texts,
}

impl Workspace {
    /// Computes only the rows of these slices from now on. A memory bank, if there is one, is shared too.
    pub fn share(&mut self, shard: Shard) -> Result<()> {
        let Self { similarity, scratch, to_bank, shared_bank, .. } = self;
        let (pairs, device) = (similarity.pairs, similarity.device.clone());
        let longest = shard.parts().iter().map(Range::len).max().unwrap_or(1);
        similarity.rows = device.strip_rows(pairs, pairs, similarity.dim)?.min(longest);
        similarity.matrix = Matrix::new(&device, "objective.similarity", similarity.rows, pairs)?;
        if let Some(to_bank) = to_bank.as_mut().filter(|_| SHARES_BANK) {
            let widest = (0..shard.slices.count()).map(|slice| shard.slices.pairs(slice).len()).max();
            let widest = widest.unwrap_or(1);
            let rows = device.strip_rows(pairs, widest, similarity.dim)?;
            *to_bank = Matrix::new(&device, "objective.to_bank", rows, widest)?;
            *shared_bank = Some(SharedBank::new(&device, &shard, [pairs, similarity.dim])?);
        }
        similarity.shard = Some(shard);
        let both = |width: usize| -> Result<_> {
            let buffer = || Buffer::new(&device, "objective.scratch", width * pairs);
            Ok([buffer()?, buffer()?])
        };
        *scratch = Some(Scratch { parts: both(4)?, losses: both(1)?, pulls: both(2)? });
        Ok(())
    }
}

impl Similarity {
    /// The anchors that this process mines for.
    pub fn own(&self) -> Vec<Range<usize>> {
        self.shard.as_ref().map_or_else(|| std::iter::once(0..self.pairs).collect(), Shard::parts)
    }

    /// [`Similarity::strips`] of these images against all texts, and of these texts against all images. They are computed
    /// for every pass, so that memory does not grow with the square of the batch.
    pub fn own_strips(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        parts: Vec<Range<usize>>,
        mut visit: impl FnMut(&mut Commands, Strip) -> Result<()>,
    ) -> Result<()> {
        let Self { images, pairs, rows: step, .. } = *self;
        let strips = parts.into_iter().flat_map(|part| {
            ranges(part.len(), step).map(move |rows| part.start + rows.start..part.start + rows.end)
        });
        for rows in strips {
            for (at, side) in [Side::Images, Side::Texts].into_iter().enumerate() {
                self.device.check_stop()?;
                let rows = rows.clone();
                let mut strip = Strip { rows, images, pairs, matrix: &mut self.matrix, only: Some(side) };
                let [own, others] = strip.turn([inputs.images, inputs.texts]);
                matmul(commands, Product::nt(own.part(&strip.rows), others), strip.view_mut())?;
                if let Some(left_out) = inputs.left_out {
                    let rows = strip.rows.clone();
                    left_out[at].apply(commands, &rows, strip.view_mut())?;
                }
                visit(commands, strip)?;
            }
        }
        Ok(())
    }

    /// Joins what every process has written for its own anchors. Without other processes there is nothing to join.
    #[cfg(feature = "native")]
    pub fn join(&self, commands: &mut Commands, buffers: Vec<PerPair>) -> Result<()> {
        use crate::cluster::gather;
        use crate::device::wait;
        let Some(Shard { ranks, slices, .. }) = self.shard.as_ref().filter(|shard| shard.ranks.size() > 1)
        else {
            return Ok(());
        };
        let lens = slices.lens(ranks.size());
        let first = lens[..ranks.rank()].iter().sum::<usize>();
        let own = first..first + lens[ranks.rank()];
        let part = |width: usize| own.start * width..own.end * width;
        commands.submit()?;
        let device = &self.device;
        let mut words: Vec<u32> = Vec::new();
        for buffer in &buffers {
            match buffer {
                PerPair::F(buffer, width) => {
                    let values = wait(buffer.read(device, part(*width)))?;
                    words.extend(values.into_iter().map(f32::to_bits));
                }
                PerPair::U(buffer) => words.extend(wait(buffer.read(device, part(1)))?),
            }
        }
        let total: usize = buffers.iter().map(PerPair::width).sum();
        let joined = gather(&**ranks, &words, &lens.iter().map(|len| len * total).collect::<Vec<_>>())?;
        let mut before = 0;
        for buffer in buffers {
            let width = buffer.width();
            // Each process has sent its part of one buffer after the other.
            let mut values = Vec::with_capacity(width * self.pairs);
            let mut start = 0;
            for len in &lens {
                values.extend_from_slice(&joined[start + len * before..][..len * width]);
                start += len * total;
            }
            match buffer {
                PerPair::F(buffer, _) => {
                    let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
                    buffer.write(device, 0, &values)?;
                }
                PerPair::U(buffer) => buffer.write(device, 0, &values)?,
            }
            before += width;
        }
        Ok(())
    }

    /// A page in a browser has no other processes.
    #[cfg(not(feature = "native"))]
    pub fn join(&self, _: &mut Commands, _: Vec<PerPair>) -> Result<()> {
        Ok(())
    }
}

impl PerPair<'_> {
    fn width(&self) -> usize {
        match self {
            Self::F(_, width) => *width,
            Self::U(_) => 1,
        }
    }
}

impl Strip<'_> {
    /// Whether the rows are texts.
    pub fn is_turned(&self) -> bool {
        self.only == Some(Side::Texts)
    }

    /// What belongs to the rows, then what belongs to the columns, of what belongs to images and to texts.
    pub fn turn<T>(&self, [images, texts]: [T; 2]) -> [T; 2] {
        if self.is_turned() { [texts, images] } else { [images, texts] }
    }
}
