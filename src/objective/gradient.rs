//! The gradient of an objective as a list of dispatches (goal-math.md section 5; vse-models.md sections 1 and 4).
//!
//! The similarity matrix comes in blocks of rows that fit a binding. With a single block it is computed once, with more
//! it is recomputed for the passes that need all hardest negatives first; N x N is never held.
//! A fifth of the file are tests of that.

use super::mining::{Direction, place};
use super::{GoalParams, InfonceParams, Negatives, Objective, Term};
use crate::device::{Buffer, Commands, Device, Mat, Matrix, Slice};
use crate::kernels::{
    Below, Block, Composition, Dense, ExponentialParams, InfonceField, MAX_PAIRS, Product, Relative,
    WeightParams, accumulate, compose, dense_field, dense_sum, exponential_field, exponential_sum, infonce,
    matmul, mined_order, relative, weights,
};
use crate::{Error, Result};
use std::ops::Range;

/// What a batch brings to its gradient.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// X, Y `[pairs, cols]`
    pub images: Mat<'a>,
    pub texts: Mat<'a>,
    /// Image of each pair, where other captions of the same image are no negatives.
    pub ids: Option<Slice<'a, u32>>,
    /// t of InfoNCE `[1]`; not read by the others.
    pub temperature: Slice<'a, f32>,
    /// Upstream gradient.
    pub scale: f32,
    /// Further candidates for mining.
    pub bank: Option<BankRows<'a>>,
}

/// Embeddings of earlier batches, `[rows, cols]` of both sides.
#[derive(Clone, Copy)]
pub(crate) struct BankRows<'a> {
    pub images: Mat<'a>,
    pub texts: Mat<'a>,
    /// Images of the batch's pairs, then of the bank's: those of equal ids are no negatives.
    pub ids: Slice<'a, u32>,
}

/// The memory that gradients of batches of one size need; reused from step to step.
pub(crate) struct Workspace {
    pub(super) pairs: usize,
    pub(super) block_rows: usize,
    /// S of one block, or the field that takes its place.
    pub(super) similarity: Matrix,
    /// A strip of similarities to a memory bank.
    pub(super) to_bank: Option<Matrix>,
    pub(super) positive: Buffer<f32>,
    /// p again, where the first is also read, or written by another.
    pub(super) positive_again: Buffer<f32>,
    /// Above every index.
    pub(super) no_index: Buffer<u32>,
    pub(super) images: Direction,
    pub(super) texts: Direction,
    /// Parts of the gradient at the temperature, in column 0 of `[pairs, 4]`.
    pub(super) dt: Matrix,
    /// Whether something is in the losses, and in the gradients.
    begun: bool,
}

/// How a direction sees images `first..first + rows` of all `pairs`.
pub(super) type BlockOf = fn(usize, usize, usize) -> Block;

pub(super) fn directions<'a>(
    images: &'a mut Direction,
    texts: &'a mut Direction,
) -> [(&'a mut Direction, BlockOf); 2] {
    [(images, Block::images), (texts, Block::texts)]
}

/// The rows of each block of S.
pub(super) fn blocks(pairs: usize, block_rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..pairs).step_by(block_rows).map(move |first| first..(first + block_rows).min(pairs))
}

/// Whether a batch may have so many pairs, the same on every device.
///
/// # Errors
/// Too many, or none.
pub(crate) fn check_pairs(pairs: usize) -> Result<()> {
    if (1..=MAX_PAIRS).contains(&pairs) {
        return Ok(());
    }
    let (expected, advice) = (format!("1 to {MAX_PAIRS}"), "give fewer pairs at a time");
    Err(Error::config("pairs of a batch", expected, pairs, advice))
}

impl Workspace {
    /// For batches of `pairs` embeddings of width `dim`, and a memory bank of at most `bank`.
    pub fn new(device: &Device, pairs: usize, dim: usize, bank: usize) -> Result<Self> {
        let mut workspace = Self::with_block_rows(device, pairs, device.strip_rows(pairs, pairs, dim)?)?;
        if bank > 0 {
            let rows = device.strip_rows(pairs, bank, dim)?;
            workspace.to_bank = Some(Matrix::new(device, "objective.to_bank", rows, bank)?);
        }
        Ok(workspace)
    }

    /// A workspace whose blocks have `block_rows` rows, a multiple of 16 or all.
    fn with_block_rows(device: &Device, pairs: usize, block_rows: usize) -> Result<Self> {
        check_pairs(pairs)?;
        Ok(Self {
            pairs,
            block_rows,
            similarity: Matrix::new(device, "objective.similarity", block_rows, pairs)?,
            to_bank: None,
            positive: Buffer::new(device, "objective.positive", pairs)?,
            positive_again: Buffer::new(device, "objective.positive_again", pairs)?,
            no_index: Buffer::from_slice(device, "objective.no_index", &vec![u32::MAX; pairs])?,
            images: Direction::new(device, "images", pairs)?,
            texts: Direction::new(device, "texts", pairs)?,
            dt: Matrix::new(device, "objective.dt", pairs, 1)?,
            begun: false,
        })
    }

    /// p `[pairs]`
    pub fn positive(&self) -> Slice<'_, f32> {
        self.positive.view()
    }

    /// n of both directions, images against texts first.
    pub fn hardest(&self) -> [Slice<'_, f32>; 2] {
        [&self.images, &self.texts].map(|direction| direction.hardest().0.view())
    }

    /// Losses of both directions; their sum is the objective's value.
    pub fn losses(&self) -> [Slice<'_, f32>; 2] {
        [self.images.loss.view(), self.texts.loss.view()]
    }

    /// Parts of the gradient at InfoNCE's temperature, `[pairs, 1]`; its column sum is the gradient.
    pub fn temperature_gradient(&self) -> Mat<'_> {
        self.dt.view()
    }

    /// Computes the gradient at the embeddings, overwriting `dx`, `dy` `[pairs, cols]`.
    pub fn gradient(
        &mut self,
        commands: &mut Commands,
        objective: &Objective,
        inputs: Inputs,
        [dx, dy]: [&mut Matrix; 2],
    ) -> Result<()> {
        self.begun = false;
        for term in objective.terms() {
            let inputs = Inputs { scale: inputs.scale * term.weight, ..inputs };
            self.term(commands, &term, &inputs, [&mut *dx, &mut *dy])?;
        }
        Ok(())
    }

    fn term(
        &mut self,
        commands: &mut Commands,
        term: &Term,
        inputs: &Inputs,
        [dx, dy]: [&mut Matrix; 2],
    ) -> Result<()> {
        self.mine(commands, inputs, term, 0)?;
        if let Objective::Infonce(params) = term.objective {
            self.infonce(commands, params, inputs, [dx, dy])?;
        } else if let Some(params) = term.objective.exponential_params(inputs.scale) {
            self.exponential(commands, &params, inputs, [dx, dy])?;
        } else if let Some(mut goal) = term.weights(inputs.scale) {
            let rounds = match term.negatives {
                Negatives::All => return self.all(commands, &goal, term.weight, inputs, [dx, dy]),
                Negatives::Hardest => 0..1,
                // The first has found p.
                Negatives::SemiHard => 1..2,
                Negatives::Top(count) => 0..(count.get() as usize).min(self.pairs),
            };
            for round in rounds {
                if round > 0 {
                    self.mine(commands, inputs, term, round)?;
                }
                if let Some((params, exponential)) = term.relative() {
                    self.relative_sets(commands, inputs, params, exponential, round)?;
                }
                for direction in [&mut self.images, &mut self.texts] {
                    let Below { value, index } = direction.rounds[place(round)].below();
                    let mined = (self.positive.view(), value, index);
                    let (coefficients, loss) =
                        (direction.coefficients.view_mut(), direction.part_loss.view_mut());
                    weights(commands, &goal, mined, direction.sums.view(), coefficients, loss, self.pairs)?;
                }
                self.compose(commands, inputs, round, [&mut *dx, &mut *dy], self.begun)?;
                self.collect(commands, term.weight)?;
                goal.positive = goal.positive.later();
            }
            return Ok(());
        }
        self.collect(commands, term.weight)
    }

    /// Adds the losses of a part to those before.
    fn collect(&mut self, commands: &mut Commands, weight: f32) -> Result<()> {
        for direction in [&mut self.images, &mut self.texts] {
            let Direction { part_loss, loss, .. } = direction;
            if !self.begun && weight == 1.0 {
                std::mem::swap(part_loss, loss);
                continue;
            }
            accumulate(commands, (part_loss.view(), self.pairs), weight, (loss.view_mut(), 0), self.begun)?;
        }
        self.begun = true;
        Ok(())
    }

    fn relative_sets(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        params: &GoalParams,
        exponential: bool,
        round: usize,
    ) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                similarity(commands, inputs, &rows, &mut self.similarity)?;
            }
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let Below { value, index } = direction.rounds[place(round)].below();
                let from = Relative {
                    positive: self.positive.view(),
                    value,
                    index,
                    ids: inputs.ids,
                    exponential,
                    alpha: params.alpha,
                    beta: params.beta,
                    threshold: params.threshold,
                };
                let block = block(rows.start, rows.len(), self.pairs);
                relative(commands, &block, s, from, direction.sums.view_mut())?;
            }
        }
        Ok(())
    }

    /// Both gradients from the coefficients and the indices of a round.
    fn compose(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        round: usize,
        [dx, dy]: [&mut Matrix; 2],
        accumulate: bool,
    ) -> Result<()> {
        let Self { images, texts, pairs, .. } = self;
        for direction in [&mut *images, &mut *texts] {
            let Direction { rounds, keys, .. } = direction;
            mined_order(commands, rounds[place(round)].index.view(), *pairs, keys.view_mut())?;
        }
        let (images, texts) = (&*images, &*texts);
        let bank = inputs.bank.map(|bank| (bank.images, bank.texts)).unzip();
        for (y, bank, own, other, dx) in
            [(inputs.texts, bank.1, images, texts, dx), (inputs.images, bank.0, texts, images, dy)]
        {
            let composition = Composition {
                own: own.coefficients.view(),
                own_index: own.mined(round).index,
                other: other.coefficients.view(),
                other_keys: other.keys.view(),
                accumulate,
            };
            compose(commands, (y, 0), composition, dx.view_mut())?;
            if let Some(bank) = bank {
                let composition = Composition { accumulate: true, ..composition };
                compose(commands, (bank, *pairs), composition, dx.view_mut())?;
            }
        }
        Ok(())
    }

    /// All negatives, without mining.
    fn all(
        &mut self,
        commands: &mut Commands,
        goal: &WeightParams,
        weight: f32,
        inputs: &Inputs,
        [dx, dy]: [&mut Matrix; 2],
    ) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                similarity(commands, inputs, &rows, &mut self.similarity)?;
            }
            let from = Dense { positive: self.positive.view(), ids: inputs.ids, weights: goal };
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let block = block(rows.start, rows.len(), self.pairs);
                let (coefficients, loss) =
                    (direction.coefficients.view_mut(), direction.part_loss.view_mut());
                dense_sum(commands, &block, s, from, coefficients, loss)?;
            }
            dense_field(commands, self.similarity.rows_mut(0..rows.len()), rows.start, from)?;
            let field = self.similarity.rows(0..rows.len());
            dense(commands, field, inputs, &rows, [&mut *dx, &mut *dy], self.begun)?;
        }
        self.compose(commands, &Inputs { bank: None, ..*inputs }, 0, [dx, dy], true)?;
        self.collect(commands, weight)
    }

    fn exponential(
        &mut self,
        commands: &mut Commands,
        params: &ExponentialParams,
        inputs: &Inputs,
        [dx, dy]: [&mut Matrix; 2],
    ) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                similarity(commands, inputs, &rows, &mut self.similarity)?;
            }
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let block = block(rows.start, rows.len(), self.pairs);
                let mined = (self.positive.view(), direction.rounds[0].value.view());
                exponential_sum(
                    commands,
                    &block,
                    s,
                    inputs.ids,
                    mined,
                    params.rate,
                    direction.sums.view_mut(),
                )?;
            }
        }
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                similarity(commands, inputs, &rows, &mut self.similarity)?;
            }
            let field = self.similarity.rows_mut(0..rows.len());
            let states = [self.images.sums.view(), self.texts.sums.view()];
            let losses = [self.images.part_loss.view_mut(), self.texts.part_loss.view_mut()];
            exponential_field(commands, field, rows.start, inputs.ids, states, params, losses)?;
            dense(
                commands,
                self.similarity.rows(0..rows.len()),
                inputs,
                &rows,
                [&mut *dx, &mut *dy],
                self.begun,
            )?;
        }
        Ok(())
    }

    fn infonce(
        &mut self,
        commands: &mut Commands,
        params: &InfonceParams,
        inputs: &Inputs,
        [dx, dy]: [&mut Matrix; 2],
    ) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                similarity(commands, inputs, &rows, &mut self.similarity)?;
            }
            let from = InfonceField {
                ids: inputs.ids,
                same_image: params.same_image(),
                temperature: inputs.temperature,
                states: [self.images.sums.view(), self.texts.sums.view()],
                scale: inputs.scale,
                row_offset: rows.start,
            };
            let losses = [self.images.part_loss.view_mut(), self.texts.part_loss.view_mut()];
            infonce(
                commands,
                self.similarity.rows_mut(0..rows.len()),
                from,
                self.dt.buffer.view_mut(),
                losses,
            )?;
            dense(
                commands,
                self.similarity.rows(0..rows.len()),
                inputs,
                &rows,
                [&mut *dx, &mut *dy],
                self.begun,
            )?;
        }
        Ok(())
    }
}

/// Whether a block is all there is. Blocks of one matrix are to take their sums in one order, that equal embeddings may have
/// equal similarities.
fn whole(inputs: &Inputs, rows: &Range<usize>) -> bool {
    rows.len() == inputs.images.rows
}

/// S of the rows of a block.
pub(super) fn similarity(
    commands: &mut Commands,
    inputs: &Inputs,
    rows: &Range<usize>,
    s: &mut Matrix,
) -> Result<()> {
    let product =
        Product { sliced: whole(inputs, rows), ..Product::nt(inputs.images.part(rows), inputs.texts) };
    matmul(commands, product, s.rows_mut(0..rows.len()))
}

/// The block's part of dX = A Y and dY = Aᵀ X for a field A that is not sparse.
fn dense(
    commands: &mut Commands,
    field: Mat,
    inputs: &Inputs,
    rows: &Range<usize>,
    [dx, dy]: [&mut Matrix; 2],
    accumulate: bool,
) -> Result<()> {
    let sliced = whole(inputs, rows);
    let forth = Product { accumulate, sliced, ..Product::nn(field, inputs.texts) };
    matmul(commands, forth, dx.rows_mut(rows.clone()))?;
    let accumulate = accumulate || rows.start > 0;
    let back = Product { accumulate, sliced, ..Product::tn(field, inputs.images.part(rows)) };
    matmul(commands, back, dy.view_mut())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Adapters;
    use crate::objective::{GoalParams, InfonceParams, Loss, PairWeight, TripletWeight};
    use crate::random::{Purpose, random};
    use rand_chacha::rand_core::Rng;

    /// Gradients and losses through blocks of `rows` rows of a batch of `pairs` embeddings of width `dim`.
    fn by_blocks(
        device: &Device,
        objective: &Objective,
        [pairs, dim]: [usize; 2],
        masked: bool,
        rows: usize,
    ) -> [Vec<f32>; 4] {
        // In general position.
        let rows_of = |seed: u64| -> Vec<f32> {
            let mut rng = random(Purpose::Analysis, seed, 0, 0);
            let mut values: Vec<_> =
                (0..pairs * dim).map(|_| rng.next_u32() as f32 / (1u32 << 31) as f32 - 1.0).collect();
            for row in values.chunks_exact_mut(dim) {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= norm);
            }
            values
        };
        let matrix = |name, values: &[f32]| Matrix::from_rows(device, name, pairs, dim, values).unwrap();
        let (x, y) = (matrix("x", &rows_of(1)), matrix("y", &rows_of(2)));
        let ids: Vec<u32> = (0..pairs as u32).map(|i| i % (pairs as u32 * 2 / 5)).collect();
        let ids = Buffer::from_slice(device, "ids", &ids).unwrap();
        let temperature = Buffer::from_slice(device, "t", &[0.1]).unwrap();
        let mut workspace = Workspace::with_block_rows(device, pairs, rows).unwrap();
        let mut gradients = [matrix("dx", &rows_of(3)), matrix("dy", &rows_of(3))];
        let inputs = Inputs {
            images: x.view(),
            texts: y.view(),
            ids: masked.then(|| ids.view()),
            temperature: temperature.view(),
            scale: 0.7,
            bank: None,
        };
        let mut commands = device.commands();
        let [dx, dy] = &mut gradients;
        workspace.gradient(&mut commands, objective, inputs, [dx, dy]).unwrap();
        commands.submit().unwrap();
        let read = |matrix: &Matrix| device.wait(matrix.to_rows(device)).unwrap();
        let loss = |direction: &Direction| device.wait(direction.loss.read(device, 0..pairs)).unwrap();
        [read(&gradients[0]), read(&gradients[1]), loss(&workspace.images), loss(&workspace.texts)]
    }

    fn furthest(a: &[f32], b: &[f32]) -> f32 {
        let size = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        a.iter().zip(b).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / size
    }

    /// On the software adapter in strips of what it takes at a time, on the CPU all similarities at once.
    #[test]
    fn a_batch_of_8000_gives_the_gradient_of_the_whole() {
        const SHAPE: [usize; 2] = [8000, 256];
        let Ok(device) = Adapters::find().open("vulkan:llvmpipe") else {
            return eprintln!("skipped: lavapipe is not here");
        };
        let rows = device.strip_rows(SHAPE[0], SHAPE[0], SHAPE[1]).unwrap();
        assert!(rows < SHAPE[0], "{rows} rows at a time");
        for name in ["infonce", "hinge"] {
            let objective: Objective = name.parse().unwrap();
            let strips = by_blocks(&device, &objective, SHAPE, true, rows);
            let whole = by_blocks(&Device::cpu(), &objective, SHAPE, true, SHAPE[0]);
            let errors: Vec<_> =
                strips.iter().zip(&whole).map(|(strips, whole)| furthest(strips, whole)).collect();
            println!("{name}: {errors:?}");
            assert!(errors.iter().all(|&error| error <= 2e-6), "{name}: {errors:?}");
        }
    }

    #[test]
    fn blocks_add_up_to_the_whole_on_every_device() {
        let goal = |triplet, pair| Objective::Goal(triplet, pair, GoalParams::default());
        let objectives = [
            goal(TripletWeight::Con, PairWeight::Lin),
            goal(TripletWeight::Nca, PairWeight::LinMs),
            goal(TripletWeight::Cir, PairWeight::SigMs),
            Objective::Hinge { margin: 0.2 },
            Objective::HingeSum { margin: 0.2 },
            Objective::Loss(Loss::MultiSimilarity, Loss::MultiSimilarity.params()),
            Objective::Loss(Loss::Lifted, Loss::Lifted.params()),
            Objective::Infonce(InfonceParams::default()),
            Objective::Infonce(InfonceParams { leave_out: true, ..Default::default() }),
            "cir:sig-ms@top:3".parse().unwrap(),
            "nca:lin@semi-hard".parse().unwrap(),
            "infonce+0.5*cir:con@top:2+2*cir:sig@all".parse().unwrap(),
        ];
        let adapters = Adapters::find();
        for info in adapters.devices() {
            let device = adapters.open(&info.index.to_string()).unwrap();
            for (objective, masked) in objectives.iter().flat_map(|o| [(o, false), (o, true)]) {
                let whole = by_blocks(&device, objective, [257, 13], masked, 257);
                let largest = whole[0].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                assert!(largest > 0.0 && largest.is_finite());
                for rows in [16, 48, 64, 192] {
                    let parts = by_blocks(&device, objective, [257, 13], masked, rows);
                    for (part, whole) in parts.iter().zip(&whole) {
                        let error = furthest(part, whole);
                        assert!(
                            error <= 5e-6,
                            "{objective} masked {masked}, {rows} rows on {device}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}
