//! What is right in a dataset, and features that are compared as they are, without a head.

use super::Truth;
use crate::data::{Dataset, EqualCaptions, RowList, Split};
#[cfg(feature = "native")]
use crate::data::{Embeddings, Side, make_unit};
use crate::{Error, Result};

impl Truth {
    /// What is right in a split: every text for its own image, the dataset's `pairs`, and with
    /// [`EqualCaptions::Mask`] equal captions of other images.
    ///
    /// # Errors
    /// A split without texts; captions that cannot be read.
    pub fn of_split(dataset: &Dataset, split: Split, equal: EqualCaptions) -> Result<Self> {
        let rows = dataset.split(split);
        let truth = Self::of_images(rows.images.len(), &places(&rows.text_image)?)?;
        match dataset.relation(equal)? {
            Some(relation) => {
                truth.with_pairs(&relation.pairs_among(&rows.images.to_vec(), &rows.texts.to_vec()))
            }
            None => Ok(truth),
        }
    }
}

/// Positions among the embeddings of a split, which are compared with each other.
fn places(rows: &RowList) -> Result<Vec<u32>> {
    let place = |row: u64| {
        u32::try_from(row).map_err(|_| {
            let expected = format!("at most {} images, because all are compared with all texts", u32::MAX);
            let advice = "evaluate on a split with fewer images";
            Error::data("evaluation", expected, format!("position {row}"), advice)
        })
    };
    rows.iter().map(place).collect()
}

#[cfg(feature = "native")]
impl Embeddings {
    /// What is right among the embeddings.
    ///
    /// # Errors
    /// No right pair.
    pub fn truth(&self) -> Result<Truth> {
        let (images, texts) = (self.images.len() / self.dim, self.texts.len() / self.dim);
        match &self.text_image {
            Some(text_image) => Truth::of_images(images, text_image)?.with_pairs(&self.pairs),
            None => Truth::of_pairs(images, texts, &self.pairs),
        }
    }
}

#[cfg(feature = "native")]
impl Dataset {
    /// Rows of one side as unit vectors `[rows, width]`, row-major. Rows of zeros stay.
    ///
    /// # Errors
    /// A side with local features alone; a bad value in a row.
    pub fn unit_rows(&self, side: Side, rows: &RowList) -> Result<Vec<f32>> {
        let dim = self.dim(side);
        let mut values = vec![0.0; rows.len() * dim];
        let mut bytes = Vec::new();
        for (row, out) in rows.iter().zip(values.chunks_exact_mut(dim.max(1))) {
            self.read_row(side, row as usize, &mut bytes, out)?;
            make_unit(out);
        }
        Ok(values)
    }

    /// The width of both sides' features, if they can be compared without a head.
    ///
    /// # Errors
    /// Sides of different widths, or with local features alone.
    pub fn common_width(&self) -> Result<usize> {
        use crate::model::Pooling;
        let [image, text] = [Side::Image, Side::Text].map(|side| self.width(side, Pooling::None));
        let (Ok(image), Ok(text)) = (image, text) else {
            let expected = "images and texts with one row of features each, to compare them without a head";
            let advice = "name a head before the dataset, for example one of `wgoal train`";
            return Err(Error::data(self.name(), expected, "local features alone", advice));
        };
        if image == text {
            return Ok(image);
        }
        let expected = "image and text features of one width, to compare them without a head";
        let advice =
            "name a head before the dataset, for example one of `wgoal train` or `wgoal baseline cca`";
        Err(Error::data(self.name(), expected, format!("widths {image} and {text}"), advice))
    }
}
