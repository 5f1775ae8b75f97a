//! The gradient at embeddings that the caller brings: what [`Objective::gradients`] takes and gives.
//!
//! Owns the way onto the device and back; the dispatches are `gradient`'s.

use super::workspace::{Inputs, Workspace, check_pairs};
use crate::device::{Buffer, Device, Matrix};
use crate::kernels::{l2norm, l2norm_backward};
use crate::objective::Objective;
use crate::{Error, Result};

/// Embeddings: their values, row-major, and the width of a row. Each side says its own width, so that matrices of other shapes
/// with as many values are not taken for pairs.
pub type Rows<'a> = (&'a [f32], usize);

/// The gradient of an objective at a batch of embeddings; see [`Objective::gradients`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Gradients {
    /// Gradient at the images, `[N, D]` row-major.
    pub images: Vec<f32>,
    /// Gradient at the texts, `[N, D]` row-major.
    pub texts: Vec<f32>,
    /// The objective's value. For GOAL the published surrogate: the sum of n − p over both directions.
    pub loss: f32,
    /// InfoNCE's gradient at the temperature; 0 for the others.
    pub temperature: f32,
    /// Positive similarity of each pair, `[N]`.
    pub positive: Vec<f32>,
    /// Similarity of each image's hardest text, `[N]`.
    pub hardest_text: Vec<f32>,
    /// Index of each image's hardest text, `[N]`.
    pub hardest_text_index: Vec<u32>,
    /// Similarity of each text's hardest image, `[N]`.
    pub hardest_image: Vec<f32>,
    /// Index of each text's hardest image, `[N]`.
    pub hardest_image_index: Vec<u32>,
}

/// How [`Objective::gradients`] takes its embeddings.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct GradientOptions<'a> {
    /// L2-normalise the rows first; the gradient is then at the raw rows.
    pub normalize: bool,
    /// Image of each pair: pairs of one image are no negatives of each other.
    pub ids: Option<&'a [u32]>,
    /// Upstream gradient, a factor on everything but the loss.
    pub scale: f32,
}

with!(GradientOptions<'_>);

impl Default for GradientOptions<'_> {
    fn default() -> Self {
        Self { normalize: false, ids: None, scale: 1.0 }
    }
}

impl Objective {
    /// [`Objective::gradients`] without waiting.
    ///
    /// # Errors
    /// Those of [`Objective::gradients`].
    pub async fn gradients_async(
        &self,
        device: &Device,
        images: Rows<'_>,
        texts: Rows<'_>,
        options: GradientOptions<'_>,
    ) -> Result<Gradients> {
        self.validate()?;
        let pairs = check_embeddings(images, texts, options.ids)?;
        check_pairs(pairs)?;
        let ((images, dim), (texts, _)) = (images, texts);
        if !options.scale.is_finite() {
            return Err(Error::config(
                "scale",
                "a finite number",
                options.scale,
                "give the upstream gradient",
            ));
        }
        let mut x = Matrix::from_rows(device, "images", pairs, dim, images)?;
        let mut y = Matrix::from_rows(device, "texts", pairs, dim, texts)?;
        let mut gradients =
            [Matrix::new(device, "d.images", pairs, dim)?, Matrix::new(device, "d.texts", pairs, dim)?];
        let ids = options.ids.map(|ids| Buffer::from_slice(device, "ids", ids)).transpose()?;
        let temperature = self.infonce().map_or(1.0, |params| params.temperature);
        let temperature = Buffer::from_slice(device, "temperature", &[temperature])?;
        let mut workspace = Workspace::new(device, pairs, dim, 0)?;
        let mut commands = device.commands();
        let mut norms = [Buffer::new(device, "norms", pairs)?, Buffer::new(device, "norms", pairs)?];
        if options.normalize {
            for (raw, norms) in [&mut x, &mut y].into_iter().zip(&mut norms) {
                let mut unit = Matrix::new(device, "unit", pairs, dim)?;
                l2norm(&mut commands, raw.view(), unit.view_mut(), norms.view_mut())?;
                *raw = unit;
            }
        }
        let inputs = Inputs {
            images: x.view(),
            texts: y.view(),
            ids: ids.as_ref().map(Buffer::view),
            temperature: temperature.view(),
            scale: options.scale,
            bank: None,
        };
        let [dx, dy] = &mut gradients;
        workspace.gradient(&mut commands, self, inputs, [dx, dy])?;
        if options.normalize {
            for ((unit, norms), gradient) in [&x, &y].into_iter().zip(&norms).zip(&mut gradients) {
                let mut raw = Matrix::new(device, "d.raw", pairs, dim)?;
                l2norm_backward(&mut commands, gradient.view(), unit.view(), norms.view(), raw.view_mut())?;
                *gradient = raw;
            }
        }
        commands.submit()?;
        let Workspace { positive, images, texts, dt, .. } = &workspace;
        let mut loss = images.loss.read(device, 0..pairs).await?;
        loss.extend(texts.loss.read(device, 0..pairs).await?);
        Ok(Gradients {
            images: gradients[0].to_rows(device).await?,
            texts: gradients[1].to_rows(device).await?,
            loss: loss.iter().map(|&x| f64::from(x)).sum::<f64>() as f32,
            temperature: match self.infonce() {
                Some(_) => dt.to_rows(device).await?.iter().map(|&x| f64::from(x)).sum::<f64>() as f32,
                None => 0.0,
            },
            positive: positive.read(device, 0..pairs).await?,
            hardest_text: images.rounds.hardest().value.read(device, 0..pairs).await?,
            hardest_text_index: images.rounds.hardest().index.read(device, 0..pairs).await?,
            hardest_image: texts.rounds.hardest().value.read(device, 0..pairs).await?,
            hardest_image_index: texts.rounds.hardest().index.read(device, 0..pairs).await?,
        })
    }
}

/// The number of rows.
///
/// # Errors
/// Values that are no whole rows, or none.
pub(crate) fn check_rows(name: &str, (values, dim): Rows) -> Result<usize> {
    if !values.is_empty() && dim > 0 && values.len().is_multiple_of(dim) {
        return Ok(values.len() / dim);
    }
    let (thing, expected) = (format!("{name} embeddings"), format!("whole rows of width {dim}, one or more"));
    let found = format!("{} values", values.len());
    Err(Error::config(thing, expected, found, "give a matrix of embeddings and its own width"))
}

/// The number of pairs, once shapes and values are those of a batch of embeddings.
///
/// # Errors
/// Shapes that disagree; a value that is not finite.
pub(crate) fn check_embeddings(images: Rows, texts: Rows, ids: Option<&[u32]>) -> Result<usize> {
    let (pairs, others) = (check_rows("image", images)?, check_rows("text", texts)?);
    let ((images, dim), (texts, width)) = (images, texts);
    if (pairs, dim) != (others, width) {
        return Err(Error::config(
            "embeddings",
            "two matrices of one shape",
            format!("[{pairs}, {dim}] and [{others}, {width}]"),
            "give one text embedding for each image embedding, as wide as that",
        ));
    }
    for (name, values) in [("image", images), ("text", texts)] {
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::data(
                format!("{name} embedding, row {}, column {}", at / dim, at % dim),
                "a finite number",
                values[at],
                "correct the embedding",
            ));
        }
    }
    if let Some(ids) = ids
        && ids.len() != pairs
    {
        let expected = format!("{pairs} numbers, one a pair");
        return Err(Error::config("ids", expected, ids.len(), "give the image of every pair"));
    }
    Ok(pairs)
}

#[cfg(feature = "native")]
impl Objective {
    /// The gradient at a batch of N image and N text embeddings, row i of both being a pair: the paper's gradient for people who
    /// bring their own encoder. `images` and `texts` are each the values `[N, D]`, row-major, and the width D.
    ///
    /// ```
    /// use wgoal::{Device, Objective};
    /// use wgoal::gradient::GradientOptions;
    /// let (images, texts) = ([1.0, 0.0, 0.0, 1.0], [0.6, 0.8, 0.8, 0.6]);
    /// let objective: Objective = "hinge".parse()?;
    /// let g = objective.gradients(&Device::cpu(), (&images, 2), (&texts, 2), GradientOptions::default())?;
    /// assert_eq!(g.hardest_text_index, [1, 0]);
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// GOAL and hinge gradients are sums over the batch, InfoNCE's is a mean (docs/math.md, "Assembled gradient" and
    /// "InfoNCE"). The weights assume cosines: give unit rows, or set [`GradientOptions::normalize`].
    ///
    /// # Errors
    /// When the shapes disagree, a value is not finite, a parameter is out of range, or the device fails.
    pub fn gradients(
        &self,
        device: &Device,
        images: Rows,
        texts: Rows,
        options: GradientOptions,
    ) -> Result<Gradients> {
        device.wait(self.gradients_async(device, images, texts, options))
    }
}
