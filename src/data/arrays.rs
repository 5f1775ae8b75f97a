//! A dataset in memory, or with arrays that stay in files of any layout.

use super::header::Type;
use super::positioned::{Header, PositionedFile};
use crate::io::RowList;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The arrays of a dataset, in memory or in files. They have the names of a dataset's files: see [`crate::Dataset::from_arrays`].
#[derive(Debug, Clone, Default)]
pub struct Arrays {
    arrays: BTreeMap<String, Array>,
    rows: BTreeMap<String, RowList>,
}

#[derive(Debug, Clone)]
struct Array {
    /// The name of the type in safetensors.
    dtype: &'static str,
    shape: Vec<u64>,
    /// How many values there are.
    values: usize,
    /// Position of the first value in bytes.
    start: u64,
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
    pub fn with_rows(self, name: &str, rows: &[u64]) -> Self {
        self.with_row_list(name, rows.into())
    }

    /// [`Arrays::with_rows`] of a list. Neighbours, such as `(0..5_000_000_000).into()`, take no memory per row.
    #[must_use]
    pub fn with_row_list(mut self, name: &str, rows: RowList) -> Self {
        self.arrays.remove(name);
        self.rows.insert(name.into(), rows);
        self
    }

    /// Adds `pairs`: right pairs (image row, text row) beside those of `text_to_image`.
    #[must_use]
    pub fn with_pairs(self, pairs: &[[u64; 2]]) -> Self {
        self.with("pairs", "U64", &[pairs.len(), 2], 2 * pairs.len(), bytemuck::cast_slice(pairs))
    }

    /// Adds an array that stays in its file: values in C order, little-endian, from the byte `start` on. `dtype` is the
    /// name of their type in safetensors, such as `F16`, `F32` or `I64`. The file is read row by row when rows are
    /// needed, so the array may be larger than memory.
    ///
    /// ```
    /// use wgoal::data::{Arrays, write_matrix_npy};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("images.npy");
    /// write_matrix_npy(&path, 10, 4, &[0.5; 40])?;
    /// # let start = std::fs::metadata(&path).unwrap().len() - 160;
    /// let arrays = Arrays::new().with_file("images", &path, start, "F32", &[10, 4])?;
    /// # let rows: Vec<u64> = (0..10).collect();
    /// # let arrays = arrays.with_file("texts", &path, start, "F32", &[10, 4])?.with_rows("text_to_image", &rows);
    /// # let arrays = arrays.with_rows("split_train", &[0, 1]).with_rows("split_val", &[2, 3]);
    /// # let dataset = wgoal::Dataset::from_arrays("mine", arrays)?;
    /// # let mut row = [0.0; 4];
    /// # dataset.read_row(wgoal::data::Side::Image, 9, &mut Vec::new(), &mut row)?;
    /// # assert_eq!(row, [0.5; 4]);
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// A file that cannot be opened, or that ends before the array does.
    #[cfg(feature = "native")]
    pub fn with_file(
        mut self,
        name: &str,
        path: impl AsRef<std::path::Path>,
        start: u64,
        dtype: &'static str,
        shape: &[usize],
    ) -> Result<Self> {
        let path = path.as_ref();
        let file = PositionedFile::open(path, "the values of an array")?;
        let values = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let size = Type::of_safetensors(dtype).size as u64;
        let end = values.and_then(|values| (values as u64).checked_mul(size)?.checked_add(start));
        let (Some(values), true) = (values, end.is_some_and(|end| end <= file.bytes)) else {
            let expected = format!("{shape:?} values of type {dtype} from byte {start} on");
            let advice = "give the place, type and shape of the array in the file";
            return Err(Error::data(path.display(), expected, format!("{} bytes", file.bytes), advice));
        };
        let shape = shape.iter().map(|&n| n as u64).collect();
        self.rows.remove(name);
        self.arrays.insert(name.into(), Array { dtype, shape, values, start, file: Arc::new(file) });
        Ok(self)
    }

    fn with(mut self, name: &str, dtype: &'static str, shape: &[usize], values: usize, bytes: &[u8]) -> Self {
        // Values are little-endian, as in files.
        let little = if cfg!(target_endian = "big") {
            bytes
                .chunks_exact(Type::of_safetensors(dtype).size)
                .flat_map(|value| value.iter().rev())
                .copied()
                .collect()
        } else {
            bytes.to_vec()
        };
        let shape = shape.iter().map(|&n| n as u64).collect();
        let array = Array { dtype, shape, values, start: 0, file: Arc::new(PositionedFile::memory(little)) };
        self.rows.remove(name);
        self.arrays.insert(name.into(), array);
        self
    }

    /// Whether there is an array of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name) || self.rows.contains_key(name)
    }

    /// The row numbers of this name.
    pub(super) fn rows(&self, name: &str) -> Option<&RowList> {
        self.rows.get(name)
    }

    /// The header that a file would have.
    pub(super) fn header(&self, name: &str, label: String) -> Result<Header> {
        let Some(Array { dtype, shape, start, file, .. }) = self.arrays.get(name) else {
            let advice =
                "add it: a dataset holds images, texts, text_to_image, split_train, split_val, split_test";
            return Err(Error::data(label, "this array", "none of this name", advice));
        };
        let (dtype, shape) = (Type::of_safetensors(dtype), shape.clone());
        Ok(Header { label, file: Arc::clone(file), start: *start, dtype, shape, alone: false })
    }

    /// Checks that every name is in `known`, and that every array has as many values as its shape says.
    pub(super) fn check(&self, known: &[&str]) -> Result<()> {
        let unknown = self.arrays.keys().chain(self.rows.keys()).find(|name| !known.contains(&name.as_str()));
        if let Some(name) = unknown {
            let expected = format!("one of {}", known.join(", "));
            return Err(Error::data("array of a dataset", expected, format!("'{name}'"), "rename it"));
        }
        for (name, array) in &self.arrays {
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
