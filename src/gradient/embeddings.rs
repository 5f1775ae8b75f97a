//! The gradient at the caller's embeddings: [`Objective::gradients`] and [`GradientContext`].
//!
//! This file copies data to the device and back. The dispatches are those of `Workspace::gradient`. It is long because
//! each call has a form that waits and one that does not.

use super::captions::{Captions, with_captions};
use super::checks::check_batch;
use super::values::{GradientOptions, GradientValue, Gradients, Rows};
use super::workspace::{Inputs, Workspace, check_pairs};
use crate::device::{Backend, Buffer, Commands, Device, Mat, MatMut, Matrix, Slice, SliceMut, padded};
use crate::kernels::{l2norm, l2norm_backward};
use crate::objective::{Logits, Objective};
use crate::{Error, Result};

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
        let shape = check_batch(images, texts, &options)?;
        let ((images, dim), (texts, _)) = (images, texts);
        let mut context = match options.text_image {
            None => GradientContext::new(device, self, shape[1], dim)?,
            Some(_) => GradientContext::with_captions(device, self, shape, dim)?,
        };
        let mut out = shape.map(|rows| vec![0.0; rows * dim]);
        let [dx, dy] = &mut out;
        let value = context.compute(images, texts, options, [dx, dy]).await?;
        let mined = context.mined_async().await?;
        let [images, texts] = out;
        let GradientValue { loss, temperature, logit_bias } = value;
        Ok(Gradients { images, texts, loss, temperature, logit_bias, ..mined })
    }
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
    /// Whether the image of every text is given.
    takes_captions: bool,
    /// Those of the last batch.
    captions: Option<Captions>,
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
        check_pairs(pairs)?;
        let workspace = |dim| Workspace::new(device, pairs, dim, 0);
        Self::with_workspace(device, objective.clone(), workspace, (pairs, dim))
    }

    /// For batches of `images` embeddings and `texts` embeddings of width `dim`, where every image has one text or
    /// several. [`GradientOptions::text_image`] then gives the image of every text (docs/math.md, "Several texts").
    ///
    /// # Errors
    /// Those of [`GradientContext::new`]; fewer texts than images; an objective that tells one text of an image from the
    /// others (`infonce-masked`, `siglip-masked`).
    pub fn with_captions(
        device: &Device,
        objective: &Objective,
        [images, texts]: [usize; 2],
        dim: usize,
    ) -> Result<Self> {
        check_pairs(texts)?;
        if !(1..=texts).contains(&images) {
            let expected = format!("1 to {texts}, the number of texts");
            let advice = "give every image a text, or swap images and texts if texts have several images";
            return Err(Error::config("images of a batch", expected, images, advice));
        }
        let workspace = |dim| Workspace::with_captions(device, [images, texts], dim);
        let context = Self::with_workspace(device, with_captions(objective)?, workspace, (texts, dim))?;
        Ok(Self { takes_captions: true, ..context })
    }

    fn with_workspace(
        device: &Device,
        objective: Objective,
        workspace: impl FnOnce(usize) -> Result<Workspace>,
        (pairs, dim): (usize, usize),
    ) -> Result<Self> {
        objective.validate()?;
        if dim == 0 {
            return Err(Error::config("embeddings", "a width of 1 or more", dim, "give their width"));
        }
        let logits = objective.logits().map_or([0.0; Logits::LEN], |logits| logits.values());
        Ok(Self {
            workspace: workspace(dim)?,
            takes_captions: false,
            captions: None,
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
            objective,
            dim,
        })
    }

    /// Computes the gradients of another objective from now on, with the same buffers.
    ///
    /// # Errors
    /// A parameter out of range, or an objective that the context cannot compute; it then keeps its objective.
    pub fn set_objective(&mut self, objective: &Objective) -> Result<()> {
        let objective = if self.takes_captions { with_captions(objective)? } else { objective.clone() };
        objective.validate()?;
        let logits = objective.logits().map_or([0.0; Logits::LEN], |logits| logits.values());
        self.logits.write(&self.device, 0, &logits)?;
        self.objective = objective;
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
        let (shape, dim) = (self.workspace.anchors(), self.dim);
        if options.text_image.is_some() != self.takes_captions {
            let (expected, found, advice) = match self.takes_captions {
                true => ("the image of every text", "none", "give it, or make the context with `new`"),
                false => ("none", "some numbers", "make the context with `with_captions`"),
            };
            return Err(Error::config("text_image", expected, found, advice));
        }
        let found = check_batch((images, dim), (texts, dim), &options)?;
        if (found, [dx.len(), dy.len()]) != (shape, shape.map(|rows| rows * dim)) {
            let [m, n] = shape;
            let expected =
                format!("{m} images and {n} texts of width {dim}, and gradients of as many values");
            let [m, n] = found;
            let found = format!("{m} and {n}, and gradients of {} and {} values", dx.len(), dy.len());
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
        [dx, dy]: [&mut [f32]; 2],
    ) -> Result<GradientValue> {
        if !options.scale.is_finite() {
            let advice = "give the upstream gradient";
            return Err(Error::config("scale", "a finite number", options.scale, advice));
        }
        let [count, _] = self.workspace.anchors();
        self.captions = options.text_image.map(|images| Captions::new(count, images)).transpose()?;
        // On the CPU, rows without padding are read and written where the caller has them.
        let in_place = matches!(self.device, Device(Backend::Cpu(_), ..))
            && padded(self.dim) == self.dim
            && self.captions.is_none();
        if !in_place {
            let gathered = self.captions.as_ref().map(|captions| captions.gather(texts, self.dim));
            let given = [images, gathered.as_deref().unwrap_or(texts)];
            // The rows of images from `count` on stay zero.
            for (matrix, values) in self.embeddings.iter_mut().zip(given) {
                matrix.write_rows(&self.device, values)?;
            }
        }
        let ids = self.captions.as_ref().map(|captions| &captions.ids[..]).or(options.ids);
        if let Some(ids) = ids {
            self.ids.write(&self.device, 0, ids)?;
        }
        let has_ids = ids.is_some();
        if options.normalize && self.normalised.is_none() {
            let new = || Normalised::new(&self.device, self.workspace.pairs(), self.dim);
            self.normalised = Some([new()?, new()?]);
        }
        let mut commands = self.device.commands();
        if in_place {
            self.record(&mut commands, options, has_ids, Some(([images, texts], [dx, dy])))?;
            commands.submit()?;
            return self.value().await;
        }
        self.record(&mut commands, options, has_ids, None)?;
        commands.submit()?;
        let [of_images, of_texts] = match &self.normalised {
            Some([image, text]) if options.normalize => [&image.gradient, &text.gradient],
            _ => self.gradients.each_ref(),
        };
        of_images.read_rows(&self.device, dx).await?;
        of_texts.read_rows(&self.device, dy).await?;
        if let Some(captions) = &self.captions {
            let places = dy.to_vec();
            captions.scatter(&places, dy, self.dim);
        }
        self.value().await
    }

    /// The list of dispatches. `in_place` has the embeddings and the places of the gradients, if they are not in the
    /// matrices of the context.
    fn record(
        &mut self,
        commands: &mut Commands,
        options: GradientOptions<'_>,
        has_ids: bool,
        in_place: Option<([&[f32]; 2], [&mut [f32]; 2])>,
    ) -> Result<()> {
        let (rows, cols) = (self.workspace.pairs(), self.dim);
        let (given, out) = in_place.unzip();
        let raw = match given {
            Some(given) => given.map(|values| Mat { data: Slice::Host(values), rows, cols }),
            None => self.embeddings.each_ref().map(Matrix::view),
        };
        let mut out =
            out.map(|out| out.map(|out| MatMut { data: SliceMut::Host(out), rows, cols, stride: cols }));
        let mut normalised = self.normalised.as_mut().filter(|_| options.normalize);
        for (side, raw) in normalised.iter_mut().flat_map(|sides| sides.iter_mut()).zip(raw) {
            l2norm(commands, raw, side.unit.view_mut(), side.norms.view_mut())?;
        }
        let [images, texts] = match &normalised {
            Some([image, text]) => [image.unit.view(), text.unit.view()],
            None => raw,
        };
        let inputs = Inputs {
            images,
            texts,
            ids: has_ids.then(|| self.ids.view()),
            logits: self.logits.view(),
            left_out: None,
            scale: options.scale,
            bank: None,
        };
        let [mut dx, mut dy] = match (&mut out, &normalised) {
            (Some(out), None) => out.each_mut().map(MatMut::view_mut),
            _ => self.gradients.each_mut().map(Matrix::view_mut),
        };
        self.workspace.gradient(commands, &self.objective, inputs, [&mut dx, &mut dy])?;
        let Some(sides) = normalised else { return Ok(()) };
        for (at, (side, upstream)) in sides.iter_mut().zip(&self.gradients).enumerate() {
            let Normalised { unit, norms, gradient } = side;
            let gradient = match &mut out {
                Some(out) => out[at].view_mut(),
                None => gradient.view_mut(),
            };
            l2norm_backward(commands, upstream.view(), unit.view(), norms.view(), gradient)?;
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
        let [count, _] = self.workspace.anchors();
        let Workspace { positive, images, texts, .. } = &self.workspace;
        let found = Gradients {
            positive: positive.read(device, 0..pairs).await?,
            hardest_text: images.rounds.hardest().value.read(device, 0..count).await?,
            hardest_text_index: images.rounds.hardest().index.read(device, 0..count).await?,
            hardest_image: texts.rounds.hardest().value.read(device, 0..pairs).await?,
            hardest_image_index: texts.rounds.hardest().index.read(device, 0..pairs).await?,
            ..Gradients::default()
        };
        Ok(match &self.captions {
            Some(captions) => captions.named(found),
            None => found,
        })
    }
}

#[cfg(feature = "native")]
impl GradientContext {
    /// Computes the gradients at `images` and `texts`, each `[pairs, dim]` row-major, and writes them into two slices
    /// of the same shape. Row i of both sides is a pair. A context made by [`GradientContext::with_captions`] takes
    /// `[images, dim]` and `[texts, dim]`.
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

#[cfg(feature = "native")]
impl Objective {
    /// The gradient at a batch of N image and N text embeddings, for callers with their own encoder. Row i of both
    /// sides is a pair. `images` and `texts` are each the values `[N, D]`, row-major, and the width D.
    ///
    /// With [`GradientOptions::text_image`], the batch has M images and N texts, and text j belongs to image
    /// `text_image[j]`.
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
