//! A batch in slices, which several processes share (docs/scaling.md): each rank encodes its own slices, and the sums of
//! all slices are added in one order.

#[cfg(all(feature = "native", feature = "bench"))]
use super::features::Part;
use super::gather::{Gather, widened};
use super::{Pipeline, TrainConfig};
use crate::cluster::{Communicator, Node, Slices, Tree, exchange, gather};
#[cfg(all(feature = "native", feature = "bench"))]
use crate::device::Upload;
use crate::device::{Buffer, Commands, Device, Matrix, padded};
use crate::gradient::Shard;
use crate::kernels::accumulate;
use crate::model::{Encoder, EncoderKind, Head, Layout, Side};
#[cfg(all(feature = "native", feature = "bench"))]
use crate::objective::Objective;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// The most numbers that one exchange of sums sends from a rank, or to it.
const AT_ONCE: usize = 1 << 28;

/// What a rank has of a batch.
pub(super) struct Sliced {
    ranks: Arc<dyn Communicator>,
    pub slices: Slices,
    /// The slices of this rank.
    pub own: Range<usize>,
    /// The unit rows of the whole batch, and the gradients at them.
    pub unit: [Matrix; 2],
    pub d_unit: [Matrix; 2],
    gather: Gather,
    /// The own unit rows as they are exchanged, padded, on the host.
    pub own_unit: [Vec<f32>; 2],
    /// Memory for gradients of the parameters, and their number. Where no parameter has its place, the elements stay 0.
    spare: Vec<Buffer<f32>>,
    parameters: usize,
    /// Memory for the part of a gradient that this rank adds.
    spare_parts: Vec<Buffer<f32>>,
}

impl Pipeline {
    /// Shares every batch with the other processes of a job.
    ///
    /// # Errors
    /// A configuration without slices, more processes than slices, or too little memory.
    pub(crate) fn share(&mut self, ranks: Arc<dyn Communicator>) -> Result<()> {
        if self.slices == 0 {
            let advice = "set TrainConfig::slices, for example to cluster::SLICES";
            return Err(Error::config("slices of a batch", "at least one per process", 0, advice));
        }
        // The memory of all slices first goes back to the device.
        self.encoders.clear();
        let sliced = Sliced::new(&self.device, ranks, [self.pairs, self.slices], &self.layout, self.gather)?;
        let centred = self.centre_kernel.then_some(&self.values);
        self.encoders = sliced.encoders(&self.device, &self.head, centred)?;
        self.workspace.share(sliced.shard())?;
        self.sliced = Some(sliced);
        self.bank = None;
        Ok(())
    }

    /// The slices of a batch and those of this process, if batches are divided.
    pub(crate) fn slices(&self) -> Option<(Slices, Range<usize>)> {
        self.sliced.as_ref().map(|sliced| (sliced.slices.clone(), sliced.own.clone()))
    }
}

/// A step alone, for measurements.
#[cfg(all(feature = "native", feature = "bench"))]
impl Pipeline {
    /// Runs one step on a batch that is divided into slices. `own` has the padded features of the own pairs, of images and
    /// of texts; every pair has an image of its own.
    pub(crate) fn step_slices(
        &mut self,
        own: [&mut Vec<f32>; 2],
        objective: &Objective,
        learning_rate: f64,
    ) -> Result<()> {
        let Some((slices, range)) = self.slices() else { return Ok(()) };
        let mut from = 0;
        let mut parts = Vec::new();
        for slice in range {
            let rows = from..from + slices.pairs(slice).len();
            from = rows.end;
            let part = |side: usize| {
                let stride = padded(self.layout.dims[side]);
                Upload::Borrowed(&own[side][rows.start * stride..rows.end * stride])
            };
            parts.push(Part { rows: [part(0), part(1)], offsets: [&[], &[]] });
        }
        let device = self.device();
        device.wait(self.step_padded(parts, [&[], &[]], objective, learning_rate, None))
    }

    /// The gradient of the last step, in the layout of the parameters: of those that were trained.
    pub(crate) fn gradient(&self) -> Result<Vec<f32>> {
        self.device.wait(self.gradients.read(&self.device, 0..self.layout.logits().start))
    }

    /// The number of parameters.
    pub(crate) fn parameters(&self) -> usize {
        self.layout.len()
    }
}

/// Checks that training in slices can follow these options.
///
/// # Errors
/// The option that needs the whole batch in one process.
pub(crate) fn check_slices(config: &TrainConfig) -> Result<()> {
    if config.slices == 0 {
        return Ok(());
    }
    let advice = "change it, or train in one process without --slices";
    for (option, kind) in [("--image-encoder", config.image_encoder), ("--text-encoder", config.text_encoder)]
    {
        if kind == EncoderKind::ResidualMlp {
            let expected = "an encoder without batch norm, since a batch is divided into slices";
            return Err(Error::config(option, expected, "residual-mlp", advice));
        }
    }
    if config.structure > 0.0 {
        let expected = "0, since a batch is divided into slices";
        return Err(Error::config("--structure", expected, config.structure, advice));
    }
    Ok(())
}

impl Sliced {
    /// The share of a rank in batches of `pairs` pairs, in at most `most` slices.
    ///
    /// # Errors
    /// More ranks than slices.
    pub fn new(
        device: &Device,
        ranks: Arc<dyn Communicator>,
        [pairs, most]: [usize; 2],
        layout: &Layout,
        gather: Gather,
    ) -> Result<Self> {
        let slices = Slices::new(pairs, most);
        let (rank, size, count) = (ranks.rank(), ranks.size(), slices.count());
        if size > count {
            let expected = format!(
                "at most {count}, since a batch of {pairs} pairs has {count} slices (--slices {most})"
            );
            let advice = match count == most {
                true => format!("start {count} processes, or give --slices {size}"),
                false => format!("start {count} processes, or give a larger --batch"),
            };
            return Err(Error::config("number of processes", expected, size, advice));
        }
        let own = slices.of_rank(rank, size);
        let matrix = |name| Matrix::new(device, name, pairs, layout.embed);
        let unit = [matrix("batch.images")?, matrix("batch.texts")?];
        let d_unit = [matrix("batch.d_images")?, matrix("batch.d_texts")?];
        Ok(Self {
            ranks,
            slices,
            own,
            unit,
            d_unit,
            gather,
            own_unit: Default::default(),
            spare: Vec::new(),
            parameters: layout.len(),
            spare_parts: Vec::new(),
        })
    }

    /// The rows whose gradients this rank computes.
    pub fn shard(&self) -> Shard {
        Shard { ranks: self.ranks.clone(), slices: self.slices.clone(), own: self.own.clone() }
    }

    /// The encoders of the own slices. The parameters are given for training on the centred kernel.
    pub fn encoders(
        &self,
        device: &Device,
        head: &Head,
        centred: Option<&Buffer<f32>>,
    ) -> Result<Vec<[Encoder; 2]>> {
        let encoder = |side, slice| {
            Encoder::new(device, head, side, self.slices.pairs(slice).len())?.centred(device, centred)
        };
        let both = |slice| Ok([encoder(Side::Image, slice)?, encoder(Side::Text, slice)?]);
        self.own.clone().map(both).collect()
    }

    /// Joins the unit rows of all ranks.
    pub async fn join(&mut self, device: &Device, encoders: &[[Encoder; 2]]) -> Result<()> {
        let size = self.ranks.size();
        for (side, whole) in self.unit.iter_mut().enumerate() {
            let stride = padded(whole.cols);
            let own = &mut self.own_unit[side];
            own.clear();
            for encoder in encoders {
                let unit = &encoder[side].unit;
                own.extend(unit.buffer.read(device, 0..unit.rows * stride).await?);
            }
            let lens: Vec<_> = self.slices.lens(size).into_iter().map(|rows| rows * stride).collect();
            let joined = match self.gather.round(own) {
                Some(short) => widened(&gather(&*self.ranks, &short, &lens)?),
                None => gather(&*self.ranks, own, &lens)?,
            };
            whole.buffer.write(device, 0, &joined)?;
        }
        Ok(())
    }

    /// The sum over all slices of the gradients of the parameters `0..len`. It goes back through the encoders of the own
    /// slices, adds their sums, and then the sums of all ranks.
    pub async fn backward(
        &mut self,
        (device, commands): (&Device, &mut Commands),
        encoders: &mut [[Encoder; 2]],
        values: &Buffer<f32>,
        (gradients, len): (&mut Buffer<f32>, usize),
    ) -> Result<()> {
        let mut tree = Tree::new(self.slices.count());
        for (slice, encoders) in self.own.clone().zip(encoders) {
            let mut sum = self.spare(device)?;
            for (encoder, whole) in encoders.iter_mut().zip(&self.d_unit) {
                let own = whole.rows(self.slices.pairs(slice));
                let to = encoder.d_unit.buffer.view_mut();
                let values_of = own.rows * own.stride();
                accumulate(commands, (own.data, values_of), 1.0, (to, 0), false)?;
                encoder.backward((device, commands), values, &mut sum)?;
            }
            let right = add(commands, &mut tree, ((0, slice), sum), len)?;
            self.spare.extend(right);
        }
        let mut roots = tree.roots();
        if self.ranks.size() > 1 {
            commands.submit()?;
            roots = self.of_all_ranks((device, commands), roots, len).await?;
        }
        if let Some((_, sum)) = roots.pop() {
            self.spare.push(std::mem::replace(gradients, sum));
        }
        Ok(())
    }

    /// Memory for a gradient.
    fn spare(&mut self, device: &Device) -> Result<Buffer<f32>> {
        self.spare.pop().map_or_else(|| Buffer::new(device, "d.slice", self.parameters), Ok)
    }

    /// Memory for so many numbers at most of a part.
    fn spare_part(&mut self, device: &Device, most: usize) -> Result<Buffer<f32>> {
        self.spare_parts.pop().map_or_else(|| Buffer::new(device, "d.part", most), Ok)
    }

    /// Adds the sums of all ranks. Each rank adds one part of the parameters, in the order of the tree, and the parts are
    /// joined. So a rank receives the parameters about twice, whatever the number of ranks.
    async fn of_all_ranks(
        &mut self,
        (device, commands): (&Device, &mut Commands),
        own: Vec<(Node, Buffer<f32>)>,
        len: usize,
    ) -> Result<Vec<(Node, Buffer<f32>)>> {
        let (rank, size, count) = (self.ranks.rank(), self.ranks.size(), self.slices.count());
        let mut nodes = Vec::new();
        for rank in 0..size {
            let mut tree = Tree::new(count);
            for slice in self.slices.of_rank(rank, size) {
                tree.push((0, slice), (), |(), ()| Ok::<_, Error>(()))?;
            }
            nodes.push(tree.roots().into_iter().map(|(node, ())| node).collect::<Vec<_>>());
        }
        let mut sums = Vec::new();
        for (_, sum) in own {
            sums.push(sum.read(device, 0..len).await?);
            self.spare.push(sum);
        }
        let mut whole = self.spare(device)?;
        let most = nodes.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let block = AT_ONCE / most;
        let widest = parts(0..len.min(block), size)[0].len();
        for first in (0..len).step_by(block) {
            let parts = parts(first..len.min(first + block), size);
            // For each rank its part of every own sum.
            let sent: Vec<f32> = parts
                .iter()
                .flat_map(|part| sums.iter().flat_map(|sum| &sum[part.clone()]))
                .copied()
                .collect();
            let to: Vec<_> = parts.iter().map(|part| sums.len() * part.len()).collect();
            let width = parts[rank].len();
            let from: Vec<_> = nodes.iter().map(|nodes| nodes.len() * width).collect();
            let received = exchange(&*self.ranks, &sent, [&to, &from])?;
            let mut tree = Tree::new(count);
            // An empty part has nothing to add, and its rank sends nothing.
            for (node, values) in nodes.iter().flatten().zip(received.chunks_exact(width.max(1))) {
                let mut sum = self.spare_part(device, widest)?;
                // Work that is queued may still read this memory.
                commands.submit()?;
                sum.write(device, 0, values)?;
                let right = add(commands, &mut tree, (*node, sum), width)?;
                self.spare_parts.extend(right);
            }
            commands.submit()?;
            let mut added = Vec::new();
            for (_, sum) in tree.roots() {
                added = sum.read(device, 0..width).await?;
                self.spare_parts.push(sum);
            }
            let lens: Vec<_> = parts.iter().map(Range::len).collect();
            whole.write(device, first, &gather(&*self.ranks, &added, &lens)?)?;
        }
        Ok(vec![((0, 0), whole)])
    }
}

/// Puts a sum of `len` numbers into the tree. Returns memory that has become free.
fn add(
    commands: &mut Commands,
    tree: &mut Tree<Buffer<f32>>,
    (node, sum): (Node, Buffer<f32>),
    len: usize,
) -> Result<Vec<Buffer<f32>>> {
    let mut free = Vec::new();
    tree.push(node, sum, |left, right| {
        accumulate(commands, (right.part(0..len), len), 1.0, (left.view_mut(), 0), true)?;
        free.push(right);
        Ok::<_, Error>(())
    })?;
    Ok(free)
}

/// The parts of a range that the ranks add, each a multiple of four numbers long except the last that is not empty.
fn parts(range: Range<usize>, size: usize) -> Vec<Range<usize>> {
    let step = range.len().div_ceil(size).next_multiple_of(4);
    let bound = |rank: usize| range.end.min(range.start + rank * step);
    (0..size).map(|rank| bound(rank)..bound(rank + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_range_in_order() {
        for (range, size) in [(0..0, 3), (0..3, 2), (8..100, 1), (8..100, 3), (0..8, 5), (4..4_099, 8)] {
            let parts = parts(range.clone(), size);
            assert_eq!(parts.len(), size);
            assert_eq!(
                parts.iter().cloned().flatten().collect::<Vec<_>>(),
                range.clone().collect::<Vec<_>>()
            );
            assert!(parts.iter().all(|part| part.is_empty() || (part.start - range.start).is_multiple_of(4)));
        }
    }
}
