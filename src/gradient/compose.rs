//! The gradient of an objective as a list of dispatches (docs/math.md, "Assembled gradient", "Hinge" and "InfoNCE").
//!
//! The file is long because more than half of it are tests: strips of any size give the gradient of the whole batch, and
//! what is left out has no part in it.

use super::mining::exponentials;
use super::several::{positives_of, towards};
use super::shard::{PerPair, Scratch};
use super::terms::{exponential_params, same_image, targets, term_weights};
use super::workspace::{Direction, Inputs, Strips, Workspace};
use crate::Result;
use crate::device::{Buffer, Commands, MatMut};
use crate::kernels::{
    Below, Composition, Dense, ExponentialParams, InfonceAtOnce, InfonceField, Known, PerAnchor,
    PositivesParams, Relative, SiglipField, WeightParams, accumulate, compose, dense_field, dense_sum,
    exponential_field, exponential_sum, infonce, infonce_at_once, mined_order, relative, siglip, weights,
};
use crate::objective::{GoalParams, InfonceParams, Negatives, Objective, SiglipParams, Term};

impl Workspace {
    /// Computes the gradient at the embeddings. Overwrites `dx` and `dy` `[pairs, cols]`.
    pub fn gradient(
        &mut self,
        commands: &mut Commands,
        objective: &Objective,
        inputs: Inputs,
        [dx, dy]: [&mut MatMut; 2],
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
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        self.mine(commands, inputs, term, 0)?;
        let several = towards(term, inputs);
        if self.has_captions() {
            self.find_texts(commands, inputs)?;
        }
        if let Some(several) = &several {
            self.find_positives(commands, inputs, several)?;
        }
        let several = several.as_ref();
        if let Objective::Infonce(params) = term.objective {
            let shares = self.shares(term);
            self.infonce(commands, params, shares, inputs, [dx, dy])?;
        } else if let Objective::Siglip(params) = term.objective {
            self.siglip(commands, params, inputs, [dx, dy])?;
        } else if let Some(params) = exponential_params(term, several, inputs.scale) {
            self.exponential(commands, &params, several, inputs, [&mut *dx, &mut *dy])?;
        } else if let Some(goal) = term_weights(term, inputs.scale) {
            let exclude_own = goal.exclude_own || self.has_captions();
            let goal = WeightParams { exclude_own, ..goal };
            let into = [&mut *dx, &mut *dy];
            match term.negatives {
                Negatives::All => self.all_negatives(commands, &goal, term, inputs, into)?,
                _ => return self.mined_negatives(commands, term, goal, inputs, [dx, dy]),
            }
        }
        if let Some(several) = several {
            self.pull(commands, inputs, several, [dx, dy])?;
        }
        self.collect(commands, term)
    }

    /// The factors of both directions. InfoNCE is a mean over images, plus one over texts. Its kernels divide by the number
    /// of texts.
    fn shares(&self, term: &Term) -> [f32; 2] {
        let ([it, ti], [images, texts]) = (term.shares(), self.anchors());
        match term.objective {
            Objective::Infonce(_) => [it * texts as f32 / images as f32, ti],
            _ => [it, ti],
        }
    }

    /// Adds the losses of a term or round to the sum.
    fn collect(&mut self, commands: &mut Commands, term: &Term) -> Result<()> {
        let pairs = self.pairs();
        let shares = self.shares(term);
        for (direction, share) in [&mut self.images, &mut self.texts].into_iter().zip(shares) {
            let weight = term.weight * share;
            let Direction { part_loss, loss, .. } = direction;
            if !self.begun && weight == 1.0 {
                std::mem::swap(part_loss, loss);
                continue;
            }
            accumulate(commands, (part_loss.view(), pairs), weight, (loss.view_mut(), 0), self.begun)?;
        }
        self.begun = true;
        Ok(())
    }

    /// Triplets on mined negatives, round by round.
    fn mined_negatives(
        &mut self,
        commands: &mut Commands,
        term: &Term,
        goal: WeightParams,
        inputs: &Inputs,
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        let (pairs, anchors) = (self.pairs(), self.anchors());
        let several = towards(term, inputs);
        let mut goals = per_direction(&goal, term);
        let rounds = match term.negatives {
            // Round 0 has found p.
            Negatives::SemiHard => 1..2,
            Negatives::Top(count) => 0..(count.get() as usize).min(pairs),
            Negatives::Hardest | Negatives::All => 0..1,
        };
        let first = rounds.start;
        for round in rounds {
            if round > 0 {
                self.mine(commands, inputs, term, round)?;
            }
            if let Some((params, exponential)) = term.relative() {
                self.relative_sets(commands, inputs, (params, exponential), several.is_some(), round)?;
            }
            let positives = positives_of(&self.positive, &self.several, several.is_some());
            let directions = [&mut self.images, &mut self.texts].into_iter().zip(positives);
            for (((direction, positive), goal), anchors) in directions.zip(&goals).zip(anchors) {
                let Below { value, index } = direction.rounds.at(round);
                let mined = (positive, value, index);
                let (coefficients, loss) =
                    (direction.coefficients.view_mut(), direction.part_loss.view_mut());
                weights(commands, goal, mined, direction.sums.view(), coefficients, loss, anchors)?;
            }
            self.compose(commands, inputs, round, [&mut *dx, &mut *dy], (several.is_none(), self.begun))?;
            if several.is_some() {
                self.add_pulls(commands, round == first)?;
            }
            self.collect(commands, term)?;
            goals.iter_mut().for_each(|goal| goal.positive = goal.positive.later());
        }
        several.map_or(Ok(()), |several| self.pull(commands, inputs, &several, [dx, dy]))
    }

    fn relative_sets(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        (params, exponential): (&GoalParams, bool),
        has_several: bool,
        round: usize,
    ) -> Result<()> {
        let Self { similarity, images, texts, positive, several, .. } = self;
        let positives = positives_of(positive, several, has_several);
        similarity.strips(commands, inputs, Strips::Kept, |commands, strip| {
            let directions = [&mut *images, &mut *texts].into_iter().zip(positives);
            for ((direction, positive), block) in directions.zip(strip.blocks()) {
                let Some(block) = block else { continue };
                let Below { value, index } = direction.rounds.at(round);
                let from = Relative {
                    positive,
                    value,
                    index,
                    ids: inputs.ids,
                    exponential,
                    alpha: params.alpha,
                    beta: params.beta,
                    threshold: params.threshold,
                };
                relative(commands, &block, strip.view(), from, direction.sums.view_mut())?;
            }
            Ok(())
        })?;
        similarity.join(commands, vec![PerPair::F(&mut images.sums, 4), PerPair::F(&mut texts.sums, 4)])
    }

    /// Computes both gradients from the coefficients and the indices of a round. `positive` says whether the own pair is
    /// the positive.
    fn compose(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        round: usize,
        [dx, dy]: [&mut MatMut; 2],
        (positive, accumulate): (bool, bool),
    ) -> Result<()> {
        let pairs = self.pairs();
        let Self { images, texts, .. } = self;
        for direction in [&mut *images, &mut *texts] {
            let index = direction.rounds.at(round).index;
            mined_order(commands, index, pairs, direction.keys.view_mut())?;
        }
        let (images, texts) = (&*images, &*texts);
        let bank = inputs.bank.map(|bank| (bank.images, bank.texts)).unzip();
        for (y, bank, own, other, dx) in
            [(inputs.texts, bank.1, images, texts, dx), (inputs.images, bank.0, texts, images, dy)]
        {
            let composition = Composition {
                own: own.coefficients.view(),
                own_index: own.rounds.at(round).index,
                other: other.coefficients.view(),
                other_keys: other.keys.view(),
                positive,
                accumulate,
            };
            compose(commands, (y, 0), composition, dx.view_mut())?;
            if let Some(bank) = bank {
                let composition = Composition { accumulate: true, ..composition };
                compose(commands, (bank, pairs), composition, dx.view_mut())?;
            }
        }
        Ok(())
    }

    /// Triplets on all negatives, without mining.
    fn all_negatives(
        &mut self,
        commands: &mut Commands,
        goal: &WeightParams,
        term: &Term,
        inputs: &Inputs,
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        let has_several = towards(term, inputs).is_some();
        let Self { similarity, images, texts, positive, several, begun, .. } = self;
        let goals = per_direction(goal, term);
        let positives = positives_of(positive, several, has_several);
        similarity.strips(commands, inputs, Strips::Kept, |commands, mut strip| {
            let directions = [&mut *images, &mut *texts].into_iter().zip(strip.blocks());
            for (((direction, block), weights), positive) in directions.zip(&goals).zip(positives) {
                let Some(block) = block else { continue };
                let (coefficients, loss) =
                    (direction.coefficients.view_mut(), direction.part_loss.view_mut());
                let from = Dense { positive, ids: inputs.ids, weights };
                dense_sum(commands, &block, strip.view(), from, coefficients, loss)?;
            }
            let first = strip.rows.start;
            let from = Dense { positive: strip.turn(positives), ids: inputs.ids, weights: goal };
            let shares = strip.turn(term.shares());
            dense_field(commands, strip.view_mut(), first, from, shares)?;
            strip.dense(commands, inputs, [&mut *dx, &mut *dy], *begun)
        })?;
        let sums = [&mut *images, &mut *texts].into_iter().flat_map(|direction| {
            let Direction { coefficients, part_loss, .. } = direction;
            [PerPair::F(coefficients, 2), PerPair::F(part_loss, 1)]
        });
        similarity.join(commands, sums.collect())?;
        if has_several {
            return self.add_pulls(commands, true);
        }
        self.compose(commands, &Inputs { bank: None, ..*inputs }, 0, [dx, dy], (true, true))
    }

    /// Losses that sum exponentials over all negatives.
    fn exponential(
        &mut self,
        commands: &mut Commands,
        params: &ExponentialParams,
        several: Option<&PositivesParams>,
        inputs: &Inputs,
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        let Self { similarity, images, texts, positive, several: [it, ti], scratch, begun, .. } = self;
        similarity.strips(commands, inputs, Strips::Kept, |commands, strip| {
            let directions = [(&mut *images, &*it), (&mut *texts, &*ti)];
            for ((direction, found), block) in directions.into_iter().zip(strip.blocks()) {
                let Some(block) = block else { continue };
                let value = direction.rounds.at(0).value;
                let known = match several {
                    Some(_) => Known { positive: found.positive.view(), lowest: found.lowest.view(), value },
                    None => Known { positive: positive.view(), lowest: positive.view(), value },
                };
                let sums = direction.sums.view_mut();
                exponential_sum(commands, &block, strip.view(), inputs.ids, known, params, sums)?;
            }
            Ok(())
        })?;
        similarity.join(commands, vec![PerPair::F(&mut images.sums, 4), PerPair::F(&mut texts.sums, 4)])?;
        similarity.strips(commands, inputs, Strips::Kept, |commands, mut strip| {
            let states = strip.turn([images.sums.view(), texts.sums.view()]);
            let out = match scratch {
                Some(Scratch { losses, pulls, .. }) if strip.is_turned() => PerAnchor {
                    losses: losses.each_mut().map(Buffer::view_mut),
                    pulls: pulls.each_mut().map(Buffer::view_mut),
                },
                _ => PerAnchor {
                    losses: [images.part_loss.view_mut(), texts.part_loss.view_mut()],
                    pulls: [it.pulls.view_mut(), ti.pulls.view_mut()],
                },
            };
            let place = (strip.rows.start, strip.images);
            let params = &ExponentialParams { shares: strip.turn(params.shares), ..*params };
            exponential_field(commands, strip.view_mut(), place, inputs.ids, states, params, out)?;
            strip.dense(commands, inputs, [&mut *dx, &mut *dy], *begun)
        })?;
        let outputs = [(images, it), (texts, ti)].into_iter().flat_map(|(direction, several)| {
            [PerPair::F(&mut direction.part_loss, 1), PerPair::F(&mut several.pulls, 2)]
        });
        similarity.join(commands, outputs.collect())
    }

    fn infonce(
        &mut self,
        commands: &mut Commands,
        params: &InfonceParams,
        shares: [f32; 2],
        inputs: &Inputs,
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        let Self { similarity, images, texts, positive, dt, scratch, begun, .. } = self;
        similarity.strips(commands, inputs, Strips::Kept, |commands, mut strip| {
            let same_image = targets(params);
            if strip.is_whole() {
                if let Commands::Cpu = commands {
                    let (ids, temperature, scale) = (inputs.ids, inputs.logits, inputs.scale);
                    let mined = [positive.view(), images.rounds.at(0).value, texts.rounds.at(0).value];
                    let from = InfonceAtOnce { ids, same_image, temperature, scale, shares, mined };
                    let losses = [images.part_loss.view_mut(), texts.part_loss.view_mut()];
                    if infonce_at_once(strip.view_mut(), from, dt.buffer.view_mut(), losses)? {
                        return strip.dense(commands, inputs, [&mut *dx, &mut *dy], *begun);
                    }
                }
                exponentials(commands, params, &strip, inputs, [&mut *images, &mut *texts])?;
            }
            let from = InfonceField {
                ids: inputs.ids,
                same_image,
                temperature: inputs.logits,
                states: strip.turn([images.sums.view(), texts.sums.view()]),
                scale: inputs.scale,
                shares: strip.turn(shares),
                row_offset: strip.rows.start,
                images: strip.images,
            };
            let (part, losses) = match scratch {
                Some(Scratch { parts: [part, _], losses, .. }) if strip.is_turned() => {
                    (part, losses.each_mut().map(Buffer::view_mut))
                }
                _ => (&mut dt.buffer, [images.part_loss.view_mut(), texts.part_loss.view_mut()]),
            };
            infonce(commands, strip.view_mut(), from, part.view_mut(), losses)?;
            strip.dense(commands, inputs, [&mut *dx, &mut *dy], *begun)
        })?;
        let losses = [&mut images.part_loss, &mut texts.part_loss].map(|loss| PerPair::F(loss, 1));
        let outputs = losses.into_iter().chain([PerPair::F(&mut dt.buffer, 4)]);
        similarity.join(commands, outputs.collect())
    }

    fn siglip(
        &mut self,
        commands: &mut Commands,
        params: &SiglipParams,
        inputs: &Inputs,
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        let Self { similarity, images, texts, dt, db, scratch, begun, .. } = self;
        similarity.strips(commands, inputs, Strips::Kept, |commands, mut strip| {
            let from = SiglipField {
                ids: inputs.ids,
                same_image: same_image(params.leave_out),
                logits: inputs.logits,
                scale: inputs.scale,
                row_offset: strip.rows.start,
                images: strip.images,
            };
            let (parts, losses) = match scratch {
                Some(Scratch { parts, losses, .. }) if strip.is_turned() => {
                    (parts.each_mut().map(Buffer::view_mut), losses.each_mut().map(Buffer::view_mut))
                }
                _ => (
                    [dt.buffer.view_mut(), db.buffer.view_mut()],
                    [images.part_loss.view_mut(), texts.part_loss.view_mut()],
                ),
            };
            siglip(commands, strip.view_mut(), from, parts, losses)?;
            strip.dense(commands, inputs, [&mut *dx, &mut *dy], *begun)
        })?;
        let losses = [&mut images.part_loss, &mut texts.part_loss].map(|loss| PerPair::F(loss, 1));
        let parts = [&mut dt.buffer, &mut db.buffer].map(|part| PerPair::F(part, 4));
        similarity.join(commands, losses.into_iter().chain(parts).collect())
    }
}

/// The weights of both directions. Those of a direction that does not take part are 0.
fn per_direction(goal: &WeightParams, term: &Term) -> [WeightParams; 2] {
    term.shares().map(|share| WeightParams { scale: goal.scale * share, ..goal.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, Matrix, every_adapter};
    use crate::gradient::LeftOut;
    use crate::gradient::workspace::Direction;
    use crate::math::{Purpose, random};
    use crate::objective::{
        GoalParams, InfonceParams, Logits, Loss, PairWeight, SiglipParams, TripletWeight,
    };
    use rand_chacha::rand_core::Rng;

    /// Random unit rows, so ties are unlikely.
    fn unit_rows([pairs, dim]: [usize; 2], seed: u64) -> Vec<f32> {
        let mut rng = random(Purpose::Analysis, seed, 0, 0);
        let mut values: Vec<_> =
            (0..pairs * dim).map(|_| rng.next_u32() as f32 / (1u32 << 31) as f32 - 1.0).collect();
        for row in values.chunks_exact_mut(dim) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        values
    }

    /// The elements of S that are left out: two of every seventh row.
    fn list(pairs: usize) -> Vec<[u32; 2]> {
        let n = pairs as u32;
        (0..n).step_by(7).flat_map(|i| [[i, (i + 1) % n], [i, (i + n / 2) % n]]).collect()
    }

    /// Image ids of which most occur more than once.
    fn image_ids(pairs: usize) -> Vec<u32> {
        (0..pairs as u32).map(|i| i % (pairs as u32 * 2 / 5)).collect()
    }

    /// Gradients and losses of a batch of `pairs` embeddings of width `dim`, computed in strips of `rows` rows.
    fn by_blocks(
        device: &Device,
        objective: &Objective,
        [pairs, dim]: [usize; 2],
        masked: bool,
        rows: usize,
    ) -> [Vec<f32>; 4] {
        by_strips(device, objective, [pairs, pairs, dim], masked.then(|| image_ids(pairs)), rows)
    }

    /// The same for `images` images and the texts of `pairs` pairs.
    fn by_strips(
        device: &Device,
        objective: &Objective,
        [images, pairs, dim]: [usize; 3],
        ids: Option<Vec<u32>>,
        rows: usize,
    ) -> [Vec<f32>; 4] {
        let rows_of = |seed: u64| unit_rows([pairs, dim], seed);
        let matrix = |name, values: &[f32]| Matrix::from_rows(device, name, pairs, dim, values).unwrap();
        let mut of_images = rows_of(1);
        of_images[images * dim..].fill(0.0);
        let (x, y) = (matrix("x", &of_images), matrix("y", &rows_of(2)));
        let ids = ids.map(|ids| Buffer::from_slice(device, "ids", &ids).unwrap());
        let logits = Logits { temperature: 0.1, bias: -2.0, has_bias: true, learned: false };
        let logits = Buffer::from_slice(device, "logits", &logits.values()).unwrap();
        let mut left_out = LeftOut::new(device, "left_out").unwrap();
        let inside = list(pairs).into_iter().filter(|[i, _]| (*i as usize) < images).collect();
        left_out.write(device, inside).unwrap();
        let mut workspace = Workspace::with_strip_rows(device, [images, pairs], rows).unwrap();
        let mut gradients = [matrix("dx", &rows_of(3)), matrix("dy", &rows_of(3))];
        let inputs = Inputs {
            images: x.view(),
            texts: y.view(),
            ids: ids.as_ref().map(Buffer::view),
            logits: logits.view(),
            left_out: Some([&left_out; 2]),
            scale: 0.7,
            bank: None,
        };
        let mut commands = device.commands();
        let [dx, dy] = &mut gradients;
        let into = [&mut dx.view_mut(), &mut dy.view_mut()];
        workspace.gradient(&mut commands, objective, inputs, into).unwrap();
        commands.submit().unwrap();
        let read = |matrix: &Matrix| device.wait(matrix.to_rows(device)).unwrap();
        let loss = |direction: &Direction| device.wait(direction.loss.read(device, 0..pairs)).unwrap();
        [read(&gradients[0]), read(&gradients[1]), loss(&workspace.images), loss(&workspace.texts)]
    }

    /// Similarities in f64, and which of them are left out.
    fn similarities([pairs, dim]: [usize; 2]) -> (Vec<Vec<f64>>, impl Fn(usize, usize) -> bool) {
        let (x, y) = (unit_rows([pairs, dim], 1), unit_rows([pairs, dim], 2));
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        let row = |x: &[f32]| y.chunks_exact(dim).map(|y| dot(x, y)).collect();
        let list = list(pairs);
        (x.chunks_exact(dim).map(row).collect(), move |i, j| list.contains(&[i as u32, j as u32]))
    }

    /// Losses by their definitions, in which what is left out does not occur.
    #[test]
    fn what_is_left_out_has_no_part_in_the_loss() {
        const SHAPE: [usize; 2] = [40, 6];
        let ((s, out), n) = (similarities(SHAPE), SHAPE[0]);
        let turned = |i: usize, j: usize| s[j][i];
        // For both directions the similarities of an anchor's negatives, and its positive.
        let anchors = || {
            let of_images = (0..n).map(|i| {
                let others = (0..n).filter(|&j| j != i && !out(i, j));
                (others.map(|j| s[i][j]).collect::<Vec<_>>(), s[i][i])
            });
            let of_texts = (0..n).map(|j| {
                let others = (0..n).filter(|&i| i != j && !out(i, j));
                (others.map(|i| turned(j, i)).collect::<Vec<_>>(), s[j][j])
            });
            of_images.chain(of_texts).collect::<Vec<_>>()
        };
        let open = |n: f64, p: f64| (n - p + 0.2).max(0.0);
        let hinge = |(negatives, p): (Vec<f64>, f64)| open(negatives.into_iter().fold(-1.0, f64::max), p);
        let hinge_sum =
            |(negatives, p): (Vec<f64>, f64)| negatives.into_iter().map(|n| open(n, p)).sum::<f64>();
        let infonce = |(negatives, p): (Vec<f64>, f64)| {
            let sum: f64 = negatives.into_iter().map(|n| ((n - p) / 0.1).exp()).sum();
            sum.ln_1p() / (2 * n) as f64
        };
        // Each pair of an image and a text occurs in both directions, and counts once.
        let softplus = |z: f64| z.exp().ln_1p();
        let siglip = |(negatives, p): (Vec<f64>, f64)| {
            let sum: f64 = negatives.into_iter().map(|s| softplus(s / 0.1 - 2.0)).sum();
            (sum + softplus(2.0 - p / 0.1)) / (2 * n) as f64
        };
        let total = |of: &dyn Fn((Vec<f64>, f64)) -> f64| anchors().into_iter().map(of).sum::<f64>();
        let temperature = InfonceParams { temperature: 0.1, ..Default::default() };
        for (objective, expected) in [
            (Objective::Hinge { margin: 0.2 }, total(&hinge)),
            (Objective::HingeSum { margin: 0.2 }, total(&hinge_sum)),
            (Objective::Infonce(temperature), total(&infonce)),
            (Objective::Siglip(SiglipParams::default()), total(&siglip)),
        ] {
            let [_, _, it, ti] = by_blocks(&Device::cpu(), &objective, SHAPE, false, n);
            let found: f64 = it.into_iter().chain(ti).map(f64::from).sum();
            assert!((found - expected).abs() <= 1e-5 * expected, "{objective}: {found}, expected {expected}");
        }
    }

    #[test]
    fn what_is_left_out_has_no_part_in_the_gradient() {
        left_out_on([Device::cpu()]);
    }

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn what_is_left_out_has_no_part_in_the_gradient_on_every_adapter() {
        left_out_on(every_adapter());
    }

    /// Objectives of every kind.
    fn beside_what_is_left_out() -> Vec<Objective> {
        let infonce = |leave_out| {
            Objective::Infonce(InfonceParams { temperature: 0.1, leave_out, ..Default::default() })
        };
        let siglip = |leave_out| {
            let (temperature, logit_bias) = (0.1, -2.0);
            Objective::Siglip(SiglipParams { temperature, logit_bias, leave_out, ..Default::default() })
        };
        vec![
            "hinge".parse().unwrap(),
            "hinge-sum".parse().unwrap(),
            "cir:sig-ms".parse().unwrap(),
            "nca:lin-ms".parse().unwrap(),
            "con:sig@all".parse().unwrap(),
            "cir:sig-ms@top:3".parse().unwrap(),
            "nca:lin@semi-hard".parse().unwrap(),
            "multi-similarity".parse().unwrap(),
            "lifted".parse().unwrap(),
            infonce(false),
            infonce(true),
            siglip(false),
            siglip(true),
            Objective::Infonce(InfonceParams { temperature: 0.1, log_sum: true, ..Default::default() }),
            "multi-similarity-mined".parse().unwrap(),
            "circle-all".parse().unwrap(),
            "circle-all@text-to-image".parse().unwrap(),
            infonce(true).in_direction(crate::objective::Direction::ImageToText).unwrap(),
            "cir:sig-ms@top:2@text-to-image".parse().unwrap(),
            "hinge-sum@image-to-text".parse().unwrap(),
            "lifted@image-to-text".parse().unwrap(),
            "cir:sig-ms@positives:hardest".parse().unwrap(),
            "nca:lin-ms@positives:mean@top:2".parse().unwrap(),
            "nca:lin@positives:log-sum@semi-hard@text-to-image".parse().unwrap(),
            "con:sig@positives:log-sum@all@image-to-text".parse().unwrap(),
            "hinge-sum@positives:mean".parse().unwrap(),
            "multi-similarity-mined@positives:log-sum".parse().unwrap(),
            "lifted@positives:hardest@image-to-text".parse().unwrap(),
            "circle-all@positives:log-sum".parse().unwrap(),
        ]
    }

    /// dX = A Y, with the field A in f64 at similarities that lack what is left out; A is 0 there.
    fn left_out_on(devices: impl IntoIterator<Item = Device>) {
        const SHAPE: [usize; 2] = [40, 6];
        let ((s, out), [n, dim], y) = (similarities(SHAPE), SHAPE, unit_rows(SHAPE, 2));
        let mut padded: Vec<f64> = s.concat();
        assert_eq!(crate::device::padded(n), n);
        (0..n * n)
            .filter(|&at| out(at / n, at % n))
            .for_each(|at| padded[at] = crate::kernels::NOTHING.into());
        let objectives = beside_what_is_left_out();
        let ids = image_ids(n);
        for device in devices {
            for (objective, masked) in objectives.iter().flat_map(|o| [(o, false), (o, true)]) {
                let ids = masked.then_some(&ids[..]);
                let field = crate::gradient::Field::at(objective, &padded, n, ids).unwrap();
                let left = (0..n * n).filter(|&at| out(at / n, at % n)).map(|at| field.a[at].abs());
                assert!(left.fold(0.0, f64::max) == 0.0, "{objective}");
                let dx: Vec<f32> = (0..n * dim)
                    .map(|at| {
                        let (i, k) = (at / dim, at % dim);
                        0.7 * (0..n).map(|j| field.a[i * n + j] * f64::from(y[j * dim + k])).sum::<f64>()
                    })
                    .map(|x| x as f32)
                    .collect();
                for rows in [n, 16] {
                    let [found, ..] = by_blocks(&device, objective, SHAPE, masked, rows);
                    let error = furthest(&found, &dx);
                    assert!(error <= 2e-5, "{objective} masked {masked}, {rows} rows on {device}: {error:e}");
                }
            }
        }
    }

    fn furthest(a: &[f32], b: &[f32]) -> f32 {
        let size = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        a.iter().zip(b).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / size
    }

    /// The software adapter computes in strips as large as it accepts. The CPU computes all similarities at once.
    #[test]
    #[ignore = "needs lavapipe: run scripts/test"]
    fn a_batch_of_8000_gives_the_gradient_of_the_whole() {
        const SHAPE: [usize; 2] = [8000, 256];
        let device = crate::device::Adapters::find().open("vulkan:llvmpipe").unwrap();
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
    fn strips_of_several_texts_add_up() {
        captions_add_up_on([Device::cpu()]);
    }

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn strips_of_several_texts_add_up_on_every_adapter() {
        captions_add_up_on(every_adapter());
    }

    fn captions_add_up_on(devices: impl IntoIterator<Item = Device>) {
        const SHAPE: [usize; 3] = [70, 257, 13];
        let [images, pairs, dim] = SHAPE;
        let ids: Vec<_> = (0..pairs).map(|text| (text % images) as u32).collect();
        for device in devices {
            for name in [
                "infonce",
                "infonce-log-sum",
                "siglip",
                "hinge@positives:mean",
                "nca:sig@positives:hardest@top:2",
                "con:sig@positives:log-sum@all",
                "multi-similarity-mined@positives:log-sum",
                "circle-all@positives:log-sum+infonce@text-to-image",
            ] {
                let objective: Objective = name.parse().unwrap();
                let of = |rows| by_strips(&device, &objective, SHAPE, Some(ids.clone()), rows);
                let whole = of(images);
                assert!(
                    whole[2][images..].iter().all(|loss| *loss == 0.0),
                    "{name}: a loss without an image"
                );
                // The loss of a pair of an image and a text counts for the image in SigLIP.
                let texts = whole[3][pairs - 20..].iter().any(|loss| *loss > 0.0);
                assert!(texts != (name == "siglip"), "{name}: losses of texts {texts}");
                for rows in [16, 48] {
                    for (side, (part, whole)) in of(rows).iter().zip(&whole).enumerate() {
                        // There is no image after the last.
                        let len = if side == 0 { images * dim } else { whole.len() };
                        let error = furthest(&part[..len], &whole[..len]);
                        assert!(error <= 5e-6, "{name}, {rows} rows, {side} on {device}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_add_up_to_the_whole() {
        blocks_add_up_on([Device::cpu()]);
    }

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn blocks_add_up_to_the_whole_on_every_adapter() {
        blocks_add_up_on(every_adapter());
    }

    fn blocks_add_up_on(devices: impl IntoIterator<Item = Device>) {
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
            "siglip".parse().unwrap(),
            "siglip-masked".parse().unwrap(),
            "circle-all".parse().unwrap(),
            "infonce-log-sum".parse().unwrap(),
            "multi-similarity-mined".parse().unwrap(),
            "infonce@text-to-image+0.5*nca:lin@semi-hard@image-to-text".parse().unwrap(),
            "cir:sig-ms@top:3".parse().unwrap(),
            "nca:lin@semi-hard".parse().unwrap(),
            "infonce+0.5*cir:con@top:2+2*cir:sig@all".parse().unwrap(),
            "cir:sig-ms@positives:hardest@top:2".parse().unwrap(),
            "nca:lin@positives:log-sum@semi-hard+0.5*hinge-sum@positives:mean".parse().unwrap(),
            "multi-similarity-mined@positives:log-sum".parse().unwrap(),
            "circle-all@positives:log-sum".parse().unwrap(),
        ];
        for device in devices {
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
