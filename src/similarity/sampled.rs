//! Draws hard negatives at random, similar ones more often: the false partners of X-VLM's matching loss (docs/math.md,
//! "Hard negatives by chance").

use crate::device::Device;
use crate::gradient::{Rows, check_embeddings};
use crate::math::{Purpose, random};
use crate::similarity::Strips;
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;

/// Added to every probability, so that none is 0.
const FLOOR: f64 = 1e-5;

/// One false partner for each of N images and each of N texts; see [`crate::similarity::hard_negatives`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HardNegatives {
    /// For every image, the row of a text that is not its own, `[N]`.
    pub texts: Vec<u32>,
    /// For every text, the row of an image that is not its own, `[N]`.
    pub images: Vec<u32>,
}

/// Options of [`crate::similarity::hard_negatives`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct NegativeOptions<'a> {
    /// Image of each pair: pairs of one image are never drawn for each other. Without it, only a pair's own partner is
    /// not drawn.
    pub ids: Option<&'a [u32]>,
    /// Temperature t of the softmax.
    pub temperature: f32,
    /// Seed of the draw.
    pub seed: u64,
}

with!(NegativeOptions<'_>);

impl Default for NegativeOptions<'_> {
    fn default() -> Self {
        Self { ids: None, temperature: 0.07, seed: 0 }
    }
}

/// [`crate::similarity::hard_negatives`] without waiting.
///
/// # Errors
/// Those of [`crate::similarity::hard_negatives`].
pub async fn hard_negatives_async(
    device: &Device,
    images: Rows<'_>,
    texts: Rows<'_>,
    options: NegativeOptions<'_>,
) -> Result<HardNegatives> {
    let pairs = check_embeddings(images, texts, options.ids)?;
    let ((images, dim), (texts, _)) = (images, texts);
    let NegativeOptions { ids, temperature, seed } = options;
    if !(temperature.is_finite() && temperature > 0.0) {
        let expected = "a finite number above 0";
        return Err(Error::config("temperature of the negatives", expected, temperature, "give another"));
    }
    let same = |a: usize, b: usize| a == b || ids.is_some_and(|ids| ids[a] == ids[b]);
    if let Some(lonely) = (0..pairs).find(|&a| (0..pairs).all(|b| same(a, b))) {
        let advice = "give a batch of more than one image";
        return Err(Error::config(format!("pair {lonely}"), "a pair of another image", "none", advice));
    }
    let mut drawn = HardNegatives::default();
    let directions = [(images, texts, &mut drawn.texts), (texts, images, &mut drawn.images)];
    for (direction, (queries, candidates, out)) in directions.into_iter().enumerate() {
        let mut strips = Strips::new(device, queries, candidates, dim)?;
        // One random number per query, in order, so the size of the strips does not change the draw.
        let mut rng = random(Purpose::Negatives, seed, 0, direction as u32);
        for strip in strips.ranges() {
            let similarity = strips.read(&strip).await?;
            for (query, row) in strip.zip(similarity.chunks_exact(pairs)) {
                let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                out.push(draw(row, temperature.into(), |other| same(query, other), unit));
            }
        }
    }
    Ok(drawn)
}

/// Draws an index with the weights softmax(s / t) + 1e-5 from all that are not `excluded`. `unit` is a random number in
/// [0, 1). The softmax is over the whole row, as published.
fn draw(row: &[f32], temperature: f64, excluded: impl Fn(usize) -> bool, unit: f64) -> u32 {
    let scaled = |s: f32| f64::from(s) / temperature;
    let largest = row.iter().map(|&s| scaled(s)).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|&s| (scaled(s) - largest).exp()).sum();
    let weights = || {
        let allowed = row.iter().enumerate().filter(|(other, _)| !excluded(*other));
        allowed.map(|(other, &s)| (other as u32, (scaled(s) - largest).exp() / sum + FLOOR))
    };
    let mut left = unit * weights().map(|(_, weight)| weight).sum::<f64>();
    let mut last = 0;
    for (other, weight) in weights() {
        last = other;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    // If rounding leaves a rest, it belongs to the last candidate.
    last
}

#[cfg(feature = "native")]
/// Draws a false partner for each of N images and N texts, with probability proportional to softmax(S / t) + 1e-5.
/// These are the hard negatives of X-VLM's matching loss (docs/math.md, "Hard negatives by chance"). Row i of both
/// sides is a pair. `images` and `texts` are each the values `[N, D]`, row-major, and the width D. Give unit rows if S
/// should hold cosines.
///
/// On one device, the same seed and embeddings give the same draw. On another device, rounding may change a draw that
/// falls on the border between two candidates.
///
/// # Errors
/// When the shapes disagree, a value is not finite, a pair has no other to draw, or the device fails.
pub fn hard_negatives(
    device: &Device,
    images: Rows,
    texts: Rows,
    options: NegativeOptions,
) -> Result<HardNegatives> {
    device.wait(hard_negatives_async(device, images, texts, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_falls_where_the_weights_tell() {
        // The softmax of ln 1, ln 2, ln 5, ln 2 is 0.1, 0.2, 0.5, 0.2. Without index 2 the weights add up to 0.5.
        let row = [1f32, 2.0, 5.0, 2.0].map(f32::ln);
        let at = |unit| draw(&row, 1.0, |other| other == 2, unit);
        assert_eq!([0.0, 0.19, 0.21, 0.59, 0.61, 0.999_999].map(at), [0, 0, 1, 1, 3, 3]);
        // Far below the largest similarity, every weight is the floor.
        let row = [0.0, 900.0, 1.0, 2.0];
        let at = |unit| draw(&row, 1.0, |other| other == 1, unit);
        assert_eq!([0.32, 0.34, 0.65, 0.67].map(at), [0, 2, 2, 3]);
    }
}
