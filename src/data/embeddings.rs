//! Embeddings from files, with what is right among them.

use super::array::{Array, FeatureFile};
use super::file::Source;
use super::npy::npy_header;
use super::numbers::Numbers;
use super::{relation, splits};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Embeddings of images and texts, and which texts are right for which images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Embeddings {
    /// `[images, dim]`, row-major.
    pub images: Vec<f32>,
    /// `[texts, dim]`, row-major.
    pub texts: Vec<f32>,
    /// Width of a row.
    pub dim: usize,
    /// The image row of every text; `None` if only `pairs` says what is right.
    pub text_image: Option<Vec<u32>>,
    /// Further right pairs (image row, text row).
    pub pairs: Vec<[u32; 2]>,
}

impl Embeddings {
    /// Reads embeddings, and makes their rows unit vectors. `paths` are either one folder, `.safetensors` or `.npz` file
    /// with the arrays `images`, `texts` and, if there is one, `text_to_image`; or two or three `.npy` files with these
    /// arrays. Without `text_to_image`, text i is that of image i. `pairs` is a `.npy` file of right pairs `[K, 2]`.
    /// Without it, the array `pairs` of the folder or file is read, if there is one. Also returns how many rows of each
    /// side had a length other than 1 and 0.
    ///
    /// # Errors
    /// A file that is missing or malformed, sides of different widths, a value that is not finite, or texts that belong
    /// to no image.
    pub fn read(paths: &[PathBuf], pairs: Option<&Path>) -> Result<(Self, [usize; 2])> {
        let (files, owners, mut more) = match paths {
            [path] => {
                let source = Source::open(path)?;
                let owners = source.has("text_to_image").then(|| Numbers::open(&source, "text_to_image"));
                let more = relation::pairs_header(&source)?;
                let open = |name| FeatureFile::open(&source, name);
                ([open("images")?, open("texts")?], owners.transpose()?, more)
            }
            [images, texts] => ([FeatureFile::open_npy(images)?, FeatureFile::open_npy(texts)?], None, None),
            [images, texts, owners] => {
                let files = [FeatureFile::open_npy(images)?, FeatureFile::open_npy(texts)?];
                (files, Some(Numbers::Array(Array::open_npy(owners)?)), None)
            }
            _ => {
                let expected = "one to three paths";
                let advice = "give the images, the texts and the image row of every text";
                return Err(Error::config("embeddings", expected, paths.len(), advice));
            }
        };
        if let Some(path) = pairs {
            more = Some(npy_header(path)?);
        }
        let [images, texts] = &files;
        if images.cols != texts.cols {
            let expected =
                format!("embeddings as wide as those of {}, {} columns", images.label, images.cols);
            let advice = "give embeddings of one model";
            return Err(Error::data(&texts.label, expected, texts.cols, advice));
        }
        for file in &files {
            if file.rows > u32::MAX as usize {
                let expected = format!("at most {} embeddings, because memory holds all of them", u32::MAX);
                return Err(Error::data(&file.label, expected, file.rows, "give a part of the rows"));
            }
        }
        let text_image = match owners {
            Some(array) => {
                let counted = format!("row of {}", texts.label);
                let owners = splits::owners(array, images.rows, (texts.rows, counted))?;
                Some(owners.iter().map(|image| image as u32).collect())
            }
            None if images.rows == texts.rows => Some((0..texts.rows as u32).collect()),
            None if more.is_some() => None,
            None => {
                let expected = format!("one row for each of the {} rows of {}", images.rows, images.label);
                let advice =
                    "add the image row of every text: text_to_image.npy, or --pairs with all right pairs";
                return Err(Error::data(&texts.label, expected, texts.rows, advice));
            }
        };
        let pairs = more.map(|header| relation::pairs_of(header, images.rows, texts.rows)).transpose()?;
        let pairs = pairs.map(|pairs| pairs.iter().map(|pair| pair.map(|row| row as u32)).collect());
        let (image_rows, other_images) = unit_rows(images)?;
        let (text_rows, other_texts) = unit_rows(texts)?;
        let (dim, pairs) = (images.cols, pairs.unwrap_or_default());
        let embeddings = Self { images: image_rows, texts: text_rows, dim, text_image, pairs };
        Ok((embeddings, [other_images, other_texts]))
    }

    /// Every file that [`Embeddings::read`] may read. Outputs must not overwrite them.
    pub fn paths(paths: &[PathBuf], pairs: Option<&Path>) -> Vec<PathBuf> {
        let read = paths.iter().flat_map(|path| Source::paths(path));
        read.chain(pairs.map(Path::to_path_buf)).collect()
    }
}

/// All rows of a file as unit vectors, and how many had another length. Rows of zeros stay.
fn unit_rows(file: &FeatureFile) -> Result<(Vec<f32>, usize)> {
    let mut values = vec![0.0; file.rows * file.cols];
    let (mut bytes, mut others) = (Vec::new(), 0);
    for (row, out) in values.chunks_exact_mut(file.cols).enumerate() {
        file.read_row(row, &mut bytes, out)?;
        others += usize::from(make_unit(out));
    }
    Ok((values, others))
}

/// Makes a row a unit vector, and returns whether it was another vector. Rows whose length is 1 up to rounding stay the
/// same bits; rows of zeros stay.
pub(crate) fn make_unit(row: &mut [f32]) -> bool {
    const ROUNDING: f64 = 1e-5;
    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length == 0.0 || (length - 1.0).abs() <= ROUNDING {
        return false;
    }
    row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    true
}
