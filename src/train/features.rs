//! The features of a step: of a caller, or of a batch that the worker has prepared.

use crate::Result;
use crate::device::Upload;

/// The features of a batch of pairs, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// `[pairs, image_dim]`
    pub images: &'a [f32],
    /// `[pairs, text_dim]`
    pub texts: &'a [f32],
    /// The image of each pair. Read only if the configuration masks pairs of the same image or has a memory bank.
    pub ids: &'a [u32],
}

/// A function for a loss that is computed outside. It takes the unit embeddings of a batch's images and texts,
/// `[pairs, embed]` row-major, and returns the gradients of its loss at both. They are added to those of the objective.
/// The function is [`Send`] because a step may run on another thread.
pub type External<'a> = &'a mut (dyn FnMut(&[f32], &[f32]) -> Result<[Vec<f32>; 2]> + Send);

/// The padded features of a batch, or of a slice of it.
pub(crate) struct Part<'a> {
    pub rows: [Upload<'a, f32>; 2],
    pub offsets: [&'a [u32]; 2],
}

impl<'a> Part<'a> {
    /// A batch, or a slice of it, that is ready for upload.
    pub fn of(batch: &'a mut crate::data::Batch) -> Self {
        let crate::data::Batch { images, texts, staged: [staged_images, staged_texts], offsets, .. } = batch;
        let rows =
            [(images, staged_images), (texts, staged_texts)].map(|(rows, staged)| match staged.take() {
                Some(staged) => staged,
                None => Upload::Owned(rows),
            });
        Self { rows, offsets: [&offsets[0], &offsets[1]] }
    }
}
