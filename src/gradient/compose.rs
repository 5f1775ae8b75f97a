//! The gradient of an objective as a list of dispatches (docs/math.md, "Assembled gradient", "Hinge" and "InfoNCE").

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
        let anchors = self.anchors();
        let Self { similarity, images, texts, positive, several, .. } = self;
        let positives = positives_of(positive, several, has_several).into_iter().zip(anchors);
        let positives: Vec<_> = positives.collect();
        similarity.strips(commands, inputs, Strips::Kept, |commands, strip| {
            let directions = [&mut *images, &mut *texts].into_iter().zip(&positives);
            for ((direction, &(positive, all_anchors)), block) in directions.zip(strip.blocks()) {
                let Some(block) = block else { continue };
                let Below { value, index } = direction.rounds.at(round);
                let from = Relative {
                    positive,
                    all_anchors,
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
        for (d, (y, own, other, dx)) in
            [(inputs.texts, images, texts, dx), (inputs.images, texts, images, dy)].into_iter().enumerate()
        {
            let mined = own.rounds.at(round).index;
            let (further, own_index) = match (inputs.bank, &self.shared_bank) {
                (Some(_), Some(shared)) => shared.to_compose(d).unzip(),
                (Some(bank), None) => (Some(bank.held()[1 - d]), None),
                (None, _) => (None, None),
            };
            let composition = Composition {
                own: own.coefficients.view(),
                own_index: own_index.unwrap_or(mined),
                other: other.coefficients.view(),
                other_keys: other.keys.view(),
                positive,
                accumulate,
            };
            compose(commands, (y, 0), composition, dx.view_mut())?;
            if let Some(further) = further {
                let composition = Composition { accumulate: true, ..composition };
                compose(commands, (further, pairs), composition, dx.view_mut())?;
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
mod tests;
