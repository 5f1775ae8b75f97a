//! The triplets of a batch, as points over p and n.

use wgoal::train::Watched;

/// The most pairs that are shown.
const PAIRS: usize = 256;

/// For every pair of the batch: its similarity p with the hardest text of its image, then with the hardest image of its text.
/// Rows (p, n). Of a large batch, pairs at even distances.
pub fn points(seen: &Watched) -> Vec<f32> {
    let count = seen.positive.len().min(PAIRS);
    let chosen = (0..count).map(|k| k * seen.positive.len() / count);
    let [of_images, of_texts] = &seen.hardest;
    chosen.flat_map(|k| [seen.positive[k], of_images[k], seen.positive[k], of_texts[k]]).collect()
}
