//! Evaluation of many candidates, against the similarities in it.

use super::products::Products;
use super::{median, numbers, unit_rows, wrong};
use crate::device::Device;
use crate::eval::Recall;
use crate::{Error, Result};
use serde::Serialize;

/// What an evaluation takes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EvalTimes {
    /// Seconds of recall in both directions, embeddings given.
    pub seconds: f64,
    /// Seconds of the similarities of both directions alone.
    pub products: f64,
    /// The first over the second.
    pub ratio: f64,
}

/// Times the recall of `[images, captions, embedding width]`; captions belong to images in turn.
///
/// # Errors
/// Embeddings that are too narrow, a failing device, or one that computes wrongly.
pub fn eval(device: &Device, [n, m, d]: [usize; 3]) -> Result<EvalTimes> {
    // In fewer dimensions others come near by chance, and the right caption would not rank first.
    const LEAST: usize = 16;
    if d < LEAST {
        let expected = format!("embeddings at least {LEAST} wide");
        return Err(Error::config("--shape", expected, d, "make D larger"));
    }
    let mut images: Vec<_> = numbers().take(n * d).collect();
    unit_rows(&mut images, d);
    let truth: Vec<u32> = (0..m).map(|text| (text % n) as u32).collect();
    // Every caption is its image with a little of the next: the right one ranks first.
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
    // One after the other, each with its memory: the similarities are large.
    let alone = |shape| Products::new(device, &[(shape, false)])?.seconds();
    let products = alone([n, m, d])? + alone([m, n, d])?;
    Ok(EvalTimes { seconds, products, ratio: seconds / products })
}
