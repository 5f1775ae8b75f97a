//! Kernels of local features: generalised pooling and batch norm.

use super::bench::{Array, Bench, Outcome, ROUNDING, each_lanes, exp_error, sum_error};
use crate::common::random::{Random, wide};
use libtest_mimic::Failed;
use wgoal::Device;
use wgoal::device::padded;
use wgoal::kernels::{self, Chains, GruGradient, GruTrace, GruWeights, NormGradient, Ragged, reference};

/// (lengths of the backward chains, hidden width)
const CHAINS: &[(&[u32], usize)] =
    &[(&[1], 1), (&[2, 1], 3), (&[1, 2, 3, 4, 5, 6, 7], 6), (&[33], 32), (&[5, 9, 36], 31), (&[3, 1], 256)];

fn longest(lengths: &[u32]) -> usize {
    lengths.iter().fold(0, |longest, &length| longest.max(length as usize))
}

/// The rows of all chains, and the positions of a chain.
fn sizes(lengths: &[u32]) -> (usize, usize) {
    let slots = padded(longest(lengths));
    ((1 + lengths.len()) * slots, slots)
}

fn chains<'a>(lengths: &'a Array<u32>, count: usize, longest: usize) -> Chains<'a> {
    Chains { lengths: lengths.get(), count, longest }
}

/// Weights of the size with which a GRU starts, so that errors shrink from step to step.
fn scaled(values: Vec<f32>, hidden: usize) -> Vec<f32> {
    values.into_iter().map(|x| x / (hidden as f32).sqrt()).collect()
}

/// The largest of several values.
fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

pub fn gru(device: &Device) -> Outcome {
    each_lanes(device, CHAINS, |bench, random, (lengths, hidden)| {
        let (rows, slots) = sizes(lengths);
        let projected = random.matrix(slots, 6 * hidden);
        let weight = scaled(random.matrix(6 * hidden, hidden), hidden);
        let bias = random.matrix(1, 6 * hidden);
        let mut out = [hidden, hidden, 4 * hidden].map(|cols| vec![f64::NAN; rows * padded(cols)]);
        let [states, previous, gates] = &mut out;
        let weights = (&wide(&weight)[..], &wide(&bias)[..]);
        let trace = [&mut states[..], previous, gates];
        reference::gru(lengths, longest(lengths), &wide(&projected), weights, hidden, trace);
        let [weight, bias, projected] =
            [bench.array(&weight)?, bench.array(&bias)?, bench.array(&projected)?];
        let of = bench.array(lengths)?;
        let mut found =
            [bench.poisoned(out[0].len())?, bench.poisoned(out[1].len())?, bench.poisoned(out[2].len())?];
        let [states, previous, gates] = &mut found;
        bench.run(|commands| {
            let chains = chains(&of, lengths.len(), longest(lengths));
            let weights = GruWeights { weight: weight.mat(6 * hidden, hidden), bias: bias.get() };
            let trace = GruTrace {
                states: states.mat_mut(rows, hidden),
                previous: previous.mat_mut(rows, hidden),
                gates: gates.mat_mut(rows, 4 * hidden),
            };
            kernels::gru(commands, chains, projected.mat(slots, 6 * hidden), weights, trace)
        })?;
        // The error of a sum of `hidden` products, of two exponentials of moderate arguments, and what is left of
        // earlier steps.
        let allowed = 8.0 * (sum_error(hidden) + exp_error(4.0));
        for ((what, found), expected) in ["states", "previous", "gates"].iter().zip(&found).zip(&out) {
            bench.near(what, found, expected, |at| if expected[at] == 0.0 { 0.0 } else { allowed })?;
        }
        Ok(())
    })
}

pub fn gru_backward(device: &Device) -> Outcome {
    each_lanes(device, CHAINS, |bench, random, (lengths, hidden)| {
        let (rows, slots) = sizes(lengths);
        let mut d_scores = random.values(lengths.len() * slots);
        for (ds, &length) in d_scores.chunks_exact_mut(slots).zip(lengths) {
            ds[length as usize..].fill(0.0);
        }
        let weight = scaled(random.matrix(6 * hidden, hidden), hidden);
        let (v, previous) = (random.matrix(1, hidden), random.matrix(rows, hidden));
        // Gates in (0, 1), arbitrary states and arbitrary q.
        let gates: Vec<f32> = random
            .values(rows * 4 * hidden)
            .iter()
            .enumerate()
            .map(|(at, x)| if at / hidden % 4 < 2 { 0.5 + 0.4 * x } else { 0.9 * x })
            .collect();
        let mut out = [(); 2].map(|()| vec![f64::NAN; rows * padded(6 * hidden)]);
        let [d_input, d_hidden] = &mut out;
        let parameters = (&wide(&v)[..], &wide(&weight)[..]);
        let trace = (&wide(&previous)[..], &wide(&gates)[..]);
        let of_chains = (lengths, longest(lengths));
        reference::gru_backward(of_chains, &wide(&d_scores), parameters, hidden, trace, [d_input, d_hidden]);
        let of = bench.array(lengths)?;
        let [d_scores, v, weight] = [bench.array(&d_scores)?, bench.array(&v)?, bench.array(&weight)?];
        let [previous, gates] = [bench.array(&previous)?, bench.array(&gates)?];
        let mut found = [bench.poisoned(out[0].len())?, bench.poisoned(out[1].len())?];
        let [d_input, d_hidden] = &mut found;
        bench.run(|commands| {
            let from = GruGradient {
                d_scores: d_scores.mat(lengths.len(), slots),
                v: v.get(),
                weight: weight.mat(6 * hidden, hidden),
                previous: previous.mat(rows, hidden),
                gates: gates.mat(rows, 4 * hidden),
            };
            let (d_input, d_hidden) = (d_input.mat_mut(rows, 6 * hidden), d_hidden.mat_mut(rows, 6 * hidden));
            let chains = chains(&of, lengths.len(), longest(lengths));
            kernels::gru_backward(commands, chains, from, d_input, d_hidden)
        })?;
        for ((what, found), expected) in ["d_input", "d_hidden"].iter().zip(&found).zip(&out) {
            let allowed = 8.0 * sum_error(3 * hidden + lengths.len()) * largest(expected);
            bench.near(what, found, expected, |at| if expected[at] == 0.0 { 0.0 } else { allowed })?;
        }
        Ok(())
    })
}

pub fn gpo_weights(device: &Device) -> Outcome {
    each_lanes(device, CHAINS, |bench, random, (lengths, hidden)| {
        let (rows, slots) = sizes(lengths);
        let (states, v) = (random.matrix(rows, hidden), scaled(random.matrix(1, hidden), hidden));
        let mut mean = vec![f64::NAN; (rows - slots) * padded(hidden)];
        let mut theta = vec![f64::NAN; lengths.len() * slots];
        let out = (&mut mean[..], &mut theta[..]);
        reference::gpo_weights(lengths, longest(lengths), &wide(&states), &wide(&v), hidden, out);
        let (of, states, v) = (bench.array(lengths)?, bench.array(&states)?, bench.array(&v)?);
        let (mut found_mean, mut found) = (bench.poisoned(mean.len())?, bench.poisoned(theta.len())?);
        bench.run(|commands| {
            let (mean, theta) =
                (found_mean.mat_mut(rows - slots, hidden), found.mat_mut(lengths.len(), slots));
            let chains = chains(&of, lengths.len(), longest(lengths));
            kernels::gpo_weights(commands, chains, states.mat(rows, hidden), v.get(), mean, theta)
        })?;
        bench.near("mean", &found_mean, &mean, |at| ROUNDING * mean[at].abs())?;
        // A score is a sum of products with a norm of at most √hidden, times 10. So is an exponent.
        let norm = 10.0 * (hidden as f64).sqrt();
        let allowed = 2.0 * norm * sum_error(hidden) + exp_error(2.0 * norm) + sum_error(slots);
        bench.near("theta", &found, &theta, |at| allowed * theta[at])
    })
}

/// (length of each item, number of columns)
const ITEMS: &[(&[u32], usize)] = &[
    (&[1], 1),
    (&[1, 1, 1], 3),
    (&[3, 1, 2], 2),
    (&[7, 6, 5, 4, 3, 2, 1], 65),
    (&[36, 1, 36, 20], 31),
    (&[2; 65], 127),
    (&[100], 257),
];

/// A batch on the host: the offsets, the length bucket of each item, and the lengths that occur.
fn batch(lengths: &[u32]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut length_buckets = lengths.to_vec();
    length_buckets.sort_unstable();
    length_buckets.dedup();
    let length_bucket = lengths
        .iter()
        .map(|length| length_buckets.iter().position(|k| k == length).unwrap() as u32)
        .collect();
    let mut offsets = vec![0];
    lengths.iter().for_each(|length| offsets.push(offsets.last().unwrap() + length));
    (offsets, length_bucket, length_buckets)
}

struct Batch {
    offsets: Array<u32>,
    length_bucket: Array<u32>,
    count: usize,
    longest: usize,
}

impl Batch {
    fn new(bench: &Bench, lengths: &[u32]) -> Result<Self, Failed> {
        let (offsets, length_bucket, _) = batch(lengths);
        let (count, longest) = (lengths.len(), longest(lengths));
        Ok(Self {
            offsets: bench.array(&offsets)?,
            length_bucket: bench.array(&length_bucket)?,
            count,
            longest,
        })
    }

    fn ragged(&self) -> Ragged<'_> {
        let (offsets, length_bucket) = (self.offsets.get(), self.length_bucket.get());
        Ragged { offsets, length_bucket, count: self.count, longest: self.longest }
    }
}

/// Weights for every length: positive, with a sum near 1.
fn theta(random: &mut Random, length_buckets: &[u32]) -> Vec<f32> {
    let slots = padded(longest(length_buckets));
    let mut theta = vec![0.0; length_buckets.len() * slots];
    for (row, &length) in theta.chunks_exact_mut(slots).zip(length_buckets) {
        row[..length as usize].fill_with(|| (1.5 + random.uniform()) / length as f32);
    }
    theta
}

pub fn gpo_order(device: &Device) -> Outcome {
    each_lanes(device, ITEMS, |bench, random, (lengths, cols)| {
        let (offsets, ..) = batch(lengths);
        let rows = *offsets.last().unwrap() as usize;
        // Coarse values give many ties.
        let mut features = random.matrix(rows, cols);
        features.iter_mut().step_by(3).for_each(|f| *f = (4.0 * *f).round() / 4.0);
        let mut order = vec![u32::MAX; features.len()];
        reference::gpo_order(&offsets, &wide(&features), cols, &mut order);
        let (batch, features) = (Batch::new(bench, lengths)?, bench.array(&features)?);
        // With `split`, every item is a dispatch of its own.
        for split in [false, true] {
            let mut found = bench.poisoned(order.len())?;
            bench.run_split(split, |commands| {
                kernels::gpo_order(commands, batch.ragged(), features.mat(rows, cols), found.get_mut())
            })?;
            bench.equal("order", &found, &order)?;
        }
        Ok(())
    })
}

/// A random order of the rows of each item.
fn any_order(random: &mut Random, lengths: &[u32], stride: usize) -> Vec<u32> {
    let mut order = Vec::new();
    for &length in lengths {
        let mut item = vec![0; length as usize * stride];
        for d in 0..stride {
            let turn = random.below(length as usize) as u32;
            (0..length).for_each(|t| item[t as usize * stride + d] = (t + turn) % length);
        }
        order.extend(item);
    }
    order
}

pub fn gpo(device: &Device) -> Outcome {
    each_lanes(device, ITEMS, |bench, random, (lengths, cols)| {
        let (offsets, length_bucket, length_buckets) = batch(lengths);
        let (rows, slots) = (*offsets.last().unwrap() as usize, padded(longest(lengths)));
        let (theta, features) = (theta(random, &length_buckets), random.matrix(rows, cols));
        let order = any_order(random, lengths, padded(cols));
        let mut pooled = vec![f64::NAN; lengths.len() * padded(cols)];
        let (ragged, weights) = ((&offsets[..], &length_bucket[..]), (&wide(&theta)[..], slots));
        reference::gpo(ragged, &wide(&features), cols, &order, weights, &mut pooled);
        let batch = Batch::new(bench, lengths)?;
        let (features, theta, order) = (bench.array(&features)?, bench.array(&theta)?, bench.array(&order)?);
        let mut found = bench.poisoned(pooled.len())?;
        bench.run(|commands| {
            let (f, theta) = (features.mat(rows, cols), theta.mat(length_buckets.len(), slots));
            let pooled = found.mat_mut(lengths.len(), cols);
            kernels::gpo(commands, batch.ragged(), f, order.get(), theta, pooled)
        })?;
        // The sum of the weights is at most 2.5.
        bench.near("pooled", &found, &pooled, |_| 2.5 * sum_error(slots))
    })
}

pub fn gpo_backward(device: &Device) -> Outcome {
    each_lanes(device, ITEMS, |bench, random, (lengths, cols)| {
        let (offsets, length_bucket, length_buckets) = batch(lengths);
        let (rows, slots) = (*offsets.last().unwrap() as usize, padded(longest(lengths)));
        let (theta, g) = (theta(random, &length_buckets), random.matrix(lengths.len(), cols));
        let order = any_order(random, lengths, padded(cols));
        let mut expected = vec![f64::NAN; order.len()];
        let (ragged, weights) = ((&offsets[..], &length_bucket[..]), (&wide(&theta)[..], slots));
        reference::gpo_backward(ragged, &wide(&g), cols, &order, weights, &mut expected);
        let batch = Batch::new(bench, lengths)?;
        let (g, theta, order) = (bench.array(&g)?, bench.array(&theta)?, bench.array(&order)?);
        let mut found = bench.poisoned(expected.len())?;
        bench.run(|commands| {
            let (g, theta) = (g.mat(lengths.len(), cols), theta.mat(length_buckets.len(), slots));
            let df = found.mat_mut(rows, cols);
            kernels::gpo_backward(commands, batch.ragged(), g, order.get(), theta, df)
        })?;
        bench.near("df", &found, &expected, |at| ROUNDING * expected[at].abs())
    })
}

pub fn gpo_dots(device: &Device) -> Outcome {
    each_lanes(device, ITEMS, |bench, random, (lengths, cols)| {
        let (offsets, ..) = batch(lengths);
        let rows = *offsets.last().unwrap() as usize;
        let (features, g) = (random.matrix(rows, cols), random.matrix(lengths.len(), cols));
        let order = any_order(random, lengths, padded(cols));
        let mut expected = vec![f64::NAN; rows];
        reference::gpo_dots(&offsets, &wide(&g), &wide(&features), cols, &order, &mut expected);
        let batch = Batch::new(bench, lengths)?;
        let (g, features, order) = (bench.array(&g)?, bench.array(&features)?, bench.array(&order)?);
        let mut found = bench.poisoned(rows)?;
        bench.run(|commands| {
            let (g, f) = (g.mat(lengths.len(), cols), features.mat(rows, cols));
            kernels::gpo_dots(commands, batch.ragged(), g, f, order.get(), found.get_mut())
        })?;
        // The norm is at most the root of the number of columns.
        bench.near("parts", &found, &expected, |_| sum_error(cols) * cols as f64)
    })
}

pub fn gpo_weights_backward(device: &Device) -> Outcome {
    each_lanes(device, ITEMS, |bench, random, (lengths, _)| {
        let (offsets, length_bucket, length_buckets) = batch(lengths);
        let (rows, slots) = (*offsets.last().unwrap() as usize, padded(longest(lengths)));
        let (theta, parts) = (theta(random, &length_buckets), random.values(rows));
        let mut expected = vec![f64::NAN; theta.len()];
        let (of_kinds, ragged) =
            ((&length_buckets[..], longest(lengths)), (&offsets[..], &length_bucket[..]));
        reference::gpo_weights_backward(of_kinds, ragged, &wide(&parts), &wide(&theta), &mut expected);
        let batch = Batch::new(bench, lengths)?;
        let (of, theta_array, parts) =
            (bench.array(&length_buckets)?, bench.array(&theta)?, bench.array(&parts)?);
        let mut found = bench.poisoned(expected.len())?;
        bench.run(|commands| {
            let (theta, ds) =
                (theta_array.mat(length_buckets.len(), slots), found.mat_mut(length_buckets.len(), slots));
            let chains = chains(&of, length_buckets.len(), longest(lengths));
            kernels::gpo_weights_backward(commands, chains, batch.ragged(), parts.get(), theta, ds)
        })?;
        // A sum over the items is at most their number. The sum of the weights is at most 2.5.
        let sums = sum_error(lengths.len() + slots) * 3.5 * lengths.len() as f64;
        bench.near("ds", &found, &expected, |at| 10.0 * f64::from(theta[at]) * sums)
    })
}

/// (rows, columns, repeats of the last row)
const NORMS: &[(usize, usize, usize)] =
    &[(1, 1, 1), (2, 3, 0), (3, 2, 5), (31, 65, 1), (65, 31, 100), (1000, 5, 0), (257, 127, 3)];

pub fn batch_norm(device: &Device) -> Outcome {
    each_lanes(device, NORMS, |bench, random, (rows, cols, repeats)| {
        for training in [true, false] {
            let (x, affine) = (random.matrix(rows, cols), random.matrix(2, cols));
            let running: Vec<f32> = random.matrix(2, cols).iter().map(|x| x.abs()).collect();
            let (stride, count) = (padded(cols), rows - 1 + repeats);
            let (mut moved, mut stats) = (wide(&running), vec![f64::NAN; 2 * stride]);
            let mut y = vec![f64::NAN; x.len()];
            let out = [&mut moved[..], &mut stats, &mut y];
            reference::batch_norm(&wide(&x), cols, repeats, training, &wide(&affine), out);
            let x = bench.array(&x)?;
            let (device_affine, mut found_running) = (bench.array(&affine)?, bench.array(&running)?);
            let (mut found_stats, mut found) = (bench.poisoned(2 * stride)?, bench.poisoned(y.len())?);
            bench.run(|commands| {
                let statistics = [found_running.get_mut(), found_stats.get_mut()];
                let y = found.mat_mut(rows, cols);
                let x = x.mat(rows, cols);
                kernels::batch_norm(commands, x, repeats, training, device_affine.get(), statistics, y)
            })?;
            // Sums of values of at most 1 and of their squares, divided by their number; then a root and a division.
            let sums = 2.0 * sum_error(count + 1) + 8.0 * ROUNDING;
            let inverse = |at: usize| stats[stride + at % stride];
            bench.near("running", &found_running, &moved, |_| if training { sums } else { 0.0 })?;
            bench.near("stats", &found_stats, &stats, |at| {
                let relative = sums * inverse(at).powi(2) + 8.0 * ROUNDING;
                if at < stride { sums } else { relative * inverse(at) }
            })?;
            bench.near("y", &found, &y, |at| {
                let (scale, shift) = (affine[at % stride], affine[stride + at % stride]);
                let normal = sums * inverse(at).powi(3) + 2.0 * sums * inverse(at);
                f64::from(scale.abs()) * normal + 8.0 * ROUNDING * f64::from(scale.abs() + shift.abs())
            })?;
        }
        Ok(())
    })
}

pub fn batch_norm_backward(device: &Device) -> Outcome {
    each_lanes(device, NORMS, |bench, random, (rows, cols, repeats)| {
        let stride = padded(cols);
        let [x, y] = [(); 2].map(|()| random.matrix(rows, cols));
        let (mut dy, affine, mut stats) =
            (random.matrix(rows, cols), random.matrix(2, cols), random.matrix(2, cols));
        // The kernel must not read these values.
        dy[(rows - 1) * stride..].fill(1e30);
        stats[stride..].iter_mut().for_each(|inverse| *inverse = 1.5 + 0.5 * *inverse);
        let (mut dx, mut d_affine) = (vec![f64::NAN; x.len()], vec![f64::NAN; 2 * stride]);
        let read = [&wide(&x)[..], &wide(&y), &wide(&dy)];
        let out = [&mut dx[..], &mut d_affine];
        reference::batch_norm_backward(read, cols, repeats, &wide(&stats), &wide(&affine), out);
        let [dev_x, dev_y, dev_dy] = [bench.array(&x)?, bench.array(&y)?, bench.array(&dy)?];
        let (dev_stats, dev_affine) = (bench.array(&stats)?, bench.array(&affine)?);
        let (mut found, mut found_affine) = (bench.poisoned(dx.len())?, bench.poisoned(2 * stride)?);
        bench.run(|commands| {
            let from = NormGradient {
                x: dev_x.mat(rows, cols),
                y: dev_y.mat(rows, cols),
                dy: dev_dy.mat(rows, cols),
                stats: dev_stats.get(),
                affine: dev_affine.get(),
                repeats,
            };
            kernels::batch_norm_backward(commands, from, found.mat_mut(rows, cols), found_affine.get_mut())
        })?;
        // |n| is at most 4: |x − mean| is at most 2, and the inverse is at most 2.
        let sums = (sum_error(rows) + 4.0 * ROUNDING) * 4.0 * rows as f64;
        bench.near("d_affine", &found_affine, &d_affine, |_| sums)?;
        let count = (rows - 1 + repeats) as f64;
        bench.near("dx", &found, &dx, |at| {
            let weight = if at / stride + 1 == rows { repeats as f64 } else { 1.0 };
            let spread = 5.0 * sums / count + 16.0 * ROUNDING * (1.0 + 16.0 * rows as f64 / count);
            2.0 * f64::from(affine[at % stride].abs()) * spread * weight
        })
    })
}
