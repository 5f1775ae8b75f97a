//! The forms that wait, of everything that is async: the one place where the host waits for a device.
//!
//! Each is its async form and nothing else. A browser's page must not wait, so none of this is there. Who waits for the CPU lends
//! its work to a thread of the pool that the kernels share theirs with: from any other, each of a step's two dozen kernels would
//! wake that pool and be woken by it. Who waits for a GPU stays where it is.

use crate::Result;
use crate::device::{Adapters, Device, DeviceInfo};
use crate::eval::Recall;
use crate::head::Head;
use crate::negatives::{HardNegatives, NegativeOptions, hard_negatives_async};
use crate::objective::{GradientOptions, Gradients, Objective, Rows};
use crate::pipeline::{External, Features, Pipeline, StepStats};

pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    pollster::block_on(work)
}

impl Device {
    /// The best device here: a discrete GPU, else an integrated one, else the native CPU, and a software adapter only
    /// if `WGPU_ADAPTER_NAME` asks for it.
    ///
    /// `WGPU_BACKEND`, `WGPU_ADAPTER_NAME` and `WGPU_POWER_PREF` (`low` prefers an integrated GPU) are honoured.
    pub fn auto() -> Result<Self> {
        Self::open("auto")
    }

    /// The best adapter that wgpu finds, software adapters last.
    ///
    /// # Errors
    /// When there is none; the message names the packages to install.
    pub fn gpu() -> Result<Self> {
        Self::open("gpu")
    }

    /// The device that `request` names: `auto`, `gpu`, `cpu`, an index of [`Device::list`], or words that all occur in
    /// a device's backend, name or driver, such as `vulkan` or `gl:llvmpipe`.
    ///
    /// # Errors
    /// When nothing fits; the message lists what there is. A variable such as `WGPU_BACKEND` that says nothing known.
    pub fn open(request: &str) -> Result<Self> {
        wait(Self::open_async(request))
    }

    /// Every device of this machine, the native CPU last.
    pub fn list() -> Vec<DeviceInfo> {
        wait(Self::list_async())
    }

    /// Waits for work on this device. That of the CPU runs on a thread of rayon's pool, so it must be [`Send`], and must not wait
    /// for another thread that waits for that pool.
    pub fn wait<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        match self {
            Self::Cpu(_) => rayon::scope(|_| wait(work)),
            Self::Gpu(_) => wait(work),
        }
    }
}

impl Adapters {
    /// See [`Adapters::find_async`].
    pub fn find() -> Self {
        wait(Self::find_async())
    }

    /// See [`Device::open`].
    pub fn open(&self, request: &str) -> Result<Device> {
        wait(self.open_async(request))
    }
}

impl Objective {
    /// The gradient at a batch of N image and N text embeddings, row i of both being a pair: the paper's gradient for people who
    /// bring their own encoder. `images` and `texts` are each the values `[N, D]`, row-major, and the width D.
    ///
    /// ```
    /// use wgoal::{Device, GradientOptions, Objective};
    /// let (images, texts) = ([1.0, 0.0, 0.0, 1.0], [0.6, 0.8, 0.8, 0.6]);
    /// let objective: Objective = "hinge".parse()?;
    /// let g = objective.gradients(&Device::cpu(), (&images, 2), (&texts, 2), GradientOptions::default())?;
    /// assert_eq!(g.hardest_text_index, [1, 0]);
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// GOAL and hinge gradients are sums over the batch, InfoNCE's is a mean (goal-math.md section 5, vse-models.md
    /// section 4). The weights assume cosines: give unit rows, or set [`GradientOptions::normalize`].
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

/// Draws a false partner for each of N images and N texts, row i of both being a pair, in proportion to softmax(S / t) + 1e-5: the
/// hard negatives of X-VLM's matching loss (vse-models.md section 4). `images` and `texts` are each the values `[N, D]`,
/// row-major, and the width D; unit rows where S is to hold cosines.
///
/// The same seed and embeddings draw the same on one device; on another, rounding may move a draw that falls between two.
///
/// # Errors
/// When the shapes disagree, a value is not finite, a pair has no other to draw, or the device fails.
pub fn hard_negatives(
    device: &Device,
    images: Rows,
    texts: Rows,
    options: NegativeOptions,
) -> Result<HardNegatives> {
    device.wait(hard_negatives_async(device, images, texts, options))
}

impl Recall {
    /// From unit embeddings: `images [n, dim]`, `texts [m, dim]` row-major, and for each text the row of its image.
    /// An image may have any number of texts. One without a text is a candidate of all texts, but no query.
    ///
    /// # Errors
    /// Shapes that disagree, no text, a failing device.
    pub fn of(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        text_image: &[u32],
    ) -> Result<Self> {
        device.wait(Self::of_async(device, images, texts, dim, text_image))
    }

    /// The mean over `folds` disjoint stretches of consecutive images, each with its own texts (COCO 1K: five).
    ///
    /// # Errors
    /// As [`Recall::of`], a number of folds that does not divide the images, a fold without a text.
    pub fn folds(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        text_image: &[u32],
        folds: usize,
    ) -> Result<Self> {
        device.wait(Self::folds_async(device, images, texts, dim, text_image, folds))
    }
}

impl Pipeline {
    /// One step on a batch, with a learning rate. Queued on a GPU, done on return on the CPU. A step that fails changes nothing:
    /// the steps after it give the bits that they would give without it.
    ///
    /// # Errors
    /// Shapes other than the pipeline's, or a failing device.
    pub fn step(&mut self, batch: Features, objective: &Objective, rate: f64) -> Result<()> {
        let device = self.device();
        device.wait(self.step_async(batch, objective, rate))
    }

    /// [`Pipeline::step`] on local features, where the head pools them (image side, text side): the items of a side with
    /// `offsets` own the rows `offsets[i]..offsets[i + 1]` of its features `[rows, dim]`, of which there are at least one
    /// each; a side without (an empty slice) is pooled already, a row an item.
    ///
    /// # Errors
    /// Those of [`Pipeline::step`]; offsets that are wrong, or that the head does not go with.
    pub fn step_local(
        &mut self,
        batch: Features,
        offsets: [&[u32]; 2],
        objective: &Objective,
        rate: f64,
    ) -> Result<()> {
        let device = self.device();
        device.wait(self.step_local_async(batch, offsets, objective, rate, None))
    }

    /// [`Pipeline::step_local`] with a gradient from elsewhere added to the objective's at the unit embeddings, such as
    /// that of a matching loss (X-VLM) that another program computes on the same batch. Waits for the embeddings; `external` is
    /// called on this thread.
    ///
    /// ```
    /// use wgoal::{Device, Features, Head, Pipeline, TrainConfig};
    /// let config = TrainConfig { embed: 4, mask_same_image: false, ..Default::default() };
    /// let mut pipeline = Pipeline::new(&Device::cpu(), Head::new(3, 3, 4, 0)?, &config, 2)?;
    /// let batch = Features { images: &[1.0, 0.0, 2.0, 0.5, 1.0, 0.0], texts: &[0.0, 1.0, 1.0, 2.0, 0.0, 1.0], ids: &[] };
    /// // The gradient of the sum of squared distances of the pairs.
    /// let mut distance = |x: &[f32], y: &[f32]| {
    ///     let difference: Vec<f32> = x.iter().zip(y).map(|(x, y)| 2.0 * (x - y)).collect();
    ///     Ok([difference.clone(), difference.iter().map(|d| -d).collect()])
    /// };
    /// pipeline.step_with(batch, [&[], &[]], &config.objective, 1e-3, &mut distance)?;
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Pipeline::step_local`] and of `external`; gradients of another shape, or not finite.
    pub fn step_with(
        &mut self,
        batch: Features,
        offsets: [&[u32]; 2],
        objective: &Objective,
        rate: f64,
        external: External<'_>,
    ) -> Result<()> {
        wait(self.step_local_async(batch, offsets, objective, rate, Some(external)))
    }

    /// What the steps since the last call did. Waits for the device.
    ///
    /// # Errors
    /// A failing device.
    pub fn records(&mut self) -> Result<Vec<StepStats>> {
        wait(self.records_async())
    }

    /// The head as it is now. Waits for the device.
    ///
    /// # Errors
    /// A failing device.
    pub fn head(&self) -> Result<Head> {
        wait(self.head_async())
    }
}
