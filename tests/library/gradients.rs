//! Builds backward passes in f64 from the reference implementations and compares them with central differences of
//! independent losses.

use crate::random::{Random, wide};
use wgoal::device::padded;
use wgoal::kernels::{
    Block, ExponentialLoss, ExponentialParams, PositiveForm, SameImage, WeightParams, loss_at, mined_keys,
    reference,
};
use wgoal::objective::{Loss, PairWeight, TripletWeight};

const PAIRS: usize = 7;
const WIDTH: usize = 5;
const STRIDE: usize = 8;
const SHAPE: [usize; 2] = [PAIRS, WIDTH];
const MARGIN: f64 = 0.25;
const IDS: [u32; PAIRS] = [3, 1, 3, 2, 1, 3, 5];

/// Image and text embeddings, rows padded.
#[derive(Clone)]
struct Batch([Vec<f64>; 2]);

impl Batch {
    /// Random unit rows.
    fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self([(); 2].map(|()| {
            let (mut x, mut norms) = (vec![0.0; PAIRS * STRIDE], [0.0; PAIRS]);
            reference::l2norm(&wide(&random.matrix(PAIRS, WIDTH)), WIDTH, &mut x, &mut norms);
            x
        }))
    }

    /// Pairs that each lie close to an axis.
    fn easy(seed: u64) -> Self {
        let mut batch = Self::random(seed);
        for side in &mut batch.0 {
            for (at, x) in side.iter_mut().enumerate() {
                let (row, column) = (at / STRIDE, at % STRIDE);
                // Seven pairs on five axes. The last two point the opposite way along the first axes.
                let axis = match (row % WIDTH == column, row < WIDTH) {
                    (true, true) => 1.0,
                    (true, false) => -1.0,
                    _ => 0.0,
                };
                *x = 0.1 * *x + axis;
            }
        }
        batch
    }

    fn s(&self, i: usize, j: usize) -> f64 {
        let [x, y] = &self.0;
        (0..WIDTH).map(|k| x[i * STRIDE + k] * y[j * STRIDE + k]).sum()
    }

    /// (p, n) of all 2 N triplets.
    fn triplets(&self) -> Vec<(f64, f64)> {
        let hardest = |similarity: &dyn Fn(usize) -> f64, i: usize| {
            (0..PAIRS).filter(|&k| k != i).map(similarity).fold(-1.0, f64::max)
        };
        let images = (0..PAIRS).map(|i| (self.s(i, i), hardest(&|k| self.s(i, k), i)));
        images.chain((0..PAIRS).map(|i| (self.s(i, i), hardest(&|k| self.s(k, i), i)))).collect()
    }

    fn similarity(&self) -> Vec<f64> {
        let mut s = vec![f64::NAN; PAIRS * padded(PAIRS)];
        reference::matmul((&self.0[0], SHAPE, false), (&self.0[1], SHAPE, true), None, false, &mut s);
        s
    }
}

/// The slope of a function at `x`, from its values around it.
fn slope(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 1e-5;
    (f(x + STEP) - f(x - STEP)) / (2.0 * STEP)
}

/// The allowed error of the differences: STEP² times third derivatives of up to a few thousand, plus rounding divided
/// by STEP.
const ALLOWED: f64 = 2e-7;

fn agree(what: &str, found: &[f64], expected: &[f64]) {
    let size = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    assert!(size > 1e-3, "{what}: the loss is flat");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / size;
        assert!(error <= ALLOWED, "{what}[{i}]: {found}, by differences {expected}: error {error:.1e}");
    }
}

/// Compares the gradients of both sides with the differences of `loss`.
fn descends(what: &str, batch: &Batch, gradients: &[Vec<f64>; 2], loss: impl Fn(&Batch) -> f64) {
    for side in [0, 1] {
        let differences: Vec<_> = (0..PAIRS * STRIDE)
            .map(|at| {
                slope(batch.0[side][at], |x| {
                    let mut moved = batch.clone();
                    moved.0[side][at] = x;
                    loss(&moved)
                })
            })
            .collect();
        agree(&format!("{what}, side {side}"), &gradients[side], &differences);
    }
}

fn whole(direction: fn(usize, usize, usize) -> Block) -> Block {
    direction(0, PAIRS, PAIRS)
}

const DIRECTIONS: [fn(usize, usize, usize) -> Block; 2] = [Block::images, Block::texts];

fn params(triplet: TripletWeight, pair: PairWeight, margin: Option<f32>) -> WeightParams {
    WeightParams { triplet, pair, margin, exclude_own: margin.is_some(), tau: 3.0, ..Default::default() }
}

/// The GOAL gradient as the pipeline assembles it, and the sizes of all relative sets.
fn goal(batch: &Batch, params: &WeightParams) -> ([Vec<f64>; 2], f64) {
    let similarity = batch.similarity();
    let mut members = 0.0;
    let [(it, h), (ti, g)] = DIRECTIONS.map(|direction| {
        let block = whole(direction);
        let (mut p, mut n, mut h) = ([0.0; PAIRS], [0.0; PAIRS], [0; PAIRS]);
        reference::hardest(&block, &similarity, (None, false, None), (&mut p, &mut n, &mut h));
        let mut sums = [0.0; 4 * PAIRS];
        if params.pair == PairWeight::SigMs {
            let rates = Some((params.alpha.into(), params.beta.into()));
            reference::relative(&block, &similarity, (&p, &n, &h), None, rates, 0.1, &mut sums);
        }
        members += sums.chunks_exact(4).map(|sums| sums[1] + sums[3]).sum::<f64>();
        let (mut coefficients, mut loss) = ([0.0; 2 * PAIRS], [0.0; PAIRS]);
        reference::weights(params, (&p, &n, &h), &sums, &mut coefficients, &mut loss, PAIRS).unwrap();
        (coefficients, h)
    });
    let [x, y] = &batch.0;
    let mut gradients = [vec![0.0; x.len()], vec![0.0; y.len()]];
    reference::compose((y, 0), WIDTH, (&it, &h), (&ti, &keys(&g)), [true, false], &mut gradients[0]);
    reference::compose((x, 0), WIDTH, (&ti, &g), (&it, &keys(&h)), [true, false], &mut gradients[1]);
    (gradients, members)
}

/// The index of each anchor's hardest negative.
fn keys(h: &[u32]) -> Vec<u32> {
    let mut keys = vec![0; mined_keys(PAIRS)];
    reference::mined_order(h, &mut keys);
    keys
}

/// A Y and Aᵀ X.
fn through(field: &[f64], batch: &Batch) -> [Vec<f64>; 2] {
    let [x, y] = &batch.0;
    let mut gradients = [vec![0.0; x.len()], vec![0.0; y.len()]];
    let shape = [PAIRS, PAIRS];
    reference::matmul((field, shape, false), (y, SHAPE, false), None, false, &mut gradients[0]);
    reference::matmul((field, shape, true), (x, SHAPE, false), None, false, &mut gradients[1]);
    gradients
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

#[test]
fn integrable_combinations_are_gradients_of_their_losses() {
    use PairWeight::{Con, Lin, Sig};
    let (tau, alpha, beta, lambda) = (3.0, 2.0, 10.0, 0.5);
    let losses: [(TripletWeight, PairWeight, &dyn Fn(f64, f64) -> f64); 5] = [
        (TripletWeight::Con, Con, &|p, n| n - p),
        (TripletWeight::Nca, Con, &|p, n| softplus(tau * (n - p)) / tau),
        (TripletWeight::Con, Lin, &|p, n| 0.5 * (1.0 - p).powi(2) + 0.5 * n * n),
        (TripletWeight::Con, Sig, &|p, n| {
            softplus(-alpha * (p - lambda)) / alpha + softplus(beta * (n - lambda)) / beta
        }),
        (TripletWeight::Cir, Lin, &|p, n| softplus(tau * ((1.0 - p).powi(2) + n * n - 0.5)) / (2.0 * tau)),
    ];
    for seed in 0..3 {
        let batch = Batch::random(seed);
        for (triplet, pair, loss) in losses {
            let (gradients, _) = goal(&batch, &params(triplet, pair, None));
            let total = |batch: &Batch| batch.triplets().into_iter().map(|(p, n)| loss(p, n)).sum();
            descends(&format!("{triplet:?}:{pair:?}, seed {seed}"), &batch, &gradients, total);
        }
    }
}

#[test]
fn con_sig_ms_without_relative_sets_is_the_exponential_loss() {
    let (alpha, beta, lambda) = (2.0, 10.0, 0.5);
    let batch = Batch::easy(4);
    let (gradients, members) = goal(&batch, &params(TripletWeight::Con, PairWeight::SigMs, None));
    assert_eq!(members, 0.0, "the sets are not empty");
    let loss =
        |(p, n): (f64, f64)| (-alpha * (p - lambda)).exp() / alpha + (beta * (n - lambda)).exp() / beta;
    descends("exponential", &batch, &gradients, |batch| batch.triplets().into_iter().map(loss).sum());
}

#[test]
fn hinge_is_the_gradient_of_its_loss() {
    for seed in 0..3 {
        let batch = Batch::random(seed);
        let params = params(TripletWeight::Con, PairWeight::Con, Some(MARGIN as f32));
        let (gradients, _) = goal(&batch, &params);
        let loss = |(p, n): (f64, f64)| (MARGIN + n - p).max(0.0);
        let what = format!("hinge, seed {seed}");
        descends(&what, &batch, &gradients, |batch| batch.triplets().into_iter().map(loss).sum());
    }
}

#[test]
fn triplets_of_all_negatives_are_the_gradient_of_their_loss() {
    let hinge = params(TripletWeight::Con, PairWeight::Con, Some(MARGIN as f32));
    let deviance =
        WeightParams { loss: Loss::BinomialDeviance, ..params(TripletWeight::Con, PairWeight::Sig, None) };
    for weights in [hinge, deviance] {
        all_negatives(&weights);
    }
}

fn all_negatives(weights: &WeightParams) {
    for (seed, ids) in [(0, None), (1, None), (2, Some(&IDS[..]))] {
        let batch = Batch::random(seed);
        let mut field = batch.similarity();
        let p: Vec<_> = (0..PAIRS).map(|i| batch.s(i, i)).collect();
        let [it, ti] = DIRECTIONS.map(|direction| {
            let (mut coefficients, mut loss) = ([0.0; 2 * PAIRS], [0.0; PAIRS]);
            reference::dense_sum(&whole(direction), &field, &p, ids, weights, &mut coefficients, &mut loss)
                .unwrap();
            coefficients
        });
        reference::dense_field(&mut field, (0, PAIRS), [&p, &p], ids, weights, [1.0; 2]).unwrap();
        let mut gradients = through(&field, &batch);
        let [x, y] = &batch.0;
        let (first, by_first) = ([0; PAIRS], keys(&[0; PAIRS]));
        reference::compose((y, 0), WIDTH, (&it, &first), (&ti, &by_first), [true; 2], &mut gradients[0]);
        reference::compose((x, 0), WIDTH, (&ti, &first), (&it, &by_first), [true; 2], &mut gradients[1]);
        let loss = |batch: &Batch| -> f64 {
            let negative = |i: usize, j: usize| ids.map_or(i != j, |ids| ids[i] != ids[j]);
            let cost = |i: usize, j: usize| {
                let n = batch.s(i, j);
                let cost = |p: f64| match weights.margin {
                    Some(_) => (MARGIN + n - p).max(0.0),
                    None => softplus(-2.0 * (p - 0.5)) / 2.0 + softplus(10.0 * (n - 0.5)) / 10.0,
                };
                if negative(i, j) { cost(batch.s(i, i)) + cost(batch.s(j, j)) } else { 0.0 }
            };
            (0..PAIRS * PAIRS).map(|at| cost(at / PAIRS, at % PAIRS)).sum()
        };
        descends(&format!("{:?}, seed {seed}", weights.pair), &batch, &gradients, loss);
    }
}

/// Symmetric InfoNCE by definition: the mean of the cross-entropies of both directions.
fn cross_entropy(batch: &Batch, t: f64, ids: Option<&[u32]>, same_image: SameImage) -> f64 {
    let same = |i: usize, j: usize| i != j && ids.is_some_and(|ids| ids[i] == ids[j]);
    let direction = |z: &dyn Fn(usize, usize) -> f64| -> f64 {
        let anchor = |i: usize| {
            let left_out = |&j: &usize| !(same(i, j) && same_image == SameImage::LeftOut);
            let total: f64 = (0..PAIRS).filter(left_out).map(|j| z(i, j).exp()).sum();
            let several = matches!(same_image, SameImage::Target | SameImage::Summed);
            let target = |&j: &usize| i == j || same(i, j) && several;
            let targets: Vec<_> = (0..PAIRS).filter(target).collect();
            if same_image == SameImage::Summed {
                return total.ln() - targets.iter().map(|&j| z(i, j).exp()).sum::<f64>().ln();
            }
            targets.iter().map(|&j| total.ln() - z(i, j)).sum::<f64>() / targets.len() as f64
        };
        (0..PAIRS).map(anchor).sum::<f64>() / PAIRS as f64
    };
    (direction(&|i, j| batch.s(i, j) / t) + direction(&|i, j| batch.s(j, i) / t)) / 2.0
}

#[test]
fn infonce_is_the_gradient_of_its_loss() {
    let cases = [
        (None, SameImage::Target),
        (Some(&IDS[..]), SameImage::Negative),
        (Some(&IDS[..]), SameImage::Target),
        (Some(&IDS[..]), SameImage::LeftOut),
        (Some(&IDS[..]), SameImage::Summed),
        (None, SameImage::Summed),
    ];
    for (seed, (ids, same_image)) in cases.into_iter().enumerate() {
        let (batch, t) = (Batch::random(seed as u64), 0.25);
        let similarity = batch.similarity();
        let mut losses = [[0.0; PAIRS]; 2];
        let mut states = [[0.0; 4 * PAIRS]; 2];
        for ((direction, state), distance) in DIRECTIONS.into_iter().zip(&mut states).zip(&mut losses) {
            reference::log_sum_exp(&whole(direction), &similarity, (ids, same_image), t, (state, distance));
        }
        let (mut field, mut dt) = (similarity, [0.0; 4 * PAIRS]);
        let [loss_it, loss_ti] = &mut losses;
        let states = [&states[0][..], &states[1]];
        let losses = [&mut loss_it[..], &mut loss_ti[..]];
        reference::infonce(
            &mut field,
            (0, PAIRS, PAIRS),
            (ids, same_image),
            t,
            states,
            (1.0, [1.0; 2]),
            &mut dt,
            losses,
        );
        let what = format!("{same_image:?}, ids {}", ids.is_some());
        let loss: f64 = loss_it.iter().chain(&*loss_ti).sum();
        let expected = cross_entropy(&batch, t, ids, same_image);
        assert!((loss - expected).abs() <= 1e-12 * expected, "{what}: loss {loss}, expected {expected}");
        let at_t = |batch: &Batch| cross_entropy(batch, t, ids, same_image);
        descends(&what, &batch, &through(&field, &batch), at_t);
        let mut parts = [0.0; 4];
        reference::column_sum(&dt, 4, &mut parts);
        let by_t = slope(t, |t| cross_entropy(&batch, t, ids, same_image));
        agree(&format!("{what}, temperature"), &parts[..1], &[by_t]);
    }
}

/// The sigmoid loss by definition: the sum over all pairs of log(1 + e^(-y z)), divided by their number.
fn sigmoid_loss(batch: &Batch, [t, b]: [f64; 2], ids: Option<&[u32]>, same_image: SameImage) -> f64 {
    let cost = |i: usize, j: usize| {
        let same = i != j && ids.is_some_and(|ids| ids[i] == ids[j]);
        let z = batch.s(i, j) / t + b;
        match (i == j, same, same_image) {
            (false, true, SameImage::LeftOut) => 0.0,
            (true, ..) | (_, true, SameImage::Target) => softplus(-z),
            _ => softplus(z),
        }
    };
    (0..PAIRS * PAIRS).map(|at| cost(at / PAIRS, at % PAIRS)).sum::<f64>() / PAIRS as f64
}

#[test]
fn siglip_is_the_gradient_of_its_loss() {
    let cases = [
        (None, SameImage::Target),
        (Some(&IDS[..]), SameImage::Negative),
        (Some(&IDS[..]), SameImage::Target),
        (Some(&IDS[..]), SameImage::LeftOut),
    ];
    for (seed, (ids, same_image)) in cases.into_iter().enumerate() {
        let (batch, t, b) = (Batch::random(seed as u64), 0.25, -1.5);
        let [mut losses, mut parts] =
            [[vec![0.0; PAIRS], vec![0.0; PAIRS]], [(); 2].map(|()| vec![0.0; 4 * PAIRS])];
        let mut field = batch.similarity();
        let ([it, ti], [dt, db]) = (&mut losses, &mut parts);
        reference::siglip(&mut field, (0, PAIRS, PAIRS), (ids, same_image), [t, b], 1.0, [dt, db], [it, ti]);
        let what = format!("siglip, {same_image:?}, ids {}", ids.is_some());
        let loss: f64 = losses.iter().flatten().sum();
        let expected = sigmoid_loss(&batch, [t, b], ids, same_image);
        assert!((loss - expected).abs() <= 1e-12 * expected, "{what}: loss {loss}, expected {expected}");
        let at = |batch: &Batch| sigmoid_loss(batch, [t, b], ids, same_image);
        descends(&what, &batch, &through(&field, &batch), at);
        let by_t = slope(t, |t| sigmoid_loss(&batch, [t, b], ids, same_image));
        let by_b = slope(b, |b| sigmoid_loss(&batch, [t, b], ids, same_image));
        for (name, part, by) in [("temperature", &parts[0], by_t), ("bias", &parts[1], by_b)] {
            let mut sum = [0.0; 4];
            reference::column_sum(part, 4, &mut sum);
            agree(&format!("{what}, {name}"), &sum[..1], &[by]);
        }
    }
}

#[test]
fn l2norm_backward_is_the_gradient_of_l2norm() {
    let (rows, cols) = (3, 6);
    let mut random = Random::new(0);
    let (z, g) = (wide(&random.matrix(rows, cols)), wide(&random.matrix(rows, cols)));
    let forward = |z: &[f64]| {
        let (mut x, mut norms) = (vec![0.0; z.len()], vec![0.0; rows]);
        reference::l2norm(z, cols, &mut x, &mut norms);
        (x, norms)
    };
    let (x, norms) = forward(&z);
    let mut dz = vec![f64::NAN; z.len()];
    reference::l2norm_backward(&g, &x, &norms, cols, &mut dz);
    let along = |z: &[f64]| forward(z).0.iter().zip(&g).map(|(x, g)| x * g).sum::<f64>();
    for at in (0..z.len()).filter(|at| at % padded(cols) < cols) {
        let expected = slope(z[at], |value| {
            let mut moved = z.clone();
            moved[at] = value;
            along(&moved)
        });
        let error = (dz[at] - expected).abs();
        assert!(error <= ALLOWED, "dz[{at}]: {}, by differences {expected}", dz[at]);
    }
}

/// Named losses on the hardest negative: an independent implementation of the value that the kernel reports, and its
/// gradient.
#[test]
fn named_losses_are_the_integrals_of_their_weights() {
    let (tau, alpha, beta, lambda, m) = (3.0, 2.0, 10.0, 0.5, 0.5);
    let losses: [(Loss, &dyn Fn(f64, f64) -> f64); 6] = [
        (Loss::Triplet, &|p, n| n - p),
        (Loss::NtXent, &|p, n| ((tau * p).exp() / ((tau * p).exp() + (tau * n).exp())).ln() / -tau),
        (Loss::SquaredPair, &|p, n| (p - 1.0).powi(2) / 2.0 + n.powi(2) / 2.0),
        (Loss::BinomialDeviance, &|p, n| {
            (1.0 + (-alpha * (p - lambda)).exp()).ln() / alpha
                + (1.0 + (beta * (n - lambda)).exp()).ln() / beta
        }),
        (Loss::Circle, &|p, n| {
            (1.0 + (tau * ((n + m) * (n - m) - (1.0 + m - p) * (p - 1.0 + m))).exp()).ln() / (2.0 * tau)
        }),
        (Loss::Contrastive, &|p, n| 1.0 - p + if n > lambda { n - lambda } else { 0.0 }),
    ];
    for seed in 0..3 {
        let batch = Batch::random(seed);
        for (loss, value) in losses {
            let (triplet, pair) = loss.combination().unwrap();
            let params = WeightParams { loss, ..params(triplet, pair, None) };
            let (gradients, _) = goal(&batch, &params);
            let total = |batch: &Batch| batch.triplets().into_iter().map(|(p, n)| value(p, n)).sum();
            descends(loss.name(), &batch, &gradients, total);
            for (p, n) in batch.triplets() {
                let found: f64 = loss_at(&params, p, n, n - p);
                assert!((found - value(p, n)).abs() < 1e-12, "{}: {found}, {}", loss.name(), value(p, n));
            }
        }
    }
}

/// The circle loss as published: the gradient of its value with the factors held fixed.
#[test]
fn the_detached_circle_loss_holds_its_factors() {
    let (tau, m) = (3.0, 0.5);
    let (triplet, pair) = Loss::CircleDetached.combination().unwrap();
    let params = WeightParams { loss: Loss::CircleDetached, ..params(triplet, pair, None) };
    for (p, n) in [(0.9, 0.2), (-0.3, 0.8), (0.1, -0.7), (1.0, 1.0)] {
        let (pull, push) = (f64::max(1.0 + m - p, 0.0), f64::max(n + m, 0.0));
        let value = |p: f64, n: f64| softplus(tau * (push * (n - m) - pull * (p - 1.0 + m))) / tau;
        let [t, positive, negative] = wgoal::kernels::weights_at(&params, p, n, [0.0; 2]).unwrap();
        let slopes = [-slope(p, |p| value(p, n)), slope(n, |n| value(p, n))];
        for (found, expected) in [t * positive, t * negative].into_iter().zip(slopes) {
            assert!((found - expected).abs() < 1e-8, "at {p}, {n}: {found}, by differences {expected}");
        }
        let found: f64 = loss_at(&params, p, n, n - p);
        assert!((found - value(p, n)).abs() < 1e-12);
    }
}

const EXPONENTIAL: ExponentialParams = ExponentialParams {
    loss: ExponentialLoss::MultiSimilarity,
    rate: 3.0,
    alpha: 2.0,
    lambda: 0.5,
    margin: 0.0,
    reach: None,
    positives: PositiveForm::Own,
    scale: 1.0,
    shares: [1.0; 2],
};

/// Equation 6 of the paper with one positive, by definition. The gradient is that of the value with constant factors.
#[test]
fn the_circle_loss_over_all_negatives_is_that_of_its_paper() {
    // At 0.25 many hardest negatives are below the margin, at 0 none are.
    for (seed, ids, m) in [(0, None, 0.25f32), (1, Some(&IDS[..]), 0.0), (2, None, 0.5)] {
        let rate = 7.0;
        let params = ExponentialParams { loss: ExponentialLoss::Circle, rate: 7.0, margin: m, ..EXPONENTIAL };
        let (batch, m) = (Batch::random(seed), f64::from(m));
        let mut field = batch.similarity();
        let [it, ti] = reference::exponential(&mut field, PAIRS, ids, &params, None);
        let factors = |s: f64| [(1.0 + m - s).max(0.0), (s + m).max(0.0)];
        // The loss of all anchors with the factors of the batch `fixed`.
        let value = |batch: &Batch, fixed: &Batch| -> f64 {
            let one_way = |s: &dyn Fn(&Batch, usize, usize) -> f64, i: usize| {
                let negatives = (0..PAIRS).filter(|&j| ids.map_or(i != j, |ids| ids[i] != ids[j]));
                let exponent = |j: usize| rate * factors(s(fixed, i, j))[1] * (s(batch, i, j) - m);
                let sum: f64 = negatives.map(|j| exponent(j).exp()).sum();
                let pull = factors(s(fixed, i, i))[0];
                (1.0 + sum * (-rate * pull * (s(batch, i, i) - (1.0 - m))).exp()).ln() / rate
            };
            let both = |i| one_way(&|b, i, j| b.s(i, j), i) + one_way(&|b, i, j| b.s(j, i), i);
            (0..PAIRS).map(both).sum()
        };
        let (found, expected) = (it.iter().chain(&ti).sum::<f64>(), value(&batch, &batch));
        assert!((found - expected).abs() < 1e-12 * expected, "seed {seed}: {found} {expected}");
        let what = format!("circle-all, margin {m}, seed {seed}");
        descends(&what, &batch, &through(&field, &batch), |moved| value(moved, &batch));
    }
}

#[test]
fn losses_over_all_negatives_are_those_of_their_papers() {
    for (seed, ids) in [(0, None), (1, None), (2, Some(&IDS[..]))] {
        use ExponentialLoss::{Lifted, MultiSimilarity};
        for (loss, margin, reach) in [
            (MultiSimilarity, 0.0, None),
            (MultiSimilarity, 0.0, Some(0.25f32)),
            (MultiSimilarity, 0.0, Some(-0.5)),
            (Lifted, 1.0, None),
            (Lifted, -2.0, None),
        ] {
            let params = ExponentialParams { loss, margin, reach, ..EXPONENTIAL };
            let batch = Batch::random(seed);
            let mut field = batch.similarity();
            let [it, ti] = reference::exponential(&mut field, PAIRS, ids, &params, None);
            let direction = |s: &dyn Fn(usize, usize) -> f64| -> f64 {
                let anchor = |i: usize| {
                    let negative = |&j: &usize| ids.map_or(i != j, |ids| ids[i] != ids[j]);
                    let kept = |&n: &f64| reach.is_none_or(|reach| n + f64::from(reach) > s(i, i));
                    let negatives: Vec<_> =
                        (0..PAIRS).filter(negative).map(|j| s(i, j)).filter(kept).collect();
                    if reach.is_some() && negatives.is_empty() {
                        return 0.0;
                    }
                    let negatives = negatives.into_iter();
                    if loss == Lifted {
                        let sum: f64 = negatives.map(|s| (3.0 * s).exp()).sum();
                        return (f64::from(margin) - s(i, i) + sum.ln() / 3.0).max(0.0);
                    }
                    let sum: f64 = negatives.map(|s| (3.0 * (s - 0.5)).exp()).sum();
                    (1.0 + (-2.0 * (s(i, i) - 0.5)).exp()).ln() / 2.0 + (1.0 + sum).ln() / 3.0
                };
                (0..PAIRS).map(anchor).sum()
            };
            let value = |batch: &Batch| direction(&|i, j| batch.s(i, j)) + direction(&|i, j| batch.s(j, i));
            let (found, expected) = (it.iter().chain(&ti).sum::<f64>(), value(&batch));
            let what = format!("{loss:?}, margin {margin}, reach {reach:?}, seed {seed}");
            assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "{what}: {found} {expected}");
            if expected > 0.0 {
                descends(&what, &batch, &through(&field, &batch), value);
            } else {
                assert!(field.iter().all(|a| *a == 0.0), "{what}");
            }
        }
    }
}
