//! Search: the pictures that are nearest to a caption.

use serde::Serialize;
use wgoal::data::Side;
use wgoal::{Dataset, Device, Head, Split};

/// Pictures in an answer.
const FOUND: usize = 5;

/// A picture that was found.
#[derive(Serialize)]
pub struct Found {
    /// Its name, or its row.
    name: String,
    /// Its captions.
    captions: Vec<String>,
    similarity: f32,
    /// Whether the caption that was asked for belongs to it.
    right: bool,
}

/// The split in which the page searches: the test split, or the validation split.
pub fn split(dataset: &Dataset) -> Split {
    if dataset.split(Split::Test).images.is_empty() { Split::Val } else { Split::Test }
}

/// The pictures of the split that are nearest to a caption, a row of the texts.
pub async fn nearest(
    device: &Device,
    dataset: &Dataset,
    head: &Head,
    text: u64,
) -> wgoal::Result<Vec<Found>> {
    let rows = dataset.split(split(dataset));
    let images = head.embed_async(device, dataset, Side::Image, &rows.images).await?;
    let query = head.embed_async(device, dataset, Side::Text, &[text].into()).await?;
    let similarity = |row: &[f32]| row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
    let mut order: Vec<_> = images.chunks_exact(head.dim()).map(similarity).zip(&rows.images).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let own = dataset.text_to_image().get(text as usize);
    let found = order.into_iter().take(FOUND).map(|(similarity, image)| {
        let name = dataset.image_name(image as usize)?;
        let name = name.map_or_else(|| format!("image {image}"), str::to_string);
        let mut captions = Vec::new();
        for (text, of) in dataset.text_to_image().iter().enumerate() {
            if of == image
                && let Some(caption) = dataset.caption(text)?
            {
                captions.push(caption.to_string());
            }
        }
        Ok(Found { name, captions, similarity, right: own == Some(image) })
    });
    found.collect()
}
