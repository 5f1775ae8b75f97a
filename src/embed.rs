//! A head over a dataset: embeddings of its rows and recall on its splits.

use crate::config::Pooling;
use crate::data::{Dataset, Gather, Side, Split};
use crate::device::{Buffer, Device};
use crate::encoder::Encoder;
use crate::eval::Recall;
use crate::head::Head;
use crate::{Error, Result};

/// Rows that are embedded at a time, local ones where the device pools.
const CHUNK: usize = 1024;

impl Head {
    /// Embeds rows of one side of a dataset: unit rows `[rows, dim]`, row-major.
    ///
    /// # Errors
    /// A dataset of another width, a bad value in a row, a failing device.
    pub fn embed(&self, device: &Device, dataset: &Dataset, side: Side, rows: &[u32]) -> Result<Vec<f32>> {
        self.check_dataset(dataset)?;
        let values = Buffer::from_slice(device, "head", &self.values)?;
        let pooling = self.layout.pooling;
        let gather = Gather::new(self.standardize.clone(), 0.0)?.with_pooling(pooling);
        let longest = if pooling[side as usize] == Pooling::Gpo { dataset.local_len(side) } else { None };
        let chunk = (CHUNK / longest.unwrap_or(1)).min(rows.len()).max(1);
        let mut encoder = Encoder::new(device, self, side, chunk)?;
        let (mut host, mut offsets) = (Vec::new(), Vec::new());
        let mut out = Vec::with_capacity(rows.len() * self.dim());
        for rows in rows.chunks(chunk) {
            gather.items(dataset, side, rows, &mut host, &mut offsets)?;
            encoder.upload(device, &host, &offsets)?;
            let mut commands = device.commands();
            encoder.forward(&mut commands, &values, false)?;
            commands.submit()?;
            out.extend(device.wait(encoder.unit.to_rows(device))?);
        }
        Ok(out)
    }

    pub(crate) fn check_dataset(&self, dataset: &Dataset) -> Result<()> {
        let [image, text] = self.layout.pooling;
        let found = [dataset.width(Side::Image, image)?, dataset.width(Side::Text, text)?];
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
