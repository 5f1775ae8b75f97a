//! Several positives per anchor: finding p, and pulling on every positive (docs/math.md, "Several positives").

use super::shard::PerPair;
use super::terms::positives_params;
use super::workspace::{Direction, Inputs, Several, Strips, Workspace};
use crate::Result;
use crate::device::{Buffer, Commands, MatMut, Slice};
use crate::kernels::{PositivesParams, Pulled, accumulate, positive_field, positives};
use crate::objective::Term;

/// How the positives of an anchor become one number; `None` if an anchor has one positive. Without ids it has one.
pub(super) fn towards(term: &Term, inputs: &Inputs) -> Option<PositivesParams> {
    inputs.ids.and(positives_params(term))
}

/// p of both directions.
pub(super) fn positives_of<'a>(
    own: &'a Buffer<f32>,
    several: &'a [Several; 2],
    has_several: bool,
) -> [Slice<'a, f32>; 2] {
    several.each_ref().map(|several| if has_several { several.positive.view() } else { own.view() })
}

impl Workspace {
    /// Finds p of both directions, after the first round of mining.
    pub(super) fn find_positives(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        params: &PositivesParams,
    ) -> Result<()> {
        let Self { similarity, images, texts, several, .. } = self;
        let Some(ids) = inputs.ids else { return Ok(()) };
        similarity.strips(commands, inputs, Strips::Kept, |commands, strip| {
            let directions = [&*images, &*texts].into_iter().zip(&mut *several);
            for ((direction, several), block) in directions.zip(strip.blocks()) {
                let Some(block) = block else { continue };
                let Several { positive, lowest, state, .. } = several;
                let from = (ids, direction.rounds.at(0).value);
                let out = [positive.view_mut(), lowest.view_mut()];
                positives(commands, &block, strip.view(), from, params, state.view_mut(), out)?;
            }
            Ok(())
        })?;
        let found = several.iter_mut().flat_map(|several| {
            let Several { positive, lowest, state, .. } = several;
            [PerPair::F(positive, 1), PerPair::F(lowest, 1), PerPair::F(state, 4)]
        });
        similarity.join(commands, found.collect())
    }

    /// Finds the similarity of every text to its image, for the caller.
    pub(super) fn find_texts(&mut self, commands: &mut Commands, inputs: &Inputs) -> Result<()> {
        self.find_positives(commands, inputs, &PositivesParams::MEAN)?;
        let (pairs, [_, texts]) = (self.pairs(), &self.several);
        accumulate(commands, (texts.positive.view(), pairs), 1.0, (self.positive.view_mut(), 0), false)
    }

    /// Adds the coefficients of a round to the pulls. The first round overwrites them.
    pub(super) fn add_pulls(&mut self, commands: &mut Commands, is_first: bool) -> Result<()> {
        let pairs = self.pairs();
        let Self { images, texts, several, .. } = self;
        for (direction, several) in [&*images, &*texts].into_iter().zip(several) {
            let Direction { coefficients, .. } = direction;
            let out = (several.pulls.view_mut(), 0);
            accumulate(commands, (coefficients.view(), 2 * pairs), 1.0, out, !is_first)?;
        }
        Ok(())
    }

    /// Adds the gradient of the pulls to `dx` and `dy`. S may have been overwritten.
    pub(super) fn pull(
        &mut self,
        commands: &mut Commands,
        inputs: &Inputs,
        params: &PositivesParams,
        [dx, dy]: [&mut MatMut; 2],
    ) -> Result<()> {
        let Self { similarity, images, texts, several: [it, ti], .. } = self;
        let Some(ids) = inputs.ids else { return Ok(()) };
        similarity.strips(commands, inputs, Strips::Fresh, |commands, mut strip| {
            let directions = [(&*images, &*it), (&*texts, &*ti)].map(|(direction, several)| Pulled {
                value: direction.rounds.at(0).value,
                state: several.state.view(),
                pulls: several.pulls.view(),
            });
            let (first, directions) = (strip.rows.start, strip.turn(directions));
            positive_field(commands, strip.view_mut(), first, ids, directions, params)?;
            strip.dense(commands, inputs, [&mut *dx, &mut *dy], true)
        })
    }
}
