//! Closed-form heads: regularised canonical correlation analysis (Hotelling, 1936; Vinod, 1976) and ridge regression
//! (Hoerl and Kennard, 1970).
//!
//! They are the baseline of a trained head, and training may start from CCA ([`crate::train::Init::Cca`]). Both follow
//! from the means and covariances of the training pairs. Each caption counts as one (image, caption) pair. One pass
//! over the rows computes the moments, so the features need not fit into memory. Everything is computed in f64 on the
//! CPU.

use super::TrainConfig;
use crate::data::{Dataset, Side, Split};
use crate::device::{Device, padded};
use crate::eval::Recall;
use crate::model::{Head, HeadConfig};
use crate::{Error, Result};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;
use std::fmt;
use std::str::FromStr;

/// The number of pairs whose features are in memory at a time.
const CHUNK: usize = 1024;

/// A method that makes a head without training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClosedForm {
    /// Regularised canonical correlation analysis. The directions are weighted by their correlations.
    Cca,
    /// Ridge regression of one side's features on those of the other side. The direction with the higher validation
    /// rsum wins.
    Ridge,
}

impl FromStr for ClosedForm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cca" => Ok(Self::Cca),
            "ridge" => Ok(Self::Ridge),
            _ => Err(Error::config("baseline", "cca or ridge", format!("'{name}'"), "name one of them")),
        }
    }
}

impl fmt::Display for ClosedForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cca => "cca",
            Self::Ridge => "ridge",
        })
    }
}

/// A closed-form head, with the regularisation that validation chose.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Baseline {
    /// The head. For CCA its width is `embed` of the configuration, but at most that of the narrower features. For
    /// ridge it is the width of one side's features.
    pub head: Head,
    /// The regularisation r. r times the mean variance of the features is added to each variance.
    pub regularization: f64,
    /// The recall on the validation split.
    pub val: Recall,
    /// CCA's regularised canonical correlations in descending order; empty for ridge.
    pub correlations: Vec<f64>,
}

/// The default regularisations from which validation chooses.
pub const REGULARIZATIONS: [f64; 4] = [0.03, 0.1, 0.3, 1.0];

/// The mean of one side, and the eigenvectors and eigenvalues of its covariance. Eigenvalues that rounding made
/// negative are set to 0.
struct Spectrum {
    mean: Vec<f64>,
    vectors: Mat<f64>,
    values: Vec<f64>,
}

/// Everything that both closed forms need from the training pairs.
struct Moments {
    sides: [Spectrum; 2],
    /// The covariance of images with texts, in the coordinates of both sides' eigenvectors, `[P, Q]`.
    cross: Mat<f64>,
}

fn times(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    add_product(&mut out, a, b);
    out
}

/// out += a b, on all cores. The columns are divided into chunks of fixed size, so the bits do not depend on the number
/// of threads. With the threads of the matrix library they would.
fn add_product(out: &mut Mat<f64>, a: MatRef<f64>, b: MatRef<f64>) {
    const COLUMNS: usize = 64;
    out.par_col_chunks_mut(COLUMNS).zip(b.par_col_chunks(COLUMNS)).for_each(|(out, b)| {
        matmul(out, Accum::Add, a, b, 1.0, Par::Seq);
    });
}

/// The eigenvectors of a symmetric matrix by descending eigenvalue. On one thread, because with several the bits depend
/// on their number.
fn eigen(symmetric: &Mat<f64>) -> Result<(Mat<f64>, Vec<f64>)> {
    let n = symmetric.nrows();
    let (mut vectors, mut values) = (Mat::zeros(n, n), Diag::zeros(n));
    let (par, params) = (Par::Seq, Default::default());
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, params);
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let out = Some(vectors.as_mut());
    self_adjoint_evd(symmetric.as_ref(), values.as_mut(), out, par, stack, params).map_err(|e| {
        let advice = "check the features for values that are extremely large";
        Error::data("covariance of the features", "an eigendecomposition", format!("{e:?}"), advice)
    })?;
    let vectors = vectors.reverse_cols().to_owned();
    let mut values: Vec<f64> = values.column_vector().iter().map(|&x| x.max(0.0)).collect();
    values.reverse();
    Ok((vectors, values))
}

impl Moments {
    /// Computes the moments in one pass over the training pairs.
    fn of(dataset: &Dataset, head: &Head) -> Result<Self> {
        let (split, preprocess) = (dataset.split(Split::Train), head.preprocess(0.0)?);
        let dims = head.layout.dims;
        let mut sums = dims.map(|dim| vec![0.0; dim]);
        let [p, q] = dims;
        let [mut images, mut texts, mut cross] =
            [(p, p), (q, q), (p, q)].map(|(r, c)| Mat::<f64>::zeros(r, c));
        let mut host = Vec::new();
        for (captions, places) in split.texts.chunks(CHUNK).zip(split.text_image.chunks(CHUNK)) {
            let own: Vec<u32> = places.iter().map(|&place| split.images[place as usize]).collect();
            let mut read = |side: Side, rows: &[u32]| -> Result<Mat<f64>> {
                preprocess.rows(dataset, side, rows, &mut host)?;
                let (dim, stride) = (dims[side as usize], padded(dims[side as usize]));
                for row in host.chunks_exact(stride) {
                    sums[side as usize].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
                }
                Ok(Mat::from_fn(rows.len(), dim, |i, j| f64::from(host[i * stride + j])))
            };
            let (a, b) = (read(Side::Image, &own)?, read(Side::Text, captions)?);
            for (sum, x, y) in [(&mut images, &a, &a), (&mut texts, &b, &b), (&mut cross, &a, &b)] {
                add_product(sum, x.transpose(), y.as_ref());
            }
        }
        let n = split.texts.len() as f64;
        let means = sums.map(|sum| sum.into_iter().map(|x| x / n).collect::<Vec<f64>>());
        let centred = |sum: Mat<f64>, a: &[f64], b: &[f64]| {
            Mat::from_fn(sum.nrows(), sum.ncols(), |i, j| sum[(i, j)] / n - a[i] * b[j])
        };
        let cross = centred(cross, &means[0], &means[1]);
        let (e_image, d_image) = eigen(&centred(images, &means[0], &means[0]))?;
        let (e_text, d_text) = eigen(&centred(texts, &means[1], &means[1]))?;
        let cross = times(e_image.transpose(), times(cross.as_ref(), e_text.as_ref()).as_ref());
        let [image_mean, text_mean] = means;
        let image = Spectrum { mean: image_mean, vectors: e_image, values: d_image };
        let text = Spectrum { mean: text_mean, vectors: e_text, values: d_text };
        Ok(Self { sides: [image, text], cross })
    }

    /// The canonical directions of both sides, at most `width` of them, as columns weighted by their correlations; and
    /// the correlations.
    ///
    /// With N = (D_a + r_a)^-1/2 E_aᵀ C E_b (D_b + r_b)^-1/2 = U S Vᵀ the directions are A = E_a (D_a + r_a)^-1/2 U S and
    /// B = E_b (D_b + r_b)^-1/2 V S.
    fn cca(&self, regularization: f64, width: usize) -> Result<([Mat<f64>; 2], Vec<f64>)> {
        let [image, text] = &self.sides;
        let (wa, wb) = (image.powers(regularization, -0.5), text.powers(regularization, -0.5));
        let n =
            Mat::from_fn(self.cross.nrows(), self.cross.ncols(), |i, j| wa[i] * self.cross[(i, j)] * wb[j]);
        // The eigenvectors of the smaller Gram matrix are the singular vectors of the narrower side. N maps them to
        // those of the other side, times S.
        let texts_narrower = n.ncols() <= n.nrows();
        let gram =
            if texts_narrower { times(n.transpose(), n.as_ref()) } else { times(n.as_ref(), n.transpose()) };
        let (vectors, squares) = eigen(&gram)?;
        let width = width.min(squares.len());
        let correlations: Vec<f64> = squares[..width].iter().map(|x| x.sqrt()).collect();
        let vectors = vectors.subcols(0, width);
        let scaled = Mat::from_fn(vectors.nrows(), width, |i, j| vectors[(i, j)] * correlations[j]);
        let across = if texts_narrower { times(n.as_ref(), vectors) } else { times(n.transpose(), vectors) };
        let [u, v] = if texts_narrower { [across, scaled] } else { [scaled, across] };
        let out = |side: &Spectrum, w: &[f64], u: Mat<f64>| {
            times(side.vectors.as_ref(), Mat::from_fn(u.nrows(), width, |i, j| w[i] * u[(i, j)]).as_ref())
        };
        Ok(([out(image, &wa, u), out(text, &wb, v)], correlations))
    }

    /// The matrix of the regression of `to` on `from`, `[from, to]`.
    fn ridge(&self, from: Side, regularization: f64) -> Mat<f64> {
        let [image, text] = &self.sides;
        let (source, target, cross) = match from {
            Side::Image => (image, text, self.cross.as_ref()),
            Side::Text => (text, image, self.cross.transpose()),
        };
        let w = source.powers(regularization, -1.0);
        let solved = Mat::from_fn(cross.nrows(), cross.ncols(), |i, j| w[i] * cross[(i, j)]);
        times(times(source.vectors.as_ref(), solved.as_ref()).as_ref(), target.vectors.transpose())
    }
}

impl Spectrum {
    /// (D + r mean(D))^power; 0 for directions without variance.
    fn powers(&self, regularization: f64, power: f64) -> Vec<f64> {
        let mean = self.values.iter().sum::<f64>() / self.values.len() as f64;
        let floor = f64::EPSILON * mean;
        let power = |&d: &f64| {
            let d = d + regularization * mean;
            if d > floor { d.powf(power) } else { 0.0 }
        };
        self.values.iter().map(power).collect()
    }

    /// Sets a side of a head to x -> Wᵀ (x − mean). Rows of the head beyond the columns of W keep their values.
    ///
    /// The L2 norm makes the scale of W irrelevant for the embeddings, but the scale matters for optimiser steps. W is
    /// therefore scaled to the root mean square of a fresh layer's weights, so that the same learning rates suit both.
    fn set(&self, head: &mut Head, side: Side, w: MatRef<f64>) -> Result<()> {
        let (dim, width) = (w.nrows(), w.ncols());
        let squares: f64 = w.col_iter().map(|col| col.iter().map(|x| x * x).sum::<f64>()).sum();
        let rms = (squares / (dim * width) as f64).sqrt();
        let scale = if rms > 0.0 { (2.0 / (dim + head.dim()) as f64).sqrt() / rms } else { 0.0 };
        let (mut weight, mut bias) = head.side(side);
        for (j, (row, bias)) in weight.chunks_exact_mut(dim).zip(&mut bias).take(width).enumerate() {
            let mut shift = 0.0;
            for ((x, &w), mean) in row.iter_mut().zip(w.col(j).iter()).zip(&self.mean) {
                *x = (scale * w) as f32;
                shift -= scale * w * mean;
            }
            *bias = shift as f32;
        }
        head.set_side(side, &weight, &bias)
    }
}

impl Baseline {
    /// Fits a closed-form head to the training split. Of the `regularizations`, the one with the highest validation
    /// rsum wins; on ties the first.
    ///
    /// From `config` it uses `embed` (CCA only) and the preparation of features: pooling, signed root and
    /// standardisation.
    ///
    /// The function is long because validation chooses among heads that share the moments computed at its top.
    ///
    /// # Errors
    /// The head of the configuration is not linear, no regularisation is given or one is below 0, a row has a bad
    /// value, or the device fails.
    pub fn fit(
        form: ClosedForm,
        device: &Device,
        dataset: &Dataset,
        config: &TrainConfig,
        regularizations: &[f64],
    ) -> Result<Self> {
        if !config.is_linear() {
            let advice = "use --image-encoder linear and poolings other than gpo";
            return Err(Error::config(form, "linear heads", "pooling or an encoder that is learned", advice));
        }
        for split in [Split::Train, Split::Val] {
            dataset.need(split)?;
        }
        let bad = regularizations.iter().find(|r| !(r.is_finite() && **r >= 0.0)).map(f64::to_string);
        if let Some(found) = bad.or(regularizations.is_empty().then(|| "none".into())) {
            let expected = "finite numbers of 0 or more";
            return Err(Error::config(
                "--regularization",
                expected,
                found,
                "give one or several such numbers",
            ));
        }
        let template = Head::for_dataset(dataset, &config.head(), config.seed)?;
        let moments = Moments::of(dataset, &template)?;
        let [p, q] = template.layout.dims;
        let mut best: Option<Self> = None;
        for &regularization in regularizations {
            let mut candidates = Vec::new();
            let wide = |embed| {
                Ok::<_, Error>(Head {
                    standardize: template.standardize.clone(),
                    ..Head::for_config(p, q, &HeadConfig { embed, ..config.head() }, config.seed)?
                })
            };
            match form {
                ClosedForm::Cca => {
                    let (directions, correlations) = moments.cca(regularization, config.embed)?;
                    let mut head = wide(correlations.len())?;
                    for ((side, spectrum), w) in
                        [Side::Image, Side::Text].into_iter().zip(&moments.sides).zip(&directions)
                    {
                        spectrum.set(&mut head, side, w.as_ref())?;
                    }
                    candidates.push((head, correlations));
                }
                ClosedForm::Ridge => {
                    for (from, to) in [(Side::Image, Side::Text), (Side::Text, Side::Image)] {
                        let target = &moments.sides[to as usize];
                        let mut head = wide(target.mean.len())?;
                        let w = moments.ridge(from, regularization);
                        moments.sides[from as usize].set(&mut head, from, w.as_ref())?;
                        let identity = Mat::<f64>::identity(target.mean.len(), target.mean.len());
                        target.set(&mut head, to, identity.as_ref())?;
                        candidates.push((head, Vec::new()));
                    }
                }
            }
            for (head, correlations) in candidates {
                let val = head.recall(device, dataset, Split::Val, 1, config.equal_captions)?;
                if best.as_ref().is_none_or(|best| val.rsum > best.val.rsum) {
                    best = Some(Self { head, regularization, val, correlations });
                }
            }
        }
        best.ok_or_else(|| Error::config("--regularization", "one or several numbers", "none", "give one"))
    }
}

/// The CCA from which a run starts, with the regularisation that validation chooses. It uses the width of `config` and
/// its preparation of features.
pub(crate) fn cca(device: &Device, dataset: &Dataset, config: &TrainConfig) -> Result<Head> {
    Ok(Baseline::fit(ClosedForm::Cca, device, dataset, config, &REGULARIZATIONS)?.head)
}

/// How much smaller than a fresh layer's the weights beyond the closed form's width are. The square of it is lost in the
/// rounding of f32, so the head ranks as the closed form does. But they are not zero, so they have gradients.
const BEYOND: f32 = 1e-4;

/// Starts a fresh head from CCA. Rows beyond the width of CCA, which the narrower side limits, keep small random weights.
pub(crate) fn start_from(head: &mut Head, cca: &Head) -> Result<()> {
    for side in [Side::Image, Side::Text] {
        let (mut weight, mut bias) = head.side(side);
        let (from_weight, from_bias) = cca.side(side);
        weight[from_weight.len()..].iter_mut().for_each(|x| *x *= BEYOND);
        weight[..from_weight.len()].copy_from_slice(&from_weight);
        bias[..from_bias.len()].copy_from_slice(&from_bias);
        head.set_side(side, &weight, &bias)?;
    }
    Ok(())
}
