//! Kernels of the optimiser step.

use super::bench::{Outcome, ROUNDING, each_lanes, is_poison, sum_error};
use crate::common::check;
use crate::common::random::{Random, wide};
use wgoal::Device;
use wgoal::kernels::{self, PARTS, RECORD, StepRecord, reference};
use wgoal::optim::{self, AdamwParams, SgdParams};

/// The lengths of flat buffers. The last one takes several strides of a grid with one lane per workgroup.
const LENGTHS: &[usize] = &[4, 12, 64, 260, 1000, 20004];

pub fn sum_squares(device: &Device) -> Outcome {
    each_lanes(device, LENGTHS, |bench, random, len| {
        let a = random.values(len);
        let mut parts = [0.0; PARTS];
        reference::sum_squares(&wide(&a), &mut parts);
        let expected: f64 = parts.iter().sum();
        let a = bench.array(&a)?;
        let mut found = bench.poisoned(PARTS)?;
        bench.run(|commands| kernels::sum_squares(commands, a.get(), len, found.get_mut()))?;
        // Each device may choose which elements a part holds.
        let found: f64 = bench.read(&found)?.into_iter().map(f64::from).sum();
        let within = (found - expected).abs() <= sum_error(len) * expected;
        check(within, format!("sum of squares {found}, expected {expected}"))
    })
}

pub fn record(device: &Device) -> Outcome {
    const STEPS: usize = 3;
    // (pairs, parts, the clipping norm divided by the norm of the gradient)
    let cases = [
        (1, 1, 0.0),
        (2, 3, 0.5),
        (3, 2, 2.0),
        (31, 65, 0.5),
        (65, 64, 1.0),
        (257, 128, 0.25),
        (1000, 192, 0.0),
    ];
    each_lanes(device, &cases, |bench, random, (pairs, count, clip)| {
        let [p, n_it, n_ti, loss_it, loss_ti] = [(); 5].map(|()| random.values(pairs));
        // With parts of 4, the norm has no rounding error. A norm equal to the limit is not clipped.
        let part = |random: &mut Random| if clip == 1.0 { 4.0 } else { 1.5 + random.uniform() };
        let parts: Vec<f32> = (0..count).map(|_| part(random)).collect();
        let norm = parts.iter().sum::<f32>().sqrt();
        let max_norm = clip * norm;
        let [wide_p, wide_it, wide_ti, wide_loss_it, wide_loss_ti, wide_parts] =
            [&p, &n_it, &n_ti, &loss_it, &loss_ti, &parts].map(|values| wide(values));
        let (values, losses) = ([&wide_it[..], &wide_ti], [&wide_loss_it[..], &wide_loss_ti]);
        let mut row = [f64::NAN; RECORD];
        let factor = reference::record(&wide_p, values, losses, &wide_parts, max_norm.into(), &mut row);
        let (p, n_it, n_ti) = (bench.array(&p)?, bench.array(&n_it)?, bench.array(&n_ti)?);
        let (loss_it, loss_ti) = (bench.array(&loss_it)?, bench.array(&loss_ti)?);
        let parts = bench.array(&parts)?;
        let (mut records, mut found_factor) = (bench.poisoned(STEPS * RECORD)?, bench.poisoned(1)?);
        let from = StepRecord {
            positive: p.get(),
            value: [n_it.get(), n_ti.get()],
            loss: [loss_it.get(), loss_ti.get()],
            parts: parts.get(),
            pairs,
            count,
            step: 1,
            max_norm,
        };
        bench.run(|commands| kernels::record(commands, from, records.get_mut(), found_factor.get_mut()))?;
        bench.near("factor", &found_factor, &[factor], |_| 8.0 * ROUNDING)?;
        let records = bench.read(&records)?;
        let others = [&records[..RECORD], &records[2 * RECORD..]].concat();
        check(others.into_iter().all(is_poison), "another step's record was written")?;
        let sums = 4.0 * sum_error(pairs) * pairs as f64;
        let means = sums / pairs as f64;
        let allowed = [sums, means, means, (sum_error(count) + 8.0 * ROUNDING) * row[3]];
        bench.near("record", &bench.array(&records[RECORD..][..RECORD])?, &row, |k| {
            allowed.get(k).copied().unwrap_or(0.0)
        })
    })
}

const UNBOUNDED: (f32, f32) = (f32::MIN, f32::MAX);

pub fn adamw(device: &Device) -> Outcome {
    let usual = AdamwParams {
        learning_rate: 1e-3,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        decay: 0.0,
        step: 1,
        bounds: UNBOUNDED,
    };
    let unusual =
        AdamwParams { learning_rate: 0.25, betas: (0.5, 0.75), epsilon: 0.5, decay: 0.5, step: 2, ..usual };
    let bounded = AdamwParams { bounds: (-0.25, 0.5), step: 1000, ..unusual };
    let mut cases = Vec::new();
    for params in [usual, unusual, bounded] {
        cases.extend(LENGTHS.iter().map(|&len| (len, params)));
    }
    each_lanes(device, &cases, |bench, random, (len, params)| {
        let (g, factor) = (random.values(len), 0.75);
        // Before the first step both moments are 0, so a wrong 1 − beta2 has its full effect.
        let moments = |values: Vec<f32>| if params.step == 1 { vec![0.0; len] } else { values };
        let (w, m) = (random.values(len), moments(random.values(len)));
        let v = moments(random.values(len).into_iter().map(f32::abs).collect());
        let mut expected = [&w, &m, &v].map(|values| wide(values));
        let [wide_w, wide_m, wide_v] = &mut expected;
        optim::reference::adamw(&params, (&wide(&g), factor.into()), [wide_w, wide_m, &mut *wide_v]);
        // Follows the definition. Computing 1 − beta from a beta in single precision would be wrong by 1e-5.
        if params.step == 1 {
            let square = |k: usize| (0.75 * f64::from(g[k])).powi(2);
            for (k, v) in wide_v.iter().enumerate() {
                check((v - 0.001 * square(k)).abs() <= 1e-9 * square(k), format!("v[{k}] is {v:e}"))?;
            }
        }
        let (g, factor) = (bench.array(&g)?, bench.array(&[factor])?);
        let [mut w, mut m, mut v] = [bench.array(&w)?, bench.array(&m)?, bench.array(&v)?];
        bench.run(|commands| {
            let state = [w.get_mut(), m.get_mut(), v.get_mut()];
            optim::adamw(commands, &params, (g.get(), factor.get()), state, len)
        })?;
        let [expected_w, expected_m, expected_v] = &expected;
        bench.near("m", &m, expected_m, |_| 6.0 * ROUNDING)?;
        bench.near("v", &v, expected_v, |k| 6.0 * ROUNDING * expected_v[k])?;
        // The step is a quotient of values with the errors above.
        let correction = |beta: f64| 1.0 - beta.powf(params.step as f64);
        let step = params.learning_rate / correction(params.betas.0);
        let allowed = |k: usize| {
            let root = (expected_v[k] / correction(params.betas.1)).sqrt() + params.epsilon;
            let size = step * (1.0 + expected_m[k].abs()) / root;
            ROUNDING * (4.0 + 32.0 * size)
        };
        bench.near("w", &w, expected_w, allowed)
    })
}

pub fn sgd(device: &Device) -> Outcome {
    let usual =
        SgdParams { learning_rate: 0.1, momentum: 0.9, nesterov: false, decay: 1e-4, bounds: UNBOUNDED };
    let bounded =
        SgdParams { learning_rate: 0.5, momentum: 0.5, nesterov: true, decay: 0.75, bounds: (-0.25, 0.5) };
    let mut cases = Vec::new();
    for params in [usual, bounded, SgdParams { nesterov: false, ..bounded }] {
        cases.extend(LENGTHS.iter().map(|&len| (len, params)));
    }
    each_lanes(device, &cases, |bench, random, (len, params)| {
        let (g, factor) = (random.values(len), 0.75);
        let (w, m) = (random.values(len), random.values(len));
        let (mut expected_w, mut expected_m) = (wide(&w), wide(&m));
        optim::reference::sgd(&params, (&wide(&g), factor.into()), [&mut expected_w, &mut expected_m]);
        let (g, factor) = (bench.array(&g)?, bench.array(&[factor])?);
        let (mut w, mut m) = (bench.array(&w)?, bench.array(&m)?);
        bench.run(|commands| {
            let state = [w.get_mut(), m.get_mut()];
            optim::sgd(commands, &params, (g.get(), factor.get()), state, len)
        })?;
        // Three terms of at most 1 in m, and w adds one rounding. Nesterov's step adds half of that, times half a rate.
        bench.near("m", &m, &expected_m, |_| 9.0 * ROUNDING)?;
        bench.near("w", &w, &expected_w, |_| 12.0 * ROUNDING)
    })
}

pub fn widen(device: &Device) -> Outcome {
    each_lanes(device, &[4, 12, 260, 1000, 70_000], |bench, random, len| {
        // Any f16 below 2, including subnormals and −0.
        let any = random.indices(len / 2, usize::MAX >> 32);
        let pairs: Vec<u32> = any.iter().map(|&x| (x.wrapping_mul(0x9e37_79b9)) & 0xbfff_bfff).collect();
        let mut expected = vec![0.0; len];
        reference::widen(&pairs, &mut expected);
        let (h, mut found) = (bench.array(&pairs)?, bench.poisoned(len)?);
        bench.run(|commands| kernels::widen(commands, h.get(), found.get_mut(), len))?;
        bench.near("x", &found, &expected, |_| 0.0)
    })
}

pub fn accumulate(device: &Device) -> Outcome {
    // (number of elements, their destination, its length)
    const SHAPES: &[(usize, usize, usize)] =
        &[(1, 0, 1), (7, 0, 7), (31, 12, 64), (257, 64, 400), (1000, 4, 1004), (70_000, 0, 70_000)];
    each_lanes(device, SHAPES, |bench, random, (len, at, size)| {
        let (x, out) = (random.values(len), random.values(size.next_multiple_of(4)));
        for (add, weight) in [(false, 0.75), (true, -1.5)] {
            let mut expected = wide(&out);
            reference::accumulate(&wide(&x), weight.into(), &mut expected[at..], add);
            let (from, mut found) = (bench.array(&x)?, bench.array(&out)?);
            bench.run(|commands| {
                kernels::accumulate(commands, (from.get(), len), weight, (found.get_mut(), at), add)
            })?;
            // The kernel may write any value to the rest of the last vec4.
            let rest = at + len..(at + len).next_multiple_of(4);
            let found = bench.read(&found)?;
            for (k, (found, expected)) in
                found.iter().zip(&expected).enumerate().filter(|(k, _)| !rest.contains(k))
            {
                let near = (f64::from(*found) - expected).abs() <= 4.0 * ROUNDING;
                check(near, format!("element {k}: {found}, expected {expected}"))?;
            }
        }
        Ok(())
    })
}

pub fn blend(device: &Device) -> Outcome {
    each_lanes(device, &[4, 28, 256, 1000, 70_000], |bench, random, len| {
        let (x, y) = (random.values(len), random.values(len));
        for rate in [0.001, 0.75] {
            let mut expected = wide(&y);
            reference::blend(&wide(&x), rate, &mut expected);
            let (x, mut found) = (bench.array(&x)?, bench.array(&y)?);
            bench.run(|commands| kernels::blend(commands, x.get(), rate, found.get_mut(), len))?;
            // Values are below 1: a difference below 2, and three roundings.
            bench.near("y", &found, &expected, |_| 6.0 * ROUNDING)?;
        }
        Ok(())
    })
}

pub fn ceiling(device: &Device) -> Outcome {
    const CASES: &[(usize, u32)] = &[(4096, 0), (4096, 1), (12_288, 5), (81_920, 2)];
    each_lanes(device, CASES, |bench, random, (len, rounds)| {
        let x = random.values(len);
        let (factor, term) = (0.75f32, -0.5f32);
        let mut expected = wide(&x);
        reference::ceiling(&wide(&x), rounds, (factor.into(), term.into()), &mut expected);
        let (x, mut y) = (bench.array(&x)?, bench.poisoned(len)?);
        bench
            .run(|commands| kernels::ceiling(commands, x.get(), len, rounds, (factor, term), y.get_mut()))?;
        // Values stay below 2. The effect of a rounding shrinks with every further multiplication by 3/4.
        let allowed = if rounds == 0 { 0.0 } else { 16.0 * ROUNDING };
        bench.near("y", &y, &expected, |_| allowed)
    })
}
