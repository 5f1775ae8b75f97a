//! Mining: the hardest negatives of every anchor, in rounds, within the batch and a memory bank.

use super::gradient::{Inputs, Workspace, blocks, directions, similarity};
use super::{Negatives, Objective, Term};
use crate::Result;
use crate::device::{Buffer, Commands, Device, Mat, Slice, padded};
use crate::kernels::{Below, Block, Candidates, Hardest, Product, hardest, log_sum_exp, matmul, mined_keys};

/// Negatives of one round of mining, `[pairs]`.
pub(super) struct Mined {
    pub value: Buffer<f32>,
    pub index: Buffer<u32>,
}

impl Mined {
    fn new(device: &Device, label: &str, pairs: usize) -> Result<Self> {
        let index = Buffer::new(device, &format!("{label}.index"), pairs)?;
        Ok(Self { value: Buffer::new(device, label, pairs)?, index })
    }

    pub fn below(&self) -> Below<'_> {
        Below { value: self.value.view(), index: self.index.view() }
    }
}

/// One direction's mined negatives and what follows from them, `[pairs]` each.
pub(super) struct Direction {
    /// The hardest, which the records report, and those of later rounds, by turns.
    pub rounds: [Mined; 3],
    /// Relative sums, or the state of InfoNCE's exponentials: `[pairs, 4]`.
    pub sums: Buffer<f32>,
    /// Who mined whom, in order.
    pub keys: Buffer<u32>,
    /// (c+, c-): `[pairs, 2]`.
    pub coefficients: Buffer<f32>,
    /// Of a term or a round, and of all of them. The first holds InfoNCE's distances before it holds the losses.
    pub part_loss: Buffer<f32>,
    pub loss: Buffer<f32>,
}

impl Direction {
    pub fn new(device: &Device, name: &str, pairs: usize) -> Result<Self> {
        let label = |what: &str| format!("objective.{name}.{what}");
        let mined = |what| Mined::new(device, &label(what), pairs);
        Ok(Self {
            rounds: [mined("hardest")?, mined("even")?, mined("odd")?],
            sums: Buffer::new(device, &label("sums"), 4 * pairs)?,
            keys: Buffer::new(device, &label("keys"), mined_keys(pairs))?,
            coefficients: Buffer::new(device, &label("coefficients"), 2 * pairs)?,
            part_loss: Buffer::new(device, &label("part"), pairs)?,
            loss: Buffer::new(device, &label("loss"), pairs)?,
        })
    }

    /// n and h of a round, counted from 0.
    pub fn mined(&self, round: usize) -> Below<'_> {
        self.rounds[place(round)].below()
    }

    /// The hardest negatives.
    pub fn hardest(&self) -> (&Buffer<f32>, &Buffer<u32>) {
        (&self.rounds[0].value, &self.rounds[0].index)
    }

    /// Where a round goes, and the round before.
    fn round(&mut self, round: usize) -> (&mut Mined, Option<&Mined>) {
        let [first, even, odd] = &mut self.rounds;
        match round {
            0 => (first, None),
            1 => (odd, Some(first)),
            round if round % 2 == 0 => (even, Some(odd)),
            _ => (odd, Some(even)),
        }
    }
}

pub(super) fn place(round: usize) -> usize {
    if round == 0 { 0 } else { 1 + round % 2 }
}

impl Workspace {
    /// p, and n, h of both directions; for InfoNCE its sums of exponentials too. Where triplets close by a margin, and in every
    /// round but the first, an anchor's own pair is no candidate: a margin is violated by a negative or not at all.
    pub(super) fn mine(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        term: &Term,
        round: usize,
    ) -> Result<()> {
        let exclude_own = term.objective.closes_triplets() || round > 0;
        let semi_hard = round > 0 && term.negatives == Negatives::SemiHard;
        let Self { positive, positive_again, no_index, images, texts, .. } = self;
        // p goes where nothing reads it: semi-hard mining does. The texts, who find it as well, do not wait for the images then.
        let (mut found, bound) = match semi_hard {
            false => (Some(positive), None),
            true => (None, Some(Below { value: positive.view(), index: no_index.view() })),
        };
        let mining = Mining { exclude_own, round, bound };
        for rows in blocks(self.pairs, self.block_rows) {
            // A single block still holds what the round before has left.
            if round == 0 || self.block_rows < self.pairs {
                similarity(commands, inputs, &rows, &mut self.similarity)?;
            }
            let s = self.similarity.rows(0..rows.len());
            for (of_images, (direction, block)) in [true, false].into_iter().zip(directions(images, texts)) {
                let block = block(rows.start, rows.len(), self.pairs);
                let positive = match &mut found {
                    Some(found) if of_images => &mut **found,
                    _ => &mut *positive_again,
                };
                mining.block(commands, &block, s, inputs.ids, (positive, direction))?;
                if let Objective::Infonce(params) = term.objective {
                    let same = (inputs.ids, params.same_image());
                    let (state, distance) = (direction.sums.view_mut(), direction.part_loss.view_mut());
                    log_sum_exp(commands, &block, s, same, inputs.temperature, state, distance)?;
                }
            }
        }
        let (Some(bank), Some(strip), true) = (inputs.bank, &mut self.to_bank, term.mines()) else {
            return Ok(());
        };
        let (step, rows) = (strip.rows, bank.images.rows);
        strip.cols = rows;
        for (direction, anchors, candidates) in
            [(images, inputs.images, bank.texts), (texts, inputs.texts, bank.images)]
        {
            for part in blocks(self.pairs, step) {
                let product = Product::nt(anchors.part(&part), candidates);
                matmul(commands, product, strip.rows_mut(0..part.len()))?;
                let block = Block {
                    anchors: part.len(),
                    candidates: rows,
                    anchor_stride: padded(rows),
                    candidate_stride: 1,
                    anchor_offset: part.start,
                    candidate_offset: self.pairs,
                };
                let (s, into) = (strip.rows(0..part.len()), (&mut *positive_again, &mut *direction));
                mining.block(commands, &block, s, Some(bank.ids), into)?;
            }
        }
        Ok(())
    }
}

/// One round of mining.
struct Mining<'a> {
    exclude_own: bool,
    round: usize,
    /// In the place of the round before.
    bound: Option<Below<'a>>,
}

impl Mining<'_> {
    /// Writes p, where the block holds it, and the direction's n and h.
    fn block(
        &self,
        commands: &mut Commands,
        block: &Block,
        similarity: Mat,
        ids: Option<Slice<u32>>,
        (positive, direction): (&mut Buffer<f32>, &mut Direction),
    ) -> Result<()> {
        let (mined, before) = direction.round(self.round);
        let below = self.bound.or(before.map(Mined::below));
        let out = Hardest {
            positive: positive.view_mut(),
            value: mined.value.view_mut(),
            index: mined.index.view_mut(),
        };
        hardest(commands, block, similarity, Candidates { ids, exclude_own: self.exclude_own, below }, out)
    }
}
