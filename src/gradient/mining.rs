//! Mining: the hardest negatives of every anchor, in rounds, within the batch and a memory bank.

use super::bank::{Bank, BankBlock};
use super::several::towards;
use super::shard::PerPair;
use super::terms::targets;
use super::workspace::{Direction, Inputs, Mined, Several, Strip, Strips, Workspace, ranges};
use crate::Result;
use crate::device::{Buffer, Commands, Mat, Matrix, padded};
use crate::kernels::{Below, Block, Candidates, Product, hardest, log_sum_exp, matmul};
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
        self.mine_batch(commands, inputs, term, (round, exclude_own))?;
        self.mine_bank(commands, inputs, term, (round, exclude_own))?;
        self.join_mined(commands, term, round)?;
        let Self { similarity, shared_bank, images, texts, .. } = self;
        let bank = inputs.bank.filter(|_| term.mines());
        if let (Some(bank), Some(shared), Some(shard)) = (bank, shared_bank, &similarity.shard) {
            let mined = [images, texts].map(|direction| &*direction.rounds.next(round).0);
            shared.fetch(&similarity.device, bank, shard, mined)?;
        }
        Ok(())
    }

    /// Mines within the batch.
    fn mine_batch(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        term: &Term,
        (round, exclude_own): (usize, bool),
    ) -> Result<()> {
        let Self { similarity, positive, positive_scratch, no_index, images, texts, several, .. } = self;
        // Semi-hard mining reads `positive`, so it writes p to scratch. The direction of the texts also finds p. It
        // always writes p to scratch, so it need not wait for the direction of the images.
        let (mut found, bounds) = match is_semi_hard(term, round) {
            false => (Some(positive), [None; 2]),
            true => (None, bounds(positive, several, no_index, towards(term, inputs).is_some())),
        };
        let strips = if round == 0 { Strips::Fresh } else { Strips::Kept };
        similarity.strips(commands, inputs, strips, |commands, strip| {
            let directions = [&mut *images, &mut *texts].into_iter().zip(bounds);
            for (d, ((direction, bound), block)) in directions.zip(strip.blocks()).enumerate() {
                let Some(block) = block else { continue };
                let positive = match &mut found {
                    Some(found) if d == 0 => &mut **found,
                    _ => &mut *positive_scratch,
                };
                let (mined, before) = direction.rounds.next(round);
                let below = bound.or(before.map(Mined::below));
                let from = Candidates { ids: inputs.ids, exclude_own, below };
                hardest(commands, &block, strip.view(), from, mined.out(positive))?;
            }
            match term.objective {
                Objective::Infonce(params) if !strip.is_whole() => {
                    exponentials(commands, params, &strip, inputs, [&mut *images, &mut *texts])
                }
                _ => Ok(()),
            }
        })
    }

    /// Mines in the memory bank too, if there is one.
    fn mine_bank(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        term: &Term,
        (round, exclude_own): (usize, bool),
    ) -> Result<()> {
        let Self {
            similarity,
            to_bank,
            shared_bank,
            positive,
            positive_scratch,
            no_index,
            images,
            texts,
            several,
            ..
        } = self;
        let bank = inputs.bank.filter(|_| term.mines());
        if let Some(shared) = &mut *shared_bank {
            shared.begin(&similarity.device, bank.is_some())?;
        }
        if let (Some(bank), Some(strip)) = (bank, to_bank) {
            let (own, all) = (similarity.own(), 0..similarity.pairs);
            let bounds = match is_semi_hard(term, round) {
                false => [None; 2],
                true => bounds(positive, several, no_index, towards(term, inputs).is_some()),
            };
            let directions = [&mut *images, &mut *texts].into_iter().zip([inputs.images, inputs.texts]);
            for (d, ((direction, anchors), bound)) in directions.zip(bounds).enumerate() {
                let (mined, before) = direction.rounds.next(round);
                let below = bound.or(before.map(Mined::below));
                // In a shared bank, every process mines its rows for all anchors. None of them is an anchor's own pair.
                let (mined, parts, exclude_own) = match &mut *shared_bank {
                    Some(shared) => (&mut shared.found[d], std::slice::from_ref(&all), true),
                    None => (mined, &own[..], exclude_own),
                };
                let from = Candidates { ids: Some(bank.ids()), exclude_own, below };
                mine_bank(commands, (anchors, parts), (bank, d), strip, from, (positive_scratch, mined))?;
            }
            if let (Some(shared), Some(shard)) = (shared_bank, &similarity.shard) {
                commands.submit()?;
                let mined = [images, texts].map(|direction| direction.rounds.next(round).0);
                shared.merge(&similarity.device, shard, mined, exclude_own)?;
            }
        }
        Ok(())
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

/// Whether a round mines negatives that are less similar than the positive.
fn is_semi_hard(term: &Term, round: usize) -> bool {
    round > 0 && term.negatives == Negatives::SemiHard
}

/// Semi-hard negatives come after every candidate that is as similar as p.
fn bounds<'a>(
    positive: &'a Buffer<f32>,
    several: &'a [Several; 2],
    no_index: &'a Buffer<u32>,
    has_several: bool,
) -> [Option<Below<'a>>; 2] {
    let of = |several: &'a Several| {
        let value = if has_several { several.positive.view() } else { positive.view() };
        Some(Below { value, index: no_index.view() })
    };
    several.each_ref().map(of)
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

/// Mines the pairs of a memory bank that this process holds, for these anchors of direction `d`, in strips of `strip.rows`
/// anchors.
fn mine_bank(
    commands: &mut Commands,
    (anchors, parts): (Mat, &[Range<usize>]),
    (bank, d): (&Bank, usize),
    strip: &mut Matrix,
    from: Candidates,
    (positive, mined): (&mut Buffer<f32>, &mut Mined),
) -> Result<()> {
    let (step, candidates, blocks) = (strip.rows, bank.held()[1 - d], bank.blocks());
    let parts = parts.iter().flat_map(|part| {
        ranges(part.len(), step).map(move |rows| part.start + rows.start..part.start + rows.end)
    });
    for part in parts {
        for (number, BankBlock { rows, first }) in blocks.iter().enumerate() {
            strip.cols = rows.len();
            let product = Product::nt(anchors.part(&part), candidates.part(rows));
            matmul(commands, product, strip.rows_mut(0..part.len()))?;
            if let Some(left_out) = bank.left_out(number) {
                left_out[d].apply(commands, &part, strip.rows_mut(0..part.len()))?;
            }
            let block = Block {
                anchors: part.len(),
                candidates: rows.len(),
                anchor_stride: padded(rows.len()),
                candidate_stride: 1,
                anchor_offset: part.start,
                candidate_offset: anchors.rows + first,
            };
            hardest(commands, &block, strip.rows(0..part.len()), from, mined.out(positive))?;
        }
    }
    Ok(())
}
