//! Compares closed-form heads with their definitions, through the public API.

use std::path::Path;
use std::sync::Arc;
use wgoal::data::{Side, write_matrix_npy};
use wgoal::train::{Baseline, ClosedForm, Init};
use wgoal::{Dataset, Device, Head, Split, TrainConfig, Trainer};

/// Numbers with mean 0 and variance 1, from a linear congruential sequence.
pub struct Numbers(u64);

impl Numbers {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (self.0 >> 32) as f64 / 4_294_967_296.0;
        3f64.sqrt() * (2.0 * uniform - 1.0)
    }
}

fn write_u32(path: &Path, values: &[u32]) {
    use npyz::WriterBuilder;
    let mut bytes = Vec::new();
    let mut npy = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[values.len() as u64])
        .writer(&mut bytes)
        .begin_nd()
        .unwrap();
    npy.extend(values).unwrap();
    npy.finish().unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A dataset of `rows` pairs, the last 16 for validation and test. `pair` fills the features of a pair.
fn dataset(
    rows: u32,
    dims: [usize; 2],
    pair: impl FnMut(&mut Numbers, &mut [f32], &mut [f32]),
) -> Arc<Dataset> {
    dataset_with(rows, 8, dims, pair)
}

/// A dataset of `rows` pairs, the last `held` each for validation and for test.
pub fn dataset_with(
    rows: u32,
    held: u32,
    [p, q]: [usize; 2],
    mut pair: impl FnMut(&mut Numbers, &mut [f32], &mut [f32]),
) -> Arc<Dataset> {
    let [train, val] = [rows - 2 * held, rows - held];
    let folder = tempfile::tempdir().unwrap();
    let (mut x, mut y) = (vec![0.0; rows as usize * p], vec![0.0; rows as usize * q]);
    let mut numbers = Numbers(rows.into());
    x.chunks_mut(p).zip(y.chunks_mut(q)).for_each(|(x, y)| pair(&mut numbers, x, y));
    let path = |name: &str| folder.path().join(name);
    write_matrix_npy(&path("images.npy"), rows as usize, p, &x).unwrap();
    write_matrix_npy(&path("texts.npy"), rows as usize, q, &y).unwrap();
    write_u32(&path("text_to_image.npy"), &(0..rows).collect::<Vec<_>>());
    for (name, rows) in [("train", 0..train), ("val", train..val), ("test", val..rows)] {
        write_u32(&path(&format!("split_{name}.npy")), &rows.collect::<Vec<_>>());
    }
    // The files stay readable through their handles.
    Arc::new(Dataset::open(folder.path()).unwrap())
}

/// The means of both sides, and the covariances of all columns, by definition.
struct Moments {
    dims: [usize; 2],
    mean: Vec<f64>,
    covariance: Vec<Vec<f64>>,
}

impl Moments {
    fn of(dataset: &Dataset) -> Self {
        let dims = [dataset.image_dim(), dataset.text_dim()];
        let width = dims[0] + dims[1];
        let split = dataset.split(Split::Train);
        let rows: Vec<Vec<f64>> = (split.texts.iter().zip(&split.text_image))
            .map(|(text, image)| {
                let mut row = vec![0f32; width];
                let (x, y) = row.split_at_mut(dims[0]);
                let image = split.images.get(image as usize).unwrap() as usize;
                dataset.read_row(Side::Image, image, &mut Vec::new(), x).unwrap();
                dataset.read_row(Side::Text, text as usize, &mut Vec::new(), y).unwrap();
                row.into_iter().map(f64::from).collect()
            })
            .collect();
        let n = rows.len() as f64;
        let mean: Vec<f64> = (0..width).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / n).collect();
        let product = |i: usize, j: usize| {
            rows.iter().map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / n
        };
        let covariance = (0..width).map(|i| (0..width).map(|j| product(i, j)).collect()).collect();
        Self { dims, mean, covariance }
    }

    fn first(&self, side: Side) -> usize {
        if side == Side::Image { 0 } else { self.dims[0] }
    }

    /// (C of `rows` with `cols`) v.
    fn times(&self, rows: Side, cols: Side, v: &[f64]) -> Vec<f64> {
        let row = |i: usize| &self.covariance[self.first(rows) + i][self.first(cols)..];
        (0..self.dims[rows as usize]).map(|i| row(i).iter().zip(v).map(|(c, v)| c * v).sum()).collect()
    }

    /// (C + r tr(C) / d I) v of one side.
    fn regularised(&self, side: Side, r: f64, v: &[f64]) -> Vec<f64> {
        let (first, dim) = (self.first(side), self.dims[side as usize]);
        let mean = (first..first + dim).map(|i| self.covariance[i][i]).sum::<f64>() / dim as f64;
        self.times(side, side, v).iter().zip(v).map(|(c, v)| c + r * mean * v).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The weight of one side by rows, and its bias.
fn rows(head: &Head, side: Side) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (weight, bias) = head.side(side);
    let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    (weight.chunks(head.feature_dim(side)).map(double).collect(), double(&bias))
}

fn fit(form: ClosedForm, dataset: &Dataset, embed: usize, r: f64) -> Baseline {
    let config = TrainConfig::default().with(|c| c.embed = embed);
    Baseline::fit(form, &Device::cpu(), dataset, &config, &[r]).unwrap()
}

/// Difficult features: a constant column, two equal columns, large means, and a part that both sides share. There may
/// be fewer rows than columns.
fn awkward(rows: u32, dims: [usize; 2]) -> Arc<Dataset> {
    dataset(rows, dims, |numbers, x, y| {
        x.fill_with(|| numbers.next() as f32);
        y.fill_with(|| numbers.next() as f32);
        y[0] = x[0] + 0.3 * y[0];
        x[1] = 3.0;
        x[2] = x[0];
        x.iter_mut().for_each(|x| *x += 20.0);
    })
}

const SHAPES: [(u32, [usize; 2]); 3] = [(76, [7, 4]), (76, [4, 7]), (22, [11, 8])];

/// Checks Cxy wy = ρ Kx wx and Cyx wx = ρ Ky wy, the generalised eigenproblem, and that the directions of a side are
/// orthogonal in K.
#[test]
fn cca_solves_its_eigenproblem() {
    for (count, dims) in SHAPES {
        let (data, r) = (awkward(count, dims), 0.05);
        let moments = Moments::of(&data);
        let Baseline { head, correlations, .. } = fit(ClosedForm::Cca, &data, 2, r);
        assert_eq!((correlations.len(), head.dim()), (2, 2));
        assert!(correlations.is_sorted_by(|a, b| a >= b) && correlations[0] < 1.0 && correlations[0] > 0.5);
        let ((wx, bx), (wy, by)) = (rows(&head, Side::Image), rows(&head, Side::Text));
        let mut scales = Vec::new();
        // Two columns of the images depend on the others, so of four columns only two directions remain.
        for k in 0..2 {
            let rho = correlations[k];
            let kx = moments.regularised(Side::Image, r, &wx[k]);
            let ky = moments.regularised(Side::Text, r, &wy[k]);
            // Each side has its own scale, which is the same for all directions.
            let cy = moments.times(Side::Image, Side::Text, &wy[k]);
            let cx = moments.times(Side::Text, Side::Image, &wx[k]);
            for (c, k) in [(&cy, &kx), (&cx, &ky)] {
                let scale = dot(c, k) / dot(k, k);
                scales.push(scale / rho);
                let residual: f64 = c.iter().zip(k).map(|(c, k)| (c - scale * k).powi(2)).sum();
                assert!((residual / dot(c, c)).sqrt() < 1e-5, "{dims:?} {k:?}");
            }
            let (a, b) = (scales[2 * k], scales[2 * k + 1]);
            assert!((a * b - 1.0).abs() < 1e-4 && (a - scales[0]).abs() < 1e-4 * scales[0], "{scales:?}");
            for other in 0..k {
                let (own, cross) = (dot(&wx[k], &kx), dot(&wx[other], &kx));
                assert!(
                    cross.abs()
                        < 1e-4 * own.max(dot(&wx[other], &moments.regularised(Side::Image, r, &wx[other])))
                );
            }
            for (w, b, mean) in [(&wx, &bx, &moments.mean[..dims[0]]), (&wy, &by, &moments.mean[dims[0]..])] {
                assert!((b[k] + dot(&w[k], mean)).abs() < 1e-4, "centred");
            }
        }
    }
}

#[test]
fn cca_recovers_known_correlations() {
    let known: [f64; 3] = [0.9, 0.6, 0.3];
    let data = dataset(8016, [5, 3], |numbers, x, y| {
        x.fill_with(|| numbers.next() as f32);
        for (i, rho) in known.iter().enumerate() {
            let own = (1.0 - rho * rho).sqrt() * numbers.next();
            y[i] = (10.0 * (rho * f64::from(x[i]) + own)) as f32 + 7.0;
        }
    });
    let found = fit(ClosedForm::Cca, &data, 3, 1e-6).correlations;
    assert!(found.iter().zip(known).all(|(a, b)| (a - b).abs() < 0.03), "{found:?}");
}

/// Checks K B = C for the mapped side, up to the scale of its layer. The other side is only centred.
#[test]
fn ridge_satisfies_the_normal_equations() {
    for (count, dims) in SHAPES {
        let (data, r) = (awkward(count, dims), 0.05);
        let moments = Moments::of(&data);
        let head = fit(ClosedForm::Ridge, &data, 3, r).head;
        // The head is as wide as the side that is predicted.
        let (from, to) =
            if head.dim() == dims[1] { (Side::Image, Side::Text) } else { (Side::Text, Side::Image) };
        let (w, _) = rows(&head, from);
        let (identity, _) = rows(&head, to);
        let mut scale = None;
        for (k, w) in w.iter().enumerate() {
            assert!(identity[k].iter().enumerate().all(|(i, x)| (*x != 0.0) == (i == k)));
            let unit: Vec<f64> = (0..head.dim()).map(|i| f64::from(u8::from(i == k))).collect();
            let (left, right) = (moments.regularised(from, r, w), moments.times(from, to, &unit));
            if dot(&right, &right) < 1e-20 {
                assert!(dot(w, w) < 1e-12, "a constant column is predicted by its mean");
                continue;
            }
            let own = *scale.get_or_insert(dot(&left, &right) / dot(&right, &right));
            let residual: f64 = left.iter().zip(&right).map(|(l, r)| (l - own * r).powi(2)).sum();
            assert!((residual / (own * own * dot(&right, &right))).sqrt() < 1e-5, "{dims:?} {k}");
        }
        assert!(scale.is_some());
    }
}

/// Texts are images plus some noise. All features are shifted by `offset`.
fn learnable(offset: f32) -> Arc<Dataset> {
    dataset(144, [6, 5], |numbers, x, y| {
        x.fill_with(|| numbers.next() as f32);
        x.iter_mut().for_each(|x| *x += offset);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = *x + 0.2 * numbers.next() as f32);
    })
}

#[test]
fn training_starts_from_cca() {
    let data = learnable(0.0);
    // The learning rate is so small that the head after an epoch still is the first head. The sixth to eighth
    // directions do not exist.
    let config = TrainConfig::default().with(|c| {
        c.embed = 8;
        c.lr = 1e-12;
        c.weight_decay = 0.0;
        c.epochs = 1;
        c.batch = 16;
    });
    let train = |init| {
        let config = config.clone().with(|c| c.init = init);
        let mut trainer = Trainer::new(&Device::cpu(), data.clone(), config).unwrap();
        trainer.run_epoch().unwrap();
        trainer.best().unwrap().head().clone()
    };
    let (cca, again, xavier) = (train(Init::Cca), train(Init::Cca), train(Init::Xavier));
    assert!(cca == again);
    let baseline = Baseline::fit(
        ClosedForm::Cca,
        &Device::cpu(),
        &data,
        &TrainConfig::default().with(|c| c.embed = 8),
        &wgoal::train::REGULARIZATIONS,
    );
    let baseline = baseline.unwrap().head;
    assert_eq!(baseline.dim(), 5);
    for side in [Side::Image, Side::Text] {
        let dim = data.dim(side);
        let [cca, xavier, baseline] = [&cca, &xavier, &baseline].map(|head| head.side(side).0);
        let square = |w: &[f32]| w.iter().map(|x| f64::from(x * x)).sum::<f64>() / w.len() as f64;
        // Beyond them, weights are small: they must not change what the directions rank.
        assert!(cca[5 * dim..].iter().zip(&xavier[5 * dim..]).all(|(a, b)| (a - 1e-4 * b).abs() < 1e-9));
        // The directions are the same. The scale is that of a fresh layer.
        let ratio = f64::from(cca[0] / baseline[0]);
        assert!(cca.iter().zip(&baseline).all(|(a, b)| (f64::from(*a) - ratio * f64::from(*b)).abs() < 1e-5));
        assert!((0.5..2.0).contains(&(square(&cca[..5 * dim]) / square(&xavier)).sqrt()));
    }
}
