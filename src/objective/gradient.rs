//! The gradient of an objective as a list of dispatches (goal-math.md section 5; vse-models.md sections 1 and 4).
//!
//! The similarity matrix comes in blocks of rows that fit a binding. With a single block it is computed once, with more
//! it is recomputed for the passes that need all hardest negatives first; N x N is never held.

use super::{GoalParams, InfonceParams, Objective, PairWeight};
use crate::Result;
use crate::device::{Buffer, Commands, Device, Mat, Matrix, Slice};
use crate::kernels::{
    Block, Composition, ExponentialParams, Hardest, InfonceField, Product, Relative, Violations, compose,
    custom_weights, exponential_field, exponential_sum, hardest, hinge_sum, infonce, log_sum_exp, matmul,
    relative, violations, weights,
};
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
}

/// One direction's mined negatives and what follows from them, `[pairs]` each.
pub(super) struct Direction {
    pub value: Buffer<f32>,
    pub index: Buffer<u32>,
    /// Relative sums, or the log-sum-exp state: `[pairs, 4]`.
    sums: Buffer<f32>,
    /// (c+, c-): `[pairs, 2]`.
    coefficients: Buffer<f32>,
    pub loss: Buffer<f32>,
}

impl Direction {
    fn new(device: &Device, name: &str, pairs: usize) -> Result<Self> {
        let label = |what: &str| format!("objective.{name}.{what}");
        Ok(Self {
            value: Buffer::new(device, &label("hardest"), pairs)?,
            index: Buffer::new(device, &label("index"), pairs)?,
            sums: Buffer::new(device, &label("sums"), 4 * pairs)?,
            coefficients: Buffer::new(device, &label("coefficients"), 2 * pairs)?,
            loss: Buffer::new(device, &label("loss"), pairs)?,
        })
    }
}

/// The memory that gradients of batches of one size need; reused from step to step.
pub(crate) struct Workspace {
    pairs: usize,
    block_rows: usize,
    /// S of one block, or the field that takes its place.
    similarity: Matrix,
    pub(super) positive: Buffer<f32>,
    pub(super) images: Direction,
    pub(super) texts: Direction,
    /// Parts of the gradient at the temperature, in column 0 of `[pairs, 4]`.
    pub(super) dt: Matrix,
}

/// How a direction sees images `first..first + rows` of all `pairs`.
type BlockOf = fn(usize, usize, usize) -> Block;

fn directions<'a>(images: &'a mut Direction, texts: &'a mut Direction) -> [(&'a mut Direction, BlockOf); 2] {
    [(images, Block::images), (texts, Block::texts)]
}

/// The rows of each block of S.
fn blocks(pairs: usize, block_rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..pairs).step_by(block_rows).map(move |first| first..(first + block_rows).min(pairs))
}

impl Workspace {
    /// For batches of `pairs` embeddings of width `dim`.
    pub fn new(device: &Device, pairs: usize, dim: usize) -> Result<Self> {
        Self::with_block_rows(device, pairs, device.strip_rows(pairs, pairs, dim))
    }

    /// A workspace whose blocks have `block_rows` rows, a multiple of 64 or all.
    fn with_block_rows(device: &Device, pairs: usize, block_rows: usize) -> Result<Self> {
        Ok(Self {
            pairs,
            block_rows,
            similarity: Matrix::new(device, "objective.similarity", block_rows, pairs)?,
            positive: Buffer::new(device, "objective.positive", pairs)?,
            images: Direction::new(device, "images", pairs)?,
            texts: Direction::new(device, "texts", pairs)?,
            dt: Matrix::new(device, "objective.dt", pairs, 1)?,
        })
    }

    /// p `[pairs]`
    pub fn positive(&self) -> Slice<'_, f32> {
        self.positive.view()
    }

    /// n of both directions, images against texts first.
    pub fn hardest(&self) -> [Slice<'_, f32>; 2] {
        [self.images.value.view(), self.texts.value.view()]
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
        match *objective {
            Objective::Goal(..) | Objective::Loss(..) | Objective::Hinge { .. } => {}
            Objective::HingeSum { margin } => {
                self.mine(commands, &inputs, objective)?;
                return self.hinge_sum(commands, margin, &inputs, [dx, dy]);
            }
            Objective::Custom { ref weights, margin } => {
                self.mine(commands, &inputs, objective)?;
                let pairs = self.pairs;
                for direction in [&mut self.images, &mut self.texts] {
                    let mined = (self.positive.view(), direction.value.view(), direction.index.view());
                    let (coefficients, loss) = (direction.coefficients.view_mut(), direction.loss.view_mut());
                    let sums = direction.sums.view();
                    let options = (margin, inputs.scale);
                    custom_weights(commands, weights, options, mined, sums, coefficients, loss, pairs)?;
                }
                return self.compose(commands, &inputs, [dx, dy], false);
            }
            Objective::Infonce(params) => {
                self.mine(commands, &inputs, objective)?;
                return self.infonce(commands, &params, &inputs, [dx, dy]);
            }
        }
        self.mine(commands, &inputs, objective)?;
        if let Some(params) = objective.exponential_params(inputs.scale) {
            return self.exponential(commands, &params, &inputs, [dx, dy]);
        }
        let Some(goal) = objective.weight_params(inputs.scale) else { return Ok(()) };
        if let (Objective::Goal(.., params), PairWeight::LinMs | PairWeight::SigMs) = (objective, goal.pair) {
            self.relative_sets(commands, &inputs, params, goal.pair == PairWeight::SigMs)?;
        }
        let pairs = self.pairs;
        for direction in [&mut self.images, &mut self.texts] {
            let mined = (self.positive.view(), direction.value.view(), direction.index.view());
            let (coefficients, loss) = (direction.coefficients.view_mut(), direction.loss.view_mut());
            weights(commands, &goal, mined, direction.sums.view(), coefficients, loss, pairs)?;
        }
        self.compose(commands, &inputs, [dx, dy], false)
    }

    /// S of the rows of a block.
    fn similarity(&mut self, commands: &mut Commands, inputs: &Inputs, rows: &Range<usize>) -> Result<()> {
        let product = Product::nt(inputs.images.part(rows), inputs.texts);
        matmul(commands, product, self.similarity.rows_mut(0..rows.len()))
    }

    /// p, and n, h of both directions; for InfoNCE its log-sum-exps too. Where triplets close by a margin, an anchor's
    /// own pair is no candidate: a margin is violated by a negative or not at all.
    fn mine(&mut self, commands: &mut Commands, inputs: &Inputs, objective: &Objective) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            self.similarity(commands, inputs, &rows)?;
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let block = block(rows.start, rows.len(), self.pairs);
                let out = Hardest {
                    positive: self.positive.view_mut(),
                    value: direction.value.view_mut(),
                    index: direction.index.view_mut(),
                };
                hardest(commands, &block, s, inputs.ids, objective.closes_triplets(), out)?;
                if let Objective::Infonce(params) = objective {
                    let same = (inputs.ids, params.same_image());
                    log_sum_exp(commands, &block, s, same, inputs.temperature, direction.sums.view_mut())?;
                }
            }
        }
        Ok(())
    }

    fn relative_sets(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        params: &GoalParams,
        exponential: bool,
    ) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                self.similarity(commands, inputs, &rows)?;
            }
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let from = Relative {
                    positive: self.positive.view(),
                    value: direction.value.view(),
                    index: direction.index.view(),
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

    /// Both gradients from the coefficients and indices.
    fn compose(
        &self,
        commands: &mut Commands,
        inputs: &Inputs,
        [dx, dy]: [&mut Matrix; 2],
        accumulate: bool,
    ) -> Result<()> {
        for (y, own, other, dx) in
            [(inputs.texts, &self.images, &self.texts, dx), (inputs.images, &self.texts, &self.images, dy)]
        {
            let composition = Composition {
                own: own.coefficients.view(),
                own_index: own.index.view(),
                other: other.coefficients.view(),
                other_index: other.index.view(),
                accumulate,
            };
            compose(commands, y, composition, dx.view_mut())?;
        }
        Ok(())
    }

    fn hinge_sum(
        &mut self,
        commands: &mut Commands,
        margin: f32,
        inputs: &Inputs,
        [dx, dy]: [&mut Matrix; 2],
    ) -> Result<()> {
        for rows in blocks(self.pairs, self.block_rows) {
            if self.block_rows < self.pairs {
                self.similarity(commands, inputs, &rows)?;
            }
            let from =
                Violations { positive: self.positive.view(), ids: inputs.ids, margin, scale: inputs.scale };
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let block = block(rows.start, rows.len(), self.pairs);
                let (coefficients, loss) = (direction.coefficients.view_mut(), direction.loss.view_mut());
                violations(commands, &block, s, from, coefficients, loss)?;
            }
            hinge_sum(commands, self.similarity.rows_mut(0..rows.len()), rows.start, from)?;
            dense(commands, self.similarity.rows(0..rows.len()), inputs, &rows, [&mut *dx, &mut *dy])?;
        }
        self.compose(commands, inputs, [dx, dy], true)
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
                self.similarity(commands, inputs, &rows)?;
            }
            let s = self.similarity.rows(0..rows.len());
            for (direction, block) in directions(&mut self.images, &mut self.texts) {
                let block = block(rows.start, rows.len(), self.pairs);
                let mined = (self.positive.view(), direction.value.view());
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
                self.similarity(commands, inputs, &rows)?;
            }
            let field = self.similarity.rows_mut(0..rows.len());
            let states = [self.images.sums.view(), self.texts.sums.view()];
            let losses = [self.images.loss.view_mut(), self.texts.loss.view_mut()];
            exponential_field(commands, field, rows.start, inputs.ids, states, params, losses)?;
            dense(commands, self.similarity.rows(0..rows.len()), inputs, &rows, [&mut *dx, &mut *dy])?;
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
                self.similarity(commands, inputs, &rows)?;
            }
            let from = InfonceField {
                ids: inputs.ids,
                same_image: params.same_image(),
                temperature: inputs.temperature,
                states: [self.images.sums.view(), self.texts.sums.view()],
                scale: inputs.scale,
                row_offset: rows.start,
            };
            let losses = [self.images.loss.view_mut(), self.texts.loss.view_mut()];
            infonce(
                commands,
                self.similarity.rows_mut(0..rows.len()),
                from,
                self.dt.buffer.view_mut(),
                losses,
            )?;
            dense(commands, self.similarity.rows(0..rows.len()), inputs, &rows, [&mut *dx, &mut *dy])?;
        }
        Ok(())
    }
}

/// The block's part of dX = A Y and dY = Aᵀ X for a field A that is not sparse.
fn dense(
    commands: &mut Commands,
    field: Mat,
    inputs: &Inputs,
    rows: &Range<usize>,
    [dx, dy]: [&mut Matrix; 2],
) -> Result<()> {
    matmul(commands, Product::nn(field, inputs.texts), dx.rows_mut(rows.clone()))?;
    let back = Product { accumulate: rows.start > 0, ..Product::tn(field, inputs.images.part(rows)) };
    matmul(commands, back, dy.view_mut())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Adapters;
    use crate::objective::{GoalParams, InfonceParams, Loss, TripletWeight};

    /// Gradients and losses through blocks of `rows` rows.
    fn by_blocks(device: &Device, objective: &Objective, masked: bool, rows: usize) -> [Vec<f32>; 4] {
        const PAIRS: usize = 257;
        const DIM: usize = 13;
        let wave =
            |phase: f32| (0..PAIRS * DIM).map(|k| (k as f32 * phase).sin() / 3.0).collect::<Vec<f32>>();
        let matrix = |name, values: &[f32]| Matrix::from_rows(device, name, PAIRS, DIM, values).unwrap();
        let (x, y) = (matrix("x", &wave(1.3)), matrix("y", &wave(1.7)));
        let ids: Vec<u32> = (0..PAIRS as u32).map(|i| i % 101).collect();
        let ids = Buffer::from_slice(device, "ids", &ids).unwrap();
        let temperature = Buffer::from_slice(device, "t", &[0.1]).unwrap();
        let mut workspace = Workspace::with_block_rows(device, PAIRS, rows).unwrap();
        let mut gradients = [matrix("dx", &wave(9.0)), matrix("dy", &wave(9.0))];
        let inputs = Inputs {
            images: x.view(),
            texts: y.view(),
            ids: masked.then(|| ids.view()),
            temperature: temperature.view(),
            scale: 0.7,
        };
        let mut commands = device.commands();
        let [dx, dy] = &mut gradients;
        workspace.gradient(&mut commands, objective, inputs, [dx, dy]).unwrap();
        commands.submit().unwrap();
        let read = |matrix: &Matrix| device.wait(matrix.to_rows(device)).unwrap();
        let loss = |direction: &Direction| device.wait(direction.loss.read(device, 0..PAIRS)).unwrap();
        [read(&gradients[0]), read(&gradients[1]), loss(&workspace.images), loss(&workspace.texts)]
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
        ];
        let adapters = Adapters::find();
        for info in adapters.devices() {
            let device = adapters.open(&info.index.to_string()).unwrap();
            for (objective, masked) in objectives.iter().flat_map(|o| [(o, false), (o, true)]) {
                let whole = by_blocks(&device, objective, masked, 257);
                let largest = whole[0].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                assert!(largest > 0.0 && largest.is_finite());
                for rows in [64, 192] {
                    let parts = by_blocks(&device, objective, masked, rows);
                    for (part, whole) in parts.iter().zip(&whole) {
                        let scale = whole.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
                        for (a, b) in part.iter().zip(whole) {
                            let near = (a - b).abs() <= 5e-6 * scale;
                            assert!(near, "{objective} masked {masked}, {rows} rows on {device}: {a} {b}");
                        }
                    }
                }
            }
        }
    }
}
