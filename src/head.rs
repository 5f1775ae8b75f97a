//! The joint head: one linear layer a side, then the L2 norm (vse-models.md section 1); where local features are pooled
//! on the device, or images have a residual perceptron, the parameters of those as well (vse-models.md section 2).
//!
//! Owns the parameters and where each lies in the one flat buffer that the optimiser walks. It neither
//! trains nor reads features. The file is long because no other may know where parameters lie.

use crate::config::{ImageEncoder, Pooling, TrainConfig};
use crate::device::{Buffer, Mat, MatMut, padded};
use crate::random::{Purpose, random};
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;
use std::ops::Range;

/// Which of the two kinds of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Image features.
    Image,
    /// Text features.
    Text,
}

/// Shift and scale of every column of one side: `x' = (x - mean) * inverse_std`.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer {
    /// Mean of each column.
    pub mean: Vec<f32>,
    /// One over the (population) standard deviation of each column; 0 for a constant column.
    pub inverse_std: Vec<f32>,
}

/// What a head consists of, and where each parameter lies: matrices with padded rows, each starting on a 256-byte
/// boundary, first all that weight decay and clipping go over, then the temperature, then what is not trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Width of the features of each side.
    pub dims: [usize; 2],
    /// Width of the embedding.
    pub embed: usize,
    /// A perceptron beside the linear layer of the images.
    pub mlp: bool,
    /// What makes one vector of an item's features, of each side.
    pub pooling: [Pooling; 2],
    /// Whether the square root of each side's features is taken.
    pub signed_root: [bool; 2],
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

/// What a fresh parameter holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// Uniform in plus or minus this.
    Uniform(f64),
    /// Rows of one value each.
    Rows(&'static [f32]),
}

const ZERO: Start = Start::Rows(&[0.0]);

/// The parameters of one side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SideLayout {
    /// `[embed, dim]`
    pub weight: Segment,
    /// `[embed]`
    pub bias: Segment,
    pub mlp: Option<MlpLayout>,
    pub gpo: Option<GpoLayout>,
}

/// Linear, batch norm, relu, linear (vse-models.md section 2.2); m is half the width of the embedding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MlpLayout {
    /// `[m, dim]`, and its bias `[m]`.
    pub first: [Segment; 2],
    /// Scale and shift `[2, m]`.
    pub norm: Segment,
    /// `[embed, m]`, and its bias `[embed]`.
    pub second: [Segment; 2],
    /// Mean and variance `[2, m]`: followed, not trained.
    pub running: Segment,
}

/// The generalised pooling operator (vse-models.md section 2.1). Rows are the gates r, z, c of the forward direction,
/// then those of the backward one.
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

/// Width of the positional encoding and of the GRU's states in a head's pooling, those of the published models.
pub(crate) const GPO: [usize; 2] = [32, 32];

/// Lays out one segment after the other.
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

impl GpoLayout {
    pub fn segments(&self) -> [&Segment; 5] {
        [&self.weight_ih, &self.weight_hh, &self.bias_ih, &self.bias_hh, &self.v]
    }
}

/// All segments of a [`Layout`].
pub(crate) struct Segments {
    pub sides: [SideLayout; 2],
    pub temperature: Segment,
    len: usize,
}

impl Layout {
    pub fn linear(dims: [usize; 2], embed: usize) -> Self {
        Self { dims, embed, mlp: false, pooling: [Pooling::None; 2], signed_root: [false; 2] }
    }

    /// Elements of the largest matrix.
    pub fn largest(&self) -> usize {
        let widest = self.dims[0].max(self.dims[1]).max(if self.mlp { self.embed.div_ceil(2) } else { 0 });
        widest.saturating_mul(self.embed)
    }

    /// What a configuration asks for.
    pub fn of(dims: [usize; 2], config: &TrainConfig) -> Self {
        let mlp = config.image_encoder == ImageEncoder::ResidualMlp;
        let signed_root = config.signed_root.sides();
        Self { dims, embed: config.embed, mlp, pooling: config.pooling(), signed_root }
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
        let m = embed.div_ceil(2);
        let mut layer = |name: &str, rows, cols: usize| {
            let start = Start::Uniform(1.0 / (cols as f64).sqrt());
            [
                all.add(format!("image.mlp.{name}.weight"), rows, cols, start),
                all.add(format!("image.mlp.{name}.bias"), 1, rows, start),
            ]
        };
        let layers = self.mlp.then(|| [layer("first", m, self.dims[0]), layer("second", embed, m)]);
        let norm = self.mlp.then(|| all.add("image.mlp.norm".into(), 2, m, Start::Rows(&[1.0, 0.0])));
        let [image, text] = self.pooling;
        let [image_gpo, text_gpo] = [(image, "image.gpo."), (text, "text.gpo.")]
            .map(|(pooling, prefix)| (pooling == Pooling::Gpo).then(|| all.gpo(prefix, GPO)));
        let temperature = all.add("temperature".into(), 1, 1, ZERO);
        let running = self.mlp.then(|| all.add("image.mlp.running".into(), 2, m, Start::Rows(&[0.0, 1.0])));
        let mlp = match (layers, norm, running) {
            (Some([first, second]), Some(norm), Some(running)) => {
                Some(MlpLayout { first, norm, second, running })
            }
            _ => None,
        };
        let [[image_weight, image_bias], [text_weight, text_bias]] = linear;
        let image = SideLayout { weight: image_weight, bias: image_bias, mlp, gpo: image_gpo };
        let text = SideLayout { weight: text_weight, bias: text_bias, mlp: None, gpo: text_gpo };
        Segments { sides: [image, text], temperature, len: all.len() }
    }

    /// All segments, in order.
    pub fn segments(&self) -> Vec<Segment> {
        let Segments { sides, temperature, .. } = self.parts();
        let mut all = vec![temperature];
        for SideLayout { weight, bias, mlp, gpo } in sides {
            all.extend([weight, bias]);
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

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.parts().len
    }
}

impl Segment {
    /// Whether it is a bias, or scale and shift of a norm.
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
        for (i, row) in rows.enumerate() {
            match self.start {
                // 24 random bits: exact in f32, and the same on every machine.
                Start::Uniform(bound) => row[..self.cols].fill_with(|| {
                    let unit = f64::from(rng.next_u32() >> 8) / f64::from(1 << 23) - 1.0;
                    (bound * unit) as f32
                }),
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

/// A trained or fresh head on the host: the encoders of both sides, the temperature of InfoNCE, and the standardisation
/// of its inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub(crate) layout: Layout,
    /// All parameters, laid out as on a device.
    pub(crate) values: Vec<f32>,
    pub(crate) standardize: Option<[Standardizer; 2]>,
}

impl Head {
    /// A fresh head of one linear layer a side: weights uniform in ±√6/√(d_in + d_out) (Xavier, as VSE++), biases 0; a
    /// pure function of `seed`.
    ///
    /// # Errors
    /// A width of 0, or weights of 2^31 elements and more.
    pub fn new(image_dim: usize, text_dim: usize, embed: usize, seed: u64) -> Result<Self> {
        Self::fresh(Layout::linear([image_dim, text_dim], embed), seed)
    }

    /// A fresh head with the encoders that `config` asks for, a pure function of its `seed`. Of `config` it uses `embed`,
    /// the poolings and the image encoder.
    ///
    /// Linear layers start as in [`Head::new`]; the perceptron's layers uniform in ±1/√d_in, weight and bias, its batch
    /// norm with scale 1 and shift 0; the pooling's GRU and v uniform in ±1/√32 (vse-models.md section 2).
    ///
    /// # Errors
    /// Those of [`Head::new`].
    pub fn for_config(image_dim: usize, text_dim: usize, config: &TrainConfig) -> Result<Self> {
        Self::fresh(Layout::of([image_dim, text_dim], config), config.seed)
    }

    fn fresh(layout: Layout, seed: u64) -> Result<Self> {
        let Layout { dims: [image_dim, text_dim], embed, .. } = layout;
        let size = layout.largest();
        if image_dim == 0 || text_dim == 0 || embed == 0 || size >= 1 << 31 {
            let found = format!("{image_dim} and {text_dim} to {embed}");
            return Err(Error::config(
                "head",
                "widths of 1 or more and fewer than 2^31 weights a side",
                found,
                "change --embed",
            ));
        }
        let mut values = vec![0.0; layout.len()];
        let mut rng = random(Purpose::Weights, seed, 0, 0);
        for segment in layout.segments() {
            segment.start(&mut values, &mut rng);
        }
        Ok(Self { layout, values, standardize: None })
    }

    /// Names and shapes of all parameters, as in a checkpoint: `image.weight [embed, dim]`, `image.bias [embed]`, the
    /// same of `text`, and `temperature`;
    ///
    /// with [`crate::ImageEncoder::ResidualMlp`], m being half of embed, `image.mlp.first.weight [m, dim]` and `.bias`,
    /// `image.mlp.norm [2, m]` (scale, shift), `image.mlp.second.weight [embed, m]` and `.bias`, and
    /// `image.mlp.running [2, m]` (mean, variance), which is followed, not trained;
    ///
    /// with [`Pooling::Gpo`] of images or texts, `image.gpo.weight_ih [192, 32]`, `.weight_hh [192, 32]`, `.bias_ih [192]`,
    /// `.bias_hh [192]`, whose rows are the gates r, z, c of the forward direction and then of the backward one, and
    /// `.v [32]`.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.layout.segments().iter().map(|segment| (segment.name.clone(), segment.shape())).collect()
    }

    /// Values of a parameter of [`Head::parameters`], row-major.
    ///
    /// # Errors
    /// A name that is not one of them.
    pub fn parameter(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.segment(name)?.get(&self.values))
    }

    /// Sets a parameter of [`Head::parameters`], row-major.
    ///
    /// # Errors
    /// A name that is not one of them, or another length.
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.segment(name)?.set(&mut self.values, values)
    }

    fn segment(&self, name: &str) -> Result<Segment> {
        let segments = self.layout.segments();
        let names = || segments.iter().map(|segment| &segment.name[..]).collect::<Vec<_>>().join(", ");
        match segments.iter().find(|segment| segment.name == name) {
            Some(segment) => Ok(segment.clone()),
            None => Err(Error::config("parameter", names(), name, "give one of the head's parameters")),
        }
    }

    /// Sets the `weight [embed, dim]` and `bias [embed]` of one side's linear layer, row-major.
    ///
    /// # Errors
    /// Other lengths.
    pub fn set_side(&mut self, side: Side, weight: &[f32], bias: &[f32]) -> Result<()> {
        let SideLayout { weight: w, bias: b, .. } = self.layout.side(side);
        w.set(&mut self.values, weight)?;
        b.set(&mut self.values, bias)
    }

    /// Weight `[embed, dim]` and bias `[embed]` of one side's linear layer, row-major: where there is nothing else, the
    /// embedding is l2norm(W f + b).
    pub fn side(&self, side: Side) -> (Vec<f32>, Vec<f32>) {
        let SideLayout { weight, bias, .. } = self.layout.side(side);
        (weight.get(&self.values), bias.get(&self.values))
    }

    /// Width of the embedding.
    pub fn dim(&self) -> usize {
        self.layout.embed
    }

    /// Width of one side's features.
    pub fn feature_dim(&self, side: Side) -> usize {
        self.layout.dims[side as usize]
    }

    /// The temperature that InfoNCE was trained with last; 0 if it never was.
    pub fn temperature(&self) -> f32 {
        self.values[self.layout.temperature().start]
    }
}
