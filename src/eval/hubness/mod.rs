//! The correction for hubs: items that are near to everything lose some of their similarity (docs/math.md, "Correction
//! for hubs").
//!
//! Each image gets a penalty a from its similarities to the training captions, and each text a penalty b from its
//! similarities to the training images. The corrected score is s − a − b. A penalty depends on its own item and on the
//! training items of the bank, and on no other item. So a corrected score stays the same if the gallery changes.

#[cfg(feature = "native")]
mod choose;
#[cfg(feature = "native")]
mod fit;
#[cfg(feature = "native")]
mod scale;

#[cfg(feature = "native")]
use crate::device::Device;
use crate::model::Side;
#[cfg(feature = "native")]
use crate::similarity::Strips;
use crate::{Error, Result};
use half::f16;
use serde::{Deserialize, Serialize};
use std::fmt;

#[cfg(feature = "native")]
pub use fit::Fitted;

/// The most items of each side in a bank.
pub const BANK: usize = 4096;

/// How an item's similarities to the bank become its hubness.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Hubness {
    /// The mean of the k largest similarities (CSLS; Conneau et al., 2018).
    Csls {
        /// The number of neighbours, 1 or more. If the bank has fewer items, all of them count.
        k: usize,
    },
    /// τ log mean exp(s/τ) over all similarities s: the normaliser of the inverted softmax (Smith et al., 2017; QB-Norm,
    /// Bogolin et al., 2022).
    InvertedSoftmax {
        /// τ, above 0.
        temperature: f32,
    },
}

impl fmt::Display for Hubness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csls { k } => write!(f, "CSLS with {k} neighbours"),
            Self::InvertedSoftmax { temperature } => {
                write!(f, "inverted softmax with temperature {temperature}")
            }
        }
    }
}

/// A correction for hubs that belongs to a head: the kind, a weight for each side, and the bank.
#[derive(Debug, Clone, PartialEq)]
pub struct HubnessCorrection {
    hubness: Hubness,
    weights: [f32; 2],
    /// Unit embeddings of training images and of training captions, `[items, dim]`, rounded to f16.
    bank: [Vec<f32>; 2],
    dim: usize,
}

impl HubnessCorrection {
    /// A correction with these weights of images and of texts. `images` and `texts` are unit embeddings of training
    /// items, `[items, dim]` row-major. They are rounded to f16, as the file of a head has them.
    ///
    /// # Errors
    /// A k of 0, a temperature that is not above 0, a weight that is not finite, an empty bank, or one of another width.
    pub fn new(
        hubness: Hubness,
        weights: [f32; 2],
        [images, texts]: [&[f32]; 2],
        dim: usize,
    ) -> Result<Self> {
        let fault = |expected: &str, found: String| {
            Err(Error::config("correction", expected, found, "fit the correction again"))
        };
        match hubness {
            Hubness::Csls { k: 0 } => return fault("1 neighbour or more", "0".into()),
            Hubness::InvertedSoftmax { temperature } if !(temperature.is_finite() && temperature > 0.0) => {
                return fault("a finite temperature above 0", temperature.to_string());
            }
            _ => {}
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return fault("finite weights", weight.to_string());
        }
        for side in [images, texts] {
            if dim == 0 || side.is_empty() || !side.len().is_multiple_of(dim) {
                let expected = format!("a bank with rows of width {dim}");
                return fault(&expected, format!("{} values", side.len()));
            }
            if let Some(value) = side.iter().find(|value| !(-2.0..=2.0).contains(*value)) {
                return fault("a bank of unit rows", value.to_string());
            }
        }
        let round = |side: &[f32]| side.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        Ok(Self { hubness, weights, bank: [round(images), round(texts)], dim })
    }

    /// What the penalties measure.
    pub fn hubness(&self) -> Hubness {
        self.hubness
    }

    /// The weights of the penalties of images and of texts.
    pub fn weights(&self) -> [f32; 2] {
        self.weights
    }

    /// The embeddings of one side's training items, `[items, dim]` row-major. They are values of f16.
    pub fn bank(&self, side: Side) -> &[f32] {
        &self.bank[side as usize]
    }

    /// The number of one side's items in the bank.
    pub fn items(&self, side: Side) -> usize {
        self.bank(side).len() / self.dim
    }

    /// The width of [`HubnessCorrection::vectors`]: two more than that of the embedding.
    pub fn width(&self) -> usize {
        self.dim + 2
    }

    /// The penalty of each of one side's items: its weighted hubness. `embeddings` are unit rows `[items, dim]`. A penalty
    /// has the same bits whatever the other items are.
    ///
    /// # Errors
    /// Embeddings of another width, a failing device.
    #[cfg(feature = "native")]
    pub fn penalties(&self, device: &Device, side: Side, embeddings: &[f32]) -> Result<Vec<f32>> {
        if !embeddings.len().is_multiple_of(self.dim) {
            let found = format!("{} values", embeddings.len());
            let advice = "give the embeddings of the head that the correction belongs to";
            return Err(Error::config("embeddings", format!("rows of width {}", self.dim), found, advice));
        }
        let others = self.bank(if side == Side::Image { Side::Text } else { Side::Image });
        let mut all = measure(device, embeddings, others, self.dim, &[self.hubness])?;
        let weight = f64::from(self.weights[side as usize]);
        let hubness = all.pop().unwrap_or_default();
        Ok(hubness.into_iter().map(|hubness| (weight * hubness) as f32).collect())
    }

    /// Vectors `[items, dim + 2]` whose inner product is the corrected score: of an image x with the penalty a they are
    /// [x, −a, 1], of a text y with the penalty b [y, 1, −b]. A row of zeros gets no penalty.
    ///
    /// # Errors
    /// Those of [`HubnessCorrection::penalties`].
    #[cfg(feature = "native")]
    pub fn vectors(&self, device: &Device, side: Side, embeddings: &[f32]) -> Result<Vec<f32>> {
        let penalties = self.penalties(device, side, embeddings)?;
        Ok(widened(side, embeddings, self.dim, &penalties))
    }
}

/// Appends the two columns of a correction to embeddings.
#[cfg(feature = "native")]
fn widened(side: Side, embeddings: &[f32], dim: usize, penalties: &[f32]) -> Vec<f32> {
    let mut vectors = Vec::with_capacity(embeddings.len() + 2 * penalties.len());
    for (row, &penalty) in embeddings.chunks_exact(dim).zip(penalties) {
        vectors.extend(row);
        vectors.extend(if side == Side::Image { [-penalty, 1.0] } else { [1.0, -penalty] });
    }
    vectors
}

/// The hubness of each of `queries` among `bank`, both `[rows, dim]`, by each of `kinds`. Processes divide the queries.
#[cfg(feature = "native")]
fn measure(
    device: &Device,
    queries: &[f32],
    bank: &[f32],
    dim: usize,
    kinds: &[Hubness],
) -> Result<Vec<Vec<f64>>> {
    let by_query = device.join("hubness", measure_own(device, queries, bank, dim, kinds))?;
    let of = |kind: usize| by_query.iter().skip(kind).step_by(kinds.len()).copied().collect();
    Ok((0..kinds.len()).map(of).collect())
}

/// The hubness of the queries that this process compares, by each kind: `[queries, kinds]`.
#[cfg(feature = "native")]
fn measure_own(
    device: &Device,
    queries: &[f32],
    bank: &[f32],
    dim: usize,
    kinds: &[Hubness],
) -> Result<Vec<f64>> {
    // The rounding of a product may depend on its shape. So all products have the same number of rows, whatever the
    // number of queries.
    const ROWS: usize = 256;
    let (count, others) = (queries.len() / dim, bank.len() / dim);
    let block = device.strip_rows(ROWS, others, dim)?;
    let mut padded = queries.to_vec();
    padded.resize(count.next_multiple_of(block) * dim, 0.0);
    let mut strips = Strips::in_blocks(device, &padded, bank, dim, block)?;
    let mut found = Vec::new();
    for strip in strips.own() {
        let values = device.wait(strips.read(&strip))?;
        let rows = values.chunks_exact(others).take(count - strip.start.min(count));
        found.extend(scale::of_rows(rows, kinds));
    }
    Ok(found)
}
