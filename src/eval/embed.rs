//! A head over a dataset: embeddings of its rows and recall on its splits.

use super::{Evaluation, LandmarkItems, Recall, Truth};
use crate::data::{Dataset, EqualCaptions, Preprocess, ReadAhead, RowList, Side, Split, Standardizer};
use crate::device::{Buffer, Device, Upload};
use crate::io::may_fail;
use crate::model::{Encoder, Head, HeadConfig, Layout, Pooling};
use crate::{Error, Result};
use std::ops::Range;

/// Rows that are embedded at a time, local ones where the device pools.
const CHUNK: usize = 1024;

impl Head {
    /// A fresh head for a dataset: that of [`Head::for_config`], and where the configuration asks for it, the
    /// standardisation of the training rows, frequencies that fit their distances, and landmarks.
    ///
    /// # Errors
    /// Those of [`Head::for_config`], also an ensemble; a dataset without the features that the configuration pools; a bad value in a row.
    pub fn for_dataset(dataset: &Dataset, config: &HeadConfig, seed: u64) -> Result<Self> {
        Self::for_dataset_on(&Device::cpu(), dataset, config, (seed, 0))
    }

    /// [`Head::for_dataset`] with the statistics of the features in the parts of so many slices. The processes that share the
    /// device divide them.
    pub(crate) fn for_dataset_on(
        device: &Device,
        dataset: &Dataset,
        config: &HeadConfig,
        (seed, slices): (u64, usize),
    ) -> Result<Self> {
        config.refuse_ensemble()?;
        let [image, text] = config.pooling();
        let dims = [dataset.width(Side::Image, image)?, dataset.width(Side::Text, text)?];
        let landmarks = LandmarkItems::of(dataset, config.landmarks, seed);
        let mut layout = Layout::of(dims, config);
        layout.landmarks.counts = landmarks.counts();
        let mut head = Self::fresh(layout, seed)?;
        if config.standardize {
            let (train, preprocess) = (dataset.split(Split::Train), head.preprocess(0.0)?);
            head.standardize = Some([
                Standardizer::fit_parts(device, dataset, Side::Image, &preprocess, (&train.images, slices))?,
                Standardizer::fit_parts(device, dataset, Side::Text, &preprocess, (&train.texts, slices))?,
            ]);
        }
        if config.random_features > 0 {
            head.fit_frequencies(dataset)?;
        }
        if config.landmarks > 0 {
            head.fit_landmarks(dataset, &landmarks)?;
        }
        Ok(head)
    }

    /// How the head takes a dataset's rows, in training with dropout of the features.
    pub(crate) fn preprocess(&self, dropout: f32) -> Result<Preprocess> {
        let preprocess = Preprocess::new(self.standardize.clone(), dropout)?;
        Ok(preprocess.with_pooling(self.layout.pooling).with_signed_root(self.layout.signed_root))
    }

    /// Embeds rows of one side of a dataset: unit rows `[rows, dim]`, row-major. A row that the head maps to zero stays zero.
    ///
    /// # Errors
    /// A dataset of another width, a bad value in a row, features far too large or too small for f32, a failing device.
    #[cfg(feature = "native")]
    pub fn embed(&self, device: &Device, dataset: &Dataset, side: Side, rows: &RowList) -> Result<Vec<f32>> {
        crate::device::wait(self.embed_async(device, dataset, side, rows))
    }

    /// Embeds rows of one side of a dataset, as `Head::embed` does. In a browser it does not block.
    ///
    /// # Errors
    /// Those of `Head::embed`.
    pub async fn embed_async(
        &self,
        device: &Device,
        dataset: &Dataset,
        side: Side,
        rows: &RowList,
    ) -> Result<Vec<f32>> {
        self.check_sides(dataset)?;
        let mut each = Vec::new();
        for member in self.each() {
            each.push(member.embed_alone(device, dataset, side, rows).await?);
        }
        Ok(self.side_by_side(each))
    }

    /// [`Head::embed`] of this member of an ensemble.
    async fn embed_alone(
        &self,
        device: &Device,
        dataset: &Dataset,
        side: Side,
        rows: &RowList,
    ) -> Result<Vec<f32>> {
        let pooling = self.layout.pooling;
        let longest = if pooling[side as usize] == Pooling::Gpo { dataset.local_len(side) } else { None };
        let chunk = (CHUNK / longest.unwrap_or(1)).min(rows.len()).max(1);
        // The chunks are the same for any number of processes, and each is computed by one of them.
        let own = device.share(rows.len().div_ceil(chunk));
        let own = own.start * chunk..rows.len().min(own.end * chunk);
        let found = self.embed_chunks(device, dataset, side, (rows, own, chunk)).await;
        device.join("embedding", found)
    }

    /// Embeds the rows at these positions, in chunks of at most `chunk` rows.
    async fn embed_chunks(
        &self,
        device: &Device,
        dataset: &Dataset,
        side: Side,
        (rows, own, chunk): (&RowList, Range<usize>, usize),
    ) -> Result<Vec<f32>> {
        if own.is_empty() {
            return Ok(Vec::new());
        }
        let values = Buffer::from_slice(device, "head", &self.values)?;
        let preprocess = self.preprocess(0.0)?;
        let mut encoder = Encoder::new(device, self, side, chunk)?;
        let (mut host, mut offsets) = (Vec::new(), Vec::new());
        let (mut out, numbers) = (Vec::new(), own.len().saturating_mul(self.layout.embed));
        may_fail(|| out.try_reserve_exact(numbers)).map_err(|_| {
            let expected = format!("memory for {} embeddings of width {}", own.len(), self.layout.embed);
            Error::config("embedding", expected, "too little", "embed fewer rows, a split for example")
        })?;
        let chunks = own.clone().step_by(chunk).map(|first| first..own.end.min(first + chunk));
        let (mut chunks, mut read_ahead) = (chunks.peekable(), ReadAhead::new());
        while let Some(places) = chunks.next() {
            device.check_stop()?;
            let chunk: Vec<u64> = rows.between(places).collect();
            if read_ahead.due(dataset) {
                let next = chunks.peek().cloned().unwrap_or_default();
                preprocess.will_need(dataset, side, rows.between(next));
            }
            preprocess.items(dataset, side, &chunk, &mut host, &mut offsets)?;
            preprocess.check_scale(dataset, side, &chunk, &host)?;
            encoder.upload(device, Upload::Owned(&mut host), &offsets)?;
            let mut commands = device.commands();
            encoder.forward(&mut commands, &values, false)?;
            commands.submit()?;
            out.extend(device.done(encoder.unit.to_rows(device)).await?);
        }
        Ok(out)
    }

    /// [`Head::check_sides`], and that the dataset has both sides.
    pub(crate) fn check_dataset(&self, dataset: &Dataset) -> Result<()> {
        let [image, text] = self.layout.pooling;
        dataset.width(Side::Image, image)?;
        dataset.width(Side::Text, text)?;
        self.check_sides(dataset)
    }

    /// Checks that the sides of the dataset have the head's widths. It may have one side only.
    fn check_sides(&self, dataset: &Dataset) -> Result<()> {
        let width = |side: Side| {
            let own = self.layout.pooling[side as usize];
            dataset.has(side).then(|| dataset.width(side, own)).transpose()
        };
        let [p, q] = self.layout.dims;
        let (expected, found) = match (width(Side::Image)?, width(Side::Text)?) {
            (image, text) if image.is_none_or(|image| image == p) && text.is_none_or(|text| text == q) => {
                return Ok(());
            }
            (Some(image), Some(text)) => (
                format!("image features of width {p} and text features of width {q}"),
                format!("{image} and {text}"),
            ),
            (Some(image), None) => (format!("image features of width {p}"), image.to_string()),
            (None, text) => (format!("text features of width {q}"), text.unwrap_or(0).to_string()),
        };
        Err(Error::data(
            dataset.name(),
            format!("{expected}, those of the head"),
            found,
            "give the features of the encoders that the head was trained on",
        ))
    }

    /// Recall on a split of a dataset, averaged over `folds` as by [`Recall::folds`]. [`Truth::of_split`] says what is
    /// right there.
    ///
    /// # Errors
    /// Those of [`Head::embed`], [`Truth::of_split`] and [`Recall::folds`], and a split without images.
    #[cfg(feature = "native")]
    pub fn recall(
        &self,
        device: &Device,
        dataset: &Dataset,
        split: Split,
        folds: usize,
        equal: EqualCaptions,
    ) -> Result<Recall> {
        crate::device::wait(self.recall_async(device, dataset, split, folds, equal))
    }

    /// Recall on a split of a dataset, as `Head::recall` computes it. In a browser it does not block.
    ///
    /// # Errors
    /// Those of `Head::recall`.
    pub async fn recall_async(
        &self,
        device: &Device,
        dataset: &Dataset,
        split: Split,
        folds: usize,
        equal: EqualCaptions,
    ) -> Result<Recall> {
        dataset.need(split)?;
        let rows = dataset.split(split);
        let images = self.embed_async(device, dataset, Side::Image, &rows.images).await?;
        let texts = self.embed_async(device, dataset, Side::Text, &rows.texts).await?;
        let truth = Truth::of_split(dataset, split, equal)?;
        let found = Evaluation::folds_async(device, &images, &texts, self.dim(), &truth, folds, &[]);
        Ok(device.done(found).await?.recall)
    }
}
