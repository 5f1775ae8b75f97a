//! Where each parameter of a head lies in the one flat buffer that the optimiser updates.

use super::segment::{Allocation, LOGIT_BIAS, Segment, Start, ZERO};
use super::{EncoderKind, GATED_WIDTH, HeadConfig, Pooling, Side, SignedRoot};
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
    /// The layers of each side.
    pub encoders: [EncoderKind; 2],
    /// Width of the hidden layer of a gated perceptron, as a multiple of the width of the features.
    pub gated_width: usize,
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
    pub gated: Option<GatedLayout>,
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

/// The gated perceptron of docs/math.md, "Gated encoder"; m is a multiple of the width of the features.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GatedLayout {
    /// `[m, dim]`, and its bias `[m]`.
    pub gate: [Segment; 2],
    /// `[m, dim]`, and its bias `[m]`.
    pub value: [Segment; 2],
    /// `[embed, m]`, and its bias `[embed]`.
    pub second: [Segment; 2],
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
pub(crate) const LANDMARK_BANDWIDTH: f64 = 0.5;

/// The standard deviation of the frequencies, in turns, for a Gaussian kernel. Its bandwidth is that multiple of
/// `distance`.
pub(crate) fn frequency_deviation(bandwidth: f64, distance: f64) -> f64 {
    1.0 / (std::f64::consts::TAU * bandwidth * distance)
}

impl Allocation {
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
        let encoders = [EncoderKind::Linear; 2];
        let gated_width = GATED_WIDTH;
        Self { dims, embed, encoders, gated_width, pooling, signed_root, random_features: 0, landmarks }
    }

    /// Width of the hidden layer of a side's gated perceptron; 0 if it has none.
    pub fn gated(&self, side: Side) -> usize {
        self.config(false).hidden_width(side, self.dims[side as usize])
    }

    /// Elements of the largest matrix.
    pub fn largest(&self) -> usize {
        let [images, captions] = self.landmarks.counts;
        let m = self.random_features.max(images).max(captions);
        let dim = self.dims[0].max(self.dims[1]);
        let residual = self.encoders.contains(&EncoderKind::ResidualMlp);
        let hidden = self.gated(Side::Image).max(self.gated(Side::Text));
        let widest = dim.max(m).max(hidden).max(if residual { self.embed.div_ceil(2) } else { 0 });
        widest.saturating_mul(self.embed).max(m.max(hidden).saturating_mul(dim))
    }

    pub fn of(dims: [usize; 2], config: &HeadConfig) -> Self {
        let signed_root = config.signed_root.sides();
        let (embed, random_features) = (config.embed, config.random_features);
        let (encoders, gated_width) = (config.encoders(), config.gated_width);
        let landmarks = Landmarks { most: config.landmarks, ..Landmarks::default() };
        let pooling = config.pooling();
        Self { dims, embed, encoders, gated_width, pooling, signed_root, random_features, landmarks }
    }

    /// The options of this layout, the inverse of [`Layout::of`].
    pub fn config(&self, standardize: bool) -> HeadConfig {
        let [image_pooling, text_pooling] = self.pooling;
        let signed_root = SignedRoot::of(self.signed_root);
        let [image_encoder, text_encoder] = self.encoders;
        HeadConfig {
            embed: self.embed,
            image_pooling,
            text_pooling,
            image_encoder,
            text_encoder,
            gated_width: self.gated_width,
            signed_root,
            standardize,
            random_features: self.random_features,
            landmarks: self.landmarks.most,
            ensemble: 1,
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
        let [image_gated, text_gated] =
            [Side::Image, Side::Text].map(|side| self.gated_layers(&mut all, side));
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
        let image = SideLayout {
            weight,
            bias,
            fourier,
            landmarks,
            mlp: image_mlp,
            gated: image_gated,
            gpo: image_gpo,
        };
        let (weight, bias, fourier, landmarks) = (text_weight, text_bias, text_fourier, text_landmarks);
        let text =
            SideLayout { weight, bias, fourier, landmarks, mlp: text_mlp, gated: text_gated, gpo: text_gpo };
        Segments { sides: [image, text], temperature, logit_bias, len: all.len() }
    }

    /// The trained parameters of a side's perceptron, if it has one. Its running statistics have no place yet.
    fn mlp(&self, all: &mut Allocation, side: usize) -> Option<MlpLayout> {
        if self.encoders[side] != EncoderKind::ResidualMlp {
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

    /// The parameters of a side's gated perceptron, if it has one.
    fn gated_layers(&self, all: &mut Allocation, side: Side) -> Option<GatedLayout> {
        let (dim, m) = (self.dims[side as usize], self.gated(side));
        let side = ["image", "text"][side as usize];
        let mut layer = |name: &str, rows: usize, cols: usize| {
            let start = Start::Uniform((6.0 / (rows + cols) as f64).sqrt());
            [
                all.add(format!("{side}.mlp.{name}.weight"), rows, cols, start),
                all.add(format!("{side}.mlp.{name}.bias"), 1, rows, ZERO),
            ]
        };
        let mut layers = || GatedLayout {
            gate: layer("gate", m, dim),
            value: layer("value", m, dim),
            second: layer("second", self.embed, m),
        };
        (m > 0).then(&mut layers)
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
        for SideLayout { weight, bias, fourier, landmarks, mlp, gated, gpo } in sides {
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
            if let Some(GatedLayout { gate, value, second }) = gated {
                all.extend(gate.into_iter().chain(value).chain(second));
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
