//! Heads with random features, and kernel CCA, against formulas in f64.

use crate::baseline::{Numbers, dataset_with};
use crate::random::Random;
use faer::{Mat, MatRef};
use std::sync::Arc;
use wgoal::data::{Dataset, Side, Split};
use wgoal::eval::Recall;
use wgoal::model::HeadConfig;
use wgoal::train::{Baseline, ClosedForm, Init};
use wgoal::{Checkpoint, Device, Head, TrainConfig, Trainer};

/// A side of a head with random features, in f64: unit rows of z = W f + b + V cos(2 pi (F f + p)).
fn embedded(head: &Head, side: &str, features: &[f64]) -> Vec<f64> {
    let get = |name: &str| -> Vec<f64> {
        head.parameter(&format!("{side}.{name}")).unwrap().into_iter().map(f64::from).collect()
    };
    let [weight, bias, v] = ["weight", "bias", "fourier.weight"].map(get);
    let [frequency, phase] = ["fourier.frequency", "fourier.phase"].map(get);
    let (dim, m) = (weight.len() / bias.len(), phase.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let rows = features.chunks(dim).flat_map(|f| {
        let angles = frequency.chunks(dim).zip(&phase).map(|(row, phase)| dot(row, f) + phase);
        let cosines: Vec<f64> = angles.map(|t| (std::f64::consts::TAU * t).cos()).collect();
        let sum = |k: usize| dot(&weight[k * dim..][..dim], f) + bias[k] + dot(&v[k * m..][..m], &cosines);
        let z: Vec<f64> = (0..bias.len()).map(sum).collect();
        let norm = dot(&z, &z).sqrt();
        z.into_iter().map(move |z| z / norm)
    });
    rows.collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// The largest difference, relative to the largest expected value.
pub fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn random_features_and_their_gradients_follow_the_formula() {
    let (device, rows, dim) = (Device::cpu(), 3, 6);
    let config = HeadConfig::default().with(|c| {
        c.embed = 5;
        c.random_features = 9;
    });
    let head = Head::for_config(dim, 4, &config, 3).unwrap();
    let mut random = Random::new(1);
    let (features, upstream) = (random.values(rows * dim), random.values(rows * 5));
    let found = head.encode(&device, Side::Image, &features, &[1; 3]).unwrap();
    assert!(worst(&found, &embedded(&head, "image", &wide(&features))) < 1e-6);

    let found = head.encode_backward(&device, Side::Image, &features, &[1; 3], &upstream).unwrap();
    let value = |head: &Head, features: &[f64]| -> f64 {
        let rows = embedded(head, "image", features);
        rows.iter().zip(&upstream).map(|(x, &g)| x * f64::from(g)).sum()
    };
    // f32 rounds the step, so the derivative divides by the step that was taken.
    const STEP: f32 = 1e-3;
    let by_features: Vec<f64> = (0..features.len())
        .map(|at| {
            let [low, high] = [-1e-5, 1e-5].map(|step| {
                let mut moved = wide(&features);
                moved[at] += step;
                value(&head, &moved)
            });
            (high - low) / 2e-5
        })
        .collect();
    assert!(worst(&found.features, &by_features) < 1e-5, "{:?} {by_features:?}", found.features);
    for name in ["image.weight", "image.bias", "image.fourier.weight"] {
        let values = head.parameter(name).unwrap();
        let slopes: Vec<f64> = (0..values.len())
            .map(|at| {
                let [low, high] = [values[at] - STEP, values[at] + STEP];
                let at = |x: f32| {
                    let (mut moved, mut values) = (head.clone(), values.clone());
                    values[at] = x;
                    moved.set_parameter(name, &values).unwrap();
                    value(&moved, &wide(&features))
                };
                (at(high) - at(low)) / f64::from(high - low)
            })
            .collect();
        // The error of a central difference is that of its cubic term.
        assert!(worst(&found.gradient.parameter(name).unwrap(), &slopes) < 1e-4, "{name}");
    }
    for name in ["image.fourier.frequency", "image.fourier.phase", "text.fourier.weight"] {
        assert!(found.gradient.parameter(name).unwrap().iter().all(|&x| x == 0.0), "{name}");
    }
}

#[test]
fn frequencies_follow_the_distances_of_the_training_rows() {
    let data = nonlinear();
    let config = HeadConfig::default().with(|c| c.random_features = 2000);
    let head = Head::for_dataset(&data, &config, 0).unwrap();
    for (side, name) in [(Side::Image, "image"), (Side::Text, "text")] {
        let frequency = head.parameter(&format!("{name}.fourier.frequency")).unwrap();
        let square = frequency.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / frequency.len() as f64;
        let expected =
            1.0 / (std::f64::consts::TAU * 0.7 * median_distance(&features(&data, side, Split::Train)));
        assert!((square.sqrt() / expected - 1.0).abs() < 0.03, "{name}: {} {expected}", square.sqrt());
        let phase = head.parameter(&format!("{name}.fourier.phase")).unwrap();
        let mean = phase.iter().sum::<f32>() / phase.len() as f32;
        assert!(phase.iter().all(|x| (0.0..1.0).contains(x)) && (mean - 0.5).abs() < 0.03, "{mean}");
    }
    assert_eq!(head, Head::for_dataset(&data, &config, 0).unwrap());
    assert_ne!(head, Head::for_dataset(&data, &config, 1).unwrap());
}

const DIMS: [usize; 2] = [6, 5];

/// Both sides see two hidden angles, but the texts only through cosines and sines, with another scale and offset.
fn nonlinear() -> Arc<Dataset> {
    dataset_with(240, 60, DIMS, |numbers: &mut Numbers, x, y| {
        let hidden = [numbers.next(), numbers.next()];
        x.iter_mut().enumerate().for_each(|(k, x)| *x = (hidden[k % 2] + 0.2 * numbers.next()) as f32);
        let [a, b] = hidden.map(|angle| 1.7 * angle);
        let seen = [a.cos(), a.sin(), b.cos(), b.sin(), (a + b).cos()];
        y.iter_mut().zip(seen).for_each(|(y, seen)| *y = (10.0 * seen + 0.5 * numbers.next()) as f32 + 30.0);
    })
}

/// The rows of a split, as columns of a matrix would be read: `[rows][dim]`.
fn features(data: &Dataset, side: Side, split: Split) -> Vec<Vec<f64>> {
    let rows = data.split(split);
    let items = if side == Side::Image { &rows.images } else { &rows.texts };
    let read = |item: u64| {
        let mut row = vec![0.0; data.dim(side)];
        data.read_row(side, item as usize, &mut Vec::new(), &mut row).unwrap();
        wide(&row)
    };
    items.iter().map(read).collect()
}

fn square_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

fn median_distance(rows: &[Vec<f64>]) -> f64 {
    let pairs = rows.iter().enumerate().flat_map(|(i, a)| rows[..i].iter().map(|b| square_distance(a, b)));
    let mut squares: Vec<f64> = pairs.collect();
    squares.sort_by(f64::total_cmp);
    squares[squares.len() / 2].sqrt()
}

/// The kernels of one side of exact kernel CCA: of all rows with the training rows, centred by the training rows.
///
/// The linear kernel and the Gaussian kernel stand in the proportion of the widths of the features that they replace,
/// each with a mean variance of 1 per feature.
fn kernel(all: &[Vec<f64>], train: &[Vec<f64>], bandwidth: f64, random: usize) -> Mat<f64> {
    let s = bandwidth * median_distance(train);
    let linear = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let gauss = |a: &[f64], b: &[f64]| (-square_distance(a, b) / (2.0 * s * s)).exp();
    let centred = |kernel: &dyn Fn(&[f64], &[f64]) -> f64, width: usize| {
        let n = train.len() as f64;
        let k = Mat::from_fn(all.len(), train.len(), |i, j| kernel(&all[i], &train[j]));
        let columns: Vec<f64> = (0..train.len())
            .map(|j| train.iter().map(|row| kernel(row, &train[j])).sum::<f64>() / n)
            .collect();
        let whole = columns.iter().sum::<f64>() / n;
        let mean = |i: usize| (0..train.len()).map(|j| k[(i, j)]).sum::<f64>() / n;
        let k = Mat::from_fn(all.len(), train.len(), |i, j| k[(i, j)] - mean(i) - columns[j] + whole);
        let trace = (0..train.len()).map(|i| k[(i, i)]).sum::<f64>();
        faer::Scale(n * width as f64 / trace) * k
    };
    centred(&linear, train[0].len()) + centred(&gauss, random)
}

/// A function of a symmetric matrix.
fn function(symmetric: MatRef<f64>, of: impl Fn(f64) -> f64) -> Mat<f64> {
    let eigen = symmetric.self_adjoint_eigen(faer::Side::Lower).unwrap();
    let values: Vec<f64> = eigen.S().column_vector().iter().map(|&x| of(x)).collect();
    let scaled = Mat::from_fn(symmetric.nrows(), symmetric.nrows(), |i, j| eigen.U()[(i, j)] * values[j]);
    scaled * eigen.U().transpose()
}

/// Exact kernel CCA in its dual form: the correlations, and the unit embeddings of the rows that follow the training
/// rows.
///
/// With K / n = P D² Pᵀ on each side, regularised CCA has the correlations of
/// Px D (D² + r)^-1/2 Pxᵀ Py D (D² + r)^-1/2 Pyᵀ = U S Vᵀ, and maps a row with kernels k to
/// k P D^-1 (D² + r)^-1/2 Pᵀ U S / n^½.
pub fn dual(kernels: [&Mat<f64>; 2], n: usize, r: f64, embed: usize) -> (Vec<f64>, [Vec<f32>; 2]) {
    let own = kernels.map(|k| faer::Scale(1.0 / n as f64) * k.subrows(0, n));
    let [x, y] = [&own[0], &own[1]].map(|k| function(k.as_ref(), |d| (d.max(0.0) / (d.max(0.0) + r)).sqrt()));
    let product = x * y;
    let svd = product.svd().unwrap();
    let values: Vec<f64> = svd.S().column_vector().iter().take(embed).copied().collect();
    let map = |which: usize, u: MatRef<f64>| {
        let inverse =
            function(own[which].as_ref(), |d| if d > 1e-12 { 1.0 / (d * (d + r)).sqrt() } else { 0.0 });
        let held = kernels[which].subrows(n, kernels[which].nrows() - n);
        let mapped = held * inverse * u.subcols(0, embed);
        let mut rows = Vec::new();
        for i in 0..mapped.nrows() {
            let row: Vec<f64> = (0..embed).map(|j| mapped[(i, j)] * values[j]).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            rows.extend(row.iter().map(|x| (x / norm) as f32));
        }
        rows
    };
    (values.clone(), [map(0, svd.U()), map(1, svd.V())])
}

/// The error of a kernel that m random features approximate falls with the root of m. 0.02 is what 2,000 features reach
/// here, with a margin; 40 features are further off.
#[test]
fn kernel_cca_agrees_with_its_exact_dual_form() {
    let (data, device, embed, r, bandwidth) = (nonlinear(), Device::cpu(), 8, 0.3, 0.7);
    let fit = |random: usize| {
        let config = TrainConfig::default().with(|c| {
            c.embed = embed;
            c.random_features = random;
        });
        Baseline::kernel_cca(&device, &data, &config, &[bandwidth], &[r]).unwrap()
    };
    let exact = |random: usize| {
        let kernels = [Side::Image, Side::Text].map(|side| {
            let train = features(&data, side, Split::Train);
            let all: Vec<_> = train.iter().cloned().chain(features(&data, side, Split::Val)).collect();
            kernel(&all, &train, bandwidth, random)
        });
        dual([&kernels[0], &kernels[1]], data.split(Split::Train).texts.len(), r, embed)
    };
    let mut errors = Vec::new();
    for random in [40, 2000] {
        let (found, (correlations, [images, texts])) = (fit(random), exact(random));
        assert_eq!(found.bandwidth, Some(bandwidth));
        let error = |a: f64, b: f64| (a - b).abs();
        let worst =
            found.correlations.iter().zip(&correlations).map(|(a, b)| error(*a, *b)).fold(0.0, f64::max);
        let recall = Recall::of(&device, &images, &texts, embed, &(0..60).collect::<Vec<_>>()).unwrap();
        let similarities = |images: &[f32], texts: &[f32]| -> Vec<f64> {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            images.chunks(embed).flat_map(|a| texts.chunks(embed).map(move |b| dot(a, b))).collect()
        };
        let rows = data.split(Split::Val);
        let own = [(Side::Image, &rows.images), (Side::Text, &rows.texts)]
            .map(|(side, rows)| found.head.embed(&device, &data, side, rows).unwrap());
        let (own, exact) = (similarities(&own[0], &own[1]), similarities(&images, &texts));
        let mean = own.iter().zip(&exact).map(|(a, b)| error(*a, *b)).sum::<f64>() / own.len() as f64;
        errors.push((worst, mean, found.val.rsum, recall.rsum));
    }
    let [(few, few_mean, ..), (many, mean, rsum, exact)] = errors[..] else { unreachable!() };
    assert!(many < 0.02 && mean < 0.02, "{errors:?}");
    assert!(few > 2.0 * many && few_mean > 2.0 * mean, "more features are nearer: {errors:?}");
    assert!((rsum - exact).abs() <= 10.0, "{errors:?}");
}

#[test]
fn kernel_cca_beats_cca_where_the_relation_is_not_linear() {
    let (data, device) = (nonlinear(), Device::cpu());
    let config = TrainConfig::default().with(|c| {
        c.embed = 16;
        c.random_features = 300;
    });
    let fit = |form| Baseline::fit(form, &device, &data, &config, &[0.3, 1.0]).unwrap();
    let [linear, kernel] = [fit(ClosedForm::Cca), fit(ClosedForm::KernelCca)].map(|form| form.val.rsum);
    assert!(kernel > linear + 20.0, "{kernel} by kernel CCA, {linear} by CCA");
}

/// Random features do not change where a run from CCA starts, and a run from kernel CCA starts at its rsum.
#[test]
fn training_starts_from_closed_forms_with_random_features() {
    let (data, device) = (nonlinear(), Device::cpu());
    let config = TrainConfig::default().with(|c| {
        c.embed = 16;
        c.random_features = 100;
        c.batch = 16;
        c.lr = 1e-3;
        c.epochs = 2;
        // Only gradients change weights.
        c.weight_decay = 0.0;
    });
    let folder = tempfile::tempdir().unwrap();
    for (init, form) in [(Init::Cca, ClosedForm::Cca), (Init::KernelCca, ClosedForm::KernelCca)] {
        let regularizations =
            if form == ClosedForm::Cca { &[0.03, 0.1, 0.3, 1.0][..] } else { &[0.3, 1.0, 2.0] };
        let closed = Baseline::fit(form, &device, &data, &config, regularizations).unwrap();
        let config = config.clone().with(|c| c.init = init);
        let mut trainer = Trainer::new(&device, data.clone(), config).unwrap();
        let start = trainer.start().unwrap().val.rsum;
        assert!((start - closed.val.rsum).abs() < 1e-9, "{form}: {start} {}", closed.val.rsum);
        trainer.run_epoch().unwrap();
        let [before, after] =
            [trainer.start_head().unwrap().clone(), trainer.checkpoint().unwrap().head().clone()];
        for (name, trained) in [
            ("image.fourier.weight", true),
            ("text.fourier.frequency", false),
            ("image.fourier.phase", false),
        ] {
            assert_eq!(
                before.parameter(name).unwrap() != after.parameter(name).unwrap(),
                trained,
                "{form} {name}"
            );
        }
        let path = folder.path().join("last.safetensors");
        trainer.checkpoint().unwrap().save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), trainer.checkpoint().unwrap(), "{form}");
    }
    let none = config.with(|c| (c.random_features, c.init) = (0, Init::KernelCca));
    let error = Trainer::new(&device, data, none).err().unwrap().to_string();
    assert_eq!(
        error,
        "kernel: expected --landmarks or --random-features for --init kcca, found neither; give for example --landmarks 5000"
    );
}
