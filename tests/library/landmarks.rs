//! Heads with landmarks, and exact kernel CCA, against formulas in f64.

use crate::baseline::dataset_with;
use crate::kernel_cca::{dual, wide, worst};
use crate::random::Random;
use faer::Mat;
use std::sync::Arc;
use wgoal::data::{Arrays, Dataset, Side, Split};
use wgoal::eval::Recall;
use wgoal::model::HeadConfig;
use wgoal::objective::Objective;
use wgoal::optim::{Optimizer, Sgd};
use wgoal::train::{Baseline, ClosedForm, Features, Init, LANDMARK_REGULARIZATIONS, Pipeline};
use wgoal::{Checkpoint, Device, Head, TrainConfig, Trainer};

const TRAIN: usize = 90;
const HELD: usize = 30;
const DIMS: [usize; 2] = [6, 5];

/// Images with one caption or two, by turns. The texts see two hidden angles through cosines and sines.
fn data() -> Arc<Dataset> {
    let images = TRAIN + 2 * HELD;
    let mut random = Random::new(5);
    let (mut x, mut y, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for image in 0..images {
        let hidden = random.values(2);
        x.extend((0..DIMS[0]).map(|k| hidden[k % 2] + 0.2 * random.values(1)[0] + 0.1));
        for _ in 0..1 + image % 2 {
            let [a, b] = [1.7 * hidden[0], 1.7 * hidden[1]];
            let seen = [a.cos(), a.sin(), b.cos(), b.sin(), (a + b).cos()];
            y.extend(seen.map(|seen| seen + 0.05 * random.values(1)[0]));
            owners.push(image as u64);
        }
    }
    let rows = |range: std::ops::Range<usize>| range.map(|i| i as u64).collect::<Vec<_>>();
    let arrays = Arrays::new()
        .with_features("images", &[images, DIMS[0]], &x)
        .with_features("texts", &[owners.len(), DIMS[1]], &y)
        .with_rows("text_to_image", &owners)
        .with_rows("split_train", &rows(0..TRAIN))
        .with_rows("split_val", &rows(TRAIN..TRAIN + HELD))
        .with_rows("split_test", &rows(TRAIN + HELD..images));
    Arc::new(Dataset::from_arrays("made", arrays).unwrap())
}

fn with_landmarks(most: usize) -> HeadConfig {
    HeadConfig::default().with(|c| (c.embed, c.landmarks) = (5, most))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(row: &[f64]) -> Vec<f64> {
    let norm = dot(row, row).sqrt();
    row.iter().map(|x| x / norm).collect()
}

/// A side of a head, in f64: unit rows of z = W f + b + V exp(L f / |f| + c).
fn embedded(head: &Head, side: &str, features: &[f64]) -> Vec<f64> {
    let get = |name: &str| wide(&head.parameter(&format!("{side}.{name}")).unwrap());
    let [weight, bias, v] = ["weight", "bias", "landmarks.weight"].map(get);
    let [landmarks, shift] = ["landmarks.rows", "landmarks.shift"].map(get);
    let (dim, n) = (weight.len() / bias.len(), shift.len());
    let rows = features.chunks(dim).flat_map(|f| {
        let short = unit(f);
        let kernel: Vec<f64> =
            landmarks.chunks(dim).zip(&shift).map(|(row, shift)| (dot(row, &short) + shift).exp()).collect();
        let sum = |k: usize| dot(&weight[k * dim..][..dim], f) + bias[k] + dot(&v[k * n..][..n], &kernel);
        unit(&(0..bias.len()).map(sum).collect::<Vec<_>>())
    });
    rows.collect()
}

#[test]
fn landmarks_and_their_gradients_follow_the_formula() {
    let (device, data) = (Device::cpu(), data());
    let head = Head::for_dataset(&data, &with_landmarks(7), 3).unwrap();
    let mut random = Random::new(1);
    for (side, name, dim) in [(Side::Image, "image", DIMS[0]), (Side::Text, "text", DIMS[1])] {
        let (features, upstream) = (random.values(3 * dim), random.values(3 * 5));
        let found = head.encode(&device, side, &features, &[1; 3]).unwrap();
        assert!(worst(&found, &embedded(&head, name, &wide(&features))) < 1e-6);
        let found = head.encode_backward(&device, side, &features, &[1; 3], &upstream).unwrap();
        let value = |head: &Head, features: &[f64]| dot(&embedded(head, name, features), &wide(&upstream));
        let by_features: Vec<f64> = (0..features.len())
            .map(|at| {
                let moved = |step: f64| {
                    let mut moved = wide(&features);
                    moved[at] += step;
                    value(&head, &moved)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            })
            .collect();
        assert!(worst(&found.features, &by_features) < 1e-5, "{:?} {by_features:?}", found.features);
        let weight = format!("{name}.landmarks.weight");
        let values = head.parameter(&weight).unwrap();
        let slopes: Vec<f64> = (0..values.len())
            .map(|at| {
                // f32 rounds the step, so the derivative divides by the step that was taken.
                let [low, high] = [values[at] - 1e-3, values[at] + 1e-3];
                let moved = |x: f32| {
                    let (mut moved, mut values) = (head.clone(), values.clone());
                    values[at] = x;
                    moved.set_parameter(&weight, &values).unwrap();
                    value(&moved, &wide(&features))
                };
                (moved(high) - moved(low)) / f64::from(high - low)
            })
            .collect();
        assert!(worst(&found.gradient.parameter(&weight).unwrap(), &slopes) < 1e-4);
        for fixed in ["landmarks.rows", "landmarks.shift"] {
            let gradient = found.gradient.parameter(&format!("{name}.{fixed}")).unwrap();
            assert!(gradient.iter().all(|&x| x == 0.0), "{fixed}");
        }
    }
}

/// Training sees the kernel minus its mean over the landmarks: the bias takes back what a step changes at the mean. The
/// step of SGD is linear in the gradient, so the difference of a step with a gradient from outside and one without it is
/// the step along that gradient.
#[test]
fn the_layer_on_the_landmarks_is_trained_on_the_centred_kernel() {
    const PAIRS: usize = 3;
    let (device, data) = (Device::cpu(), data());
    let head = Head::for_dataset(&data, &with_landmarks(7), 3).unwrap();
    let config = TrainConfig::default().with(|c| {
        (c.embed, c.landmarks, c.mask_same_image) = (5, 7, false);
        c.optimizer = Optimizer::Sgd(Sgd::default().with(|sgd| sgd.momentum = 0.0));
        (c.weight_decay, c.clip) = (0.0, 0.0);
        c.objective = Objective::HingeSum { margin: 0.2 };
    });
    let mut random = Random::new(1);
    let (images, texts) = (random.values(PAIRS * DIMS[0]), random.values(PAIRS * DIMS[1]));
    let outside = [random.values(PAIRS * 5), random.values(PAIRS * 5)];
    let rate = 0.5;
    let step = |factor: f32| {
        let mut pipeline = Pipeline::new(&device, head.clone(), &config, PAIRS).unwrap();
        let batch = Features { images: &images, texts: &texts, ids: &[] };
        let mut external = |_: &[f32], _: &[f32]| {
            Ok(outside.clone().map(|values| values.into_iter().map(|x| factor * x).collect()))
        };
        pipeline.step_with(batch, [&[], &[]], &config.objective, rate, &mut external).unwrap();
        pipeline.head().unwrap()
    };
    let (with, without) = (step(1.0), step(0.0));
    for (side, name, features, upstream) in
        [(Side::Image, "image", &images, &outside[0]), (Side::Text, "text", &texts, &outside[1])]
    {
        let get = |head: &Head, what: &str| wide(&head.parameter(&format!("{name}.{what}")).unwrap());
        let [landmarks, shift] = ["landmarks.rows", "landmarks.shift"].map(|what| get(&head, what));
        let (n, dim) = (shift.len(), landmarks.len() / shift.len());
        let mean: Vec<f64> = (0..n)
            .map(|j| {
                let own = &landmarks[j * dim..][..dim];
                let to = |other: &[f64]| (dot(own, &unit(other)) + shift[j]).exp();
                landmarks.chunks(dim).map(to).sum::<f64>() / n as f64
            })
            .collect();
        let plain = head.encode_backward(&device, side, features, &[1; PAIRS], upstream).unwrap().gradient;
        let (d_bias, d_weight) = (get(&plain, "bias"), get(&plain, "landmarks.weight"));
        let change = |what: &str| -> Vec<f64> {
            get(&with, what).iter().zip(get(&without, what)).map(|(with, without)| with - without).collect()
        };
        let (bias, weight) = (change("bias"), change("landmarks.weight"));
        for k in 0..5 {
            let centred: Vec<f64> = (0..n).map(|j| d_weight[k * n + j] - d_bias[k] * mean[j]).collect();
            let expected: Vec<f64> = centred.iter().map(|x| -rate * x).collect();
            let own = &weight[k * n..][..n];
            assert!(worst(&narrow(own), &expected) < 1e-5, "{name} {k}: {own:?} {expected:?}");
            let expected = -rate * d_bias[k] - dot(&expected, &mean);
            assert!((bias[k] - expected).abs() < 1e-5, "{name} {k}: {} {expected}", bias[k]);
        }
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// The rows of a split's items, of length 1.
fn rows(data: &Dataset, side: Side, split: Split) -> Vec<Vec<f64>> {
    let rows = data.split(split);
    let items = if side == Side::Image { &rows.images } else { &rows.texts };
    let read = |item: u64| {
        let mut row = vec![0.0; data.dim(side)];
        data.read_row(side, item as usize, &mut Vec::new(), &mut row).unwrap();
        unit(&wide(&row))
    };
    items.iter().map(read).collect()
}

#[test]
fn landmarks_are_training_images_and_all_their_captions() {
    let data = data();
    let parameter = |head: &Head, name: &str| head.parameter(name).unwrap();
    let few = Head::for_dataset(&data, &with_landmarks(20), 3).unwrap();
    assert_eq!(few, Head::for_dataset(&data, &with_landmarks(20), 3).unwrap());
    let other = Head::for_dataset(&data, &with_landmarks(20), 4).unwrap();
    assert_ne!(parameter(&few, "image.landmarks.rows"), parameter(&other, "image.landmarks.rows"));
    let split = data.split(Split::Train);
    // A landmark is a training row of length 1, times the shift without its sign.
    let places = |head: &Head, side: Side, name: &str| -> Vec<usize> {
        let shift = wide(&parameter(head, &format!("{name}.landmarks.shift")))[0];
        let train = rows(&data, side, Split::Train);
        let landmarks = wide(&parameter(head, &format!("{name}.landmarks.rows")));
        let place = |row: &[f64]| {
            let near = |own: &Vec<f64>| own.iter().zip(row).all(|(a, b)| (a * -shift - b).abs() < 1e-5);
            train.iter().position(near).unwrap()
        };
        landmarks.chunks(data.dim(side)).map(place).collect()
    };
    let images = places(&few, Side::Image, "image");
    assert_eq!(images.len(), 20);
    let texts = places(&few, Side::Text, "text");
    let expected: Vec<usize> = (0..split.texts.len())
        .filter(|&text| images.contains(&(split.text_image.get(text).unwrap() as usize)))
        .collect();
    assert_eq!(texts, expected);
    let all = Head::for_dataset(&data, &with_landmarks(1000), 3).unwrap();
    assert_eq!(places(&all, Side::Image, "image"), (0..TRAIN).collect::<Vec<_>>());
    assert_eq!(places(&all, Side::Text, "text").len(), split.texts.len());
    let error = Head::for_config(6, 5, &with_landmarks(3), 0).unwrap_err().to_string();
    assert_eq!(
        error,
        "landmarks: expected 0 without a dataset, found 3; make the head with Head::for_dataset"
    );
}

/// The kernel of items and training images, averaged over the captions of an image, in f64: first all training images,
/// then the items of the validation split. Centred, with a mean variance of 1.
fn kernel(data: &Dataset, side: Side, bandwidth: f64) -> Mat<f64> {
    let split = data.split(Split::Train);
    let (train, held) = (rows(data, side, Split::Train), rows(data, side, Split::Val));
    let owners: Vec<usize> = match side {
        Side::Image => (0..TRAIN).collect(),
        Side::Text => split.text_image.iter().map(|place| place as usize).collect(),
    };
    let square = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let pairs = train.iter().enumerate().flat_map(|(i, a)| train[..i].iter().map(|b| square(a, b)));
    let mut squares: Vec<f64> = pairs.filter(|&x| x > 0.0).collect();
    squares.sort_by(f64::total_cmp);
    let s = bandwidth * squares[squares.len() / 2].sqrt();
    let groups: Vec<Vec<&Vec<f64>>> = (0..TRAIN)
        .map(|image| {
            train.iter().zip(&owners).filter(|(_, owner)| **owner == image).map(|(row, _)| row).collect()
        })
        .chain(held.iter().map(|row| vec![row]))
        .collect();
    let mean = |a: &[&Vec<f64>], b: &[&Vec<f64>]| {
        let all = a.iter().flat_map(|a| b.iter().map(|b| (-square(a, b) / (2.0 * s * s)).exp()));
        all.sum::<f64>() / (a.len() * b.len()) as f64
    };
    let k = Mat::from_fn(groups.len(), TRAIN, |i, j| mean(&groups[i], &groups[j]));
    let n = TRAIN as f64;
    let columns: Vec<f64> = (0..TRAIN).map(|j| (0..TRAIN).map(|i| k[(i, j)]).sum::<f64>() / n).collect();
    let whole = columns.iter().sum::<f64>() / n;
    let row = |i: usize| (0..TRAIN).map(|j| k[(i, j)]).sum::<f64>() / n;
    let k = Mat::from_fn(groups.len(), TRAIN, |i, j| k[(i, j)] - row(i) - columns[j] + whole);
    faer::Scale(n / (0..TRAIN).map(|i| k[(i, i)]).sum::<f64>()) * k
}

/// f32 rounds the kernel, so correlations and similarities agree to about 1e-5 divided by the regularisation.
#[test]
fn kernel_cca_with_all_training_images_is_exact() {
    let (data, device, embed, r, bandwidth) = (data(), Device::cpu(), 8, 0.02, 0.7);
    let config = TrainConfig::default().with(|c| (c.embed, c.landmarks) = (embed, TRAIN));
    let found = Baseline::kernel_cca(&device, &data, &config, &[bandwidth], &[r]).unwrap();
    let kernels = [Side::Image, Side::Text].map(|side| kernel(&data, side, bandwidth));
    let (correlations, [images, texts]) = dual([&kernels[0], &kernels[1]], TRAIN, r, embed);
    for (found, exact) in found.correlations.iter().zip(&correlations) {
        assert!((found - exact).abs() < 1e-4, "{:?} {correlations:?}", found);
    }
    let split = data.split(Split::Val);
    let own = [(Side::Image, &split.images), (Side::Text, &split.texts)]
        .map(|(side, rows)| found.head.embed(&device, &data, side, rows).unwrap());
    let similarities = |images: &[f32], texts: &[f32]| -> Vec<f64> {
        let rows = |values: &[f32]| wide(values).chunks(embed).map(<[f64]>::to_vec).collect::<Vec<_>>();
        let texts = rows(texts);
        rows(images).iter().flat_map(|a| texts.iter().map(|b| dot(a, b)).collect::<Vec<_>>()).collect()
    };
    let (own, exact) = (similarities(&own[0], &own[1]), similarities(&images, &texts));
    let worst = own.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-3, "{worst}");
    let truth: Vec<u32> = split.text_image.iter().map(|place| place as u32).collect();
    let recall = Recall::of(&device, &images, &texts, embed, &truth).unwrap();
    assert!((recall.rsum - found.val.rsum).abs() <= 5.0, "{} {}", recall.rsum, found.val.rsum);
}

/// Unit rows of two features lie on a circle, so few directions of the kernel exceed the rounding of f32.
#[test]
fn kernel_cca_of_features_of_low_rank_has_fewer_directions() {
    let mut turn = 0.0f32;
    let data = dataset_with(80, 8, [2, 2], |_, x, y| {
        turn += 2.4;
        x.copy_from_slice(&[turn.cos(), turn.sin()]);
        y.copy_from_slice(&[(turn + 0.5).cos(), (turn + 0.5).sin()]);
    });
    let device = Device::cpu();
    let config = TrainConfig::default().with(|c| (c.embed, c.landmarks) = (64, 64));
    for r in LANDMARK_REGULARIZATIONS {
        let found = Baseline::kernel_cca(&device, &data, &config, &[2.0], &[r]).unwrap();
        let width = found.correlations.len();
        assert!((2..40).contains(&width), "{width}");
        assert_eq!(found.head.dim(), width);
        assert!(found.correlations.iter().all(|s| (0.0..=1.001).contains(s)), "{:?}", found.correlations);
        assert_eq!(found.val.rsum, 600.0);
    }
    // Training keeps the width that was asked for.
    let config = config.with(|c| (c.init, c.batch, c.epochs) = (Init::KernelCca, 16, 1));
    let mut trainer = Trainer::new(&device, data, config).unwrap();
    let epoch = trainer.run_epoch().unwrap();
    assert!(epoch.val.rsum > 500.0, "{}", epoch.val.rsum);
    assert_eq!(trainer.head().unwrap().dim(), 64);
}

#[test]
fn training_starts_from_exact_kernel_cca() {
    let (data, device) = (data(), Device::cpu());
    let config = TrainConfig::default().with(|c| {
        (c.embed, c.landmarks, c.batch, c.epochs) = (16, 50, 16, 2);
        c.lr = 1e-3;
        // Only gradients change weights.
        c.weight_decay = 0.0;
        c.ema = 0.5;
    });
    let closed =
        Baseline::fit(ClosedForm::KernelCca, &device, &data, &config, &LANDMARK_REGULARIZATIONS).unwrap();
    let chance = 100.0 * 16.0 / HELD as f64;
    assert!(closed.val.rsum > 3.0 * chance, "{} by kernel CCA, {chance} by chance", closed.val.rsum);
    let run = config.clone().with(|c| c.init = Init::KernelCca);
    let mut trainer = Trainer::new(&device, data.clone(), run).unwrap();
    let start = trainer.start().unwrap().val.rsum;
    assert!((start - closed.val.rsum).abs() < 1e-9, "{start} {}", closed.val.rsum);
    trainer.run_epoch().unwrap();
    let last = trainer.checkpoint().unwrap();
    let before = trainer.start_head().unwrap();
    for (name, trained) in
        [("image.landmarks.weight", true), ("text.landmarks.rows", false), ("image.landmarks.shift", false)]
    {
        let [before, after] = [before, last.head()].map(|head| head.parameter(name).unwrap());
        assert_eq!(before != after, trained, "{name}");
    }
    // The file of a run holds the landmarks once, and a resumed run has the bits of the whole one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    last.save(&path).unwrap();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded, last);
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, copies) in
        [("text.landmarks.rows", 1), ("image.landmarks.shift", 1), ("text.landmarks.weight", 5)]
    {
        let found = file.names().into_iter().filter(|found| found.ends_with(name)).count();
        assert_eq!(found, copies, "{name}");
    }
    trainer.run_epoch().unwrap();
    let mut resumed = Trainer::resume(&device, data.clone(), loaded).unwrap();
    resumed.run_epoch().unwrap();
    assert_eq!(resumed.checkpoint().unwrap(), trainer.checkpoint().unwrap());
    // A file of a head holds the landmarks.
    let path = folder.path().join("head.safetensors");
    last.head().save(&path).unwrap();
    assert_eq!(&Head::load(&path).unwrap(), last.head());
    for (landmarks, random, found) in [(0, 0, "neither"), (5, 5, "both")] {
        let config = config.clone().with(|c| {
            (c.landmarks, c.random_features, c.init) = (landmarks, random, Init::KernelCca);
        });
        let error = Trainer::new(&device, data.clone(), config).err().unwrap().to_string();
        let expected = "kernel: expected --landmarks or --random-features for --init kcca, found ";
        assert!(error.starts_with(&format!("{expected}{found}; ")), "{error}");
    }
}
