//! Checks of shapes and values of a caller's embeddings.

use super::{GradientOptions, Rows};
use crate::{Error, Result};

/// The number of rows.
///
/// # Errors
/// No values, or values that are not whole rows.
pub(crate) fn check_rows(name: &str, (values, dim): Rows) -> Result<usize> {
    if !values.is_empty() && dim > 0 && values.len().is_multiple_of(dim) {
        return Ok(values.len() / dim);
    }
    let (thing, expected) = (format!("{name} embeddings"), format!("whole rows of width {dim}, one or more"));
    let found = format!("{} values", values.len());
    Err(Error::config(thing, expected, found, "give a matrix of embeddings and its own width"))
}

/// Checks that shapes and values are those of a batch of embeddings, and returns the number of pairs.
///
/// # Errors
/// Shapes that disagree; a value that is not finite.
pub(crate) fn check_embeddings(images: Rows, texts: Rows, ids: Option<&[u32]>) -> Result<usize> {
    let (pairs, others) = (check_rows("image", images)?, check_rows("text", texts)?);
    let ((images, dim), (texts, width)) = (images, texts);
    if (pairs, dim) != (others, width) {
        return Err(Error::config(
            "embeddings",
            "two matrices of one shape",
            format!("[{pairs}, {dim}] and [{others}, {width}]"),
            "give one text embedding for each image embedding, as wide as that",
        ));
    }
    check_finite(images, texts, dim)?;
    if let Some(ids) = ids
        && ids.len() != pairs
    {
        let expected = format!("{pairs} numbers, one per pair");
        return Err(Error::config("ids", expected, ids.len(), "give the image of every pair"));
    }
    Ok(pairs)
}

/// Checks that shapes and values are those of a batch, and returns the numbers of images and of texts.
pub(super) fn check_batch(images: Rows, texts: Rows, options: &GradientOptions) -> Result<[usize; 2]> {
    let Some(text_image) = options.text_image else {
        return Ok([check_embeddings(images, texts, options.ids)?; 2]);
    };
    let shape = [check_rows("image", images)?, check_rows("text", texts)?];
    if images.1 != texts.1 {
        let found = format!("widths of {} and {}", images.1, texts.1);
        let advice = "give images and texts the same width";
        return Err(Error::config("embeddings", "one width", found, advice));
    }
    check_finite(images.0, texts.0, images.1)?;
    if text_image.len() != shape[1] {
        let expected = format!("{} numbers, one per text", shape[1]);
        return Err(Error::config(
            "text_image",
            expected,
            text_image.len(),
            "give the image row of every text",
        ));
    }
    if options.ids.is_some() {
        let advice = "leave one of the two out";
        return Err(Error::config("ids", "none beside text_image", "some numbers", advice));
    }
    Ok(shape)
}

/// # Errors
/// A value that is not finite.
fn check_finite(images: &[f32], texts: &[f32], dim: usize) -> Result<()> {
    for (name, values) in [("image", images), ("text", texts)] {
        if let Some(at) = first_not_finite(values) {
            return Err(Error::data(
                format!("{name} embedding, row {}, column {}", at / dim, at % dim),
                "a finite number",
                values[at],
                "correct the embedding",
            ));
        }
    }
    Ok(())
}

/// The position of the first value that is not finite.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    /// Values that are checked together, without a branch per value, so that the compiler can use vector instructions.
    const CHUNK: usize = 1024;
    // Exactly the numbers that are not finite have all bits of the exponent set.
    const EXPONENT: u32 = 0x7f80_0000;
    let all_set = |x: &f32| u32::from(x.to_bits() & EXPONENT == EXPONENT);
    let is_bad = |chunk: &[f32]| chunk.iter().fold(0, |bad, x| bad | all_set(x)) != 0;
    let chunk = values.chunks(CHUNK).position(is_bad)?;
    let first = chunk * CHUNK;
    values[first..].iter().position(|x| !x.is_finite()).map(|at| first + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut values: Vec<f32> = (0..5000).map(|k| k as f32 * f32::MIN_POSITIVE / 4.0).collect();
        values.extend([f32::MAX, f32::MIN, -0.0]);
        assert_eq!(first_not_finite(&values), None);
        assert_eq!(first_not_finite(&[]), None);
        for at in [5002, 4096, 1024, 1023, 0] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)] {
                let mut values = values.clone();
                values[at] = bad;
                values[4999] = f32::NAN;
                assert_eq!(first_not_finite(&values), Some(at.min(4999)), "{bad}");
            }
        }
    }
}
