//! What the page calls: a training run in a worker of the browser, on WebGPU.
//!
//! The page and this crate exchange JSON texts and bytes. Training, objectives, recall and checkpoints are those of the
//! library. Nothing here blocks: while the device works, the worker answers other calls.

mod options;
mod pairs;
mod search;
mod session;
mod words;

use wasm_bindgen::prelude::wasm_bindgen;

pub use session::Session;
pub use words::Failure;

/// The weights T·P⁺ and T·P⁻ of an objective over p and n in [−1, 1], `[side, side]` each, p in rows. Empty if the objective
/// does not weigh single triplets. `options` are those of [`Session::start`].
///
/// # Errors
/// An unknown objective or parameter, or a fault in a weight file.
#[wasm_bindgen]
pub fn weight_map(options: &str, side: usize) -> Result<Vec<f64>, Failure> {
    let objective = options::parse(options)?.objective()?;
    let along = |k: usize| 2.0 * k as f64 / side.saturating_sub(1).max(1) as f64 - 1.0;
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    for (p, n) in (0..side).flat_map(|p| (0..side).map(move |n| (p, n))) {
        let Some([triplet, pull, push]) = objective.weights_at(along(p), along(n))? else {
            return Ok(Vec::new());
        };
        positive.push(triplet * pull);
        negative.push(triplet * push);
    }
    positive.append(&mut negative);
    Ok(positive)
}

/// The parameters of an objective with their values, as a JSON list of pairs.
///
/// # Errors
/// Those of [`weight_map`].
#[wasm_bindgen]
pub fn parameters(options: &str) -> Result<String, Failure> {
    let objective = options::parse(options)?.objective()?;
    Ok(serde_json::to_string(&options::parameters(&objective))?)
}

/// Times training steps on random batches, as `wgoal bench step` does. `shape` has the pairs, the width of images and of texts,
/// and the width of embeddings. Returns the fields of [`wgoal::bench::StepTimes`] in JSON.
///
/// # Errors
/// Those of [`weight_map`]; a shape of other than four numbers; a session without a device; a failing device; a first step that
/// differs from that of the CPU.
#[wasm_bindgen]
pub async fn bench_step(session: &Session, options: String, shape: Vec<usize>) -> Result<String, Failure> {
    let objective = options::parse(&options)?.objective()?;
    let config = wgoal::TrainConfig::default().with(|config| {
        config.objective = objective;
        config.mask_same_image = false;
    });
    let device = session.device()?;
    let shape =
        shape.try_into().map_err(|_| Failure::early("a benchmark", "give a shape of four numbers"))?;
    Ok(serde_json::to_string(&wgoal::bench::step_async(&device, &config, shape).await?)?)
}
