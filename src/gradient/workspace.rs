//! The buffers of a gradient, and the loop over the strips of the similarity matrix.
//!
//! S is computed in strips of rows that fit a binding. A single strip is computed once. Several strips are computed
//! again for each pass, so the whole N x N matrix is never in memory.

use super::bank::Bank;
use super::relation::LeftOut;
use super::shard::{Scratch, Shard, Side};
use super::shared_bank::SharedBank;
use crate::device::{Buffer, Commands, Device, Mat, MatMut, Matrix, Slice};
use crate::kernels::{Below, Block, Hardest, MAX_PAIRS, Product, matmul, mined_keys};
use crate::{Error, Result};
use std::ops::Range;

/// The inputs of a batch's gradient.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// X, Y `[pairs, cols]`
    pub images: Mat<'a>,
    pub texts: Mat<'a>,
    /// Image of each pair. If given, captions of the same image are never negatives.
    pub ids: Option<Slice<'a, u32>>,
    /// Temperature and bias of InfoNCE and SigLIP, as in `Logits::values`; the other objectives do not read them.
    pub logits: Slice<'a, f32>,
    /// Elements of S that are neither positive nor negative, ascending by image, and the same ascending by text.
    pub left_out: Option<[&'a LeftOut; 2]>,
    /// Upstream gradient.
    pub scale: f32,
    /// Further candidates for mining.
    pub bank: Option<&'a Bank>,
}

/// The buffers for gradients of batches of one size, reused from step to step.
pub(crate) struct Workspace {
    pub(super) similarity: Similarity,
    /// A strip of similarities to a memory bank.
    pub(super) to_bank: Option<Matrix>,
    /// Where processes share the memory bank.
    pub(super) shared_bank: Option<SharedBank>,
    pub(super) positive: Buffer<f32>,
    /// Receives p while `positive` is read, or written by the other direction.
    pub(super) positive_scratch: Buffer<f32>,
    /// Above every index, so a bound with it excludes all candidates of exactly its similarity.
    pub(super) no_index: Buffer<u32>,
    pub(super) images: Direction,
    pub(super) texts: Direction,
    /// Of both directions, where an anchor has several positives.
    pub(super) several: [Several; 2],
    /// Parts of the gradients at temperature and bias, in column 0 of `[pairs, 4]`.
    pub(super) dt: Matrix,
    pub(super) db: Matrix,
    /// Where the process shares the batch with others.
    pub(super) scratch: Option<Scratch>,
    /// Whether losses and gradients already hold a part of the sum.
    pub(super) begun: bool,
}

/// One direction's mined negatives and the values computed from them, `[pairs]` each.
pub(super) struct Direction {
    pub rounds: Rounds,
    /// Relative sums, or the state of InfoNCE's exponentials: `[pairs, 4]`.
    pub sums: Buffer<f32>,
    /// Which anchors mined each candidate, sorted.
    pub keys: Buffer<u32>,
    /// (c+, c-): `[pairs, 2]`.
    pub coefficients: Buffer<f32>,
    /// Losses of one term or round. InfoNCE stores its distances here first.
    pub part_loss: Buffer<f32>,
    /// Losses of all terms and rounds.
    pub loss: Buffer<f32>,
}

/// One direction's positives, where an anchor has several, and how strongly they are pulled.
pub(super) struct Several {
    /// p `[pairs]`
    pub positive: Buffer<f32>,
    /// The lowest positive `[pairs]`.
    pub lowest: Buffer<f32>,
    /// The state of the aggregate: `[pairs, 4]`.
    pub state: Buffer<f32>,
    /// (c+, unused): `[pairs, 2]`.
    pub pulls: Buffer<f32>,
}

impl Several {
    fn new(device: &Device, name: &str, pairs: usize) -> Result<Self> {
        let buffer =
            |what: &str, width| Buffer::new(device, &format!("objective.{name}.{what}"), width * pairs);
        Ok(Self {
            positive: buffer("several", 1)?,
            lowest: buffer("lowest", 1)?,
            state: buffer("several_state", 4)?,
            pulls: buffer("pulls", 2)?,
        })
    }
}

/// The mined negatives: the hardest, which the records report, then two buffers that later rounds use in turn.
pub(super) struct Rounds([Mined; 3]);

/// Negatives of one round of mining, `[pairs]`.
pub(super) struct Mined {
    pub value: Buffer<f32>,
    pub index: Buffer<u32>,
}

impl Mined {
    pub fn new(device: &Device, label: &str, pairs: usize) -> Result<Self> {
        let index = Buffer::new(device, &format!("{label}.index"), pairs)?;
        Ok(Self { value: Buffer::new(device, label, pairs)?, index })
    }

    /// Receives what is mined, and p.
    pub fn out<'a>(&'a mut self, positive: &'a mut Buffer<f32>) -> Hardest<'a> {
        let Self { value, index } = self;
        Hardest { positive: positive.view_mut(), value: value.view_mut(), index: index.view_mut() }
    }

    pub fn below(&self) -> Below<'_> {
        Below { value: self.value.view(), index: self.index.view() }
    }
}

impl Direction {
    fn new(device: &Device, name: &str, pairs: usize) -> Result<Self> {
        let label = |what: &str| format!("objective.{name}.{what}");
        let mined = |what| Mined::new(device, &label(what), pairs);
        Ok(Self {
            rounds: Rounds([mined("hardest")?, mined("even")?, mined("odd")?]),
            sums: Buffer::new(device, &label("sums"), 4 * pairs)?,
            keys: Buffer::new(device, &label("keys"), mined_keys(pairs))?,
            coefficients: Buffer::new(device, &label("coefficients"), 2 * pairs)?,
            part_loss: Buffer::new(device, &label("part"), pairs)?,
            loss: Buffer::new(device, &label("loss"), pairs)?,
        })
    }
}

impl Rounds {
    /// n and h of a round, counted from 0.
    pub fn at(&self, round: usize) -> Below<'_> {
        self.0[if round == 0 { 0 } else { 1 + round % 2 }].below()
    }

    /// The hardest negatives.
    pub fn hardest(&self) -> &Mined {
        &self.0[0]
    }

    /// The buffers of a round, and the result of the previous round.
    pub fn next(&mut self, round: usize) -> (&mut Mined, Option<&Mined>) {
        let [first, even, odd] = &mut self.0;
        match round {
            0 => (first, None),
            1 => (odd, Some(first)),
            round if round % 2 == 0 => (even, Some(odd)),
            _ => (odd, Some(even)),
        }
    }
}

/// Checks the number of pairs of a batch. The limit is the same on every device.
///
/// # Errors
/// Too many pairs, or none.
pub(crate) fn check_pairs(pairs: usize) -> Result<()> {
    if (1..=MAX_PAIRS).contains(&pairs) {
        return Ok(());
    }
    let (expected, advice) = (format!("1 to {MAX_PAIRS}"), "give fewer pairs at a time");
    Err(Error::config("pairs of a batch", expected, pairs, advice))
}

impl Workspace {
    /// For batches of `pairs` embeddings of width `dim`, and a memory bank of at most `bank` pairs.
    pub fn new(device: &Device, pairs: usize, dim: usize, bank: usize) -> Result<Self> {
        let mut workspace = Self::with_strip_rows(device, [pairs; 2], device.strip_rows(pairs, pairs, dim)?)?;
        workspace.similarity.dim = dim;
        if bank > 0 {
            let rows = device.strip_rows(pairs, bank, dim)?;
            workspace.to_bank = Some(Matrix::new(device, "objective.to_bank", rows, bank)?);
        }
        Ok(workspace)
    }

    /// For batches of `images` images and `texts` texts of width `dim`, at least as many texts as images. The texts are
    /// the pairs. The first text of every image stands at the number of the image. The images' matrices have a row for
    /// every pair; those from `images` on stay zero.
    pub fn with_captions(device: &Device, [images, texts]: [usize; 2], dim: usize) -> Result<Self> {
        Self::with_strip_rows(device, [images, texts], device.strip_rows(images, texts, dim)?)
    }

    /// A workspace for `images` images and `pairs` texts, whose strips have `rows` rows, a multiple of 16 or all.
    pub(super) fn with_strip_rows(device: &Device, [images, pairs]: [usize; 2], rows: usize) -> Result<Self> {
        check_pairs(pairs)?;
        let matrix = Matrix::new(device, "objective.similarity", rows, pairs)?;
        Ok(Self {
            similarity: Similarity {
                device: device.clone(),
                images,
                pairs,
                dim: 0,
                rows,
                matrix,
                shard: None,
            },
            to_bank: None,
            shared_bank: None,
            positive: Buffer::new(device, "objective.positive", pairs)?,
            positive_scratch: Buffer::new(device, "objective.positive_scratch", pairs)?,
            no_index: Buffer::from_slice(device, "objective.no_index", &vec![u32::MAX; pairs])?,
            images: Direction::new(device, "images", pairs)?,
            texts: Direction::new(device, "texts", pairs)?,
            several: [Several::new(device, "images", pairs)?, Several::new(device, "texts", pairs)?],
            dt: Matrix::new(device, "objective.dt", pairs, 1)?,
            db: Matrix::new(device, "objective.db", pairs, 1)?,
            scratch: None,
            begun: false,
        })
    }

    /// N
    pub(super) fn pairs(&self) -> usize {
        self.similarity.pairs
    }

    /// The number of images and that of texts.
    pub(super) fn anchors(&self) -> [usize; 2] {
        [self.similarity.images, self.similarity.pairs]
    }

    /// Whether images have several texts.
    pub(super) fn has_captions(&self) -> bool {
        self.similarity.images < self.similarity.pairs
    }

    /// p `[pairs]`
    pub fn positive(&self) -> Slice<'_, f32> {
        self.positive.view()
    }

    /// n of both directions, images against texts first.
    pub fn hardest(&self) -> [Slice<'_, f32>; 2] {
        [&self.images, &self.texts].map(|direction| direction.rounds.hardest().value.view())
    }

    /// p and n of both directions, images against texts first, to read back.
    pub fn triplets(&self) -> [&Buffer<f32>; 3] {
        [&self.positive, &self.images.rounds.hardest().value, &self.texts.rounds.hardest().value]
    }

    /// Losses of both directions; their sum is the objective's value.
    pub fn losses(&self) -> [Slice<'_, f32>; 2] {
        [self.images.loss.view(), self.texts.loss.view()]
    }

    /// Parts of the gradients at temperature and bias of the logits, `[pairs, 1]`; their column sums are the gradients.
    pub fn logit_gradients(&self) -> [Mat<'_>; 2] {
        [self.dt.view(), self.db.view()]
    }
}

/// The similarities of a batch, one strip of rows at a time.
pub(super) struct Similarity {
    pub device: Device,
    /// Rows of S.
    pub images: usize,
    pub pairs: usize,
    /// Width of the embeddings.
    pub dim: usize,
    /// Rows per strip.
    pub rows: usize,
    pub matrix: Matrix,
    /// What this process computes, if it shares the batch with others.
    pub shard: Option<Shard>,
}

/// Whether a single strip may be reused as the previous pass left it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strips {
    Fresh,
    Kept,
}

/// Rows of S, or of the field that overwrites them.
pub(super) struct Strip<'a> {
    /// Rows of the whole matrix.
    pub rows: Range<usize>,
    /// Rows of S.
    pub images: usize,
    pub pairs: usize,
    pub matrix: &'a mut Matrix,
    /// The only direction whose anchors are the rows. `None` if the strip serves both directions.
    pub only: Option<Side>,
}

impl Similarity {
    /// Calls `visit` for each strip, in order, after S is computed in it.
    pub fn strips(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        strips: Strips,
        mut visit: impl FnMut(&mut Commands, Strip) -> Result<()>,
    ) -> Result<()> {
        let Self { images, pairs, rows, .. } = *self;
        if let Some(shard) = &self.shard {
            return self.own_strips(commands, inputs, shard.parts(), visit);
        }
        for part in ranges(images, rows) {
            self.device.check_stop()?;
            let mut strip = Strip { rows: part, images, pairs, matrix: &mut self.matrix, only: None };
            if strips == Strips::Fresh || rows < images {
                let product = Product::nt(inputs.images.part(&strip.rows), inputs.texts);
                matmul(commands, Product { sliced: strip.is_whole(), ..product }, strip.view_mut())?;
                if let Some([left_out, _]) = inputs.left_out {
                    let rows = strip.rows.clone();
                    left_out.apply(commands, &rows, strip.view_mut())?;
                }
            }
            visit(commands, strip)?;
        }
        Ok(())
    }
}

impl Strip<'_> {
    pub fn view(&self) -> Mat<'_> {
        self.matrix.rows(0..self.rows.len())
    }

    pub fn view_mut(&mut self) -> MatMut<'_> {
        self.matrix.rows_mut(0..self.rows.len())
    }

    /// The strip with images as anchors, and with texts as anchors. A strip of one direction has one of them.
    pub fn blocks(&self) -> [Option<Block>; 2] {
        let (first, rows) = (self.rows.start, self.rows.len());
        let block = Block::images(first, rows, self.pairs);
        match self.only {
            None => [Some(block), Some(Block::texts(first, rows, self.pairs))],
            Some(Side::Images) => [Some(block), None],
            Some(Side::Texts) => [None, Some(block)],
        }
    }

    /// Whether it is the only strip. Several strips of one matrix must sum in the same order, so that equal embeddings
    /// have equal similarities.
    pub fn is_whole(&self) -> bool {
        self.only.is_none() && self.rows.len() == self.images
    }

    /// The strip's part of dX = A Y and dY = Aᵀ X. The strip must hold a dense field A.
    pub fn dense(
        &self,
        commands: &mut Commands,
        inputs: &Inputs,
        [dx, dy]: [&mut MatMut; 2],
        accumulate: bool,
    ) -> Result<()> {
        if self.only.is_some() {
            let [others, _] = self.turn([inputs.texts, inputs.images]);
            let [into, _] = self.turn([dx, dy]);
            let product = Product { accumulate, ..Product::nn(self.view(), others) };
            return matmul(commands, product, into.part(&self.rows));
        }
        let sliced = self.is_whole();
        let forth = Product { accumulate, sliced, ..Product::nn(self.view(), inputs.texts) };
        matmul(commands, forth, dx.part(&self.rows))?;
        let accumulate = accumulate || self.rows.start > 0;
        let images = inputs.images.part(&self.rows);
        let back = Product { accumulate, sliced, ..Product::tn(self.view(), images) };
        matmul(commands, back, dy.view_mut())
    }
}

/// 0..n in ranges of `step`.
pub(super) fn ranges(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(step).map(move |first| first..(first + step).min(n))
}
