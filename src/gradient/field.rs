//! The field A at the similarities of one batch in f64, computed by the reference implementations. The device's
//! gradient is compared with it, and `analyze` examines it (docs/math.md, "Assembled gradient").

use super::terms::{exponential_params, positives_params, same_image, targets, term_weights};
use crate::Result;
use crate::device::padded;
use crate::kernels::reference::{self, Anchors};
use crate::kernels::{Block, PositivesParams};
use crate::objective::{Negatives, Objective, Term};

/// The field A and its parts.
pub(crate) struct Field {
    /// `[pairs, pairs]`, rows padded.
    pub a: Vec<f64>,
    pub loss: f64,
    /// (T P⁺, T P⁻) of every mined triplet.
    pub triplets: Vec<[f64; 2]>,
}

impl Field {
    /// Computes the field at the similarities `s [pairs, pairs]`, rows padded.
    ///
    /// # Errors
    /// A weight file that cannot be evaluated.
    pub fn at(objective: &Objective, s: &[f64], pairs: usize, ids: Option<&[u32]>) -> Result<Self> {
        let mut field = Self { a: vec![0.0; s.len()], loss: 0.0, triplets: Vec::new() };
        for term in objective.terms() {
            let part = field.term(&term, s, pairs, ids)?;
            field.loss += f64::from(term.weight) * part.loss;
            field.a.iter_mut().zip(part.a).for_each(|(a, part)| *a += f64::from(term.weight) * part);
            field.triplets.extend(part.triplets);
        }
        Ok(field)
    }

    /// The function is long because it computes every kind of term in plain loops, to be read beside the list of
    /// dispatches.
    fn term(&self, term: &Term, s: &[f64], n: usize, ids: Option<&[u32]>) -> Result<Self> {
        let blocks = [Block::images(0, n, n), Block::texts(0, n, n)];
        let mut losses = [vec![0.0; n], vec![0.0; n]];
        let mut a = s.to_vec();
        let shares = term.shares().map(f64::from);
        let total = |losses: &[Vec<f64>; 2]| {
            losses.iter().zip(shares).map(|(losses, share)| share * losses.iter().sum::<f64>()).sum::<f64>()
        };
        if let Objective::Infonce(params) = term.objective {
            let (same, t) = ((ids, targets(params)), f64::from(params.temperature));
            let mut states = [vec![0.0; 4 * n], vec![0.0; 4 * n]];
            for ((block, state), distance) in blocks.iter().zip(&mut states).zip(&mut losses) {
                reference::log_sum_exp(block, s, same, t, (state, distance));
            }
            let [it, ti] = &mut losses;
            let states = [&states[0][..], &states[1][..]];
            reference::infonce(
                &mut a,
                (0, n, n),
                same,
                t,
                states,
                (1.0, shares),
                &mut vec![0.0; 4 * n],
                [it, ti],
            );
            return Ok(Self { a, loss: total(&losses), triplets: Vec::new() });
        }
        if let Objective::Siglip(params) = term.objective {
            let same = (ids, same_image(params.leave_out));
            let logits = [params.temperature, params.logit_bias].map(f64::from);
            let ([it, ti], [mut dt, mut db]) = (&mut losses, [vec![0.0; 4 * n], vec![0.0; 4 * n]]);
            reference::siglip(&mut a, (0, n, n), same, logits, 1.0, [&mut dt, &mut db], [it, ti]);
            return Ok(Self { a, loss: losses.iter().flatten().sum(), triplets: Vec::new() });
        }
        let several = ids.and(positives_params(term));
        if let Some(params) = exponential_params(term, several.as_ref(), 1.0) {
            let losses = reference::exponential(&mut a, n, ids, &params, several.as_ref());
            return Ok(Self { a, loss: total(&losses), triplets: Vec::new() });
        }
        let Some(weights) = term_weights(term, 1.0) else {
            return Ok(Self { a, loss: 0.0, triplets: Vec::new() });
        };
        let stride = padded(n);
        let positives = blocks.each_ref().map(|block| Found::at(s, block, ids.zip(several.as_ref())));
        // (coefficient of p, unused), of both directions.
        let mut pulls = [vec![0.0; 2 * n], vec![0.0; 2 * n]];
        let mut part = Self { a: vec![0.0; s.len()], loss: 0.0, triplets: Vec::new() };
        if term.negatives == Negatives::All {
            for (d, block) in blocks.iter().enumerate() {
                let p = &positives[d].p;
                reference::dense_sum(block, s, p, ids, &weights, &mut pulls[d], &mut losses[d])?;
                pulls[d].iter_mut().for_each(|pull| *pull *= shares[d]);
            }
            let p = positives.each_ref().map(|found| &found.p[..]);
            reference::dense_field(&mut a, (0, n), p, ids, &weights, shares)?;
            part.a = a;
            part.loss = total(&losses);
            part.pull(s, &positives, &pulls, ids.zip(several.as_ref()));
            return Ok(part);
        }
        for (d, block) in blocks.iter().enumerate().filter(|(d, _)| shares[*d] > 0.0) {
            let p = &positives[d].p;
            let mut below: Option<(Vec<f64>, Vec<u32>)> = match term.negatives {
                Negatives::SemiHard => Some((p.clone(), vec![u32::MAX; n])),
                _ => None,
            };
            let rounds = if let Negatives::Top(count) = term.negatives { count.get() as usize } else { 1 };
            let mut weights = weights.clone();
            for _ in 0..rounds.min(n) {
                let (mut value, mut index) = (vec![0.0; n], vec![0; n]);
                let own = term.objective.closes_triplets() || below.is_some();
                let bound = below.as_ref().map(|(value, index)| (&value[..], &index[..]));
                reference::hardest(block, s, (ids, own, bound), (&mut p.clone(), &mut value, &mut index));
                let mut sums = vec![0.0; 4 * n];
                if let Some((params, exponential)) = term.relative() {
                    let rates = exponential.then_some((params.alpha.into(), params.beta.into()));
                    let mined = (&p[..], &value[..], &index[..]);
                    reference::relative(block, s, mined, ids, rates, params.threshold.into(), &mut sums);
                }
                let mut c = vec![0.0; 2 * n];
                reference::weights(&weights, (p, &value, &index), &sums, &mut c, &mut losses[d], n)?;
                part.loss += losses[d].iter().sum::<f64>();
                for i in 0..n {
                    let mined = index[i] as usize;
                    pulls[d][2 * i] += c[2 * i];
                    part.a[if d == 0 { i * stride + mined } else { mined * stride + i }] += c[2 * i + 1];
                    part.triplets.push([c[2 * i], c[2 * i + 1]]);
                }
                weights.positive = weights.positive.later();
                below = Some((value, index));
            }
        }
        part.pull(s, &positives, &pulls, ids.zip(several.as_ref()));
        Ok(part)
    }

    /// Adds the pulls on the positives at the similarities `s`.
    fn pull(&mut self, s: &[f64], found: &[Found; 2], pulls: &[Vec<f64>; 2], several: Several) {
        let n = found[0].p.len();
        match several {
            None => {
                for i in 0..n {
                    self.a[i * padded(n) + i] -= pulls[0][2 * i] + pulls[1][2 * i];
                }
            }
            Some((ids, params)) => {
                let anchors = [0, 1].map(|d| {
                    let Found { value, state, .. } = &found[d];
                    Anchors { value, state, pulls: &pulls[d] }
                });
                let mut field = s.to_vec();
                reference::positive_field(&mut field, (0, n), ids, anchors, params);
                self.a.iter_mut().zip(field).for_each(|(a, pull)| *a += pull);
            }
        }
    }
}

/// The ids and how the positives become one number, where an anchor has several.
type Several<'a> = Option<(&'a [u32], &'a PositivesParams)>;

/// The positives of one direction.
struct Found {
    p: Vec<f64>,
    /// The objectives on triplets do not choose positives by n, so it is 0.
    value: Vec<f64>,
    state: Vec<f64>,
}

impl Found {
    /// At the similarities `s`, of which `block` is the whole.
    fn at(s: &[f64], block: &Block, several: Several) -> Self {
        let n = block.anchors;
        let p = (0..n).map(|i| s[i * padded(n) + i]).collect();
        let mut found = Self { p, value: vec![0.0; n], state: vec![0.0; 4 * n] };
        if let Some((ids, params)) = several {
            let out = (&mut found.state[..], [&mut found.p[..], &mut vec![0.0; n]]);
            reference::positives(block, s, (ids, &found.value), params, out);
        }
        found
    }
}
