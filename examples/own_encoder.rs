//! The gradient alone, for people who train an encoder of their own: give a batch of embeddings, get the gradient at
//! them, and feed it to your own backward pass. Here the "encoder" is the embedding table itself.
//!
//!     cargo run --release --example own_encoder

use wgoal::gradient::GradientOptions;
use wgoal::{Device, Objective};

const PAIRS: usize = 48;
const DIM: usize = 16;

fn main() -> wgoal::Result<()> {
    let device = Device::auto()?;
    let objective: Objective = "nca:lin".parse()?;
    let options = GradientOptions::default().with(|c| c.normalize = true);

    // Two tables of arbitrary rows; row i of both is a pair.
    let table = |phase: f32| (0..PAIRS * DIM).map(|k| (k as f32 * phase).sin()).collect::<Vec<f32>>();
    let (mut images, mut texts) = (table(1.3), table(1.7));
    for step in 0..=100 {
        let g = objective.gradients(&device, (&images, DIM), (&texts, DIM), options)?;
        if step % 20 == 0 {
            let mean = |values: &[f32]| values.iter().sum::<f32>() / PAIRS as f32;
            let won = g.positive.iter().zip(&g.hardest_text).filter(|(p, n)| p > n).count();
            println!(
                "step {step:3}: positive {:6.3}, hardest {:6.3}, right first {won:2} of {PAIRS}",
                mean(&g.positive),
                mean(&g.hardest_text)
            );
        }
        // Your encoder's backward pass would start here, from g.images and g.texts.
        for (rows, gradient) in [(&mut images, &g.images), (&mut texts, &g.texts)] {
            rows.iter_mut().zip(gradient).for_each(|(x, g)| *x -= 0.5 * g);
        }
    }
    Ok(())
}
