//! A dataset in memory.

use super::header::Type;
use super::positioned::{Header, PositionedFile};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The arrays of a dataset in memory. They have the names of a dataset's files: see [`crate::Dataset::from_arrays`].
#[derive(Debug, Clone, Default)]
pub struct Arrays(BTreeMap<String, Array>);

#[derive(Debug, Clone)]
struct Array {
    /// The name of the type in safetensors.
    dtype: &'static str,
    shape: Vec<u64>,
    /// How many values there are.
    values: usize,
    file: Arc<PositionedFile>,
}

impl Arrays {
    /// A set without arrays.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds features: `images`, `texts`, `image_regions` or `text_tokens`, row-major, with the shape that a file would
    /// have.
    #[must_use]
    pub fn with_features(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.with(name, "F32", shape, values.len(), bytemuck::cast_slice(values))
    }

    /// Adds row numbers: `text_to_image`, `split_train`, `split_val`, `split_test`, `region_offsets`,
    /// `region_lengths`, `text_offsets` or `text_lengths`.
    #[must_use]
    pub fn with_rows(self, name: &str, rows: &[u32]) -> Self {
        self.with(name, "U32", &[rows.len()], rows.len(), bytemuck::cast_slice(rows))
    }

    /// Adds `pairs`: right pairs (image row, text row) beside those of `text_to_image`.
    #[must_use]
    pub fn with_pairs(self, pairs: &[[u32; 2]]) -> Self {
        self.with("pairs", "U32", &[pairs.len(), 2], 2 * pairs.len(), bytemuck::cast_slice(pairs))
    }

    fn with(mut self, name: &str, dtype: &'static str, shape: &[usize], values: usize, bytes: &[u8]) -> Self {
        // Values are little-endian, as in files.
        let little = if cfg!(target_endian = "big") {
            bytes.chunks_exact(4).flat_map(|value| value.iter().rev()).copied().collect()
        } else {
            bytes.to_vec()
        };
        let shape = shape.iter().map(|&n| n as u64).collect();
        let array = Array { dtype, shape, values, file: Arc::new(PositionedFile::memory(little)) };
        self.0.insert(name.into(), array);
        self
    }

    /// Whether there is an array of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The header that a file would have.
    pub(super) fn header(&self, name: &str, label: String) -> Result<Header> {
        let Some(Array { dtype, shape, file, .. }) = self.0.get(name) else {
            let advice =
                "add it: a dataset holds images, texts, text_to_image, split_train, split_val, split_test";
            return Err(Error::data(label, "this array", "none of this name", advice));
        };
        let (dtype, shape) = (Type::of_safetensors(dtype), shape.clone());
        Ok(Header { label, file: Arc::clone(file), start: 0, dtype, shape, alone: false })
    }

    /// Checks that every name is in `known`, and that every array has as many values as its shape says.
    pub(super) fn check(&self, known: &[&str]) -> Result<()> {
        for (name, array) in &self.0 {
            if !known.contains(&name.as_str()) {
                let expected = format!("one of {}", known.join(", "));
                return Err(Error::data("array of a dataset", expected, format!("'{name}'"), "rename it"));
            }
            let expected = array.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
            if expected != Some(array.values as u64) {
                let (thing, shape) = (format!("array {name}"), &array.shape);
                let expected = format!("the values of its shape {shape:?}");
                return Err(Error::data(thing, expected, array.values, "give the shape of the values"));
            }
        }
        Ok(())
    }
}
