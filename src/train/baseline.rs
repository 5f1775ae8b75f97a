//! Closed-form heads: regularised canonical correlation analysis (Hotelling, 1936; Vinod, 1976) and ridge regression
//! (Hoerl and Kennard, 1970).
//!
//! They are the baseline of a trained head, and training may start from CCA ([`crate::train::Init::Cca`]). Both follow
//! from the means and covariances of the training pairs. Each caption counts as one (image, caption) pair. One pass over
//! the rows computes the moments, so the features need not fit into memory. Everything is computed in f64 on the CPU.
//!
//! The file is long because both share the search for the regularisation.

use super::algebra::{eigen, times};
use super::kernel_cca::{BANDWIDTHS, KERNEL_REGULARIZATIONS, KernelCca};
use super::landmark_cca::{LANDMARK_BANDWIDTHS, LANDMARK_REGULARIZATIONS, LandmarkCca};
use super::memory::check_covariances;
use super::solved::{Solution, Solved};
use super::sums::Sums;
use super::{Init, TrainConfig};
use crate::cluster::Parts;
use crate::data::{Dataset, Side, Split};
use crate::device::Device;
use crate::eval::{LandmarkItems, Recall};
use crate::model::{BANDWIDTH, Head, HeadConfig, LANDMARK_BANDWIDTH};
use crate::{Error, Result};
use faer::{Mat, MatRef};
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
    /// CCA with a kernel. With landmarks it is the Gaussian kernel of unit rows. With random Fourier features it is
    /// approximately the sum of a linear and a Gaussian kernel. The directions are weighted by their correlations.
    KernelCca,
}

impl FromStr for ClosedForm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cca" => Ok(Self::Cca),
            "ridge" => Ok(Self::Ridge),
            "kcca" => Ok(Self::KernelCca),
            _ => {
                Err(Error::config("baseline", "cca, ridge or kcca", format!("'{name}'"), "name one of them"))
            }
        }
    }
}

impl fmt::Display for ClosedForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cca => "cca",
            Self::Ridge => "ridge",
            Self::KernelCca => "kcca",
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
    /// The regularisation r. r times the mean variance of the features is added to each variance; of kernel CCA with
    /// landmarks, r times the variance of all together.
    pub regularization: f64,
    /// The bandwidth of the Gaussian kernel of [`ClosedForm::KernelCca`], as a multiple of the median distance between
    /// training rows.
    pub bandwidth: Option<f64>,
    /// The recall on the validation split.
    pub val: Recall,
    /// The regularised canonical correlations of CCA and kernel CCA in descending order; empty for ridge.
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

impl Moments {
    /// Computes the moments in one pass over the training pairs, in the parts of so many slices.
    fn of(device: &Device, dataset: &Dataset, head: &Head, slices: usize) -> Result<Self> {
        let (split, preprocess) = (dataset.split(Split::Train), head.preprocess(0.0)?);
        let parts = Parts::new(split.texts.len(), CHUNK, slices);
        let dims = head.layout.dims;
        device.agree("memory of the moments", check_covariances(dims, parts.count()))?;
        let size = (parts.count(), Sums::len(dims));
        let sums = device.sum("moments", size, |part| {
            let mut sums = Sums::new(dims);
            for strip in parts.strips(part) {
                device.check_stop()?;
                sums.add(dataset, &preprocess, split, strip)?;
            }
            Ok(sums.into_numbers())
        })?;
        let Sums { sums, images, texts, cross, .. } = Sums::from_numbers(dims, &sums);
        let n = split.texts.len() as f64;
        let means = sums.map(|sum| sum.into_iter().map(|x| x / n).collect::<Vec<f64>>());
        let centred = |sum: Mat<f64>, a: &[f64], b: &[f64]| {
            Mat::from_fn(sum.nrows(), sum.ncols(), |i, j| sum[(i, j)] / n - a[i] * b[j])
        };
        let cross = centred(cross, &means[0], &means[1]);
        let own = [centred(images, &means[0], &means[0]), centred(texts, &means[1], &means[1])];
        let [(e_image, d_image), (e_text, d_text)] = eigen_of_both(device, &own)?;
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

/// The eigenvectors and eigenvalues of the covariances of both sides. Processes divide the sides.
fn eigen_of_both(device: &Device, own: &[Mat<f64>; 2]) -> Result<[(Mat<f64>, Vec<f64>); 2]> {
    if device.place()[1] == 1 {
        return Ok([eigen(&own[0])?, eigen(&own[1])?]);
    }
    let numbers = |side: usize| {
        let (vectors, values) = eigen(&own[side])?;
        Ok(vectors.col_iter().flat_map(|column| column.iter()).copied().chain(values).collect())
    };
    let numbers = device.share(2).map(numbers).collect::<Result<Vec<Vec<f64>>>>();
    let numbers = device.join("eigenvectors", numbers.map(|numbers| numbers.concat()))?;
    let mut rest = &numbers[..];
    Ok([0, 1].map(|side| {
        let n = own[side].nrows();
        let (vectors, after) = rest.split_at(n * n);
        let (values, after) = after.split_at(n);
        rest = after;
        (Mat::from_fn(n, n, |i, j| vectors[j * n + i]), values.to_vec())
    }))
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
    /// From `config` it uses `embed` (not for ridge), the preparation of features (pooling, signed root and
    /// standardisation), and for kernel CCA `landmarks`, `random_features`, `bandwidth` and `seed`. Kernel CCA
    /// chooses among the bandwidths as well; if there are none, among [`LANDMARK_BANDWIDTHS`] or [`BANDWIDTHS`].
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
        if form == ClosedForm::KernelCca {
            let defaults = if config.landmarks > 0 { &LANDMARK_BANDWIDTHS[..] } else { &BANDWIDTHS };
            let bandwidths = if config.bandwidth.is_empty() { defaults } else { &config.bandwidth };
            return Self::kernel_cca(device, dataset, config, bandwidths, regularizations);
        }
        check(form, (device, dataset), config, regularizations)?;
        let config = &config.clone().with(|config| (config.random_features, config.landmarks) = (0, 0));
        let template = Head::for_dataset_on(device, dataset, &config.head(), (config.seed, config.slices))?;
        let moments = Moments::of(device, dataset, &template, config.slices)?;
        let [p, q] = template.layout.dims;
        let mut best = Best::default();
        let wide = |embed| {
            Ok::<_, Error>(Head {
                standardize: template.standardize.clone(),
                ..Head::for_config(p, q, &HeadConfig { embed, ..config.head() }, config.seed)?
            })
        };
        if form == ClosedForm::Cca {
            let solve = |regularization| {
                let (directions, correlations) = moments.cca(regularization, config.embed)?;
                let mut head = wide(correlations.len())?;
                for ((side, spectrum), w) in
                    [Side::Image, Side::Text].into_iter().zip(&moments.sides).zip(&directions)
                {
                    spectrum.set(&mut head, side, w.as_ref())?;
                }
                Ok((head, correlations))
            };
            for solved in Solved::new(device, regularizations, solve, wide) {
                let (regularization, solution) = solved?;
                best.try_out((device, dataset, config), solution, (regularization, None))?;
            }
        } else {
            for &regularization in regularizations {
                for (from, to) in [(Side::Image, Side::Text), (Side::Text, Side::Image)] {
                    device.check_stop()?;
                    let target = &moments.sides[to as usize];
                    let mut head = wide(target.mean.len())?;
                    let w = moments.ridge(from, regularization);
                    moments.sides[from as usize].set(&mut head, from, w.as_ref())?;
                    let identity = Mat::<f64>::identity(target.mean.len(), target.mean.len());
                    target.set(&mut head, to, identity.as_ref())?;
                    best.try_out((device, dataset, config), (head, Vec::new()), (regularization, None))?;
                }
            }
        }
        best.0.ok_or_else(|| Error::config("--regularization", "one or several numbers", "none", "give one"))
    }

    /// [`Baseline::fit`] of [`ClosedForm::KernelCca`] with other bandwidths. Of all combinations, the one with the
    /// highest validation rsum wins; on ties the first.
    ///
    /// # Errors
    /// Those of [`Baseline::fit`]; also a bandwidth or a regularisation of 0 or below, none of them, or neither
    /// landmarks nor random features.
    pub fn kernel_cca(
        device: &Device,
        dataset: &Dataset,
        config: &TrainConfig,
        bandwidths: &[f64],
        regularizations: &[f64],
    ) -> Result<Self> {
        check(ClosedForm::KernelCca, (device, dataset), config, regularizations)?;
        config.need_kernel("kcca")?;
        for (option, numbers) in [("--bandwidth", bandwidths), ("--regularization", regularizations)] {
            let bad = numbers.iter().find(|x| !(x.is_finite() && **x > 0.0)).map(f64::to_string);
            if let Some(found) = bad.or(numbers.is_empty().then(|| "none".into())) {
                let advice = "give one or several such numbers";
                return Err(Error::config(option, "finite numbers above 0", found, advice));
            }
        }
        let fresh = Head::for_dataset_on(device, dataset, &config.head(), (config.seed, config.slices))?;
        let mut best = Best::default();
        for &bandwidth in bandwidths {
            let mut template = fresh.clone();
            for side in [Side::Image, Side::Text] {
                template.scale_frequencies(side, BANDWIDTH / bandwidth)?;
                template.scale_landmarks(side, (LANDMARK_BANDWIDTH / bandwidth).powi(2));
            }
            let solver = match config.landmarks {
                0 => Solver::RandomFeatures(KernelCca::new(device, dataset, template, config.slices)?),
                most => {
                    let items = LandmarkItems::of(dataset, most, config.seed);
                    Solver::Landmarks(LandmarkCca::new(device, dataset, template, items, config.slices)?)
                }
            };
            let solve = |regularization| match &solver {
                Solver::RandomFeatures(moments) => moments.head(regularization, config.seed),
                Solver::Landmarks(kernels) => kernels.head(regularization, config.seed),
            };
            let empty = |width| match &solver {
                Solver::RandomFeatures(moments) => Ok(moments.empty(width)),
                Solver::Landmarks(kernels) => Ok(kernels.empty(width)),
            };
            for solved in Solved::new(device, regularizations, solve, empty) {
                let (regularization, solution) = solved?;
                best.try_out((device, dataset, config), solution, (regularization, Some(bandwidth)))?;
            }
        }
        best.0.ok_or_else(|| Error::config("--bandwidth", "one or several numbers", "none", "give one"))
    }
}

/// The head with the highest validation rsum so far, and the first of equal ones.
#[derive(Default)]
struct Best(Option<Baseline>);

impl Best {
    /// Validates a head.
    fn try_out(
        &mut self,
        (device, dataset, config): (&Device, &Dataset, &TrainConfig),
        (head, correlations): Solution,
        (regularization, bandwidth): (f64, Option<f64>),
    ) -> Result<()> {
        let val = head.recall(device, dataset, Split::Val, 1, config.equal_captions)?;
        if self.0.as_ref().is_none_or(|best| val.rsum > best.val.rsum) {
            self.0 = Some(Baseline { head, regularization, bandwidth, val, correlations });
        }
        Ok(())
    }
}

/// What the heads of kernel CCA of one bandwidth have in common.
enum Solver {
    RandomFeatures(KernelCca),
    Landmarks(LandmarkCca),
}

/// Checks what all closed forms need, and shares what their checkpoint needs.
fn check(
    form: ClosedForm,
    (device, dataset): (&Device, &Dataset),
    config: &TrainConfig,
    regularizations: &[f64],
) -> Result<()> {
    if !config.is_linear() {
        let advice = "use --image-encoder linear, --text-encoder linear and poolings other than gpo";
        return Err(Error::config(form, "linear heads", "pooling or an encoder that is learned", advice));
    }
    for split in [Split::Train, Split::Val] {
        dataset.need(split)?;
    }
    let bad = regularizations.iter().find(|r| !(r.is_finite() && **r >= 0.0)).map(f64::to_string);
    if let Some(found) = bad.or(regularizations.is_empty().then(|| "none".into())) {
        let expected = "finite numbers of 0 or more";
        return Err(Error::config("--regularization", expected, found, "give one or several such numbers"));
    }
    dataset.share_content_hash(device)
}

/// The closed form from which a run starts, with the regularisation that validation chooses. It uses the width of
/// `config` and its preparation of features.
pub(crate) fn start(device: &Device, dataset: &Dataset, config: &TrainConfig) -> Result<Head> {
    let (form, defaults) = match config.init {
        Init::KernelCca if config.landmarks > 0 => (ClosedForm::KernelCca, &LANDMARK_REGULARIZATIONS[..]),
        Init::KernelCca => (ClosedForm::KernelCca, &KERNEL_REGULARIZATIONS[..]),
        _ => (ClosedForm::Cca, &REGULARIZATIONS[..]),
    };
    let regularizations = if config.regularization.is_empty() { defaults } else { &config.regularization };
    Ok(Baseline::fit(form, device, dataset, &config.in_closed_form(), regularizations)?.head)
}

/// How much smaller than a fresh layer's the weights beyond the closed form are. The square of it is lost in the
/// rounding of f32, so the head ranks as the closed form does. But they are not zero, so they have gradients.
const BEYOND: f32 = 1e-4;

/// Starts a fresh head from a closed form. What the closed form does not have keeps small random weights: rows beyond
/// its width, which the narrower side limits, random features and landmarks. A perceptron adds nothing at first.
pub(crate) fn start_from(head: &mut Head, closed: &Head) -> Result<()> {
    let over = |own: &mut [f32], from: &[f32]| {
        own[from.len()..].iter_mut().for_each(|x| *x *= BEYOND);
        own[..from.len()].copy_from_slice(from);
    };
    for side in [Side::Image, Side::Text] {
        let (mut weight, mut bias) = head.side(side);
        let (from_weight, from_bias) = closed.side(side);
        over(&mut weight, &from_weight);
        bias[..from_bias.len()].copy_from_slice(&from_bias);
        head.set_side(side, &weight, &bias)?;
        for (weight, from) in head.derived(side).into_iter().zip(closed.derived(side)) {
            let Some(weight) = weight else { continue };
            let mut values = weight.get(&head.values);
            over(&mut values, &from.map_or_else(Vec::new, |from| from.get(&closed.values)));
            weight.set(&mut head.values, &values)?;
        }
        head.take_fixed(closed, side);
        head.silence_mlp(side);
    }
    Ok(())
}
