//! A head over a dataset: embeddings of its rows and recall on its splits.

use crate::data::{Dataset, Gather, Side, Split};
use crate::device::{Buffer, Device, Matrix};
use crate::eval::Recall;
use crate::head::{Head, Layout};
use crate::kernels::{Product, l2norm, matmul};
use crate::{Error, Result};

/// Rows that are embedded at a time.
const CHUNK: usize = 1024;

impl Head {
    /// Embeds rows of one side of a dataset: unit rows `[rows, dim]`, row-major.
    ///
    /// # Errors
    /// A dataset of another width, a bad value in a row, a failing device.
    pub fn embed(&self, device: &Device, dataset: &Dataset, side: Side, rows: &[u32]) -> Result<Vec<f32>> {
        self.check_dataset(dataset)?;
        let values = Buffer::from_slice(device, "head", &self.values)?;
        let gather = Gather::new(self.standardize.clone(), 0.0)?;
        device.wait(embed(device, &self.layout, &values, &gather, dataset, side, rows))
    }

    pub(crate) fn check_dataset(&self, dataset: &Dataset) -> Result<()> {
        let found = [dataset.image_dim(), dataset.text_dim()];
        if found == self.layout.dims {
            return Ok(());
        }
        let [p, q] = self.layout.dims;
        Err(Error::data(
            dataset.name(),
            format!("image features of width {p} and text features of width {q}, those of the head"),
            format!("{} and {}", found[0], found[1]),
            "give the features of the encoders that the head was trained on",
        ))
    }

    /// Recall on a split of a dataset; see [`Recall::folds`].
    ///
    /// # Errors
    /// Those of [`Head::embed`] and [`Recall::folds`].
    pub fn recall(&self, device: &Device, dataset: &Dataset, split: Split, folds: usize) -> Result<Recall> {
        let rows = dataset.split(split);
        let images = self.embed(device, dataset, Side::Image, &rows.images)?;
        let texts = self.embed(device, dataset, Side::Text, &rows.texts)?;
        Recall::folds(device, &images, &texts, self.dim(), &rows.text_image, folds)
    }
}

/// [`Head::embed`] with its parameters on the device.
async fn embed(
    device: &Device,
    layout: &Layout,
    values: &Buffer<f32>,
    gather: &Gather,
    dataset: &Dataset,
    side: Side,
    rows: &[u32],
) -> Result<Vec<f32>> {
    let chunk = CHUNK.min(rows.len());
    let mut features = Matrix::new(device, "embed.features", chunk, layout.dims[side as usize])?;
    let mut projected = Matrix::new(device, "embed.projected", chunk, layout.embed)?;
    let mut unit = Matrix::new(device, "embed.unit", chunk, layout.embed)?;
    let mut norms = Buffer::new(device, "embed.norms", chunk)?;
    let (mut host, mut out) = (Vec::new(), Vec::with_capacity(rows.len() * layout.embed));
    for rows in rows.chunks(chunk.max(1)) {
        gather.rows(dataset, side, rows, &mut host)?;
        features.buffer.write(device, 0, &host)?;
        let range = 0..rows.len();
        let mut commands = device.commands();
        let product = Product::nt(features.rows(range.clone()), layout.weight_of(values, side));
        let product = Product { bias: Some(layout.bias_of(values, side)), ..product };
        matmul(&mut commands, product, projected.rows_mut(range.clone()))?;
        l2norm(
            &mut commands,
            projected.rows(range.clone()),
            unit.rows_mut(range),
            norms.part_mut(0..rows.len()),
        )?;
        commands.submit()?;
        let embedded = unit.to_rows(device).await?;
        out.extend_from_slice(&embedded[..rows.len() * layout.embed]);
    }
    Ok(out)
}
