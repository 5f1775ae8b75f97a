//! Kernels that go through the similarity matrix anchor by anchor, in both directions, as a whole and in blocks.

use super::bench::{Array, Outcome, ROUNDING, each_lanes, exp_error, sum_error};
use crate::common::check;
use crate::common::random::{Random, wide};
use libtest_mimic::Failed;
use std::cmp::Reverse;
use std::ops::Range;
use wgoal::Device;
use wgoal::device::{pad_rows, padded};
use wgoal::kernels::{
    self, Below, Block, Candidates, Dense, ExponentialLoss, ExponentialParams, Hardest, Known, PositiveForm,
    Relative, SameImage, WeightParams, reference,
};
use wgoal::objective::{CustomWeights, Loss, PairWeight, TripletWeight};

/// The kind of similarities. Multiples of 1/64 keep sums, differences and ties exact, so f32 and f64 take the same
/// branches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scene {
    /// Values in [-1, 1] and slightly outside, as rounding produces them, with many ties.
    Mixed,
    /// All embeddings are equal.
    Collapsed,
    /// All negatives of a pair are opposite to it.
    Antipodal,
}
use Scene::{Antipodal, Collapsed, Mixed};

/// (pairs, scene, whether there are ids)
pub type Case = (usize, Scene, bool);

pub const CASES: &[Case] = &[
    (1, Mixed, false),
    (1, Mixed, true),
    (2, Antipodal, false),
    (3, Collapsed, true),
    (31, Mixed, true),
    (65, Antipodal, false),
    (65, Collapsed, false),
    (127, Mixed, false),
    (257, Mixed, true),
];

/// The similarities of a batch, and the image of each pair.
pub struct Batch {
    pub pairs: usize,
    pub similarity: Vec<f32>,
    pub ids: Option<Vec<u32>>,
}

impl Batch {
    pub fn new(random: &mut Random, (pairs, scene, with_ids): Case) -> Self {
        // Mixed rows and columns have different largest values, and positives are not negative. So values lie on both
        // sides of each threshold of the relative sets.
        let mut value = |i: usize| match (scene, i / pairs, i % pairs) {
            (Mixed, row, column) if row == column => random.coarse(33) + 33.0 / 64.0,
            (Mixed, row, column) => random.coarse(8 + (row % 59).min(column % 58)),
            (Antipodal, row, column) if row != column => -1.0,
            _ => 1.0,
        };
        let values: Vec<_> = (0..pairs * pairs).map(&mut value).collect();
        // Half of the batch is one image, so that a whole block can lie inside it.
        let mut id = |i: usize| if i < pairs / 2 { 7 } else { random.below(pairs) as u32 };
        let ids = with_ids.then(|| (0..pairs).map(&mut id).collect());
        Self { pairs, similarity: pad_rows(&values, pairs).into_owned(), ids }
    }

    pub fn positive(&self) -> Vec<f32> {
        (0..self.pairs).map(|i| self.similarity[i * padded(self.pairs) + i]).collect()
    }

    /// p, n and h of a direction.
    pub fn mined(&self, direction: Direction) -> (Vec<f64>, Vec<f64>, Vec<u32>) {
        self.mined_without(direction, false)
    }

    /// The same, with or without the anchor's own pair as a candidate.
    fn mined_without(&self, direction: Direction, own: bool) -> (Vec<f64>, Vec<f64>, Vec<u32>) {
        let (mut p, mut n, mut h) =
            (vec![f64::NAN; self.pairs], vec![f64::NAN; self.pairs], vec![0; self.pairs]);
        let whole = direction(0, self.pairs, self.pairs);
        reference::hardest(
            &whole,
            &wide(&self.similarity),
            (self.ids.as_deref(), own, None),
            (&mut p, &mut n, &mut h),
        );
        (p, n, h)
    }

    /// The states of a direction for losses with exponentials.
    pub fn exponential_states(&self, direction: Direction, params: &ExponentialParams) -> Vec<f64> {
        let (p, n, _) = self.mined_without(direction, true);
        let (whole, mut state) = (direction(0, self.pairs, self.pairs), vec![f64::NAN; 4 * self.pairs]);
        let s = wide(&self.similarity);
        // Beside several positives, the lowest one is below p.
        let lowest: Vec<_> = p.iter().map(|p| p - 1.0 / 16.0).collect();
        let known = Known { positive: &p[..], lowest: &lowest[..], value: &n[..] };
        reference::exponential_sum(&whole, &s, self.ids.as_deref(), known, params, &mut state);
        state
    }

    /// The states of a direction for InfoNCE, and the distances of the targets.
    pub fn states(&self, direction: Direction, same_image: SameImage, temperature: f32) -> [Vec<f64>; 2] {
        let (mut state, mut distance) = (vec![f64::NAN; 4 * self.pairs], vec![f64::NAN; self.pairs]);
        let (whole, ids) = (direction(0, self.pairs, self.pairs), (self.ids.as_deref(), same_image));
        let s = wide(&self.similarity);
        reference::log_sum_exp(&whole, &s, ids, temperature.into(), (&mut state, &mut distance));
        [state, distance]
    }

    /// The blocks of a direction with their rows, `rows` at a time.
    pub fn blocks(&self, direction: Direction, rows: usize) -> Vec<(Block, Range<usize>)> {
        let strips = self.strips(rows).into_iter();
        strips.map(|strip| (direction(strip.start, strip.len(), self.pairs), strip)).collect()
    }

    pub fn strips(&self, rows: usize) -> Vec<Range<usize>> {
        self.strips_of(self.pairs, rows)
    }

    /// Those of the first `images` rows.
    pub fn strips_of(&self, images: usize, rows: usize) -> Vec<Range<usize>> {
        (0..images).step_by(rows).map(|first| first..images.min(first.saturating_add(rows))).collect()
    }

    /// As many images as pairs, and fewer, as if images had several texts.
    pub fn images(&self) -> [usize; 2] {
        [self.pairs, self.pairs.div_ceil(3)]
    }

    /// The numbers of rows in a block: all, and fewer if that makes several blocks.
    pub fn cuts(&self) -> &'static [usize] {
        if self.pairs > ROWS { &[usize::MAX, ROWS] } else { &[usize::MAX] }
    }
}

const ROWS: usize = 64;

pub type Direction = fn(usize, usize, usize) -> Block;
pub const DIRECTIONS: [Direction; 2] = [Block::images, Block::texts];

pub fn hardest(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let similarity = bench.array(&batch.similarity)?;
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        for (direction, exclude_own) in DIRECTIONS.into_iter().flat_map(|d| [(d, false), (d, true)]) {
            let (p, n, h) = batch.mined_without(direction, exclude_own);
            for &rows in batch.cuts() {
                let (mut positive, mut value) = (bench.poisoned(pairs)?, bench.poisoned(pairs)?);
                let mut index = bench.poisoned(pairs)?;
                bench.run(|commands| {
                    batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                        let out = Hardest {
                            positive: positive.get_mut(),
                            value: value.get_mut(),
                            index: index.get_mut(),
                        };
                        let s = similarity.mat(pairs, pairs).part(&strip);
                        let ids = ids.as_ref().map(Array::get);
                        kernels::hardest(
                            commands,
                            &block,
                            s,
                            Candidates { ids, exclude_own, below: None },
                            out,
                        )
                    })
                })?;
                bench.near("p", &positive, &p, |_| 0.0)?;
                bench.near("n", &value, &n, |_| 0.0)?;
                bench.equal("h", &index, &h)?;
            }
        }
        Ok(())
    })
}

pub fn relative(device: &Device) -> Outcome {
    // (alpha, beta) for exponential values. The larger ones take exp outside the range of f32, and at the low end
    // outside that of f64.
    let rates = [None, Some((2.0, 10.0)), Some((40.0, 1000.0))];
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let threshold = 6.0 / 64.0; // Some values lie exactly on it.
        let similarity = bench.array(&batch.similarity)?;
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        let positive = bench.array(&batch.positive())?;
        for (direction, rates) in DIRECTIONS.into_iter().flat_map(|d| rates.map(|rates| (d, rates))) {
            let (p, n, h) = batch.mined(direction);
            let mut sums = vec![f64::NAN; 4 * pairs];
            let mined = (&p[..], &n[..], &h[..]);
            let (whole, wide_similarity) = (direction(0, pairs, pairs), wide(&batch.similarity));
            let ids_slice = batch.ids.as_deref();
            let wide_rates = rates.map(|(alpha, beta): (f32, f32)| (alpha.into(), beta.into()));
            reference::relative(
                &whole,
                &wide_similarity,
                mined,
                ids_slice,
                wide_rates,
                threshold.into(),
                &mut sums,
            );
            let value = bench.array(&n.iter().map(|&n| n as f32).collect::<Vec<_>>())?;
            let index = bench.array(&h)?;
            let (alpha, beta) = rates.unwrap_or_default();
            let from = Relative {
                positive: positive.get(),
                all_anchors: pairs,
                value: value.get(),
                index: index.get(),
                ids: ids.as_ref().map(Array::get),
                exponential: rates.is_some(),
                alpha,
                beta,
                threshold,
            };
            for &rows in batch.cuts() {
                let mut found = bench.poisoned(4 * pairs)?;
                bench.run(|commands| {
                    batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                        let s = similarity.mat(pairs, pairs).part(&strip);
                        kernels::relative(commands, &block, s, from, found.get_mut())
                    })
                })?;
                // Sizes and linear sums are exact. No exponent that matters is outside exp's range in f32, 88.
                let largest = f64::from(alpha.max(beta) * 2.1).min(88.0);
                let relative = exp_error(largest) + sum_error(pairs);
                let allowed =
                    |k: usize| if rates.is_some() && k.is_multiple_of(2) { relative * sums[k] } else { 0.0 };
                bench.near("sums", &found, &sums, allowed)?;
            }
        }
        Ok(())
    })
}

/// Weights over all negatives: the sum of hinges, whose costs are sometimes exactly 0; weights that use p, n and the
/// margin; and the weights of a file.
pub fn dense_weights() -> Result<[WeightParams; 3], Failed> {
    let hinge = WeightParams { margin: Some(8.0 / 64.0), scale: 0.75, ..Default::default() };
    let (triplet, pair) = (TripletWeight::Cir, PairWeight::Sig);
    let weighed =
        WeightParams { triplet, pair, loss: Loss::SquaredPair, tau: 3.0, margin: None, ..hinge.clone() };
    let source = "override g: f32 = 2.0;
        fn triplet_weight(p: f32, n: f32) -> f32 { return 1.0 + g * n; }
        fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(p - n, n * n); }";
    let custom = CustomWeights::new("dense.wgsl", source, [("g", 0.5)])?;
    Ok([hinge.clone(), weighed, WeightParams { custom: Some(custom), ..hinge }])
}

/// The allowed error of one weight of `dense_weights`.
pub const DENSE_ERROR: f64 = 1e-5;

pub fn dense_sum(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let similarity = bench.array(&batch.similarity)?;
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        let positive = bench.array(&batch.positive())?;
        for (weights, direction) in dense_weights()?.iter().flat_map(|w| DIRECTIONS.map(|d| (w, d))) {
            let from = Dense { positive: positive.get(), ids: ids.as_ref().map(Array::get), weights };
            let (mut coefficients, mut loss) = (vec![f64::NAN; 2 * pairs], vec![f64::NAN; pairs]);
            reference::dense_sum(
                &direction(0, pairs, pairs),
                &wide(&batch.similarity),
                &wide(&batch.positive()),
                batch.ids.as_deref(),
                weights,
                &mut coefficients,
                &mut loss,
            )?;
            // Counts and costs of the hinge are exact. For the other weights every summand has its error.
            let exact = weights.margin.is_some() && weights.custom.is_none();
            let allowed = if exact { 0.0 } else { DENSE_ERROR * pairs as f64 };
            for &rows in batch.cuts() {
                let (mut found, mut found_loss) = (bench.poisoned(2 * pairs)?, bench.poisoned(pairs)?);
                bench.run(|commands| {
                    batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                        let s = similarity.mat(pairs, pairs).part(&strip);
                        kernels::dense_sum(commands, &block, s, from, found.get_mut(), found_loss.get_mut())
                    })
                })?;
                bench.near("coefficients", &found, &coefficients, |_| allowed)?;
                bench.near("loss", &found_loss, &loss, |_| allowed)?;
            }
        }
        Ok(())
    })
}

/// Mines round after round until no negative is left, and mines the negatives below the positive.
pub fn next_hardest(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let (s, ids) = (wide(&batch.similarity), batch.ids.as_deref());
        let similarity = bench.array(&batch.similarity)?;
        let device_ids = ids.map(|ids| bench.array(ids)).transpose()?;
        for direction in DIRECTIONS {
            let (_, n, h) = batch.mined(direction);
            let below_positive = (wide(&batch.positive()), vec![u32::MAX; pairs]);
            for (start, rounds) in [((n, h), 3), (below_positive, 1)] {
                let mut below = start;
                for round in 0..rounds {
                    let (mut n, mut h) = (vec![f64::NAN; pairs], vec![0; pairs]);
                    let bound = Some((&below.0[..], &below.1[..]));
                    let whole = direction(0, pairs, pairs);
                    let mut p = vec![f64::NAN; pairs];
                    reference::hardest(&whole, &s, (ids, true, bound), (&mut p, &mut n, &mut h));
                    for a in 0..pairs {
                        let s = |c: usize| s[a * whole.anchor_stride + c * whole.candidate_stride];
                        let after =
                            |c: usize| (s(c), Reverse(c)) < (below.0[a], Reverse(below.1[a] as usize));
                        let negative =
                            |c: &usize| ids.map_or(*c != a, |ids| ids[*c] != ids[a] && *c != a) && after(*c);
                        let best = (0..pairs)
                            .filter(negative)
                            .max_by(|&a, &b| s(a).total_cmp(&s(b)).then(b.cmp(&a)));
                        let expected = best.map_or((-1.0, a), |best| (s(best), best));
                        let found = (n[a], h[a] as usize);
                        check(
                            found == expected,
                            format!("twin, round {round}, anchor {a}: {found:?} {expected:?}"),
                        )?;
                    }
                    let narrow: Vec<f32> = below.0.iter().map(|&x| x as f32).collect();
                    let (bound_n, bound_h) = (bench.array(&narrow)?, bench.array(&below.1)?);
                    for &rows in batch.cuts() {
                        let mut positive = bench.poisoned(pairs)?;
                        let (mut value, mut index) = (bench.poisoned(pairs)?, bench.poisoned::<u32>(pairs)?);
                        bench.run(|commands| {
                            batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                                let out = Hardest {
                                    positive: positive.get_mut(),
                                    value: value.get_mut(),
                                    index: index.get_mut(),
                                };
                                let below = Below { value: bound_n.get(), index: bound_h.get() };
                                let ids = device_ids.as_ref().map(Array::get);
                                let from = Candidates { ids, exclude_own: true, below: Some(below) };
                                let s = similarity.mat(pairs, pairs).part(&strip);
                                kernels::hardest(commands, &block, s, from, out)
                            })
                        })?;
                        bench.near("value", &value, &n, |_| 0.0)?;
                        bench.equal("index", &index, &h)?;
                    }
                    below = (n, h);
                }
            }
        }
        Ok(())
    })
}

/// The temperatures of the InfoNCE tests: the published one, and two at which exponentials underflow in f32.
pub const TEMPERATURES: [f32; 3] = [0.07, 0.01, 0.005];
pub const SAME_IMAGE: [SameImage; 4] =
    [SameImage::Negative, SameImage::Target, SameImage::LeftOut, SameImage::Summed];

pub fn log_sum_exp(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let similarity = bench.array(&batch.similarity)?;
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        let kinds = DIRECTIONS.into_iter().flat_map(|d| SAME_IMAGE.map(|same| (d, same)));
        let all = kinds.flat_map(|(d, same)| TEMPERATURES.map(|t| (d, same, t)));
        for (direction, same_image, t) in bench.share(all) {
            let [state, distance] = batch.states(direction, same_image, t);
            let temperature = bench.array(&[t])?;
            for &rows in batch.cuts() {
                let (mut found, mut away) = (bench.poisoned(4 * pairs)?, bench.poisoned(pairs)?);
                bench.run(|commands| {
                    batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                        let s = similarity.mat(pairs, pairs).part(&strip);
                        let (ids, t) = ((ids.as_ref().map(Array::get), same_image), temperature.get());
                        let (state, distance) = (found.get_mut(), away.get_mut());
                        kernels::log_sum_exp(commands, &block, s, ids, t, state, distance)
                    })
                })?;
                // An exponent is the difference of two z. None of them is larger than 1.1 / t.
                let z = 1.1 / f64::from(t);
                let relative = exp_error(2.0 * z) + sum_error(pairs);
                let summed = same_image == SameImage::Summed && ids.is_some();
                let allowed = |k: usize| match k % 4 {
                    1 => relative * state[k],
                    3 if summed => relative * state[k],
                    2 if summed => 0.0,
                    // The summand of a target is e^x − 1, that of the others e^x.
                    2 => relative * (state[k - 1] + state[k + 1]),
                    _ => 0.0,
                };
                bench.near("state", &found, &state, allowed)?;
                let allowed = |i: usize| (4.0 * ROUNDING + sum_error(pairs)) * distance[i];
                bench.near("distance", &away, &distance, allowed)?;
            }
        }
        Ok(())
    })
}

/// A loss over all negatives, with a rate.
pub fn exponential(loss: ExponentialLoss, rate: f32) -> ExponentialParams {
    ExponentialParams {
        loss,
        rate,
        alpha: 2.0,
        lambda: 0.5,
        margin: 0.25,
        reach: None,
        positives: PositiveForm::Own,
        scale: 0.75,
        shares: [1.0, 0.5],
    }
}

pub fn exponential_sum(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let (s, ids) = (bench.array(&batch.similarity)?, batch.ids.as_ref());
        let ids = ids.map(|ids| bench.array(ids)).transpose()?;
        let losses = [
            (ExponentialLoss::MultiSimilarity, 3.0, None),
            (ExponentialLoss::MultiSimilarity, 10.0, Some(0.125)),
            (ExponentialLoss::Lifted, 300.0, None),
            (ExponentialLoss::Circle, 80.0, None),
        ];
        let all = DIRECTIONS.into_iter().flat_map(|direction| losses.map(|loss| (direction, loss)));
        for (direction, (loss, rate, reach)) in bench.share(all) {
            let params = ExponentialParams { reach, ..exponential(loss, rate) };
            let (p, n, _) = batch.mined_without(direction, true);
            let single = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
            let lowest: Vec<_> = single(&p).iter().map(|p| p - 1.0 / 16.0).collect();
            let (p, lowest) = (bench.array(&single(&p))?, bench.array(&lowest)?);
            let n = bench.array(&single(&n))?;
            let state = batch.exponential_states(direction, &params);
            for &rows in batch.cuts() {
                let mut found = bench.poisoned(4 * pairs)?;
                bench.run(|commands| {
                    batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                        let s = s.mat(pairs, pairs).part(&strip);
                        let ids = ids.as_ref().map(Array::get);
                        let known = Known { positive: p.get(), lowest: lowest.get(), value: n.get() };
                        kernels::exponential_sum(commands, &block, s, ids, known, &params, found.get_mut())
                    })
                })?;
                let relative = exp_error(2.2 * f64::from(rate)) + sum_error(pairs);
                bench.near("state", &found, &state, |k| {
                    if k % 4 == 2 { relative * state[k] + 1e-35 } else { 0.0 }
                })?;
            }
        }
        Ok(())
    })
}
