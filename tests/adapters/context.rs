//! A gradient context that is used again gives the same bits as a new one.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use wgoal::gradient::{GradientContext, GradientOptions};
use wgoal::{Device, Objective};

const PAIRS: usize = 19;
const DIM: usize = 7;

fn reused(device: &Device) -> Outcome {
    for name in ["cir:sig-ms@top:3", "infonce", "multi-similarity+2*hinge"] {
        let objective: Objective = name.parse()?;
        let mut context = GradientContext::new(device, &objective, PAIRS, DIM)?;
        let ids: Vec<u32> = (0..PAIRS as u32).map(|i| i / 2).collect();
        for seed in 0..4 {
            let mut random = Random::new(seed);
            let (images, texts) = (random.values(PAIRS * DIM), random.values(PAIRS * DIM));
            let options = GradientOptions::default().with(|c| {
                c.normalize = seed % 2 == 0;
                c.ids = (seed > 1).then_some(&ids[..]);
                c.scale = 0.5;
            });
            let (mut dx, mut dy) = (vec![f32::NAN; PAIRS * DIM], vec![f32::NAN; PAIRS * DIM]);
            let value = context.gradients(&images, &texts, options, [&mut dx, &mut dy])?;
            let mined = context.mined()?;
            let new = objective.gradients(device, (&images, DIM), (&texts, DIM), options)?;
            let same = dx == new.images && dy == new.texts;
            check(same, format!("{name}, seed {seed}: other gradients"))?;
            check([value.loss, value.temperature] == [new.loss, new.temperature], "another loss")?;
            check(mined.hardest_text_index == new.hardest_text_index, "other negatives")?;
            check(mined.hardest_image == new.hardest_image, "other similarities")?;
        }
    }
    Ok(())
}

/// Another shape is refused, and the contents of the slices do not change.
fn refused(device: &Device) -> Outcome {
    let objective: Objective = "hinge".parse()?;
    let mut context = GradientContext::new(device, &objective, 3, 2)?;
    let (mut dx, mut dy) = ([7.0; 4], [7.0; 4]);
    let values = [1.0, 0.0, 0.0, 1.0];
    let error = context.gradients(&values, &values, GradientOptions::default(), [&mut dx, &mut dy]);
    let error = error.err().ok_or("two pairs in the place of three")?.to_string();
    check(error.starts_with("embeddings: expected 3 images and 3 texts of width 2"), error)?;
    check((dx, dy) == ([7.0; 4], [7.0; 4]), "the slices were written")
}

pub fn tests(suite: &mut Suite) {
    suite.each("reused", reused);
    suite.each("refused", refused);
}
