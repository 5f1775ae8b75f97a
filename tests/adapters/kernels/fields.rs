//! Kernels that turn similarities, or the mined values, into the gradient at the similarities.

use super::bench::{Array, Outcome, ROUNDING, each_lanes, exp_error, sum_error};
use super::blocks::{
    Batch, CASES, DENSE_ERROR, DIRECTIONS, SAME_IMAGE, TEMPERATURES, dense_weights, exponential,
};
use crate::common::random::wide;
use wgoal::Device;
use wgoal::device::padded;
use wgoal::kernels::{
    self, Dense, ExponentialLoss, ExponentialParams, InfonceField, PerAnchor, PositiveForm, SameImage,
    SiglipField, WeightParams, reference,
};
use wgoal::objective::{CustomWeights, Loss, PairWeight, TripletWeight};

pub fn dense_field(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let pairs = batch.pairs;
        let positive = batch.positive();
        // The positives of the other direction differ, so that a kernel that swaps them fails.
        let other: Vec<_> = positive.iter().map(|p| p - 3.0 / 64.0).collect();
        let (device_positive, device_other) = (bench.array(&positive)?, bench.array(&other)?);
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        for weights in &dense_weights()? {
            let mut field = wide(&batch.similarity);
            reference::dense_field(
                &mut field,
                (0, pairs),
                [&wide(&positive), &wide(&other)],
                batch.ids.as_deref(),
                weights,
                [1.0, 0.5],
            )?;
            let positive = [device_positive.get(), device_other.get()];
            let from = Dense { positive, ids: ids.as_ref().map(Array::get), weights };
            // The hinge adds multiples of its scale, which is exact.
            let exact = weights.margin.is_some() && weights.custom.is_none();
            let allowed = if exact { 0.0 } else { DENSE_ERROR };
            for &rows in batch.cuts() {
                let mut found = bench.array(&batch.similarity)?;
                bench.run(|commands| {
                    batch.strips(rows).into_iter().try_for_each(|strip| {
                        kernels::dense_field(
                            commands,
                            found.strip(&strip, pairs),
                            strip.start,
                            from,
                            [1.0, 0.5],
                        )
                    })
                })?;
                bench.near("field", &found, &field, |_| allowed)?;
            }
        }
        Ok(())
    })
}

pub fn infonce(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let (pairs, stride, scale) = (batch.pairs, padded(batch.pairs), 0.75);
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        let cases = SAME_IMAGE.into_iter().flat_map(|same| TEMPERATURES.map(|t| (same, t)));
        let cases = cases.flat_map(|case| batch.images().map(|images| (case, images)));
        for ((same_image, t), images) in bench.share(cases) {
            // Reference and device read the same states, rounded once.
            let rounded = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let found = DIRECTIONS.map(|direction| batch.states(direction, same_image, t));
            let mut states = found.each_ref().map(|[state, _]| rounded(state));
            let mut distances = found.each_ref().map(|[_, distance]| rounded(distance));
            distances[0].truncate(images);
            // In a real batch both anchors of a pair have the same number of targets. Here the numbers differ, so that
            // a kernel that swaps them fails.
            let summed = same_image == SameImage::Summed && batch.ids.is_some();
            states[1].chunks_exact_mut(4).for_each(|state| {
                state[2] -= if summed { 0.0 } else { state[3] };
                state[3] *= 2.0;
            });
            let [state_it, state_ti] = states.each_ref().map(|state| wide(state));
            let mut field = wide(&batch.similarity[..images * stride]);
            let mut dt = vec![f64::NAN; 4 * images];
            let [mut loss_it, mut loss_ti] = distances.each_ref().map(|distance| wide(distance));
            reference::infonce(
                &mut field,
                (0, images, pairs),
                (batch.ids.as_deref(), same_image),
                t.into(),
                [&state_it, &state_ti],
                (scale.into(), [1.0, 0.5]),
                &mut dt,
                [&mut loss_it, &mut loss_ti],
            );
            let target = |i: usize, j: usize| match &batch.ids {
                Some(ids) if matches!(same_image, SameImage::Target | SameImage::Summed) => ids[i] == ids[j],
                _ => i == j,
            };
            let rate = f64::from(1.0 / t);
            let share = f64::from(scale) / (2.0 * pairs as f64);
            // The error of a sum of two softmaxes follows that of its exponents; at a target also that of the
            // subtracted value, about 2. Exponents below −87 are clamped. Where probabilities add up, each part is a
            // product of an exponential and a sigmoid.
            let relative = exp_error(if summed { 4.4 } else { 2.2 } * rate);
            let allowed = |at: usize| match (at / stride, at % stride) {
                (_, j) if j >= pairs => 0.0,
                (i, j) => {
                    let size = field[at].abs() + if target(i, j) { 2.0 * share * rate } else { 0.0 };
                    relative * size + 1e-37 * share * rate
                }
            };
            let temperature = bench.array(&[t])?;
            let (states_it, states_ti) = (bench.array(&states[0])?, bench.array(&states[1])?);
            for &rows in batch.cuts() {
                let mut found = bench.array(&batch.similarity[..images * stride])?;
                let mut found_dt = bench.poisoned(4 * images)?;
                let (mut found_it, mut found_ti) = (bench.array(&distances[0])?, bench.array(&distances[1])?);
                bench.run(|commands| {
                    batch.strips_of(images, rows).into_iter().try_for_each(|strip| {
                        let from = InfonceField {
                            ids: ids.as_ref().map(Array::get),
                            same_image,
                            temperature: temperature.get(),
                            states: [states_it.get(), states_ti.get()],
                            scale,
                            shares: [1.0, 0.5],
                            row_offset: strip.start,
                            images,
                        };
                        let losses = [found_it.get_mut(), found_ti.get_mut()];
                        let field = found.strip(&strip, pairs);
                        kernels::infonce(commands, field, from, found_dt.get_mut(), losses)
                    })
                })?;
                bench.near("field", &found, &field, allowed)?;
                // The part of a row is the sum of its field times at most 2.2 / t, the largest distance to a maximum.
                let allowed_dt = |k: usize| match k % 4 {
                    0 => {
                        let row = k / 4 * stride..k / 4 * stride + pairs;
                        let field: f64 = row.clone().map(|at| field[at].abs()).sum();
                        let errors: f64 = row.map(&allowed).sum();
                        2.2 * rate * (errors + (sum_error(pairs) + 8.0 * ROUNDING) * field)
                    }
                    _ => 0.0,
                };
                bench.near("dt", &found_dt, &dt, allowed_dt)?;
                for (found, expected, state) in
                    [(&found_it, &loss_it, &state_it), (&found_ti, &loss_ti, &state_ti)]
                {
                    // WGSL allows a logarithm near 1 an absolute error of 2^-21. With several targets the logarithm is
                    // far from 0. With one target it is taken of 1 + G.
                    // Where probabilities add up, it is taken of 1 + e^u, and u holds the logarithm of a ratio.
                    let allowed = |i: usize| {
                        let single = state[4 * i + 3] == 1.0;
                        let sum = f64::from(f32::MIN_POSITIVE) + 16.0 * ROUNDING * expected[i];
                        match (summed, single) {
                            (true, _) => sum + (exp_error(2.2 * rate) + 8.0 * ROUNDING) * expected[i],
                            (_, true) => sum,
                            _ => sum + 8.0 * ROUNDING / pairs as f64,
                        }
                    };
                    bench.near("loss", found, expected, allowed)?;
                }
            }
        }
        Ok(())
    })
}

pub fn siglip(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let (pairs, stride, scale) = (batch.pairs, padded(batch.pairs), 0.75);
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        // With the last bias most logits of negatives are far below 0, and with the first many are far above.
        let logits = TEMPERATURES.into_iter().flat_map(|t| [3.5, -1.0 / t].map(|b| (t, b)));
        let cases = logits.flat_map(|logits| SAME_IMAGE.map(|same| (logits, same)));
        let cases = cases.flat_map(|case| batch.images().map(|images| (case, images)));
        for (((t, b), same_image), images) in bench.share(cases) {
            let mut field = wide(&batch.similarity[..images * stride]);
            let [mut dt, mut db] = [vec![f64::NAN; 4 * images], vec![f64::NAN; 4 * images]];
            let [mut loss_it, mut loss_ti] = [vec![f64::NAN; images], vec![f64::NAN; pairs]];
            reference::siglip(
                &mut field,
                (0, images, pairs),
                (batch.ids.as_deref(), same_image),
                [f64::from(t), f64::from(b)],
                scale.into(),
                [&mut dt, &mut db],
                [&mut loss_it, &mut loss_ti],
            );
            let (rate, share) = (f64::from(1.0 / t), f64::from(scale) / pairs as f64);
            // The error of a sigmoid follows that of its logit. Exponents below −87 are clamped.
            let relative = exp_error(2.2 * rate + f64::from(b).abs());
            let allowed = |at: usize| match at % stride {
                j if j >= pairs => 0.0,
                _ => relative * field[at].abs() + 1e-37 * share * rate,
            };
            let mut values = [0.0; 68];
            (values[0], values[64]) = (t, b);
            let logits = bench.array(&values)?;
            for &rows in batch.cuts() {
                let mut found = bench.array(&batch.similarity[..images * stride])?;
                let [mut found_dt, mut found_db] = [bench.poisoned(4 * images)?, bench.poisoned(4 * images)?];
                let [mut found_it, mut found_ti] = [bench.poisoned(images)?, bench.poisoned(pairs)?];
                bench.run(|commands| {
                    batch.strips_of(images, rows).into_iter().try_for_each(|strip| {
                        let from = SiglipField {
                            ids: ids.as_ref().map(Array::get),
                            same_image,
                            logits: logits.get(),
                            scale,
                            row_offset: strip.start,
                            images,
                        };
                        let parts = [found_dt.get_mut(), found_db.get_mut()];
                        let losses = [found_it.get_mut(), found_ti.get_mut()];
                        kernels::siglip(commands, found.strip(&strip, pairs), from, parts, losses)
                    })
                })?;
                bench.near("field", &found, &field, allowed)?;
                // The parts of a row are sums of its field, the first times s / t, which is at most 1.1 / t.
                let sum = |k: usize| {
                    let row = k / 4 * stride..k / 4 * stride + pairs;
                    let field: f64 = row.clone().map(|at| field[at].abs()).sum();
                    let errors: f64 = row.map(&allowed).sum();
                    let sum = errors + (sum_error(pairs) + 8.0 * ROUNDING) * field;
                    if k.is_multiple_of(4) { sum } else { 0.0 }
                };
                bench.near("dt", &found_dt, &dt, |k| 1.1 * rate * sum(k))?;
                bench.near("db", &found_db, &db, |k| sum(k) / rate)?;
                let lost = |i: usize| (relative + sum_error(pairs) + 8.0 * ROUNDING) * loss_it[i] + 1e-37;
                bench.near("loss", &found_it, &loss_it, lost)?;
                bench.near("other loss", &found_ti, &loss_ti, |_| 0.0)?;
            }
        }
        Ok(())
    })
}

pub fn weights(device: &Device) -> Outcome {
    use PairWeight::{Con, Lin, LinMs, Sig, SigMs};
    let usual = WeightParams { tau: 3.0, scale: 0.75, ..Default::default() };
    let mut cases = Vec::new();
    for triplet in [TripletWeight::Con, TripletWeight::Nca, TripletWeight::Cir] {
        for (k, pair) in [Con, Lin, LinMs, Sig, SigMs].into_iter().enumerate() {
            let pairs = [31, 65, 1, 257, 1000][k];
            cases.push((pairs, WeightParams { triplet, pair, ..usual.clone() }));
            // Some costs are exactly 0.
            let margin = Some(8.0 / 64.0);
            let exclude_own = true;
            cases.push((
                65,
                WeightParams { triplet, pair, margin, exclude_own, circle: 0.25, ..usual.clone() },
            ));
            cases.push((31, WeightParams { triplet, pair, exclude_own, ..usual.clone() }));
            // These exponents are outside the range of exp in f32 at both ends.
            cases.push((127, WeightParams { triplet, pair, tau: 100.0, ..usual.clone() }));
            cases.push((127, WeightParams { triplet, pair, alpha: 200.0, beta: 300.0, ..usual.clone() }));
        }
    }
    for (loss, margin) in Loss::ALL.into_iter().flat_map(|loss| [(loss, None), (loss, Some(8.0 / 64.0))]) {
        if let Some((triplet, pair)) = loss.combination() {
            cases.push((65, WeightParams { triplet, pair, loss, margin, ..usual.clone() }));
        }
    }
    let numbered: Vec<_> = (0..cases.len()).collect();
    each_lanes(device, &numbered, |bench, random, case| {
        let (pairs, params) = &cases[case];
        let pairs = *pairs;
        let [p, n] = [(); 2].map(|()| (0..pairs).map(|_| random.coarse(66)).collect::<Vec<_>>());
        let mut index = random.indices(pairs, pairs);
        index[pairs / 2] = pairs as u32 / 2;
        let exponential = params.pair == SigMs;
        let mut sums = Vec::new();
        for _ in 0..pairs {
            // A set is sometimes empty. Exponential values are positive.
            for _ in 0..2 {
                let count = random.below(4) as f32;
                let mean = random.uniform();
                sums.extend([count * if exponential { mean.abs() } else { mean }, count]);
            }
        }
        let (mut coefficients, mut loss) = (vec![f64::NAN; 2 * pairs], vec![f64::NAN; pairs]);
        let (wide_p, wide_n, wide_sums) = (wide(&p), wide(&n), wide(&sums));
        let mined = (&wide_p[..], &wide_n[..], &index[..]);
        reference::weights(params, mined, &wide_sums, &mut coefficients, &mut loss, pairs)?;
        let (p, n, index) = (bench.array(&p)?, bench.array(&n)?, bench.array(&index)?);
        let sums = bench.array(&sums)?;
        let (mut found, mut found_loss) = (bench.poisoned(2 * pairs)?, bench.poisoned(pairs)?);
        bench.run(|commands| {
            let mined = (p.get(), n.get(), index.get());
            let (coefficients, loss) = (found.get_mut(), found_loss.get_mut());
            kernels::weights(commands, params, mined, sums.get(), coefficients, loss, pairs)
        })?;
        // The error of T and of the sigmoids follows that of their exponents. (1 − p)² + n² of cir is at most 6; p −
        // lambda and n − lambda are at most 1.6. Linear weights are differences of numbers below 4, with a few
        // roundings.
        let [tau, alpha, beta] = [params.tau, params.alpha, params.beta].map(f64::from);
        let triplet = match params.triplet {
            TripletWeight::Con => 0.0,
            _ => exp_error(6.0 * tau),
        };
        let (relative, absolute) = match params.pair {
            Con | PairWeight::Contrastive => (triplet, 0.0),
            Lin | LinMs | PairWeight::Circle => (triplet, 64.0 * ROUNDING),
            _ => (triplet + exp_error(1.6 * alpha.max(beta)), 0.0),
        };
        // Where T is subnormal in f32, its error is the smallest normal number times a pair weight below 1024.
        let tiny = 1024.0 * f64::from(f32::MIN_POSITIVE);
        let allowed = |k: usize| (relative + 8.0 * ROUNDING) * coefficients[k].abs() + absolute + tiny;
        bench.near("coefficients", &found, &coefficients, allowed)?;
        // The error of a softplus follows that of its exponent. WGSL allows a logarithm near 1 an absolute error of
        // 2^-21.
        let rate = 1.6 * tau.max(alpha).max(beta);
        let allowed = |i: usize| match params.loss {
            Loss::Triplet => 0.0,
            _ => (exp_error(rate) + 16.0 * ROUNDING) * (1.0 + loss[i].abs()),
        };
        bench.near("loss", &found_loss, &loss, allowed)
    })
}

fn exponentials() -> [ExponentialParams; 8] {
    use ExponentialLoss::{Circle, Lifted, MultiSimilarity};
    let steep = ExponentialParams { alpha: 100.0, ..exponential(MultiSimilarity, 300.0) };
    let usual = [(MultiSimilarity, 10.0), (Lifted, 3.0), (Circle, 5.0), (Circle, 80.0)];
    let [first, lifted, mild, published] = usual.map(|(loss, rate)| exponential(loss, rate));
    // Similarities are multiples of 1/64, so the comparison with this reach is exact.
    let mined = ExponentialParams { reach: Some(0.125), ..first };
    let several = ExponentialParams { positives: PositiveForm::Several, ..mined };
    let exponent = ExponentialParams { positives: PositiveForm::Exponent, ..mild };
    [first, mined, several, steep, lifted, mild, published, exponent]
}

pub fn exponential_field(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let (pairs, stride) = (batch.pairs, padded(batch.pairs));
        let ids = batch.ids.as_ref().map(|ids| bench.array(ids)).transpose()?;
        let cases = exponentials().into_iter().flat_map(|p| batch.images().map(|images| (p, images)));
        for (params, images) in bench.share(cases) {
            // Reference and device read the same states, rounded once.
            let states = DIRECTIONS.map(|direction| -> Vec<f32> {
                batch.exponential_states(direction, &params).into_iter().map(|x| x as f32).collect()
            });
            let mut field = wide(&batch.similarity[..images * stride]);
            let mut losses = [vec![f64::NAN; images], vec![f64::NAN; pairs]];
            let mut pulls = [vec![f64::NAN; 2 * images], vec![f64::NAN; 2 * pairs]];
            let ([it, ti], [pull_it, pull_ti]) = (&mut losses, &mut pulls);
            let out = PerAnchor { losses: [&mut it[..], ti], pulls: [&mut pull_it[..], pull_ti] };
            let wide_states = states.each_ref().map(|state| wide(state));
            let [state_it, state_ti] = &wide_states;
            let whole = [&state_it[..], &state_ti[..]];
            reference::exponential_field(
                &mut field,
                (0, images, pairs),
                batch.ids.as_deref(),
                whole,
                &params,
                out,
            );
            // The exponents of the circle loss at p and at the negatives add up to at most 5 times the rate.
            let reach = if params.loss == ExponentialLoss::Circle { 5.0 } else { 2.2 };
            let relative = exp_error(reach * f64::from(params.rate.max(params.alpha)));
            let allowed = |at: usize| {
                let inside = if at % stride < pairs { 1e-37 } else { 0.0 };
                relative * field[at].abs() + inside
            };
            let (states_it, states_ti) = (bench.array(&states[0])?, bench.array(&states[1])?);
            for &rows in batch.cuts() {
                let mut found = bench.array(&batch.similarity[..images * stride])?;
                let (mut found_it, mut found_ti) = (bench.poisoned(images)?, bench.poisoned(pairs)?);
                let (mut pull_it, mut pull_ti) = (bench.poisoned(2 * images)?, bench.poisoned(2 * pairs)?);
                bench.run(|commands| {
                    batch.strips_of(images, rows).into_iter().try_for_each(|strip| {
                        let states = [states_it.get(), states_ti.get()];
                        let losses = [found_it.get_mut(), found_ti.get_mut()];
                        let out = PerAnchor { losses, pulls: [pull_it.get_mut(), pull_ti.get_mut()] };
                        let (field, ids) = (found.strip(&strip, pairs), ids.as_ref().map(Array::get));
                        kernels::exponential_field(
                            commands,
                            field,
                            (strip.start, images),
                            ids,
                            states,
                            &params,
                            out,
                        )
                    })
                })?;
                for (found, expected) in [(&pull_it, &pulls[0]), (&pull_ti, &pulls[1])] {
                    bench.near("pull", found, expected, |k| relative * expected[k].abs() + 1e-37)?;
                }
                bench.near("field", &found, &field, allowed)?;
                for (found, expected) in [(&found_it, &losses[0]), (&found_ti, &losses[1])] {
                    // n − lambda may cancel with the logarithm divided by the rate.
                    bench.near("loss", found, expected, |i| 32.0 * ROUNDING * (2.0 + expected[i].abs()))?;
                }
            }
        }
        Ok(())
    })
}

/// Every construct that a weight file may have, at least once.
const CONSTRUCTS: &str = "
override gamma: f32 = 2.0;
override half_gamma = gamma / 2.0;
const OFFSETS = vec3f(0.25, 0.5, 0.75);

fn series(x: f32, terms: i32) -> f32 {   // e^x
    var sum = 1.0;
    var term = 1.0;
    for (var k = 1; k <= terms; k++) {
        term *= x / f32(k);
        if (abs(term) < 1e-9) { break; }
        if (k == 3 && x == 1.25) { continue; }
        sum += term;
    }
    return sum;
}

fn kind(p: f32, n: f32) -> u32 {
    var bits = select(0u, 1u, p > n) | (select(0u, 1u, n >= 0.0) << 1u);
    while (bits > 3u) { bits -= 4u; }
    return bits;
}

fn triplet_weight(p: f32, n: f32) -> f32 {
    switch kind(p, n) {
        case 0u: { return series(-abs(p - n), 12); }
        case 1u, 2u: { return mix(1.0, 2.0, smoothstep(-1.0, 1.0, n)); }
        default: { break; }
    }
    let v = vec3f(p, n, half_gamma) * OFFSETS;
    return dot(v.zyx, vec3f(1.0)) + length(v) + max(v.x, max(v.y, v.z)) + round(gamma);
}

fn pair_weights(p: f32, n: f32) -> vec2f {
    var w = vec2f(1.0, 2.0);
    w.x = clamp(1.0 - p, 0.0, 2.0);
    w[1] += select(n, -n, n < 0.0) + f32(i32(4.0 * abs(p)) % 3) / 8.0 + sqrt(step(0.0, p));
    if (any(w > vec2f(1.5)) && !all(w > vec2f(1.5))) { w *= 0.5; } else { w -= OFFSETS.xy; }
    return w + pow(vec2f(2.0), vec2f(p, n));
}
";

pub fn custom_weights(device: &Device) -> Outcome {
    let examples = ["cir_sig", "angles"].map(|name| {
        std::fs::read_to_string(format!("{}/examples/weights/{name}.wgsl", env!("CARGO_MANIFEST_DIR")))
    });
    let [cir_sig, angles] = examples;
    let sources = [CONSTRUCTS.to_string(), cir_sig?, angles?];
    // WGSL allows acos the error of atan2, 4096 units in the last place.
    let allowed_errors = [2e-5, 2e-5, 2e-3];
    let cases = [(1, 0, None), (65, 0, Some(8.0 / 64.0)), (257, 0, None), (127, 1, None), (127, 2, None)];
    each_lanes(device, &cases, |bench, random, (pairs, which, margin)| {
        let weights = CustomWeights::new("test.wgsl", &sources[which], [])?;
        let [p, n] = [(); 2].map(|()| (0..pairs).map(|_| random.coarse(64)).collect::<Vec<_>>());
        let mut index = random.indices(pairs, pairs);
        index[pairs / 2] = pairs as u32 / 2;
        let (mut coefficients, mut loss) = (vec![f64::NAN; 2 * pairs], vec![f64::NAN; pairs]);
        let (wide_p, wide_n) = (wide(&p), wide(&n));
        let mined = (&wide_p[..], &wide_n[..], &index[..]);
        let exclude_own = margin.is_some();
        let params =
            WeightParams { custom: Some(weights), margin, exclude_own, scale: 0.75, ..Default::default() };
        // Weight files do not read the sums of the relative sets.
        let none = vec![0.0; 4 * pairs];
        reference::weights(&params, mined, &none, &mut coefficients, &mut loss, pairs)?;
        let (p, n, index) = (bench.array(&p)?, bench.array(&n)?, bench.array(&index)?);
        let sums = bench.poisoned(4 * pairs)?;
        let (mut found, mut found_loss) = (bench.poisoned(2 * pairs)?, bench.poisoned(pairs)?);
        bench.run(|commands| {
            let mined = (p.get(), n.get(), index.get());
            let (coefficients, loss) = (found.get_mut(), found_loss.get_mut());
            kernels::weights(commands, &params, mined, sums.get(), coefficients, loss, pairs)
        })?;
        let allowed = |k: usize| allowed_errors[which] * (1.0 + coefficients[k].abs());
        bench.near("coefficients", &found, &coefficients, allowed)?;
        bench.near("loss", &found_loss, &loss, |_| 0.0)
    })
}
