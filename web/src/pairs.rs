//! The triplets of a batch, as points over p and n.

use wgoal::data::Side;
use wgoal::{Dataset, Device, Head, Split};

/// The most pairs of the batch that is shown.
const PAIRS: usize = 64;

/// For the first captions of the training split: the similarity p of each caption to its image, and the similarity n of its
/// hardest image, then the same of its image and the hardest caption. Rows (p, n).
pub async fn triplets(device: &Device, dataset: &Dataset, head: &Head) -> wgoal::Result<Vec<f32>> {
    let rows = dataset.split(Split::Train);
    let count = rows.texts.len().min(PAIRS);
    // Evenly spaced, so that a batch has many images.
    let chosen: Vec<usize> = (0..count).map(|k| k * rows.texts.len() / count).collect();
    let texts: Vec<u32> = chosen.iter().map(|&k| rows.texts[k]).collect();
    let images: Vec<u32> = chosen.iter().map(|&k| rows.images[rows.text_image[k] as usize]).collect();
    let of_images = head.embed_async(device, dataset, Side::Image, &images).await?;
    let of_texts = head.embed_async(device, dataset, Side::Text, &texts).await?;
    let (dim, mut found) = (head.dim(), Vec::with_capacity(4 * count));
    let row = |values: &[f32], k: usize| values[k * dim..][..dim].to_vec();
    for (from, to) in [(&of_texts, &of_images), (&of_images, &of_texts)] {
        for i in 0..count {
            let own = row(from, i);
            let similarity = |j: usize| own.iter().zip(&to[j * dim..]).map(|(a, b)| a * b).sum::<f32>();
            let others = (0..count).filter(|&j| images[j] != images[i]).map(similarity);
            found.extend([similarity(i), others.fold(-1.0, f32::max)]);
        }
    }
    Ok(found)
}
