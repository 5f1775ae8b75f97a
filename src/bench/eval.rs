//! Times the evaluation of many candidates, and compares it with the similarity products inside it.

use super::products::Products;
use super::{median, numbers, unit_rows, wrong};
use crate::device::Device;
use crate::eval::Recall;
use crate::{Error, Result};
use serde::Serialize;

/// The times of an evaluation.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EvalTimes {
    /// The seconds of recall in both directions, from given embeddings.
    pub seconds: f64,
    /// The seconds that the similarities of both directions take alone.
    pub products: f64,
    /// `seconds` divided by `products`.
    pub ratio: f64,
}

/// Times the recall of a set of shape `[images, captions, embedding width]`. Caption k belongs to image k modulo the
/// number of images.
///
/// # Errors
/// The embeddings are too narrow, or the device fails or computes wrong values.
pub fn eval(device: &Device, [n, m, d]: [usize; 3]) -> Result<EvalTimes> {
    // In fewer dimensions other captions are close by chance, and the right one would not rank first.
    const LEAST: usize = 16;
    if d < LEAST {
        let expected = format!("embeddings at least {LEAST} wide");
        return Err(Error::config("--shape", expected, d, "make D larger"));
    }
    let mut images: Vec<_> = numbers().take(n * d).collect();
    unit_rows(&mut images, d);
    let truth: Vec<u32> = (0..m).map(|text| (text % n) as u32).collect();
    // Every caption is its image plus a little of the next image, so the right one ranks first.
    let row = |image: u32| &images[image as usize * d..][..d];
    let mut texts: Vec<f32> = truth
        .iter()
        .flat_map(|&own| row(own).iter().zip(row((own + 1) % n as u32)).map(|(a, b)| a + 0.1 * b))
        .collect();
    unit_rows(&mut texts, d);
    let mut found = None;
    let seconds = median(|| {
        found = Some(Recall::of(device, &images, &texts, d, &truth)?);
        Ok(())
    })?;
    let perfect = found.filter(|found| found.rsum == 600.0);
    perfect.ok_or_else(|| wrong("recall", "rsum 600", format!("{found:?}")))?;
    // One direction at a time, because each needs memory for all similarities.
    let alone = |shape| Products::new(device, &[(shape, false)])?.seconds();
    let products = alone([n, m, d])? + alone([m, n, d])?;
    Ok(EvalTimes { seconds, products, ratio: seconds / products })
}
