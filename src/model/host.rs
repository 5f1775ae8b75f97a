//! Encoders of local features on host arrays, for callers who bring their own features.

use super::layout::GpoLayout;
use super::segment::Allocation;
use super::{Head, Side};
use crate::device::{Buffer, Device, Matrix, Upload, pad_rows, padded};
use crate::kernels::GRU_UNITS;
use crate::math::{Purpose, random};
use crate::model::Encoder;
use crate::model::pooling::{Gpo as Pooling, check_rows};
use crate::{Error, Result};

/// The generalised pooling operator of VSE-infinity (docs/math.md, "Generalised pooling"). Each dimension of an item's
/// K vectors is sorted in descending order. The sorted values are summed with K weights, which a bidirectional GRU
/// computes from encodings of the positions 0 to K - 1.
///
/// ```
/// use wgoal::Device;
/// use wgoal::pooling::Gpo;
/// let gpo = Gpo::new(32, 32, 0)?;
/// // Two items of 2 and 1 vectors of width 3, padded to the longer.
/// let features = [1.0, 5.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 0.0, 0.0, 0.0];
/// let pooled = gpo.pool(&Device::cpu(), &features, &[2, 1], 3)?;
/// assert_eq!(pooled.features[3..], [7.0, 8.0, 9.0]);
/// # Ok::<(), wgoal::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Gpo {
    /// Width e of the positional encoding.
    pub encoding: usize,
    /// Width h of the GRU's states.
    pub hidden: usize,
    /// W_i of the forward and of the backward direction, `[3 h, e]` each: the rows of the gates r, z, c.
    pub weight_ih: [Vec<f32>; 2],
    /// W_h, `[3 h, h]` each.
    pub weight_hh: [Vec<f32>; 2],
    /// b_i, `[3 h]` each.
    pub bias_ih: [Vec<f32>; 2],
    /// b_h, `[3 h]` each.
    pub bias_hh: [Vec<f32>; 2],
    /// From the mean of both directions' states to a score, `[h]`.
    pub v: Vec<f32>,
}

/// The result of [`Gpo::pool`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Pooled {
    /// The pooled vectors `[items, dim]`.
    pub features: Vec<f32>,
    /// The weights theta `[items, longest]`; 0 past an item's end.
    pub weights: Vec<f32>,
}

/// The result of [`Gpo::pool_backward`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GpoGradients {
    /// Gradient at the features `[items, longest, dim]`; 0 past an item's end.
    pub features: Vec<f32>,
    /// Gradients at the parameters, each in its field.
    pub gpo: Gpo,
}

/// The result of [`Head::encode_backward`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EncoderGradients {
    /// The unit embeddings `[items, embed]`, with the statistics of the batch.
    pub embeddings: Vec<f32>,
    /// Gradient at the features `[items, longest, dim]`. Past an item's end it is the gradient of the padding, which
    /// batch norm treats as data; it is 0 without batch norm.
    pub features: Vec<f32>,
    /// The gradient of every parameter of the side, each in its place ([`Head::parameter`]); 0 elsewhere.
    pub gradient: Head,
    /// The head with batch norm's running statistics after this batch.
    pub head: Head,
}

/// # Errors
/// Widths that the kernels do not support.
fn check_widths(encoding: usize, hidden: usize) -> Result<()> {
    let even = encoding.is_multiple_of(2) && (2..=1 << 16).contains(&encoding);
    if even && (1..=GRU_UNITS).contains(&hidden) {
        return Ok(());
    }
    let expected = format!("an even width of the encoding, and states of 1 to {GRU_UNITS}");
    let found = format!("{encoding} and {hidden}");
    Err(Error::config("generalised pooling", expected, found, "change them"))
}

/// A padded batch `[items, longest, dim]` without its padding.
struct Packed {
    rows: Vec<f32>,
    offsets: Vec<u32>,
    longest: usize,
}

impl Packed {
    fn new(features: &[f32], lengths: &[u32], dim: usize) -> Result<Self> {
        let size = lengths.len() * dim;
        let longest = features.len().checked_div(size).unwrap_or(0);
        let fits = lengths.iter().all(|&length| (1..=longest).contains(&(length as usize)));
        if size * longest != features.len() || !fits || longest == 0 {
            return Err(Error::config(
                "local features",
                format!(
                    "{} items of the same number of rows of width {dim}, with lengths of 1 to that",
                    lengths.len()
                ),
                format!(
                    "{} values and lengths of {:?} to {:?}",
                    features.len(),
                    lengths.iter().min(),
                    lengths.iter().max()
                ),
                "pad every item to the longest, and give each one's own length",
            ));
        }
        if let Some(at) = features.iter().position(|x| !x.is_finite()) {
            return Err(Error::config(
                "local features",
                "finite values",
                format!("{} at {at}", features[at]),
                "repair them",
            ));
        }
        let (mut rows, mut offsets) = (Vec::new(), vec![0]);
        for (item, &length) in features.chunks_exact(longest * dim).zip(lengths) {
            rows.extend_from_slice(&item[..length as usize * dim]);
            offsets.push((rows.len() / dim) as u32);
        }
        Ok(Self { rows: pad_rows(&rows, dim).into_owned(), offsets, longest })
    }

    /// The inverse: adds `padding` after the end of each item.
    fn unpack(&self, rows: &[f32], padding: &[f32]) -> Vec<f32> {
        let dim = padding.len();
        let mut out = Vec::with_capacity((self.offsets.len() - 1) * self.longest * dim);
        for item in self.offsets.windows(2) {
            let (first, last) = (item[0] as usize, item[1] as usize);
            out.extend_from_slice(&rows[first * dim..last * dim]);
            (last - first..self.longest).for_each(|_| out.extend_from_slice(padding));
        }
        out
    }

    fn check_upstream(&self, upstream: &[f32], dim: usize) -> Result<()> {
        let items = self.offsets.len() - 1;
        if upstream.len() == items * dim && upstream.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        let expected = format!("{items} x {dim} finite values");
        let found = format!("{} values, or one that is not finite", upstream.len());
        Err(Error::config("upstream gradient", expected, found, "give the gradient at the pooled rows"))
    }
}

impl Gpo {
    /// A fresh operator. All parameters are uniform in ±1/√hidden, a pure function of `seed`. The published models use
    /// an encoding of width 32 and states of width 32.
    ///
    /// # Errors
    /// An encoding of odd width or 0, states of width 0 or above 256.
    pub fn new(encoding: usize, hidden: usize, seed: u64) -> Result<Self> {
        check_widths(encoding, hidden)?;
        let zero = |width: usize| [vec![0.0; 3 * hidden * width], vec![0.0; 3 * hidden * width]];
        let mut gpo = Self {
            encoding,
            hidden,
            weight_ih: zero(encoding),
            weight_hh: zero(hidden),
            bias_ih: zero(1),
            bias_hh: zero(1),
            v: vec![0.0; hidden],
        };
        let (layout, len) = gpo.layout();
        let (mut values, mut rng) = (vec![0.0; len], random(Purpose::Weights, seed, 0, 0));
        layout.segments().iter().for_each(|segment| segment.start(&mut values, &mut rng));
        gpo.take(&layout, &values);
        Ok(gpo)
    }

    fn layout(&self) -> (GpoLayout, usize) {
        let mut all = Allocation::default();
        let layout = all.gpo("gpo.", [self.encoding, self.hidden]);
        (layout, all.len())
    }

    /// The layout of the parameters, and the parameters. The fields are public, so they are checked here.
    fn checked(&self) -> Result<(GpoLayout, Vec<f32>)> {
        check_widths(self.encoding, self.hidden)?;
        let (layout, len) = self.layout();
        let values = self.values(&layout, len)?;
        match values.iter().find(|x| !x.is_finite()) {
            None => Ok((layout, values)),
            Some(x) => Err(Error::config("generalised pooling", "finite parameters", x, "repair them")),
        }
    }

    fn take(&mut self, layout: &GpoLayout, values: &[f32]) {
        let halves = |segment: &crate::model::Segment| {
            let values = segment.get(values);
            let (forward, backward) = values.split_at(values.len() / 2);
            [forward.to_vec(), backward.to_vec()]
        };
        self.weight_ih = halves(&layout.weight_ih);
        self.weight_hh = halves(&layout.weight_hh);
        self.bias_ih = halves(&layout.bias_ih);
        self.bias_hh = halves(&layout.bias_hh);
        self.v = layout.v.get(values);
    }

    fn values(&self, layout: &GpoLayout, len: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        for (segment, halves) in [
            (&layout.weight_ih, &self.weight_ih),
            (&layout.weight_hh, &self.weight_hh),
            (&layout.bias_ih, &self.bias_ih),
            (&layout.bias_hh, &self.bias_hh),
        ] {
            let half = segment.rows * segment.cols / 2;
            if let Some(wrong) = halves.iter().find(|values| values.len() != half) {
                let (expected, advice) =
                    (format!("{half} values a direction"), "give the parameter's own shape");
                return Err(Error::config(&segment.name, expected, wrong.len(), advice));
            }
            segment.set(&mut values, &halves.concat())?;
        }
        layout.v.set(&mut values, &self.v)?;
        Ok(values)
    }

    /// Pools a padded batch `[items, longest, dim]`. Item i has `lengths[i]` vectors; values past its end are not read.
    ///
    /// # Errors
    /// Shapes that disagree, a length of 0 or above `longest`, a value that is not finite, a failing device.
    pub fn pool(&self, device: &Device, features: &[f32], lengths: &[u32], dim: usize) -> Result<Pooled> {
        let packed = Packed::new(features, lengths, dim)?;
        let (layout, values) = self.checked()?;
        let rows = packed.rows.len() / padded(dim);
        check_rows(device, "local features", rows, dim)?;
        let values = Buffer::from_slice(device, "gpo", &values)?;
        let mut gpo = Pooling::new(device, &layout)?;
        gpo.set_items(device, &packed.offsets, dim)?;
        let features =
            Matrix { buffer: Buffer::from_slice(device, "features", &packed.rows)?, rows, cols: dim };
        let mut pooled = Matrix::new(device, "pooled", lengths.len(), dim)?;
        let mut commands = device.commands();
        gpo.forward(&mut commands, &values, features.view(), pooled.view_mut())?;
        commands.submit()?;
        let weights = device.wait(gpo.weights(device))?;
        let longest = weights.len() / lengths.len();
        let weights = weights
            .chunks_exact(longest)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, packed.longest - longest)));
        let weights = weights.collect();
        Ok(Pooled { features: device.wait(pooled.to_rows(device))?, weights })
    }

    /// The gradients of [`Gpo::pool`]. `upstream [items, dim]` is the gradient at the pooled vectors.
    ///
    /// # Errors
    /// Those of [`Gpo::pool`].
    pub fn pool_backward(
        &self,
        device: &Device,
        features: &[f32],
        lengths: &[u32],
        dim: usize,
        upstream: &[f32],
    ) -> Result<GpoGradients> {
        let packed = Packed::new(features, lengths, dim)?;
        packed.check_upstream(upstream, dim)?;
        let (layout, values) = self.checked()?;
        let (rows, len) = (packed.rows.len() / padded(dim), values.len());
        check_rows(device, "local features", rows, dim)?;
        let values = Buffer::from_slice(device, "gpo", &values)?;
        let mut gradients = Buffer::new(device, "d.gpo", len)?;
        let mut gpo = Pooling::new(device, &layout)?;
        gpo.set_items(device, &packed.offsets, dim)?;
        let features =
            Matrix { buffer: Buffer::from_slice(device, "features", &packed.rows)?, rows, cols: dim };
        let g = Matrix::from_rows(device, "upstream", lengths.len(), dim, upstream)?;
        let mut pooled = Matrix::new(device, "pooled", lengths.len(), dim)?;
        let mut d_features = Matrix::new(device, "d_features", rows, dim)?;
        let mut commands = device.commands();
        gpo.forward(&mut commands, &values, features.view(), pooled.view_mut())?;
        let (g, out) = (g.view(), d_features.view_mut());
        gpo.backward((device, &mut commands), &values, features.view(), g, out, &mut gradients)?;
        commands.submit()?;
        let d_features = device.wait(d_features.to_rows(device))?;
        let mut of_parameters = self.clone();
        of_parameters.take(&layout, &device.wait(gradients.read(device, 0..len))?);
        Ok(GpoGradients { features: packed.unpack(&d_features, &vec![0.0; dim]), gpo: of_parameters })
    }
}

impl Head {
    /// Embeds one side's features as in evaluation: batch norm uses its running statistics. Returns unit rows
    /// `[items, embed]`.
    ///
    /// If the side is pooled by [`crate::model::Pooling::Gpo`], `features` are a padded batch `[items, longest, dim]`
    /// and item i has `lengths[i]` rows. Otherwise they are `[items, dim]`, and all lengths are 1.
    ///
    /// # Errors
    /// Shapes that disagree, a length of 0 or above `longest`, a value that is not finite, a failing device.
    pub fn encode(&self, device: &Device, side: Side, features: &[f32], lengths: &[u32]) -> Result<Vec<f32>> {
        let each = self.each().map(|member| member.encode_alone(device, side, features, lengths));
        Ok(self.side_by_side(each.collect::<Result<_>>()?))
    }

    /// [`Head::encode`] of this member of an ensemble.
    fn encode_alone(
        &self,
        device: &Device,
        side: Side,
        features: &[f32],
        lengths: &[u32],
    ) -> Result<Vec<f32>> {
        let packed = Packed::new(features, lengths, self.feature_dim(side))?;
        let values = Buffer::from_slice(device, "head", &self.values)?;
        let mut encoder = Encoder::new(device, self, side, lengths.len())?;
        encoder.upload(device, Upload::Borrowed(&packed.rows), self.offsets(side, &packed))?;
        let mut commands = device.commands();
        encoder.forward(&mut commands, &values, false)?;
        commands.submit()?;
        device.wait(encoder.unit.to_rows(device))
    }

    /// Embeds as in training: batch norm uses the statistics of the batch over all `items x longest` rows. Then
    /// propagates the gradient `upstream [items, embed]` at the embeddings back to features and parameters. Features as
    /// in [`Head::encode`].
    ///
    /// # Errors
    /// Those of [`Head::encode`], and an ensemble.
    pub fn encode_backward(
        &self,
        device: &Device,
        side: Side,
        features: &[f32],
        lengths: &[u32],
        upstream: &[f32],
    ) -> Result<EncoderGradients> {
        self.refuse_ensemble("gradient of an embedding")?;
        let dim = self.feature_dim(side);
        let packed = Packed::new(features, lengths, dim)?;
        packed.check_upstream(upstream, self.dim())?;
        let values = Buffer::from_slice(device, "head", &self.values)?;
        let mut gradients = Buffer::new(device, "d.head", self.values.len())?;
        let mut encoder = Encoder::new(device, self, side, lengths.len())?;
        encoder.upload(device, Upload::Borrowed(&packed.rows), self.offsets(side, &packed))?;
        encoder.pad_to(packed.longest);
        encoder.d_unit.buffer.write(device, 0, &pad_rows(upstream, self.dim()))?;
        let rows = packed.rows.len() / padded(dim);
        let padding = encoder.padding();
        let mut d_features = Matrix::new(device, "d.features", rows + usize::from(padding.is_some()), dim)?;
        let mut commands = device.commands();
        encoder.forward(&mut commands, &values, true)?;
        encoder.backward((device, &mut commands), &values, &mut gradients)?;
        encoder.feature_gradient((device, &mut commands), &values, &mut d_features)?;
        commands.submit()?;
        encoder.keep_statistics();
        let (mut head, mut gradient) = (self.clone(), self.clone());
        device.wait(encoder.running(device, &mut head.values))?;
        gradient.values = device.wait(gradients.read(device, 0..self.values.len()))?;
        let d_features = device.wait(d_features.to_rows(device))?;
        // The last row is the sum over all rows of padding. These rows are equal, so each has the same share.
        let of_padding = match padding {
            Some(repeats) if repeats > 0 => {
                d_features[rows * dim..].iter().map(|x| x / repeats as f32).collect()
            }
            _ => vec![0.0; dim],
        };
        let embeddings = device.wait(encoder.unit.to_rows(device))?;
        let features = packed.unpack(&d_features, &of_padding);
        Ok(EncoderGradients { embeddings, features, gradient, head })
    }

    fn offsets<'a>(&self, side: Side, packed: &'a Packed) -> &'a [u32] {
        if self.layout.pooling[side as usize] == crate::model::Pooling::Gpo { &packed.offsets } else { &[] }
    }
}
