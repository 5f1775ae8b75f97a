//! The gradient at the caller's embeddings: [`Objective::gradients`] and [`GradientContext`].
//!
//! This file copies data to the device and back. The dispatches are those of `Workspace::gradient`.

use super::workspace::{Inputs, Workspace, check_pairs};
use crate::device::{Buffer, Commands, Device, Matrix};
use crate::kernels::{l2norm, l2norm_backward};
use crate::objective::{Logits, Objective};
use crate::{Error, Result};

/// Embeddings: their values, row-major, and the width of a row. Each side has its own width, so two matrices of
/// different shapes with the same number of values are not mistaken for pairs.
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
    /// The gradient at the temperature of InfoNCE or SigLIP; 0 for the others.
    pub temperature: f32,
    /// The gradient at the logit bias of SigLIP; 0 for the others.
    pub logit_bias: f32,
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

/// Options of [`Objective::gradients`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct GradientOptions<'a> {
    /// L2-normalise the rows first; the gradient is then at the raw rows.
    pub normalize: bool,
    /// Image of each pair: pairs of one image are never negatives of each other.
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
        let ((images, dim), (texts, _)) = (images, texts);
        let mut context = GradientContext::new(device, self, pairs, dim)?;
        let mut out = [vec![0.0; pairs * dim], vec![0.0; pairs * dim]];
        let [dx, dy] = &mut out;
        let value = context.compute(images, texts, options, [dx, dy]).await?;
        let mined = context.mined_async().await?;
        let [images, texts] = out;
        let GradientValue { loss, temperature, logit_bias } = value;
        Ok(Gradients { images, texts, loss, temperature, logit_bias, ..mined })
    }
}

/// What [`GradientContext::gradients`] returns beside the gradients.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct GradientValue {
    /// The objective's value, as [`Gradients::loss`].
    pub loss: f32,
    /// The gradient at the temperature of InfoNCE or SigLIP; 0 for the others.
    pub temperature: f32,
    /// The gradient at the logit bias of SigLIP; 0 for the others.
    pub logit_bias: f32,
}

/// Computes gradients of one objective at batches of one shape. It keeps its buffers on the device between calls, and
/// writes into the caller's slices.
///
/// ```
/// use wgoal::{Device, Objective, gradient::{GradientContext, GradientOptions}};
/// let objective: Objective = "hinge".parse()?;
/// let mut context = GradientContext::new(&Device::cpu(), &objective, 2, 2)?;
/// let (images, texts) = ([1.0, 0.0, 0.0, 1.0], [0.6, 0.8, 0.8, 0.6]);
/// let (mut dx, mut dy) = ([0.0; 4], [0.0; 4]);
/// let value = context.gradients(&images, &texts, GradientOptions::default(), [&mut dx, &mut dy])?;
/// assert!(value.loss > 0.0 && dx[0] != 0.0);
/// # Ok::<(), wgoal::Error>(())
/// ```
pub struct GradientContext {
    device: Device,
    objective: Objective,
    dim: usize,
    workspace: Workspace,
    ids: Buffer<u32>,
    logits: Buffer<f32>,
    /// Images and texts.
    embeddings: [Matrix; 2],
    /// The buffers of the normalisation, after its first use.
    normalised: Option<[Normalised; 2]>,
    /// Gradients at the rows that the objective sees.
    gradients: [Matrix; 2],
}

/// One side's L2-normalised rows, and the gradient at the rows before the normalisation.
struct Normalised {
    unit: Matrix,
    norms: Buffer<f32>,
    gradient: Matrix,
}

impl Normalised {
    fn new(device: &Device, pairs: usize, dim: usize) -> Result<Self> {
        Ok(Self {
            unit: Matrix::new(device, "unit", pairs, dim)?,
            norms: Buffer::new(device, "norms", pairs)?,
            gradient: Matrix::new(device, "d.raw", pairs, dim)?,
        })
    }
}

impl GradientContext {
    /// For batches of `pairs` embeddings of width `dim`.
    ///
    /// # Errors
    /// A parameter out of range, no pairs or too many, a width of 0, or a device without enough memory.
    pub fn new(device: &Device, objective: &Objective, pairs: usize, dim: usize) -> Result<Self> {
        objective.validate()?;
        check_pairs(pairs)?;
        if dim == 0 {
            return Err(Error::config("embeddings", "a width of 1 or more", dim, "give their width"));
        }
        let logits = objective.logits().map_or([0.0; Logits::LEN], |logits| logits.values());
        Ok(Self {
            workspace: Workspace::new(device, pairs, dim, 0)?,
            ids: Buffer::new(device, "ids", pairs)?,
            logits: Buffer::from_slice(device, "logits", &logits)?,
            embeddings: [
                Matrix::new(device, "images", pairs, dim)?,
                Matrix::new(device, "texts", pairs, dim)?,
            ],
            normalised: None,
            gradients: [
                Matrix::new(device, "d.images", pairs, dim)?,
                Matrix::new(device, "d.texts", pairs, dim)?,
            ],
            device: device.clone(),
            objective: objective.clone(),
            dim,
        })
    }

    /// Computes the gradients of another objective from now on, with the same buffers.
    ///
    /// # Errors
    /// A parameter out of range; the context then keeps its objective.
    pub fn set_objective(&mut self, objective: &Objective) -> Result<()> {
        objective.validate()?;
        let logits = objective.logits().map_or([0.0; Logits::LEN], |logits| logits.values());
        self.logits.write(&self.device, 0, &logits)?;
        self.objective.clone_from(objective);
        Ok(())
    }

    /// [`GradientContext::gradients`] without waiting.
    ///
    /// # Errors
    /// Those of [`GradientContext::gradients`].
    pub async fn gradients_async(
        &mut self,
        images: &[f32],
        texts: &[f32],
        options: GradientOptions<'_>,
        [dx, dy]: [&mut [f32]; 2],
    ) -> Result<GradientValue> {
        let (pairs, dim) = (self.workspace.pairs(), self.dim);
        let found = check_embeddings((images, dim), (texts, dim), options.ids)?;
        if [found, dx.len(), dy.len()] != [pairs, pairs * dim, pairs * dim] {
            let expected = format!("{pairs} pairs of width {dim}, and gradients of as many values");
            let found = format!("{found} pairs, and {} and {} values", dx.len(), dy.len());
            let advice = "give the shape that the context was made for";
            return Err(Error::config("embeddings", expected, found, advice));
        }
        self.compute(images, texts, options, [dx, dy]).await
    }

    /// [`GradientContext::gradients_async`] on shapes and values that were checked.
    async fn compute(
        &mut self,
        images: &[f32],
        texts: &[f32],
        options: GradientOptions<'_>,
        out: [&mut [f32]; 2],
    ) -> Result<GradientValue> {
        if !options.scale.is_finite() {
            let advice = "give the upstream gradient";
            return Err(Error::config("scale", "a finite number", options.scale, advice));
        }
        for (matrix, values) in self.embeddings.iter_mut().zip([images, texts]) {
            matrix.write_rows(&self.device, values)?;
        }
        if let Some(ids) = options.ids {
            self.ids.write(&self.device, 0, ids)?;
        }
        if options.normalize && self.normalised.is_none() {
            let new = || Normalised::new(&self.device, self.workspace.pairs(), self.dim);
            self.normalised = Some([new()?, new()?]);
        }
        let mut commands = self.device.commands();
        self.record(&mut commands, options)?;
        commands.submit()?;
        let [dx, dy] = match &self.normalised {
            Some([image, text]) if options.normalize => [&image.gradient, &text.gradient],
            _ => self.gradients.each_ref(),
        };
        for (gradient, out) in [dx, dy].into_iter().zip(out) {
            gradient.read_rows(&self.device, out).await?;
        }
        self.value().await
    }

    /// The list of dispatches.
    fn record(&mut self, commands: &mut Commands, options: GradientOptions<'_>) -> Result<()> {
        let mut normalised = self.normalised.as_mut().filter(|_| options.normalize);
        for (side, raw) in normalised.iter_mut().flat_map(|sides| sides.iter_mut()).zip(&self.embeddings) {
            l2norm(commands, raw.view(), side.unit.view_mut(), side.norms.view_mut())?;
        }
        let [images, texts] = match &normalised {
            Some([image, text]) => [image.unit.view(), text.unit.view()],
            None => self.embeddings.each_ref().map(Matrix::view),
        };
        let inputs = Inputs {
            images,
            texts,
            ids: options.ids.map(|_| self.ids.view()),
            logits: self.logits.view(),
            left_out: None,
            scale: options.scale,
            bank: None,
        };
        let [dx, dy] = &mut self.gradients;
        self.workspace.gradient(commands, &self.objective, inputs, [dx, dy])?;
        for (side, upstream) in normalised.into_iter().flatten().zip(&self.gradients) {
            let Normalised { unit, norms, gradient } = side;
            l2norm_backward(commands, upstream.view(), unit.view(), norms.view(), gradient.view_mut())?;
        }
        Ok(())
    }

    /// Loss and gradients of the logits' parameters.
    async fn value(&self) -> Result<GradientValue> {
        let (device, pairs) = (&self.device, self.workspace.pairs());
        let Workspace { images, texts, dt, db, .. } = &self.workspace;
        let mut loss = images.loss.read(device, 0..pairs).await?;
        loss.extend(texts.loss.read(device, 0..pairs).await?);
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
        let logits = self.objective.logits();
        let temperature = if logits.is_some() { sum(&dt.to_rows(device).await?) } else { 0.0 };
        let has_bias = logits.is_some_and(|logits| logits.has_bias);
        let logit_bias = if has_bias { sum(&db.to_rows(device).await?) } else { 0.0 };
        Ok(GradientValue { loss: sum(&loss), temperature, logit_bias })
    }

    /// The negatives that the last call mined: the similarities and indices of [`Gradients`]. The other fields are
    /// empty.
    ///
    /// # Errors
    /// A failing device.
    pub async fn mined_async(&self) -> Result<Gradients> {
        let (device, pairs) = (&self.device, self.workspace.pairs());
        let Workspace { positive, images, texts, .. } = &self.workspace;
        Ok(Gradients {
            positive: positive.read(device, 0..pairs).await?,
            hardest_text: images.rounds.hardest().value.read(device, 0..pairs).await?,
            hardest_text_index: images.rounds.hardest().index.read(device, 0..pairs).await?,
            hardest_image: texts.rounds.hardest().value.read(device, 0..pairs).await?,
            hardest_image_index: texts.rounds.hardest().index.read(device, 0..pairs).await?,
            ..Gradients::default()
        })
    }
}

#[cfg(feature = "native")]
impl GradientContext {
    /// Computes the gradients at `images` and `texts`, each `[pairs, dim]` row-major, and writes them into two slices
    /// of the same shape. Row i of both sides is a pair.
    ///
    /// # Errors
    /// Another shape, a value that is not finite, a failing device.
    pub fn gradients(
        &mut self,
        images: &[f32],
        texts: &[f32],
        options: GradientOptions,
        into: [&mut [f32]; 2],
    ) -> Result<GradientValue> {
        let device = self.device.clone();
        device.wait(self.gradients_async(images, texts, options, into))
    }

    /// The negatives that the last call mined: the similarities and indices of [`Gradients`]. The other fields are
    /// empty.
    ///
    /// # Errors
    /// A failing device.
    pub fn mined(&self) -> Result<Gradients> {
        self.device.wait(self.mined_async())
    }
}

/// The number of rows.
///
/// # Errors
/// No values, or values that are not whole rows.
pub(crate) fn check_rows(name: &str, (values, dim): Rows) -> Result<usize> {
    if !values.is_empty() && dim > 0 && values.len().is_multiple_of(dim) {
        return Ok(values.len() / dim);
    }
    let (thing, expected) = (format!("{name} embeddings"), format!("whole rows of width {dim}, one or more"));
    let found = format!("{} values", values.len());
    Err(Error::config(thing, expected, found, "give a matrix of embeddings and its own width"))
}

/// The position of the first value that is not finite.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    /// Values that are checked together, without a branch per value, so that the compiler can use vector instructions.
    const CHUNK: usize = 1024;
    // Exactly the numbers that are not finite have all bits of the exponent set.
    const EXPONENT: u32 = 0x7f80_0000;
    let all_set = |x: &f32| u32::from(x.to_bits() & EXPONENT == EXPONENT);
    let is_bad = |chunk: &[f32]| chunk.iter().fold(0, |bad, x| bad | all_set(x)) != 0;
    let chunk = values.chunks(CHUNK).position(is_bad)?;
    let first = chunk * CHUNK;
    values[first..].iter().position(|x| !x.is_finite()).map(|at| first + at)
}

/// Checks that shapes and values are those of a batch of embeddings, and returns the number of pairs.
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
        if let Some(at) = first_not_finite(values) {
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
    /// The gradient at a batch of N image and N text embeddings, for callers with their own encoder. Row i of both
    /// sides is a pair. `images` and `texts` are each the values `[N, D]`, row-major, and the width D.
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
    /// GOAL and hinge gradients are sums over the batch. Those of InfoNCE and SigLIP are divided by the number
    /// of pairs (docs/math.md, "Assembled gradient", "InfoNCE" and "SigLIP"). The weights assume cosines: give unit rows, or set [`GradientOptions::normalize`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut values: Vec<f32> = (0..5000).map(|k| k as f32 * f32::MIN_POSITIVE / 4.0).collect();
        values.extend([f32::MAX, f32::MIN, -0.0]);
        assert_eq!(first_not_finite(&values), None);
        assert_eq!(first_not_finite(&[]), None);
        for at in [5002, 4096, 1024, 1023, 0] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)] {
                let mut values = values.clone();
                values[at] = bad;
                values[4999] = f32::NAN;
                assert_eq!(first_not_finite(&values), Some(at.min(4999)), "{bad}");
            }
        }
    }
}
