//! The joint head: one linear layer per side, then the L2 norm (docs/math.md, "Projection head"). If local features are
//! pooled on the device, or images have a residual perceptron, the head holds their parameters too
//! ("Generalised pooling", "Residual encoder").
//!
//! Owns the parameters. It neither trains nor reads features.

use super::ensemble::prefix;
use super::layout::{Layout, SideLayout};
use super::segment::Segment;
use super::{HeadConfig, Standardizer};
use crate::math::{Purpose, random};
use crate::{Error, Result};

/// One of the two kinds of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Image features.
    Image,
    /// Text features.
    Text,
}

/// A trained or fresh head on the host: the encoders of both sides, temperature and bias of the logits, and
/// the standardisation of its inputs. It may be an ensemble of such heads ([`Head::ensemble`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub(crate) layout: Layout,
    /// All parameters, laid out as on a device.
    pub(crate) values: Vec<f32>,
    pub(crate) standardize: Option<[Standardizer; 2]>,
    /// The further members of an ensemble. They have no further members.
    pub(crate) others: Vec<Head>,
}

impl Head {
    /// A fresh head with one linear layer per side. Weights are uniform in ±√6/√(d_in + d_out) (Xavier, as in VSE++),
    /// and biases are 0. The head is a pure function of `seed`.
    ///
    /// # Errors
    /// A width of 0, or a weight matrix of 2^31 elements or more.
    pub fn new(image_dim: usize, text_dim: usize, embed: usize, seed: u64) -> Result<Self> {
        Self::fresh(Layout::linear([image_dim, text_dim], embed), seed)
    }

    /// A fresh head with the encoders of `config`. It is a pure function of `config` and `seed`.
    ///
    /// Linear layers start as in [`Head::new`], also that of random features and those of a gated perceptron. The frequencies are normal, for a Gaussian
    /// kernel on features of variance 1, and the phases uniform. The weights and biases of a perceptron with batch norm are uniform
    /// in ±1/√d_in; its batch norm starts with scale 1 and shift 0. The pooling's GRU and v are uniform in ±1/√32
    /// (docs/math.md, "Random features", "Residual encoder" and "Generalised pooling").
    ///
    /// # Errors
    /// Those of [`Head::new`]. Landmarks, which come from a dataset: see [`Head::for_dataset`]. An ensemble: see
    /// [`Head::ensemble`].
    pub fn for_config(image_dim: usize, text_dim: usize, config: &HeadConfig, seed: u64) -> Result<Self> {
        if config.landmarks > 0 {
            let advice = "make the head with Head::for_dataset";
            return Err(Error::config("landmarks", "0 without a dataset", config.landmarks, advice));
        }
        config.refuse_ensemble()?;
        Self::fresh(Layout::of([image_dim, text_dim], config), seed)
    }

    /// A fresh head of this layout. Its landmarks are 0.
    pub(crate) fn fresh(layout: Layout, seed: u64) -> Result<Self> {
        let Layout { dims: [image_dim, text_dim], embed, .. } = layout;
        let size = layout.largest();
        if image_dim == 0 || text_dim == 0 || embed == 0 || size >= 1 << 31 {
            let found = format!("{image_dim} and {text_dim} to {embed}");
            return Err(Error::config(
                "head",
                "widths of 1 or more and fewer than 2^31 weights per matrix",
                found,
                "change --embed, --gated-width, --random-features or --landmarks",
            ));
        }
        let mut values = vec![0.0; layout.len()];
        let mut rng = random(Purpose::Weights, seed, 0, 0);
        for segment in layout.segments() {
            segment.start(&mut values, &mut rng);
        }
        Ok(Self { layout, values, standardize: None, others: Vec::new() })
    }

    /// Names and shapes of all parameters, as in a checkpoint. Every head has `image.weight [embed, dim]`,
    /// `image.bias [embed]`, the same for `text`, `temperature` and `logit_bias`. Files leave out a
    /// `logit_bias` of 0.
    ///
    /// [`super::EncoderKind::ResidualMlp`] of images adds `image.mlp.first.weight [m, dim]` and `.bias`, `image.mlp.norm [2, m]`
    /// (scale, shift), `image.mlp.second.weight [embed, m]` and `.bias`, and `image.mlp.running [2, m]` (running mean
    /// and variance, not trained). Here m is half of embed. Of texts, it adds the same for `text`.
    ///
    /// [`super::EncoderKind::GatedMlp`] of images adds `image.mlp.gate.weight [m, dim]`, `image.mlp.value.weight [m, dim]`
    /// and `image.mlp.second.weight [embed, m]`, each with its `.bias`. Here m is dim times
    /// [`HeadConfig::gated_width`]. Of texts, it adds the same for `text`.
    ///
    /// [`super::Pooling::Gpo`] of images adds `image.gpo.weight_ih [192, 32]`, `.weight_hh [192, 32]`,
    /// `.bias_ih [192]`, `.bias_hh [192]` and `.v [32]`; of texts, it adds the same for `text`. The 192 rows are the
    /// gates r, z, c of the forward direction, then those of the backward direction.
    ///
    /// With m random features, each side has `image.fourier.weight [embed, m]`, `image.fourier.frequency [m, dim]` and
    /// `image.fourier.phase [m]`. Frequencies and phases are in turns, and are not trained.
    ///
    /// With n landmarks on a side, it has `image.landmarks.weight [embed, n]`, `image.landmarks.rows [n, dim]` (unit rows
    /// divided by the square of the bandwidth) and `image.landmarks.shift [n]`. Rows and shifts are not trained.
    ///
    /// In an ensemble, these are the names of the first member. Those of the second start with `members.2.`, and so on.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let own = self.layout.segments().into_iter().map(|segment| (segment.name.clone(), segment.shape()));
        let mut all: Vec<_> = own.collect();
        for (number, other) in (2..).zip(&self.others) {
            all.extend(other.parameters().into_iter().map(|(name, shape)| (prefix(number) + &name, shape)));
        }
        all
    }

    /// Values of a parameter of [`Head::parameters`], row-major.
    ///
    /// # Errors
    /// A name that is not one of them.
    pub fn parameter(&self, name: &str) -> Result<Vec<f32>> {
        match self.owner(name) {
            (0, _) => Ok(self.segment(name)?.get(&self.values)),
            (member, name) => self.others[member - 1].parameter(name),
        }
    }

    /// Sets a parameter of [`Head::parameters`], row-major.
    ///
    /// # Errors
    /// A name that is not one of them, or another length.
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        match self.owner(name) {
            (0, _) => self.segment(name)?.set(&mut self.values, values),
            (member, name) => self.others[member - 1].set_parameter(name, values),
        }
    }

    fn segment(&self, name: &str) -> Result<Segment> {
        let segments = self.layout.segments();
        let names = || segments.iter().map(|segment| &segment.name[..]).collect::<Vec<_>>().join(", ");
        match segments.iter().find(|segment| segment.name == name) {
            Some(segment) => Ok(segment.clone()),
            None => Err(Error::config("parameter", names(), name, "give one of the head's parameters")),
        }
    }

    /// The standardisation of a side's features, if the head has one.
    pub fn standardizer(&self, side: Side) -> Option<&Standardizer> {
        self.standardize.as_ref().map(|sides| &sides[side as usize])
    }

    /// Sets the `weight [embed, dim]` and `bias [embed]` of one side's linear layer, row-major. In an ensemble, it is that
    /// of the first member.
    ///
    /// # Errors
    /// Other lengths.
    pub fn set_side(&mut self, side: Side, weight: &[f32], bias: &[f32]) -> Result<()> {
        let SideLayout { weight: w, bias: b, .. } = self.layout.side(side);
        w.set(&mut self.values, weight)?;
        b.set(&mut self.values, bias)
    }

    /// Weight `[embed, dim]` and bias `[embed]` of one side's linear layer, row-major. If the side has no other layers,
    /// its embedding is l2norm(W f + b). In an ensemble, it is that of the first member.
    pub fn side(&self, side: Side) -> (Vec<f32>, Vec<f32>) {
        let SideLayout { weight, bias, .. } = self.layout.side(side);
        (weight.get(&self.values), bias.get(&self.values))
    }

    /// Multiplies the frequencies of one side's random features.
    pub(crate) fn scale_frequencies(&mut self, side: Side, factor: f64) -> Result<()> {
        let Some(fourier) = self.layout.side(side).fourier else { return Ok(()) };
        let scaled: Vec<f32> =
            fourier.frequency.get(&self.values).iter().map(|&x| (f64::from(x) * factor) as f32).collect();
        fourier.frequency.set(&mut self.values, &scaled)
    }

    /// Multiplies the exponents of one side's landmarks: the bandwidth is divided by the square root of `factor`.
    pub(crate) fn scale_landmarks(&mut self, side: Side, factor: f64) {
        let Some(landmarks) = self.layout.side(side).landmarks else { return };
        for segment in [landmarks.rows, landmarks.shift] {
            self.values[segment.range].iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        }
    }

    /// Sets one side's landmarks: their unit rows, row-major, and the square of the bandwidth.
    pub(crate) fn set_landmarks(&mut self, side: Side, rows: &[f32], square: f64) -> Result<()> {
        let Some(landmarks) = self.layout.side(side).landmarks else { return Ok(()) };
        let rows: Vec<f32> = rows.iter().map(|&x| (f64::from(x) / square) as f32).collect();
        landmarks.rows.set(&mut self.values, &rows)?;
        landmarks.shift.set(&mut self.values, &vec![(-1.0 / square) as f32; landmarks.shift.cols])
    }

    /// A linear head with random features and landmarks, of another width: all parameters that depend on the width are 0.
    #[cfg(feature = "native")]
    pub(crate) fn narrowed(&self, embed: usize) -> Self {
        let layout = Layout { embed, ..self.layout };
        let values = vec![0.0; layout.len()];
        let standardize = self.standardize.clone();
        let mut head = Self { layout, values, standardize, others: Vec::new() };
        [Side::Image, Side::Text].into_iter().for_each(|side| head.take_fixed(self, side));
        head
    }

    /// Takes the frequencies, phases and landmarks of one side from a head with as many.
    #[cfg(feature = "native")]
    pub(crate) fn take_fixed(&mut self, from: &Self, side: Side) {
        let (own, other) = (self.layout.side(side), from.layout.side(side));
        let fourier = own.fourier.zip(other.fourier);
        let fourier =
            fourier.map(|(own, other)| [(own.frequency, other.frequency), (own.phase, other.phase)]);
        let landmarks = own.landmarks.zip(other.landmarks);
        let landmarks = landmarks.map(|(own, other)| [(own.rows, other.rows), (own.shift, other.shift)]);
        for (own, other) in fourier.into_iter().chain(landmarks).flatten() {
            self.values[own.range].copy_from_slice(&from.values[other.range]);
        }
    }

    /// Sets the second layers of perceptrons to 0, so that an embedding does not depend on them.
    #[cfg(feature = "native")]
    pub(crate) fn silence_mlp(&mut self, side: Side) {
        let SideLayout { mlp, gated, .. } = self.layout.side(side);
        let layers = [mlp.map(|mlp| mlp.second), gated.map(|gated| gated.second)];
        layers.into_iter().flatten().flatten().for_each(|segment| self.values[segment.range].fill(0.0));
    }

    /// A head with the encoders of `config` that embeds as this one does. New perceptrons are random, up to their second
    /// layers, which are 0.
    ///
    /// # Errors
    /// Those of [`Head::new`].
    #[cfg(feature = "native")]
    pub(crate) fn extended(&self, config: &HeadConfig, seed: u64) -> Result<Self> {
        let layout = Layout { landmarks: self.layout.landmarks, ..Layout::of(self.layout.dims, config) };
        let mut head = Self::fresh(layout, seed)?;
        head.standardize.clone_from(&self.standardize);
        for side in [Side::Image, Side::Text] {
            if self.layout.encoders[side as usize] == super::EncoderKind::Linear {
                head.silence_mlp(side);
            }
        }
        for segment in self.layout.segments() {
            head.set_parameter(&segment.name, &segment.get(&self.values))?;
        }
        Ok(head)
    }

    /// The weights of one side's random features `[embed, m]` and landmarks `[embed, n]`, if it has them.
    #[cfg(feature = "native")]
    pub(crate) fn derived(&self, side: Side) -> [Option<Segment>; 2] {
        let SideLayout { fourier, landmarks, .. } = self.layout.side(side);
        [fourier.map(|fourier| fourier.weight), landmarks.map(|landmarks| landmarks.weight)]
    }

    /// Width of the embedding, of all members together.
    pub fn dim(&self) -> usize {
        self.layout.embed * self.each().count()
    }

    /// Width of one side's features.
    pub fn feature_dim(&self, side: Side) -> usize {
        self.layout.dims[side as usize]
    }

    /// The temperature at the end of the last training with InfoNCE or SigLIP; 0 if there was none.
    pub fn temperature(&self) -> f32 {
        self.values[self.layout.temperature().start]
    }

    /// The logit bias at the end of the last training with SigLIP; 0 if there was none, or one with InfoNCE after it.
    pub fn logit_bias(&self) -> f32 {
        self.values[self.layout.logit_bias().start]
    }
}
