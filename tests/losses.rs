//! Named losses through the public API, on every device.

#[path = "common/mod.rs"]
mod common;
#[path = "common/random.rs"]
mod random;

use common::check;
use libtest_mimic::Failed;
use random::Random;
use wgoal::{Device, GoalParams, GradientOptions, Loss, Objective};

type Outcome = Result<(), Failed>;

const PAIRS: usize = 43;
const DIM: usize = 6;

/// The gradient is that of the combination, to the bit; the value is the closed form at the triplets.
fn combinations(device: &Device) -> Outcome {
    let mut random = Random::new(5);
    let (images, texts) = (random.values(PAIRS * DIM), random.values(PAIRS * DIM));
    let params = GoalParams { tau: 3.0, alpha: 2.5, beta: 20.0, lambda: 0.4, ..Default::default() };
    for (loss, margin) in Loss::ALL.into_iter().flat_map(|loss| [(loss, None), (loss, Some(0.3))]) {
        let Some((triplet, pair)) = loss.combination() else { continue };
        let params = GoalParams { margin, ..params };
        let (named, goal) = (Objective::Loss(loss, params), Objective::Goal(triplet, pair, params));
        let options = GradientOptions { normalize: true, scale: 0.7, ..Default::default() };
        let of = |objective: &Objective| objective.gradients(device, &images, &texts, DIM, options);
        let (a, b) = (of(&named)?, of(&goal)?);
        check(a.images.iter().any(|x| *x != 0.0), format!("{named}: no gradient"))?;
        check(a.images == b.images && a.texts == b.texts, format!("{named} is not {goal}"))?;
        let hardest = a.hardest_text.iter().chain(&a.hardest_image);
        let triplets = a.positive.iter().cycle().zip(hardest);
        let value =
            triplets.map(|(&p, &n)| named.loss_at(p.into(), n.into()).unwrap_or(f64::NAN)).sum::<f64>();
        let near = (f64::from(a.loss) - value).abs() < 1e-5 * value.abs().max(1.0);
        check(near, format!("{named}, margin {margin:?}: loss {}, expected {value}", a.loss))?;
    }
    Ok(())
}

fn main() {
    common::run(vec![("combinations".into(), combinations)])
}
