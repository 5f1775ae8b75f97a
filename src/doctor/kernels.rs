//! One check a kernel: the device's result against the f64 twin's. A list, and as long as there are kernels.

use super::{Lab, POISON, Pair};
use crate::Result;
use crate::device::{Device, padded};
use crate::kernels;
use crate::kernels::*;
use crate::objective::{PairWeight, TripletWeight};
use crate::optim::{self, AdamwParams, SgdParams};

/// Pairs of a batch, and width of its embeddings.
const N: usize = 67;
const D: usize = 37;

/// Name, allowed error (a few roundings of the sums involved; exponentials by WGSL's 3 + 2|z| ULP), check.
pub(super) const CHECKS: &[(&str, f64, fn(&mut Lab) -> Result<()>)] = &[
    ("matmul", 1e-5, matmul),
    ("l2norm", 2e-6, l2norm),
    ("l2norm_backward", 5e-6, l2norm_backward),
    ("hardest", 0.0, hardest),
    ("relative", 2e-5, relative),
    ("weights", 2e-5, weights),
    ("mined_order", 0.0, mined_order),
    ("compose", 1e-5, compose),
    ("dense_sum", 1e-5, dense_sum),
    ("dense_field", 1e-5, dense_field),
    ("accumulate", 1e-6, accumulate),
    ("exponential_sum", 2e-5, exponential_sum),
    ("exponential_field", 2e-5, exponential_field),
    ("log_sum_exp", 2e-5, log_sum_exp),
    ("infonce", 2e-5, infonce),
    ("column_sum", 1e-5, column_sum),
    ("sum_squares", 1e-5, sum_squares),
    ("record", 1e-5, record),
    ("adamw", 1e-5, adamw),
    ("widen", 0.0, widen),
    ("sgd", 1e-5, sgd),
    ("ranks", 0.0, ranks),
    ("ceiling", 1e-5, ceiling),
];

/// Every variant that the device can run, and every orientation.
fn matmul(lab: &mut Lab) -> Result<()> {
    const P: usize = 131;
    let device = lab.device;
    let runs = |variant: &&MatmulVariant| match device {
        Device::Cpu(_) => true,
        Device::Gpu(gpu) => variant.runs_on(gpu),
    };
    for variant in MATMUL_VARIANTS.iter().filter(runs) {
        for (a_transposed, b_transposed) in [(false, true), (false, false), (true, false)] {
            let (a_shape, b_shape) =
                (if a_transposed { [P, N] } else { [N, P] }, if b_transposed { [D, P] } else { [P, D] });
            let (a, b) = (lab.matrix(a_shape[0], a_shape[1])?, lab.matrix(b_shape[0], b_shape[1])?);
            let bias = lab.vector(padded(D))?;
            let mut c = lab.poison(N * padded(D))?;
            let product = Product {
                a: a.mat(a_shape[0], a_shape[1]),
                b: b.mat(b_shape[0], b_shape[1]),
                a_transposed,
                b_transposed,
                bias: Some(bias.get()),
                accumulate: false,
                sliced: false,
                variant: Some(variant),
            };
            lab.run(|commands| kernels::matmul(commands, product, c.mat_mut(N, D)))?;
            let mut expected = c.wide();
            let (a, b) = ((&a.wide()[..], a_shape, a_transposed), (&b.wide()[..], b_shape, b_transposed));
            reference::matmul(a, b, Some(&bias.wide()), false, &mut expected);
            lab.compare(&c, &expected)?;
        }
    }
    Ok(())
}

fn l2norm(lab: &mut Lab) -> Result<()> {
    let z = lab.matrix(N, D)?;
    let (mut x, mut norms) = (lab.poison(z.host.len())?, lab.poison(N)?);
    lab.run(|commands| kernels::l2norm(commands, z.mat(N, D), x.mat_mut(N, D), norms.get_mut()))?;
    let (mut unit, mut lengths) = (x.wide(), norms.wide());
    reference::l2norm(&z.wide(), D, &mut unit, &mut lengths);
    lab.compare(&x, &unit)?;
    lab.compare(&norms, &lengths)
}

fn l2norm_backward(lab: &mut Lab) -> Result<()> {
    let (g, x) = (lab.matrix(N, D)?, lab.matrix(N, D)?);
    let mut lengths: Vec<f32> = lab.numbers(N).iter().map(|x| 1.5 + x).collect();
    lengths[3] = 0.0;
    let norms = lab.pair(lengths)?;
    let mut dz = lab.poison(g.host.len())?;
    lab.run(|commands| {
        kernels::l2norm_backward(commands, g.mat(N, D), x.mat(N, D), norms.get(), dz.mat_mut(N, D))
    })?;
    let mut expected = dz.wide();
    reference::l2norm_backward(&g.wide(), &x.wide(), &norms.wide(), D, &mut expected);
    lab.compare(&dz, &expected)
}

/// Similarities with exact ties, ids that repeat, and what mining makes of them in the direction of images.
struct Mined {
    similarity: Pair<f32>,
    ids: Pair<u32>,
    positive: Pair<f32>,
    value: Pair<f32>,
    index: Pair<u32>,
}

fn mined(lab: &mut Lab, block: &Block) -> Result<Mined> {
    // Multiples of 1/64, so that differences are exact.
    let similarity = lab.matrix(N, N)?.host.iter().map(|s| (s * 63.0).round() / 64.0).collect();
    let (similarity, ids) = (lab.pair(similarity)?, lab.indices(N, 40)?);
    let (mut p, mut n, mut h) = (vec![0.0; N], vec![0.0; N], vec![0; N]);
    reference::hardest(block, &similarity.host, (Some(&ids.host), false, None), (&mut p, &mut n, &mut h));
    let (positive, value, index) = (lab.pair(p)?, lab.pair(n)?, lab.pair(h)?);
    Ok(Mined { similarity, ids, positive, value, index })
}

/// Both directions, as whole blocks.
fn directions() -> [Block; 2] {
    [Block::images(0, N, N), Block::texts(0, N, N)]
}

/// The hardest, and the next after them.
fn hardest(lab: &mut Lab) -> Result<()> {
    for block in directions() {
        let m = mined(lab, &block)?;
        let (s, ids) = (m.similarity.mat(N, N), Some(m.ids.get()));
        let (mut positive, mut p) = (lab.pair(m.positive.host.clone())?, m.positive.host.clone());
        let (mut next_n, mut next_h) = (vec![0.0; N], vec![0; N]);
        let below = (&m.value.host[..], &m.index.host[..]);
        let from = (Some(&m.ids.host[..]), true, Some(below));
        reference::hardest(&block, &m.similarity.host, from, (&mut p, &mut next_n, &mut next_h));
        let below = Below { value: m.value.get(), index: m.index.get() };
        for (exclude_own, below, n, h) in
            [(false, None, &m.value.host, &m.index.host), (true, Some(below), &next_n, &next_h)]
        {
            let (mut value, mut index) = (lab.poison(N)?, lab.poison_indices(N)?);
            let out =
                Hardest { positive: positive.get_mut(), value: value.get_mut(), index: index.get_mut() };
            let from = Candidates { ids, exclude_own, below };
            lab.run(|commands| kernels::hardest(commands, &block, s, from, out))?;
            let n: Vec<f64> = n.iter().map(|&n| n.into()).collect();
            lab.compare(&value, &n)?;
            lab.compare_indices(&index, h)?;
        }
    }
    Ok(())
}

fn relative(lab: &mut Lab) -> Result<()> {
    for (block, exponential) in directions().into_iter().flat_map(|block| [(block, false), (block, true)]) {
        let m = mined(lab, &block)?;
        let mut sums = lab.poison(4 * N)?;
        let (alpha, beta, threshold) = (2.0, 10.0, 0.1);
        let from = Relative {
            positive: m.positive.get(),
            value: m.value.get(),
            index: m.index.get(),
            ids: Some(m.ids.get()),
            exponential,
            alpha,
            beta,
            threshold,
        };
        lab.run(|commands| {
            kernels::relative(commands, &block, m.similarity.mat(N, N), from, sums.get_mut())
        })?;
        let mut expected = sums.wide();
        let rates = exponential.then_some((alpha.into(), beta.into()));
        let (p, n) = (m.positive.wide(), m.value.wide());
        let mined = (&p[..], &n[..], &m.index.host[..]);
        let ids = Some(&m.ids.host[..]);
        reference::relative(&block, &m.similarity.wide(), mined, ids, rates, threshold.into(), &mut expected);
        lab.compare(&sums, &expected)?;
    }
    Ok(())
}

fn exponential_sum(lab: &mut Lab) -> Result<()> {
    for block in directions() {
        let m = mined(lab, &block)?;
        let mut state = lab.poison(4 * N)?;
        let (mined, rate) = ((m.positive.get(), m.value.get()), 10.0);
        lab.run(|commands| {
            let s = m.similarity.mat(N, N);
            kernels::exponential_sum(commands, &block, s, Some(m.ids.get()), mined, rate, state.get_mut())
        })?;
        let mut expected = state.wide();
        let (s, p, n) = (m.similarity.wide(), m.positive.wide(), m.value.wide());
        reference::exponential_sum(&block, &s, Some(&m.ids.host), (&p, &n), rate.into(), &mut expected);
        lab.compare(&state, &expected)?;
    }
    Ok(())
}

fn exponential_field(lab: &mut Lab) -> Result<()> {
    for lifted in [false, true] {
        let ids = lab.indices(N, 40)?;
        let mut field = lab.matrix(N, N)?;
        let states = [(); 2].map(|()| {
            // (p, n, sum, 0); no similarity is above n = 1.
            let state = lab.numbers(N).into_iter().flat_map(|p| [p, 1.0, 3.0 + p, 0.0]).collect();
            lab.pair(state)
        });
        let [it, ti] = states;
        let (it, ti) = (it?, ti?);
        let params =
            ExponentialParams { lifted, rate: 4.0, alpha: 2.0, lambda: 0.5, margin: -0.75, scale: 0.7 };
        let (mut expected, mut losses) = (field.wide(), [vec![0.0; N], vec![0.0; N]]);
        let [loss_it, loss_ti] = &mut losses;
        let wide = [&it.wide()[..], &ti.wide()[..]];
        reference::exponential_field(
            &mut expected,
            (0, N),
            Some(&ids.host),
            wide,
            &params,
            [loss_it, loss_ti],
        );
        let (mut found_it, mut found_ti) = (lab.poison(N)?, lab.poison(N)?);
        lab.run(|commands| {
            let losses = [found_it.get_mut(), found_ti.get_mut()];
            let states = [it.get(), ti.get()];
            kernels::exponential_field(
                commands,
                field.mat_mut(N, N),
                0,
                Some(ids.get()),
                states,
                &params,
                losses,
            )
        })?;
        lab.compare(&field, &expected)?;
        lab.compare(&found_it, &losses[0])?;
        lab.compare(&found_ti, &losses[1])?;
    }
    Ok(())
}

fn weights(lab: &mut Lab) -> Result<()> {
    let (positive, value, index) = (lab.vector(N)?, lab.vector(N)?, lab.indices(N, N as u32)?);
    let sums =
        lab.numbers(4 * N).iter().enumerate().map(|(k, x)| if k % 2 == 1 { 3.0 } else { 1.0 + x }).collect();
    let sums = lab.pair(sums)?;
    let pairs = [PairWeight::Con, PairWeight::Lin, PairWeight::LinMs, PairWeight::Sig, PairWeight::SigMs];
    for triplet in [TripletWeight::Con, TripletWeight::Nca, TripletWeight::Cir] {
        for (pair, margin) in pairs.into_iter().flat_map(|pair| [(pair, None), (pair, Some(0.2))]) {
            let exclude_own = margin.is_some();
            let params = WeightParams {
                triplet,
                pair,
                margin,
                exclude_own,
                tau: 3.0,
                scale: 0.7,
                ..Default::default()
            };
            let (mut coefficients, mut loss) = (lab.poison(2 * N)?, lab.poison(N)?);
            let mined = (positive.get(), value.get(), index.get());
            lab.run(|commands| {
                let out = (coefficients.get_mut(), loss.get_mut());
                kernels::weights(commands, &params, mined, sums.get(), out.0, out.1, N)
            })?;
            let (mut c, mut l) = (coefficients.wide(), loss.wide());
            let (p, n) = (positive.wide(), value.wide());
            reference::weights(&params, (&p, &n, &index.host), &sums.wide(), &mut c, &mut l, N)?;
            lab.compare(&coefficients, &c)?;
            lab.compare(&loss, &l)?;
        }
    }
    Ok(())
}

fn mined_order(lab: &mut Lab) -> Result<()> {
    // The last in several chunks.
    for pairs in [1, N, 5000] {
        let index = lab.indices(pairs, pairs as u32)?;
        let mut expected = vec![0; mined_keys(pairs)];
        reference::mined_order(&index.host, &mut expected);
        let mut keys = lab.poison_indices(expected.len())?;
        lab.run(|commands| kernels::mined_order(commands, index.get(), pairs, keys.get_mut()))?;
        lab.compare_indices(&keys, &expected)?;
    }
    Ok(())
}

fn compose(lab: &mut Lab) -> Result<()> {
    let y = lab.matrix(N, D)?;
    let (own, other) = (lab.vector(2 * N)?, lab.vector(2 * N)?);
    let (own_index, other_index) = (lab.indices(N, N as u32)?, lab.indices(N, 20)?);
    let mut keys = vec![0; mined_keys(N)];
    reference::mined_order(&other_index.host, &mut keys);
    let other_keys = lab.pair(keys)?;
    let mut dx = lab.poison(y.host.len())?;
    let from = Composition {
        own: own.get(),
        own_index: own_index.get(),
        other: other.get(),
        other_keys: other_keys.get(),
        accumulate: false,
    };
    lab.run(|commands| kernels::compose(commands, (y.mat(N, D), 0), from, dx.mat_mut(N, D)))?;
    let mut expected = dx.wide();
    let (wide_own, wide_other) = (own.wide(), other.wide());
    let (own, other) = ((&wide_own[..], &own_index.host[..]), (&wide_other[..], &other_keys.host[..]));
    reference::compose((&y.wide(), 0), D, own, other, false, &mut expected);
    lab.compare(&dx, &expected)
}

/// Dyadic, so that no comparison with it is a matter of rounding.
const MARGIN: f32 = 13.0 / 64.0;

/// Weights that say something at every p and n, closed by the margin or not.
fn dense_weights() -> impl Iterator<Item = WeightParams> {
    let usual =
        WeightParams { triplet: TripletWeight::Cir, pair: PairWeight::Sig, scale: 0.5, ..Default::default() };
    [None, Some(MARGIN)].into_iter().map(move |margin| WeightParams { margin, ..usual.clone() })
}

fn dense_sum(lab: &mut Lab) -> Result<()> {
    for (block, weights) in
        directions().into_iter().flat_map(|block| dense_weights().map(move |w| (block, w)))
    {
        let m = mined(lab, &block)?;
        let (mut coefficients, mut loss) = (lab.poison(2 * N)?, lab.poison(N)?);
        let from = Dense { positive: m.positive.get(), ids: Some(m.ids.get()), weights: &weights };
        lab.run(|commands| {
            let out = (coefficients.get_mut(), loss.get_mut());
            kernels::dense_sum(commands, &block, m.similarity.mat(N, N), from, out.0, out.1)
        })?;
        let (mut c, mut l) = (coefficients.wide(), loss.wide());
        let (s, p, ids) = (m.similarity.wide(), m.positive.wide(), Some(&m.ids.host[..]));
        reference::dense_sum(&block, &s, &p, ids, &weights, &mut c, &mut l)?;
        lab.compare(&coefficients, &c)?;
        lab.compare(&loss, &l)?;
    }
    Ok(())
}

fn dense_field(lab: &mut Lab) -> Result<()> {
    for weights in dense_weights() {
        let m = mined(lab, &directions()[0])?;
        let mut field = lab.pair(m.similarity.host.clone())?;
        let from = Dense { positive: m.positive.get(), ids: Some(m.ids.get()), weights: &weights };
        lab.run(|commands| kernels::dense_field(commands, field.mat_mut(N, N), 0, from))?;
        let mut expected = m.similarity.wide();
        reference::dense_field(&mut expected, 0, &m.positive.wide(), Some(&m.ids.host), &weights)?;
        lab.compare(&field, &expected)?;
    }
    Ok(())
}

fn accumulate(lab: &mut Lab) -> Result<()> {
    for (at, add) in [(0, false), (12, true), (64, true)] {
        let x = lab.vector(N)?;
        let mut out = lab.vector(N + at)?;
        let mut expected = out.wide();
        reference::accumulate(&x.wide(), 0.375, &mut expected[at..], add);
        lab.run(|commands| kernels::accumulate(commands, (x.get(), N), 0.375, (out.get_mut(), at), add))?;
        lab.compare(&out, &expected)?;
    }
    Ok(())
}

/// All finite f16.
fn widen(lab: &mut Lab) -> Result<()> {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & 0x7fff < 0x7c00).collect();
    let pairs: Vec<u32> = halves.chunks(2).map(|h| u32::from(h[0]) | u32::from(h[1]) << 16).collect();
    let (h, mut x) = (lab.pair(pairs)?, lab.poison(halves.len())?);
    let mut expected = vec![0.0; halves.len()];
    reference::widen(&h.host, &mut expected);
    lab.run(|commands| kernels::widen(commands, h.get(), x.get_mut(), halves.len()))?;
    lab.compare(&x, &expected)
}

/// 1/16: z = s / t is exact.
const TEMPERATURE: f32 = 0.0625;

fn log_sum_exp(lab: &mut Lab) -> Result<()> {
    let temperature = lab.pair(vec![TEMPERATURE])?;
    for same_image in [SameImage::Target, SameImage::LeftOut] {
        for block in directions() {
            let m = mined(lab, &block)?;
            let (mut state, mut distance) = (lab.poison(4 * N)?, lab.poison(N)?);
            let same = (Some(m.ids.get()), same_image);
            lab.run(|commands| {
                let (s, t) = (m.similarity.mat(N, N), temperature.get());
                kernels::log_sum_exp(commands, &block, s, same, t, state.get_mut(), distance.get_mut())
            })?;
            let (mut expected, mut away) = (state.wide(), distance.wide());
            let (s, same) = (m.similarity.wide(), (Some(&m.ids.host[..]), same_image));
            reference::log_sum_exp(&block, &s, same, TEMPERATURE.into(), (&mut expected, &mut away));
            lab.compare(&state, &expected)?;
            lab.compare(&distance, &away)?;
        }
    }
    Ok(())
}

fn infonce(lab: &mut Lab) -> Result<()> {
    let temperature = lab.pair(vec![TEMPERATURE])?;
    for same_image in [SameImage::Target, SameImage::LeftOut] {
        let m = mined(lab, &directions()[0])?;
        let [(state_it, mut it), (state_ti, mut ti)] = directions().map(|block| {
            let (mut state, mut distance) = (vec![0.0; 4 * N], vec![0.0; N]);
            let same = (Some(&m.ids.host[..]), same_image);
            let (s, t) = (m.similarity.wide(), f64::from(TEMPERATURE));
            reference::log_sum_exp(&block, &s, same, t, (&mut state, &mut distance));
            (state, distance)
        });
        let narrow = |values: &[f64]| lab.pair(values.iter().map(|&x| x as f32).collect());
        let states = [narrow(&state_it)?, narrow(&state_ti)?];
        let (mut loss_it, mut loss_ti) = (narrow(&it)?, narrow(&ti)?);
        let mut field = lab.pair(m.similarity.host.clone())?;
        let mut dt = lab.poison(4 * N)?;
        let from = InfonceField {
            ids: Some(m.ids.get()),
            same_image,
            temperature: temperature.get(),
            states: [states[0].get(), states[1].get()],
            scale: 0.7,
            row_offset: 0,
        };
        lab.run(|commands| {
            let losses = [loss_it.get_mut(), loss_ti.get_mut()];
            kernels::infonce(commands, field.mat_mut(N, N), from, dt.get_mut(), losses)
        })?;
        let (mut a, mut t) = (m.similarity.wide(), dt.wide());
        let same = (Some(&m.ids.host[..]), same_image);
        let states = [&state_it[..], &state_ti[..]];
        let (scale, losses) = (f64::from(0.7f32), [&mut it[..], &mut ti[..]]);
        reference::infonce(&mut a, (0, N), same, TEMPERATURE.into(), states, scale, &mut t, losses);
        lab.compare(&field, &a)?;
        lab.compare(&dt, &t)?;
        lab.compare(&loss_it, &it)?;
        lab.compare(&loss_ti, &ti)?;
    }
    Ok(())
}

fn column_sum(lab: &mut Lab) -> Result<()> {
    let a = lab.matrix(N, D)?;
    let mut y = lab.poison(padded(D))?;
    lab.run(|commands| kernels::column_sum(commands, a.mat(N, D), y.get_mut()))?;
    let mut expected = y.wide();
    reference::column_sum(&a.wide(), D, &mut expected);
    lab.compare(&y, &expected)
}

fn sum_squares(lab: &mut Lab) -> Result<()> {
    let a = lab.vector(4 * 1237)?;
    let mut parts = lab.poison(PARTS)?;
    lab.run(|commands| kernels::sum_squares(commands, a.get(), a.host.len(), parts.get_mut()))?;
    // The parts are the device's own affair; their sum is not.
    let found = lab.device.wait(parts.device.read(lab.device, 0..PARTS))?;
    let expected: f64 = a.wide().iter().map(|x| x * x).sum();
    let sum: f64 = found.iter().map(|&x| f64::from(x)).sum();
    lab.worst = super::error(&[sum as f32], &[expected]);
    Ok(())
}

fn record(lab: &mut Lab) -> Result<()> {
    let [positive, it, ti, loss_it, loss_ti] = [(); 5].map(|()| lab.vector(N));
    let (positive, it, ti, loss_it, loss_ti) = (positive?, it?, ti?, loss_it?, loss_ti?);
    let parts = lab.numbers(PARTS).iter().map(|x| 1.0 + x).collect();
    let parts = lab.pair(parts)?;
    for max_norm in [0.0, 2.0, 1e3] {
        let (mut records, mut factor) = (lab.poison(3 * RECORD)?, lab.poison(1)?);
        let from = StepRecord {
            positive: positive.get(),
            value: [it.get(), ti.get()],
            loss: [loss_it.get(), loss_ti.get()],
            parts: parts.get(),
            pairs: N,
            count: PARTS,
            step: 1,
            max_norm,
        };
        lab.run(|commands| kernels::record(commands, from, records.get_mut(), factor.get_mut()))?;
        let mut expected = [f64::from(POISON); 3 * RECORD];
        let (wide_it, wide_ti, l_it, l_ti) = (it.wide(), ti.wide(), loss_it.wide(), loss_ti.wide());
        let row = &mut expected[RECORD..2 * RECORD];
        let (value, loss) = ([&wide_it[..], &wide_ti[..]], [&l_it[..], &l_ti[..]]);
        let clip = reference::record(&positive.wide(), value, loss, &parts.wide(), max_norm.into(), row);
        let found = lab.device.wait(records.device.read(lab.device, RECORD..2 * RECORD))?;
        lab.worst = lab.worst.max(super::error(&found, &expected[RECORD..2 * RECORD]));
        lab.compare(&factor, &[clip])?;
    }
    Ok(())
}

const ELEMENTS: usize = 4 * 301;

fn adamw(lab: &mut Lab) -> Result<()> {
    let (g, mut w, mut m) = (lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?);
    let second = lab.numbers(ELEMENTS).iter().map(|x| 1.0 + x).collect();
    let (mut v, factor) = (lab.pair(second)?, lab.pair(vec![0.5])?);
    let params = AdamwParams {
        learning_rate: 0.01,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        decay: 0.1,
        step: 3,
        bounds: (-0.9, 0.8),
    };
    let (mut wide_w, mut wide_m, mut wide_v) = (w.wide(), m.wide(), v.wide());
    lab.run(|commands| {
        let state = [w.get_mut(), m.get_mut(), v.get_mut()];
        optim::adamw(commands, &params, (g.get(), factor.get()), state, ELEMENTS)
    })?;
    optim::reference::adamw(&params, (&g.wide(), 0.5), [&mut wide_w, &mut wide_m, &mut wide_v]);
    lab.compare(&w, &wide_w)?;
    lab.compare(&m, &wide_m)?;
    lab.compare(&v, &wide_v)
}

fn sgd(lab: &mut Lab) -> Result<()> {
    let (g, mut w, mut m) = (lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?);
    let factor = lab.pair(vec![0.5])?;
    let params = SgdParams { learning_rate: 0.01, momentum: 0.9, decay: 0.1, bounds: (-0.9, 0.8) };
    let (mut wide_w, mut wide_m) = (w.wide(), m.wide());
    lab.run(|commands| {
        optim::sgd(commands, &params, (g.get(), factor.get()), [w.get_mut(), m.get_mut()], ELEMENTS)
    })?;
    optim::reference::sgd(&params, (&g.wide(), 0.5), [&mut wide_w, &mut wide_m]);
    lab.compare(&w, &wide_w)?;
    lab.compare(&m, &wide_m)
}

fn ranks(lab: &mut Lab) -> Result<()> {
    const CANDIDATES: usize = 131;
    let coarse = lab.numbers(N * CANDIDATES).iter().map(|s| (s * 32.0).round() / 32.0).collect::<Vec<_>>();
    let similarity = lab.pair(crate::device::pad_rows(&coarse, CANDIDATES).into_owned())?;
    let (query_ids, candidate_ids) = (lab.indices(N, 31)?, lab.indices(CANDIDATES, 30)?);
    let mut out = lab.poison_indices(N)?;
    let block = RankBlock { query_ids: query_ids.get(), candidate_ids: candidate_ids.get(), query_offset: 0 };
    lab.run(|commands| kernels::ranks(commands, similarity.mat(N, CANDIDATES), block, out.get_mut()))?;
    let mut expected = vec![0; N];
    reference::ranks(&similarity.wide(), &query_ids.host, &candidate_ids.host, &mut expected);
    lab.compare_indices(&out, &expected)
}

fn ceiling(lab: &mut Lab) -> Result<()> {
    let x = lab.vector(3 * 4096)?;
    let mut y = lab.poison(x.host.len())?;
    let (factor, term) = (0.75, 0.5);
    lab.run(|commands| kernels::ceiling(commands, x.get(), x.host.len(), 2, (factor, term), y.get_mut()))?;
    let mut expected = y.wide();
    reference::ceiling(&x.wide(), 2, (factor.into(), term.into()), &mut expected);
    lab.compare(&y, &expected)
}
