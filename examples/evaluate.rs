//! Recall of embeddings from anywhere: two matrices of unit rows, and for each text the number of its image.
//!
//!     cargo run --release --example evaluate [images.npy texts.npy text_to_image.npy]
//!
//! Without arguments it makes up 200 images with two noisy captions each.

use std::path::Path;
use wgoal::data::{read_matrix_npy, read_positions_npy};
use wgoal::{Device, Recall};

fn main() -> wgoal::Result<()> {
    let device = Device::auto()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (images, texts, dim, text_image) = match &arguments[..] {
        [images, texts, text_image] => {
            let (_, dim, images) = read_matrix_npy(Path::new(images))?;
            let (_, _, texts) = read_matrix_npy(Path::new(texts))?;
            (images, texts, dim, read_positions_npy(Path::new(text_image))?)
        }
        _ => made_up(200, 32),
    };
    let recall = Recall::of(&device, &images, &texts, dim, &text_image)?;
    println!("{recall}");
    println!("chance: rsum {:.1}", Recall::chance(images.len() / dim, &text_image));
    Ok(())
}

fn made_up(n: usize, dim: usize) -> (Vec<f32>, Vec<f32>, usize, Vec<u32>) {
    let wave = |row: usize, k: usize, phase: f32| ((row * dim + k) as f32 * phase).sin();
    let unit = |mut row: Vec<f32>| {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
        row
    };
    let image = |i: usize| (0..dim).map(|k| wave(i, k, 1.3)).collect::<Vec<f32>>();
    let text = |t: usize| (0..dim).map(|k| wave(t / 2, k, 1.3) + 2.0 * wave(t, k, 1.7)).collect::<Vec<f32>>();
    let images = (0..n).flat_map(|i| unit(image(i))).collect();
    let texts = (0..2 * n).flat_map(|t| unit(text(t))).collect();
    (images, texts, dim, (0..2 * n as u32).map(|t| t / 2).collect())
}
