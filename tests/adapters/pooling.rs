//! Tests generalised pooling and batch norm as a whole: in f64 against central differences, and on every device against
//! f64.

use crate::common::random::{Random, wide};
use crate::common::{Outcome, Suite, check};
use libtest_mimic::Failed;
use wgoal::device::{pad_rows, padded};
use wgoal::kernels::reference;
use wgoal::model::{EncoderKind, Pooling, Side};
use wgoal::pooling::Gpo;
use wgoal::train::Features;
use wgoal::{Checkpoint, Dataset, Device, Head, Objective, Pipeline, TrainConfig, Trainer};

/// The widths of the encoding, the states and the features.
#[derive(Clone, Copy)]
struct Sizes {
    encoding: usize,
    hidden: usize,
    dim: usize,
}

/// The features, then W_i, W_h, b_i, b_h and v, with padded rows.
#[derive(Clone)]
struct Inputs([Vec<f64>; 6]);

/// A batch of items of different lengths.
struct Batch {
    sizes: Sizes,
    lengths: Vec<u32>,
    offsets: Vec<u32>,
    kinds: Vec<u32>,
    kind: Vec<u32>,
    longest: usize,
    encoding: Vec<f64>,
}

/// The intermediate values between the features and the pooled rows.
struct Trace {
    previous: Vec<f64>,
    gates: Vec<f64>,
    mean: Vec<f64>,
    theta: Vec<f64>,
    order: Vec<u32>,
    pooled: Vec<f64>,
}

impl Batch {
    fn new(sizes: Sizes, lengths: &[u32]) -> Self {
        let mut kinds = lengths.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        let kind = lengths.iter().map(|l| kinds.iter().position(|k| k == l).unwrap() as u32).collect();
        let mut offsets = vec![0];
        lengths.iter().for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
        let longest = kinds[kinds.len() - 1] as usize;
        let mut encoding = vec![0.0; padded(longest) * padded(sizes.encoding)];
        for (t, row) in encoding.chunks_exact_mut(padded(sizes.encoding)).enumerate() {
            for j in 0..sizes.encoding / 2 {
                let angle = t as f64 / 10000f64.powf(2.0 * j as f64 / sizes.encoding as f64);
                (row[2 * j], row[2 * j + 1]) = angle.sin_cos();
            }
        }
        Self { sizes, lengths: lengths.to_vec(), offsets, kinds, kind, longest, encoding }
    }

    fn rows(&self) -> usize {
        self.offsets[self.lengths.len()] as usize
    }

    fn slots(&self) -> usize {
        padded(self.longest)
    }

    /// The number of rows of the GRU's chains.
    fn chain_rows(&self) -> usize {
        (1 + self.kinds.len()) * self.slots()
    }

    fn forward(&self, Inputs([features, w_ih, w_hh, b_ih, b_hh, v]): &Inputs) -> Trace {
        let Sizes { encoding, hidden, dim } = self.sizes;
        let (slots, rows) = (self.slots(), self.chain_rows());
        let mut projected = vec![0.0; slots * padded(6 * hidden)];
        let operands =
            ((&self.encoding[..], [slots, encoding], false), (&w_ih[..], [6 * hidden, encoding], true));
        reference::matmul(operands.0, operands.1, Some(b_ih), false, &mut projected);
        let [mut states, mut previous] = [(); 2].map(|()| vec![0.0; rows * padded(hidden)]);
        let mut gates = vec![0.0; rows * 4 * hidden];
        let trace = [&mut states[..], &mut previous, &mut gates];
        reference::gru(&self.kinds, self.longest, &projected, (w_hh, b_hh), hidden, trace);
        let mut mean = vec![0.0; (rows - slots) * padded(hidden)];
        let mut theta = vec![0.0; self.kinds.len() * slots];
        reference::gpo_weights(&self.kinds, self.longest, &states, v, hidden, (&mut mean, &mut theta));
        let (mut order, mut pooled) = (vec![0; features.len()], vec![0.0; self.lengths.len() * padded(dim)]);
        reference::gpo_order(&self.offsets, features, dim, &mut order);
        let ragged = (&self.offsets[..], &self.kind[..]);
        reference::gpo(ragged, features, dim, &order, (&theta, slots), &mut pooled);
        Trace { previous, gates, mean, theta, order, pooled }
    }

    fn backward(&self, inputs: &Inputs, trace: &Trace, g: &[f64]) -> Inputs {
        let Sizes { encoding, hidden, dim } = self.sizes;
        let Inputs([features, _, w_hh, _, _, v]) = inputs;
        let Trace { previous, gates, mean, theta, order, .. } = trace;
        let (slots, rows, count) = (self.slots(), self.chain_rows(), self.kinds.len());
        let mut out = inputs.clone();
        let Inputs([df, dw_ih, dw_hh, db_ih, db_hh, dv]) = &mut out;
        let ragged = (&self.offsets[..], &self.kind[..]);
        reference::gpo_backward(ragged, g, dim, order, (theta, slots), df);
        let mut parts = vec![0.0; self.rows()];
        reference::gpo_dots(&self.offsets, g, features, dim, order, &mut parts);
        let mut ds = vec![0.0; theta.len()];
        let lengths = (&self.kinds[..], self.longest);
        reference::gpo_weights_backward(lengths, ragged, &parts, theta, &mut ds);
        let of_mean = (&mean[..], [count * slots, hidden], false);
        reference::matmul((&ds, [1, count * slots], false), of_mean, None, false, dv);
        let wide = padded(6 * hidden);
        let [mut d_input, mut d_hidden] = [(); 2].map(|()| vec![0.0; rows * wide]);
        reference::gru_backward(
            lengths,
            &ds,
            (v, w_hh),
            hidden,
            (previous, gates),
            [&mut d_input, &mut d_hidden],
        );
        let shape = [rows, 6 * hidden];
        let before = (&previous[..], [rows, hidden], false);
        reference::matmul((&d_hidden, shape, true), before, None, false, dw_hh);
        reference::column_sum(&d_hidden, 6 * hidden, db_hh);
        let mut d_projected = vec![0.0; slots * wide];
        reference::column_sum(&d_input, slots * wide, &mut d_projected);
        let positions = (&self.encoding[..], [slots, encoding], false);
        reference::matmul((&d_projected, [slots, 6 * hidden], true), positions, None, false, dw_ih);
        reference::column_sum(&d_projected, 6 * hidden, db_ih);
        out
    }

    /// Random features, and weights of the size with which a GRU starts.
    fn inputs(&self, random: &mut Random) -> Inputs {
        let Sizes { encoding, hidden, dim } = self.sizes;
        let mut matrix = |rows, cols| {
            let bound = if rows == self.rows() { 1.0 } else { 1.0 / (hidden as f32).sqrt() };
            wide(&random.matrix(rows, cols).iter().map(|x| x * bound).collect::<Vec<_>>())
        };
        Inputs([
            matrix(self.rows(), dim),
            matrix(6 * hidden, encoding),
            matrix(6 * hidden, hidden),
            matrix(1, 6 * hidden),
            matrix(1, 6 * hidden),
            matrix(1, hidden),
        ])
    }
}

const NAMES: [&str; 6] = ["features", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "v"];

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The largest error relative to the largest expected value.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    worst.fold(0.0, |m: f64, x| if x.is_finite() { m.max(x) } else { f64::INFINITY }) / size
}

const STEP: f64 = 1e-5;
/// The allowed error of the differences: STEP² times third derivatives, which the softmax's 1/0.1 makes large, plus
/// rounding divided by STEP.
const BY_DIFFERENCES: f64 = 1e-6;

/// The gradient of `loss` at one of several arrays, by central differences.
fn differences<const N: usize>(
    inputs: &[Vec<f64>; N],
    which: usize,
    loss: impl Fn(&[Vec<f64>; N]) -> f64,
) -> Vec<f64> {
    let slope = |at: usize| {
        let moved = |by: f64| {
            let mut inputs = inputs.clone();
            inputs[which][at] += by;
            loss(&inputs)
        };
        (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
    };
    (0..inputs[which].len()).map(slope).collect()
}

/// The elements of padded rows without the padding.
fn unpad(values: &[f64], cols: usize) -> Vec<f64> {
    values.chunks_exact(padded(cols)).flat_map(|row| &row[..cols]).copied().collect()
}

fn gpo_is_the_gradient_of_gpo() -> Outcome {
    let sizes = Sizes { encoding: 4, hidden: 3, dim: 2 };
    let cols = [sizes.dim, sizes.encoding, sizes.hidden, 6 * sizes.hidden, 6 * sizes.hidden, sizes.hidden];
    for (seed, lengths) in [&[4, 1, 6, 3, 2, 5][..], &[3, 3, 1], &[1], &[7]].into_iter().enumerate() {
        let (batch, mut random) = (Batch::new(sizes, lengths), Random::new(seed as u64));
        let inputs = batch.inputs(&mut random);
        let g = wide(&random.matrix(lengths.len(), sizes.dim));
        let gradient = batch.backward(&inputs, &batch.forward(&inputs), &g);
        for (which, name) in NAMES.iter().enumerate() {
            let loss = |inputs: &[Vec<f64>; 6]| dot(&batch.forward(&Inputs(inputs.clone())).pooled, &g);
            let expected = unpad(&differences(&inputs.0, which, loss), cols[which]);
            let found = unpad(&gradient.0[which], cols[which]);
            // If all items have length 1, the weights are always 1.
            if lengths == [1] && which > 0 {
                check(found.iter().all(|&d| d == 0.0), format!("{name} of a single row: {found:?}"))?;
                continue;
            }
            let error = error(&found, &expected);
            check(error <= BY_DIFFERENCES, format!("{lengths:?}, {name}: error {error:.1e}"))?;
        }
    }
    Ok(())
}

/// The reference has all rows of padding. The kernel has one row that stands for them.
fn batch_norm_is_the_gradient_of_batch_norm() -> Outcome {
    let (rows, cols) = (6, 3);
    let stride = padded(cols);
    for repeats in [0, 1, 4] {
        let mut random = Random::new(repeats as u64);
        let x = wide(&random.matrix(rows, cols));
        let affine = wide(&random.matrix(2, cols));
        let g = wide(&random.matrix(rows, cols));
        // Follows the definition, with the padding written out. The outputs of the padding are not used.
        let loss = |[x, affine]: &[Vec<f64>; 2]| {
            let mut sum = 0.0;
            for k in 0..cols {
                let last = std::iter::repeat_n(x[(rows - 1) * stride + k], repeats);
                let column: Vec<f64> = (0..rows - 1).map(|i| x[i * stride + k]).chain(last).collect();
                let n = column.len() as f64;
                let mean = column.iter().sum::<f64>() / n;
                let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                for i in 0..rows - 1 {
                    let normal = (column[i] - mean) / (variance + f64::from(1e-5f32)).sqrt();
                    sum += g[i * stride + k] * (affine[k] * normal + affine[stride + k]).max(0.0);
                }
            }
            sum
        };
        let (mut running, mut stats) = (vec![0.0; 2 * stride], vec![0.0; 2 * stride]);
        let mut y = vec![0.0; x.len()];
        reference::batch_norm(&x, cols, repeats, true, &affine, [&mut running, &mut stats, &mut y]);
        let value: f64 = dot(&y[..(rows - 1) * stride], &g[..(rows - 1) * stride]);
        let inputs = [x.clone(), affine.clone()];
        let expected = loss(&inputs);
        check((value - expected).abs() < 1e-12, format!("{repeats} rows: {value}, expected {expected}"))?;
        let (mut dx, mut d_affine) = (vec![0.0; x.len()], vec![0.0; 2 * stride]);
        reference::batch_norm_backward(
            [&x, &y, &g],
            cols,
            repeats,
            &stats,
            &affine,
            [&mut dx, &mut d_affine],
        );
        for (which, (name, found)) in [("x", dx), ("affine", d_affine)].iter().enumerate() {
            let error = error(&unpad(found, cols), &unpad(&differences(&inputs, which, loss), cols));
            check(error <= BY_DIFFERENCES, format!("{repeats} rows of padding, {name}: error {error:.1e}"))?;
        }
    }
    Ok(())
}

/// The allowed error of a device against f64, relative to the largest value.
const ON_DEVICES: f64 = 5e-6;

/// At the published sizes, with every length from 1 to the longest once.
fn published(device: &Device) -> Outcome {
    let sizes = Sizes { encoding: 32, hidden: 32, dim: 65 };
    for (seed, longest) in [(1, 36), (2, 7), (3, 77)] {
        let mut random = Random::new(seed);
        let mut lengths: Vec<u32> = (1..=longest).collect();
        (0..lengths.len()).for_each(|i| lengths.swap(i, random.below(longest as usize)));
        let batch = Batch::new(sizes, &lengths);
        let inputs = batch.inputs(&mut random);
        let upstream = random.values(lengths.len() * sizes.dim);
        let trace = batch.forward(&inputs);
        let gradient = batch.backward(&inputs, &trace, &wide(&pad_rows(&upstream, sizes.dim)));
        let narrow = |which: usize, cols| -> Vec<f32> {
            unpad(&inputs.0[which], cols).into_iter().map(|x| x as f32).collect()
        };
        let halves = |values: Vec<f32>| {
            let (forward, backward) = values.split_at(values.len() / 2);
            [forward.to_vec(), backward.to_vec()]
        };
        let mut gpo = Gpo::new(sizes.encoding, sizes.hidden, 0)?;
        gpo.weight_ih = halves(narrow(1, sizes.encoding));
        gpo.weight_hh = halves(narrow(2, sizes.hidden));
        (gpo.bias_ih, gpo.bias_hh) =
            (halves(narrow(3, 6 * sizes.hidden)), halves(narrow(4, 6 * sizes.hidden)));
        gpo.v = narrow(5, sizes.hidden);
        let rows = narrow(0, sizes.dim);
        // Padding is not read, so its values do not matter.
        let mut padded_rows = vec![7.0; lengths.len() * longest as usize * sizes.dim];
        let items = padded_rows.chunks_exact_mut(longest as usize * sizes.dim);
        for (item, rows_of) in items.zip(batch.offsets.windows(2)) {
            let from = &rows[rows_of[0] as usize * sizes.dim..rows_of[1] as usize * sizes.dim];
            item[..from.len()].copy_from_slice(from);
        }
        let near = |what: &str, found: &[f32], expected: Vec<f64>| {
            let error = error(&wide(found), &expected);
            check(error <= ON_DEVICES, format!("longest {longest}, {what}: error {error:.1e}"))
        };
        let pooled = gpo.pool(device, &padded_rows, &lengths, sizes.dim)?;
        near("pooled", &pooled.features, unpad(&trace.pooled, sizes.dim))?;
        let g = gpo.pool_backward(device, &padded_rows, &lengths, sizes.dim, &upstream)?;
        let mut d_features = Vec::new();
        for (item, &length) in g.features.chunks_exact(longest as usize * sizes.dim).zip(&lengths) {
            let (own, padding) = item.split_at(length as usize * sizes.dim);
            check(padding.iter().all(|&d| d == 0.0), "a gradient at the padding")?;
            d_features.extend_from_slice(own);
        }
        let found = [
            d_features,
            g.gpo.weight_ih.concat(),
            g.gpo.weight_hh.concat(),
            g.gpo.bias_ih.concat(),
            g.gpo.bias_hh.concat(),
            g.gpo.v,
        ];
        let six = 6 * sizes.hidden;
        let cols = [sizes.dim, sizes.encoding, sizes.hidden, six, six, sizes.hidden];
        for (which, (name, found)) in NAMES.iter().zip(&found).enumerate() {
            near(name, found, unpad(&gradient.0[which], cols[which]))?;
        }
    }
    Ok(())
}

/// A configuration that pools both sides on the device.
fn local(embed: usize) -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.embed = embed;
        c.image_pooling = Pooling::Gpo;
        c.text_pooling = Pooling::Gpo;
        c.image_encoder = EncoderKind::ResidualMlp;
        c.text_encoder = EncoderKind::GatedMlp;
        c.gated_width = 2;
        c.mask_same_image = false;
        c.objective = Objective::HingeSum { margin: 0.2 };
    })
}

/// Ragged batches of varying sizes train, and give the same bits every time.
fn steps(device: &Device) -> Outcome {
    let (pairs, dims, config) = (9, [11, 6], local(16));
    let train = || -> Result<(Vec<f32>, Head), Failed> {
        let head = Head::for_config(dims[0], dims[1], &config.head(), config.seed)?;
        let mut pipeline = Pipeline::new(device, head, &config, pairs)?;
        let mut random = Random::new(5);
        let bases = [random.values(pairs * dims[0]), random.values(pairs * dims[1])];
        for step in 0..30 {
            // Every row is the base row of its pair plus some noise.
            let mut features = [Vec::new(), Vec::new()];
            let mut offsets = [vec![0], vec![0]];
            for side in [0, 1] {
                let longest = 1 + (step + 3 * side) % 6;
                for base in bases[side].chunks_exact(dims[side]) {
                    for _ in 0..1 + random.below(longest) {
                        features[side].extend(base.iter().map(|x| x + 0.2 * random.uniform()));
                    }
                    offsets[side].push((features[side].len() / dims[side]) as u32);
                }
            }
            let batch = Features { images: &features[0], texts: &features[1], ids: &[] };
            pipeline.step_local(batch, [&offsets[0], &offsets[1]], &config.objective, 1e-2)?;
        }
        let losses = pipeline.records()?.iter().map(|record| record.loss).collect();
        Ok((losses, pipeline.head()?))
    };
    let (losses, head) = train()?;
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&losses[..5]), mean(&losses[25..]));
    check(last < 0.5 * first, format!("the loss went from {first} to {last}"))?;
    let fresh = Head::for_config(dims[0], dims[1], &config.head(), config.seed)?;
    for (name, _) in fresh.parameters() {
        let moved = fresh.parameter(&name)? != head.parameter(&name)?;
        check(moved != ["temperature", "logit_bias"].contains(&&name[..]), format!("{name} moved: {moved}"))?;
    }
    check((losses, head) == train()?, "other bits the second time")
}

/// The step's gradient is that of the encoders: one step of plain gradient descent against [`Head::encode_backward`].
fn step_is_encode_backward(device: &Device) -> Outcome {
    let optimizer = wgoal::optim::Optimizer::Sgd(wgoal::optim::Sgd::default().with(|c| c.momentum = 0.0));
    let config = local(16).with(|c| {
        c.optimizer = optimizer;
        c.weight_decay = 0.0;
        c.clip = 0.0;
    });
    let (dims, lengths) = ([11, 6], [3u32, 1, 4, 2]);
    let mut random = Random::new(8);
    let head = Head::for_config(dims[0], dims[1], &config.head(), config.seed)?;
    let rows: u32 = lengths.iter().sum();
    let packed = dims.map(|dim| random.values(rows as usize * dim));
    let mut offsets = vec![0];
    lengths.iter().for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
    let mut pipeline = Pipeline::new(device, head.clone(), &config, lengths.len())?;
    let batch = Features { images: &packed[0], texts: &packed[1], ids: &[] };
    pipeline.step_local(batch, [&offsets, &offsets], &config.objective, 1.0)?;
    let after = pipeline.head()?;
    let spread = [0, 1].map(|side| {
        let dim = dims[side];
        let mut out = vec![0.0; 4 * lengths.len() * dim];
        for (item, rows) in out.chunks_exact_mut(4 * dim).zip(offsets.windows(2)) {
            let from = &packed[side][rows[0] as usize * dim..rows[1] as usize * dim];
            item[..from.len()].copy_from_slice(from);
        }
        out
    });
    let zero = vec![0.0; 16 * lengths.len()];
    let [images, texts] = [(Side::Image, &spread[0]), (Side::Text, &spread[1])]
        .map(|(side, features)| head.encode_backward(device, side, features, &lengths, &zero));
    let (images, texts) = (images?.embeddings, texts?.embeddings);
    let g = config.objective.gradients(
        device,
        (&images, 16),
        (&texts, 16),
        wgoal::gradient::GradientOptions::default(),
    )?;
    for (side, name, features, upstream) in
        [(Side::Image, "image", &spread[0], &g.images), (Side::Text, "text", &spread[1], &g.texts)]
    {
        let expected = head.encode_backward(device, side, features, &lengths, upstream)?;
        for (parameter, _) in head.parameters().iter().filter(|(parameter, _)| parameter.starts_with(name)) {
            if parameter == "image.mlp.running" {
                let same = after.parameter(parameter)? == expected.head.parameter(parameter)?;
                check(same, "other running statistics")?;
                continue;
            }
            let (before, now) = (head.parameter(parameter)?, after.parameter(parameter)?);
            let gradient = expected.gradient.parameter(parameter)?;
            for ((before, now), gradient) in before.iter().zip(now).zip(gradient) {
                let error = (before - now - gradient).abs();
                check(error <= 1e-5 * (1.0 + gradient.abs()), format!("{parameter}: error {error:.1e}"))?;
            }
        }
    }
    Ok(())
}

/// A resumed run with batch norm continues to the same bytes.
fn resume(device: &Device) -> Outcome {
    let folder = tempfile::tempdir()?;
    let last = folder.path().join("last");
    let data = || Dataset::open(concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini"));
    let config = TrainConfig::default().with(|c| {
        c.embed = 16;
        c.epochs = 2;
        c.image_encoder = EncoderKind::ResidualMlp;
    });
    let bytes = |trainer: &Trainer| -> Result<Vec<u8>, Failed> {
        trainer.checkpoint()?.save(&last)?;
        Ok(std::fs::read(&last)?)
    };
    let mut whole = Trainer::new(device, data()?, config)?;
    whole.run_epoch()?;
    bytes(&whole)?;
    let mut resumed = Trainer::resume(device, data()?, Checkpoint::load(&last)?)?;
    whole.run_epoch()?;
    resumed.run_epoch()?;
    let running = whole.checkpoint()?.head().parameter("image.mlp.running")?;
    check(running[0] != 0.0, "the running mean did not move")?;
    let same = bytes(&whole)? == bytes(&resumed)?;
    check(same, "other bytes after the resumed epoch")
}

/// Shapes that do not fit together are refused with an error.
fn faults(device: &Device) -> Outcome {
    let config = local(8);
    let head = Head::for_config(3, 2, &config.head(), config.seed)?;
    let pooled = Features { images: &[1.0; 6], texts: &[1.0; 4], ids: &[] };
    let mut pipeline = Pipeline::new(device, head.clone(), &config, 2)?;
    for (offsets, part) in [
        ([&[][..], &[]], "expected local ones, found pooled"),
        ([&[0, 0, 2], &[0, 1, 2]], "item 0 without a row"),
        ([&[1, 2], &[0, 1, 2]], "expected items of 1 row or more, from 0 to 2"),
        ([&[0, 2], &[0, 1, 2]], "expected 2 pairs, found 1"),
    ] {
        let found = pipeline.step_local(pooled, offsets, &config.objective, 0.1).unwrap_err().to_string();
        check(found.contains(part), format!("{found:?} lacks {part:?}"))?;
    }
    let mut linear = Pipeline::new(device, Head::new(3, 2, 8, 0)?, &TrainConfig::default(), 2)?;
    let batch = Features { ids: &[0, 1], ..pooled };
    let found = linear.step_local(batch, [&[0, 1, 2], &[]], &config.objective, 0.1).unwrap_err().to_string();
    check(found.contains("image features: expected pooled ones, found local"), found)?;
    let gpo = Gpo::new(4, 3, 0)?;
    for (features, lengths, part) in [
        (&[1.0; 8][..], &[1, 3][..], "expected 2 items"),
        (&[1.0; 8], &[0, 1], "expected 2 items"),
        (&[1.0; 7], &[1, 1], "expected 2 items"),
        (&[], &[], "expected 0 items"),
        (&[1.0, 2.0, f32::NAN, 0.0], &[1, 1], "NaN at 2"),
    ] {
        let found = gpo.pool(device, features, lengths, 2).unwrap_err().to_string();
        check(found.contains(part), format!("{found:?} lacks {part:?}"))?;
    }
    for (encoding, hidden) in [(0, 3), (5, 3), (4, 0), (4, 257)] {
        check(Gpo::new(encoding, hidden, 0).is_err(), format!("{encoding} and {hidden} passed"))?;
    }
    let found = head.parameter("image.gpo.w").unwrap_err().to_string();
    check(found.contains("image.gpo.weight_ih"), found)
}

pub fn tests(suite: &mut Suite) {
    suite.once("gpo_is_the_gradient_of_gpo", gpo_is_the_gradient_of_gpo);
    suite.once("batch_norm_is_the_gradient_of_batch_norm", batch_norm_is_the_gradient_of_batch_norm);
    suite.each("published", published);
    suite.each("steps", steps);
    suite.each("step_is_encode_backward", step_is_encode_backward);
    suite.each("resume", resume);
    suite.each("faults", faults);
}
