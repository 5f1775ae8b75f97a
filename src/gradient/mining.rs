//! Mining: the hardest negatives of every anchor, in rounds, within the batch and a memory bank.

use super::relation::LeftOut;
use super::several::towards;
use super::shard::PerPair;
use super::terms::targets;
use super::workspace::{Direction, Inputs, Mined, Strip, Strips, Workspace, ranges};
use crate::Result;
use crate::device::{Buffer, Commands, Mat, Matrix, Slice, padded};
use crate::kernels::{Below, Block, Candidates, Hardest, Product, hardest, log_sum_exp, matmul};
use crate::objective::{InfonceParams, Negatives, Objective, Term};
use std::ops::Range;

impl Workspace {
    /// Finds p, and n and h of both directions. For InfoNCE in several strips it also computes the sums of exponentials,
    /// while the strip is there. An anchor's own pair is not a candidate after the first round. It is never a candidate if
    /// a margin closes triplets, because only a negative can violate a margin. Nor is it one if images have several texts.
    pub(super) fn mine(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        term: &Term,
        round: usize,
    ) -> Result<()> {
        let exclude_own = term.objective.closes_triplets() || round > 0 || self.has_captions();
        let semi_hard = round > 0 && term.negatives == Negatives::SemiHard;
        let Self {
            similarity, to_bank, positive, positive_scratch, no_index, images, texts, several, ..
        } = self;
        let has_several = towards(term, inputs).is_some();
        // Semi-hard mining reads `positive`, so it writes p to scratch. The direction of the texts also finds p. It
        // always writes p to scratch, so it need not wait for the direction of the images.
        let (mut found, bounds) = match semi_hard {
            false => (Some(positive), [None; 2]),
            true => {
                let positives = [&several[0], &several[1]]
                    .map(|several| if has_several { several.positive.view() } else { positive.view() });
                (None, positives.map(|value| Some(Below { value, index: no_index.view() })))
            }
        };
        let mining = bounds.map(|bound| Mining { exclude_own, round, bound });
        let strips = if round == 0 { Strips::Fresh } else { Strips::Kept };
        similarity.strips(commands, inputs, strips, |commands, strip| {
            let directions = [&mut *images, &mut *texts].into_iter().zip(&mining);
            for (d, ((direction, mining), block)) in directions.zip(strip.blocks()).enumerate() {
                let Some(block) = block else { continue };
                let positive = match &mut found {
                    Some(found) if d == 0 => &mut **found,
                    _ => &mut *positive_scratch,
                };
                mining.block(commands, &block, strip.view(), inputs.ids, (positive, direction))?;
            }
            match term.objective {
                Objective::Infonce(params) if !strip.is_whole() => {
                    exponentials(commands, params, &strip, inputs, [&mut *images, &mut *texts])
                }
                _ => Ok(()),
            }
        })?;
        if let (Some(bank), Some(strip), true) = (inputs.bank, to_bank, term.mines()) {
            let own = similarity.own();
            let [of_images, of_texts] = match bank.left_out {
                Some([images, texts]) => [Some(images), Some(texts)],
                None => [None, None],
            };
            let [of_image, of_text] = mining;
            for (mining, direction, anchors, candidates, left_out) in [
                (of_image, images, inputs.images, bank.texts, of_images),
                (of_text, texts, inputs.texts, bank.images, of_texts),
            ] {
                let into = (&mut *positive_scratch, direction);
                mining.bank(commands, (anchors, &own, candidates), (bank.ids, left_out), strip, into)?;
            }
        }
        self.join_mined(commands, term, round)
    }

    /// Joins what the processes have mined for their own anchors.
    fn join_mined(&mut self, commands: &mut Commands, term: &Term, round: usize) -> Result<()> {
        let Self { similarity, positive, images, texts, .. } = self;
        let mut found = vec![PerPair::F(positive, 1)];
        for Direction { rounds, sums, part_loss, .. } in [images, texts] {
            let (Mined { value, index }, _) = rounds.next(round);
            found.extend([PerPair::F(value, 1), PerPair::U(index)]);
            if matches!(term.objective, Objective::Infonce(_)) {
                found.extend([PerPair::F(sums, 4), PerPair::F(part_loss, 1)]);
            }
        }
        similarity.join(commands, found)
    }
}

/// The sums of exponentials of a strip, for InfoNCE.
pub(super) fn exponentials(
    commands: &mut Commands,
    params: &InfonceParams,
    strip: &Strip,
    inputs: &Inputs,
    directions: [&mut Direction; 2],
) -> Result<()> {
    for (direction, block) in directions.into_iter().zip(strip.blocks()) {
        let Some(block) = block else { continue };
        let same = (inputs.ids, targets(params));
        let (state, distance) = (direction.sums.view_mut(), direction.part_loss.view_mut());
        log_sum_exp(commands, &block, strip.view(), same, inputs.logits, state, distance)?;
    }
    Ok(())
}

/// One round of mining.
struct Mining<'a> {
    exclude_own: bool,
    round: usize,
    /// Replaces the result of the previous round as the bound.
    bound: Option<Below<'a>>,
}

impl Mining<'_> {
    /// Mines the candidates of a memory bank for the `own` anchors of the batch, in strips of `strip.rows` anchors.
    fn bank(
        &self,
        commands: &mut Commands,
        (anchors, own, candidates): (Mat, &[Range<usize>], Mat),
        (ids, left_out): (Slice<u32>, Option<&LeftOut>),
        strip: &mut Matrix,
        (positive, direction): (&mut Buffer<f32>, &mut Direction),
    ) -> Result<()> {
        let (step, rows) = (strip.rows, candidates.rows);
        strip.cols = rows;
        let parts = own.iter().flat_map(|own| {
            ranges(own.len(), step).map(move |part| own.start + part.start..own.start + part.end)
        });
        for part in parts {
            let product = Product::nt(anchors.part(&part), candidates);
            matmul(commands, product, strip.rows_mut(0..part.len()))?;
            if let Some(left_out) = left_out {
                left_out.apply(commands, &part, strip.rows_mut(0..part.len()))?;
            }
            let block = Block {
                anchors: part.len(),
                candidates: rows,
                anchor_stride: padded(rows),
                candidate_stride: 1,
                anchor_offset: part.start,
                candidate_offset: anchors.rows,
            };
            self.block(commands, &block, strip.rows(0..part.len()), Some(ids), (positive, direction))?;
        }
        Ok(())
    }

    /// Writes p, if the block contains it, and the direction's n and h.
    fn block(
        &self,
        commands: &mut Commands,
        block: &Block,
        similarity: Mat,
        ids: Option<Slice<u32>>,
        (positive, direction): (&mut Buffer<f32>, &mut Direction),
    ) -> Result<()> {
        let (mined, before) = direction.rounds.next(self.round);
        let below = self.bound.or(before.map(Mined::below));
        let out = Hardest {
            positive: positive.view_mut(),
            value: mined.value.view_mut(),
            index: mined.index.view_mut(),
        };
        hardest(commands, block, similarity, Candidates { ids, exclude_own: self.exclude_own, below }, out)
    }
}
