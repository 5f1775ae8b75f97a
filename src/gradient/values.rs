//! What callers give and get: embeddings, options and gradients.

/// Embeddings: their values, row-major, and the width of a row. Each side has its own width, so two matrices of
/// different shapes with the same number of values are not mistaken for pairs.
pub type Rows<'a> = (&'a [f32], usize);

/// The gradient of an objective at a batch of embeddings; see [`Objective::gradients`](crate::Objective::gradients). M and N are the numbers of images
/// and of texts.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Gradients {
    /// Gradient at the images, `[M, D]` row-major.
    pub images: Vec<f32>,
    /// Gradient at the texts, `[N, D]` row-major.
    pub texts: Vec<f32>,
    /// The objective's value. For GOAL the published surrogate: the sum of n − p over both directions.
    pub loss: f32,
    /// The gradient at the temperature of InfoNCE or SigLIP; 0 for the others.
    pub temperature: f32,
    /// The gradient at the logit bias of SigLIP; 0 for the others.
    pub logit_bias: f32,
    /// Similarity of each text to its image, `[N]`.
    pub positive: Vec<f32>,
    /// Similarity of each image's hardest text, `[M]`.
    pub hardest_text: Vec<f32>,
    /// Index of each image's hardest text, `[M]`.
    pub hardest_text_index: Vec<u32>,
    /// Similarity of each text's hardest image, `[N]`.
    pub hardest_image: Vec<f32>,
    /// Index of each text's hardest image, `[N]`.
    pub hardest_image_index: Vec<u32>,
}

/// Options of [`Objective::gradients`](crate::Objective::gradients).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct GradientOptions<'a> {
    /// L2-normalise the rows first; the gradient is then at the raw rows.
    pub normalize: bool,
    /// Image of each pair: pairs of one image are never negatives of each other.
    pub ids: Option<&'a [u32]>,
    /// Image row of each text, for batches whose images have one text or several (docs/math.md, "Several texts"). The
    /// numbers of images and of texts may then differ. Without it, row i of both sides is a pair.
    pub text_image: Option<&'a [u32]>,
    /// Upstream gradient, a factor on everything but the loss.
    pub scale: f32,
}

with!(GradientOptions<'_>);

impl Default for GradientOptions<'_> {
    fn default() -> Self {
        Self { normalize: false, ids: None, text_image: None, scale: 1.0 }
    }
}

/// What [`GradientContext::gradients`](super::GradientContext::gradients) returns beside the gradients.
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
