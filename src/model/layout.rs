//! Where each parameter of a head lies in the one flat buffer that the optimiser updates.
//!
//! The file is long because the order of all parameters, of every part of a head, is decided in one place.

use super::{EncoderKind, HeadConfig, Pooling, Side, SignedRoot};
use crate::device::{Buffer, Mat, MatMut, padded};
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;
use std::ops::Range;

/// The parts of a head, which determine where each parameter lies. A parameter is a matrix with padded rows that starts
/// on a 256-byte boundary. The parameters with weight decay and clipping come first, then temperature and bias of the
/// logits, then values that are not trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Width of the features of each side.
    pub dims: [usize; 2],
    /// Width of the embedding.
    pub embed: usize,
    /// Whether each side has a perceptron beside the linear layer.
    pub mlp: [bool; 2],
    /// How an item's features become one vector, for each side.
    pub pooling: [Pooling; 2],
    /// Whether the square root of each side's features is taken.
    pub signed_root: [bool; 2],
    /// Random Fourier features of each side.
    pub random_features: usize,
    pub landmarks: Landmarks,
}

/// Training items that a head compares its input with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Landmarks {
    /// The most images, as in [`HeadConfig::landmarks`].
    pub most: usize,
    /// The images, and all their captions.
    pub counts: [usize; 2],
}

/// A parameter of the head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Segment {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// Elements of the flat buffer.
    pub range: Range<usize>,
    start: Start,
}

/// The initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// Uniform in plus or minus this.
    Uniform(f64),
    /// Row i is filled with value i, or with the last value if there are fewer.
    Rows(&'static [f32]),
    /// Normal with mean 0 and this deviation.
    Normal(f64),
    /// Uniform in 0 to 1.
    Turn,
}

const LOGIT_BIAS: &str = "logit_bias";

const ZERO: Start = Start::Rows(&[0.0]);

/// The parameters of one side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SideLayout {
    /// `[embed, dim]`
    pub weight: Segment,
    /// `[embed]`
    pub bias: Segment,
    pub fourier: Option<FourierLayout>,
    pub landmarks: Option<LandmarkLayout>,
    pub mlp: Option<MlpLayout>,
    pub gpo: Option<GpoLayout>,
}

/// Random Fourier features (docs/math.md, "Random features"); m is their number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FourierLayout {
    /// `[embed, m]`
    pub weight: Segment,
    /// Turns per unit of the features `[m, dim]`, not trained.
    pub frequency: Segment,
    /// In turns `[m]`, not trained.
    pub phase: Segment,
}

/// The Gaussian kernel to landmarks (docs/math.md, "Landmarks"); n is their number, s the bandwidth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LandmarkLayout {
    /// `[embed, n]`
    pub weight: Segment,
    /// Unit rows divided by s² `[n, dim]`, not trained.
    pub rows: Segment,
    /// −1 / s², n times `[n]`, not trained.
    pub shift: Segment,
}

/// The perceptron of docs/math.md, "Residual encoder"; m is half the width of the embedding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MlpLayout {
    /// `[m, dim]`, and its bias `[m]`.
    pub first: [Segment; 2],
    /// Scale and shift `[2, m]`.
    pub norm: Segment,
    /// `[embed, m]`, and its bias `[embed]`.
    pub second: [Segment; 2],
    /// Running mean and variance `[2, m]`, not trained.
    pub running: Segment,
}

/// The generalised pooling operator (docs/math.md, "Generalised pooling"). The rows are the gates r, z, c of the
/// forward direction, then those of the backward direction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GpoLayout {
    /// `[6 hidden, encoding]`
    pub weight_ih: Segment,
    /// `[6 hidden, hidden]`
    pub weight_hh: Segment,
    /// `[6 hidden]`
    pub bias_ih: Segment,
    /// `[6 hidden]`
    pub bias_hh: Segment,
    /// `[hidden]`
    pub v: Segment,
}

/// Width of the positional encoding and of the GRU's states in a head's pooling, as in the published models.
pub(crate) const GPO: [usize; 2] = [32, 32];

/// The bandwidth of the kernel that a fresh head's random features approximate, as a multiple of the typical distance.
pub(crate) const BANDWIDTH: f64 = 0.7;

/// The bandwidth of the kernel of fresh landmarks, as a multiple of the typical distance between unit rows.
#[cfg(feature = "native")]
pub(crate) const LANDMARK_BANDWIDTH: f64 = 0.5;

/// The standard deviation of the frequencies, in turns, for a Gaussian kernel. Its bandwidth is that multiple of
/// `distance`.
pub(crate) fn frequency_deviation(bandwidth: f64, distance: f64) -> f64 {
    1.0 / (std::f64::consts::TAU * bandwidth * distance)
}

/// A standard normal number (Box and Muller, 1958) from numbers that are uniform in 0 to 1.
fn normal(unit: &mut impl FnMut() -> f64) -> f64 {
    let (radius, angle) = (1.0 - unit(), unit());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Places one segment after the other.
#[derive(Default)]
pub(crate) struct Allocation {
    end: usize,
}

impl Allocation {
    fn add(&mut self, name: String, rows: usize, cols: usize, start: Start) -> Segment {
        let first = self.end.next_multiple_of(64);
        self.end = first + rows * padded(cols);
        Segment { name, rows, cols, range: first..self.end, start }
    }

    /// Elements so far.
    pub fn len(&self) -> usize {
        self.end
    }

    pub fn gpo(&mut self, prefix: &str, [encoding, hidden]: [usize; 2]) -> GpoLayout {
        let start = Start::Uniform(1.0 / (hidden as f64).sqrt());
        let mut add = |name, rows, cols| self.add(format!("{prefix}{name}"), rows, cols, start);
        GpoLayout {
            weight_ih: add("weight_ih", 6 * hidden, encoding),
            weight_hh: add("weight_hh", 6 * hidden, hidden),
            bias_ih: add("bias_ih", 1, 6 * hidden),
            bias_hh: add("bias_hh", 1, 6 * hidden),
            v: add("v", 1, hidden),
        }
    }
}

impl MlpLayout {
    /// Gives the running statistics their place, after everything that is trained.
    fn with_statistics(self, all: &mut Allocation) -> Self {
        let Segment { name, rows, cols, start, .. } = self.running;
        Self { running: all.add(name, rows, cols, start), ..self }
    }
}

impl GpoLayout {
    pub fn segments(&self) -> [&Segment; 5] {
        [&self.weight_ih, &self.weight_hh, &self.bias_ih, &self.bias_hh, &self.v]
    }
}

/// All segments of a [`Layout`].
pub(crate) struct Segments {
    pub sides: [SideLayout; 2],
    pub temperature: Segment,
    pub logit_bias: Segment,
    len: usize,
}

impl Layout {
    pub fn linear(dims: [usize; 2], embed: usize) -> Self {
        let (pooling, signed_root) = ([Pooling::None; 2], [false; 2]);
        let landmarks = Landmarks::default();
        Self { dims, embed, mlp: [false; 2], pooling, signed_root, random_features: 0, landmarks }
    }

    /// Elements of the largest matrix.
    pub fn largest(&self) -> usize {
        let [images, captions] = self.landmarks.counts;
        let m = self.random_features.max(images).max(captions);
        let dim = self.dims[0].max(self.dims[1]);
        let widest = dim.max(m).max(if self.mlp.contains(&true) { self.embed.div_ceil(2) } else { 0 });
        widest.saturating_mul(self.embed).max(m.saturating_mul(dim))
    }

    pub fn of(dims: [usize; 2], config: &HeadConfig) -> Self {
        let mlp = config.encoders().map(|encoder| encoder == EncoderKind::ResidualMlp);
        let signed_root = config.signed_root.sides();
        let (embed, random_features) = (config.embed, config.random_features);
        let landmarks = Landmarks { most: config.landmarks, ..Landmarks::default() };
        Self { dims, embed, mlp, pooling: config.pooling(), signed_root, random_features, landmarks }
    }

    /// The options of this layout, the inverse of [`Layout::of`].
    pub fn config(&self, standardize: bool) -> HeadConfig {
        let [image_pooling, text_pooling] = self.pooling;
        let signed_root = SignedRoot::of(self.signed_root);
        let kind = |mlp| if mlp { EncoderKind::ResidualMlp } else { EncoderKind::Linear };
        let [image_encoder, text_encoder] = self.mlp.map(kind);
        HeadConfig {
            embed: self.embed,
            image_pooling,
            text_pooling,
            image_encoder,
            text_encoder,
            signed_root,
            standardize,
            random_features: self.random_features,
            landmarks: self.landmarks.most,
        }
    }

    pub fn parts(&self) -> Segments {
        let (embed, mut all) = (self.embed, Allocation::default());
        let mut linear = |name: &str, dim: usize| {
            let bound = (6.0 / (dim + embed) as f64).sqrt();
            [
                all.add(format!("{name}.weight"), embed, dim, Start::Uniform(bound)),
                all.add(format!("{name}.bias"), 1, embed, ZERO),
            ]
        };
        let linear = [linear("image", self.dims[0]), linear("text", self.dims[1])];
        let [image_mlp, text_mlp] = [0, 1].map(|side| self.mlp(&mut all, side));
        let [image, text] = self.pooling;
        let [image_gpo, text_gpo] = [(image, "image.gpo."), (text, "text.gpo.")]
            .map(|(pooling, prefix)| (pooling == Pooling::Gpo).then(|| all.gpo(prefix, GPO)));
        let fourier = self.fourier_weights(&mut all);
        let landmarks = self.landmark_weights(&mut all);
        let temperature = all.add("temperature".into(), 1, 1, ZERO);
        // Logits::values has the same layout.
        let logit_bias = all.add(LOGIT_BIAS.into(), 1, 1, ZERO);
        let [image_mlp, text_mlp] =
            [image_mlp, text_mlp].map(|mlp| mlp.map(|mlp| mlp.with_statistics(&mut all)));
        let [image_fourier, text_fourier] = self.fourier(&mut all, fourier);
        let [image_landmarks, text_landmarks] = self.landmarks(&mut all, landmarks);
        let [[image_weight, image_bias], [text_weight, text_bias]] = linear;
        let (weight, bias, fourier, landmarks) = (image_weight, image_bias, image_fourier, image_landmarks);
        let image = SideLayout { weight, bias, fourier, landmarks, mlp: image_mlp, gpo: image_gpo };
        let (weight, bias, fourier, landmarks) = (text_weight, text_bias, text_fourier, text_landmarks);
        let text = SideLayout { weight, bias, fourier, landmarks, mlp: text_mlp, gpo: text_gpo };
        Segments { sides: [image, text], temperature, logit_bias, len: all.len() }
    }

    /// The trained parameters of a side's perceptron, if it has one. Its running statistics have no place yet.
    fn mlp(&self, all: &mut Allocation, side: usize) -> Option<MlpLayout> {
        if !self.mlp[side] {
            return None;
        }
        let (dim, embed, m) = (self.dims[side], self.embed, self.embed.div_ceil(2));
        let side = ["image", "text"][side];
        let mut layer = |name: &str, rows, cols: usize| {
            let start = Start::Uniform(1.0 / (cols as f64).sqrt());
            [
                all.add(format!("{side}.mlp.{name}.weight"), rows, cols, start),
                all.add(format!("{side}.mlp.{name}.bias"), 1, rows, start),
            ]
        };
        let (first, second) = (layer("first", m, dim), layer("second", embed, m));
        let norm = all.add(format!("{side}.mlp.norm"), 2, m, Start::Rows(&[1.0, 0.0]));
        let running =
            Segment { name: format!("{side}.mlp.running"), start: Start::Rows(&[0.0, 1.0]), ..norm.clone() };
        Some(MlpLayout { first, norm, second, running })
    }

    /// The trained weights of the random features of both sides.
    fn fourier_weights(&self, all: &mut Allocation) -> Option<[Segment; 2]> {
        let (m, embed) = (self.random_features, self.embed);
        let bound = (6.0 / (m + embed) as f64).sqrt();
        let mut add = |side| all.add(format!("{side}.fourier.weight"), embed, m, Start::Uniform(bound));
        (m > 0).then(|| ["image", "text"].map(&mut add))
    }

    /// The random features of both sides. The frequencies of a fresh head suit features of variance 1, whose typical
    /// distance is √(2 dim).
    fn fourier(&self, all: &mut Allocation, weights: Option<[Segment; 2]>) -> [Option<FourierLayout>; 2] {
        let (Some([image, text]), m) = (weights, self.random_features) else { return [None, None] };
        let [p, q] = self.dims;
        [("image", image, p), ("text", text, q)].map(|(side, weight, dim)| {
            let deviation = frequency_deviation(BANDWIDTH, (2.0 * dim as f64).sqrt());
            let frequency = all.add(format!("{side}.fourier.frequency"), m, dim, Start::Normal(deviation));
            let phase = all.add(format!("{side}.fourier.phase"), 1, m, Start::Turn);
            Some(FourierLayout { weight, frequency, phase })
        })
    }

    /// The trained weights of the landmarks of both sides.
    fn landmark_weights(&self, all: &mut Allocation) -> Option<[Segment; 2]> {
        let (embed, [images, captions]) = (self.embed, self.landmarks.counts);
        let mut add = |side, n: usize| {
            let bound = (6.0 / (n + embed) as f64).sqrt();
            all.add(format!("{side}.landmarks.weight"), embed, n, Start::Uniform(bound))
        };
        (images > 0 && captions > 0).then(|| [add("image", images), add("text", captions)])
    }

    /// The landmarks of both sides. A dataset gives their rows.
    fn landmarks(&self, all: &mut Allocation, weights: Option<[Segment; 2]>) -> [Option<LandmarkLayout>; 2] {
        let Some([image, text]) = weights else { return [None, None] };
        let [p, q] = self.dims;
        [("image", image, p), ("text", text, q)].map(|(side, weight, dim)| {
            let rows = all.add(format!("{side}.landmarks.rows"), weight.cols, dim, ZERO);
            let shift = all.add(format!("{side}.landmarks.shift"), 1, weight.cols, ZERO);
            Some(LandmarkLayout { weight, rows, shift })
        })
    }

    /// All segments, in order.
    pub fn segments(&self) -> Vec<Segment> {
        let Segments { sides, temperature, logit_bias, .. } = self.parts();
        let mut all = vec![temperature, logit_bias];
        for SideLayout { weight, bias, fourier, landmarks, mlp, gpo } in sides {
            all.extend([weight, bias]);
            if let Some(LandmarkLayout { weight, rows, shift }) = landmarks {
                all.extend([weight, rows, shift]);
            }
            if let Some(FourierLayout { weight, frequency, phase }) = fourier {
                all.extend([weight, frequency, phase]);
            }
            if let Some(MlpLayout { first, norm, second, running }) = mlp {
                all.extend(first.into_iter().chain(second).chain([norm, running]));
            }
            all.extend(gpo.iter().flat_map(|gpo| gpo.segments()).cloned());
        }
        all.sort_by_key(|segment| segment.range.start);
        all
    }

    pub fn side(&self, side: Side) -> SideLayout {
        let [image, text] = self.parts().sides;
        if side == Side::Image { image } else { text }
    }

    pub fn weight(&self, side: Side) -> Segment {
        self.side(side).weight
    }

    pub fn bias(&self, side: Side) -> Segment {
        self.side(side).bias
    }

    pub fn temperature(&self) -> Range<usize> {
        self.parts().temperature.range
    }

    pub fn logit_bias(&self) -> Range<usize> {
        self.parts().logit_bias.range
    }

    /// Temperature and bias, as in `Logits::values`.
    pub fn logits(&self) -> Range<usize> {
        let Segments { temperature, logit_bias, .. } = self.parts();
        temperature.range.start..logit_bias.range.end
    }

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.parts().len
    }
}

/// The part of a head that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The linear layer on the features.
    Linear,
    /// The layer on random features or landmarks.
    RandomFeatures,
    Mlp,
    /// Learned pooling, and the temperature.
    Other,
}

impl Segment {
    /// Whether a file without it means that it is 0: the bias of the logits, which only SigLIP has.
    pub fn may_be_absent(&self) -> bool {
        self.name == LOGIT_BIAS
    }

    pub fn kind(&self) -> Kind {
        match self.name.split('.').nth(1) {
            Some("weight" | "bias") => Kind::Linear,
            Some("fourier" | "landmarks") => Kind::RandomFeatures,
            Some("mlp") => Kind::Mlp,
            _ => Kind::Other,
        }
    }

    /// Whether it is a bias, or the scale and shift of a norm.
    pub fn is_bias(&self) -> bool {
        self.name.ends_with(".norm") || self.name.contains(".bias")
    }

    /// The parameter in a flat buffer.
    pub fn of<'a>(&self, values: &'a Buffer<f32>) -> Mat<'a> {
        Mat { data: values.part(self.range.clone()), rows: self.rows, cols: self.cols }
    }

    pub fn of_mut<'a>(&self, values: &'a mut Buffer<f32>) -> MatMut<'a> {
        let (rows, cols) = (self.rows, self.cols);
        MatMut { data: values.part_mut(self.range.clone()), rows, cols, stride: padded(cols) }
    }

    /// Fills a fresh parameter.
    pub fn start(&self, values: &mut [f32], rng: &mut impl Rng) {
        let rows = values[self.range.clone()].chunks_exact_mut(padded(self.cols));
        // 24 random bits: exact in f32, and the same on every machine.
        let mut unit = || f64::from(rng.next_u32() >> 8) / f64::from(1 << 24);
        for (i, row) in rows.enumerate() {
            match self.start {
                Start::Uniform(bound) => {
                    row[..self.cols].fill_with(|| (bound * (2.0 * unit() - 1.0)) as f32);
                }
                Start::Normal(deviation) => {
                    row[..self.cols].fill_with(|| (deviation * normal(&mut unit)) as f32);
                }
                Start::Turn => row[..self.cols].fill_with(|| unit() as f32),
                Start::Rows(values) => row[..self.cols].fill(values[i.min(values.len() - 1)]),
            }
        }
    }

    /// The parameter's `rows * cols` values.
    pub fn get(&self, values: &[f32]) -> Vec<f32> {
        let rows = values[self.range.clone()].chunks_exact(padded(self.cols));
        rows.flat_map(|row| &row[..self.cols]).copied().collect()
    }

    pub fn set(&self, values: &mut [f32], to: &[f32]) -> Result<()> {
        if to.len() != self.rows * self.cols {
            let expected = format!("{} x {} values", self.rows, self.cols);
            return Err(Error::config(&self.name, expected, to.len(), "give the parameter's own shape"));
        }
        let rows = values[self.range.clone()].chunks_exact_mut(padded(self.cols));
        rows.zip(to.chunks_exact(self.cols)).for_each(|(row, to)| row[..self.cols].copy_from_slice(to));
        Ok(())
    }

    pub fn shape(&self) -> Vec<usize> {
        if self.rows == 1 { vec![self.cols] } else { vec![self.rows, self.cols] }
    }
}
