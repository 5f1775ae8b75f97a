//! Recipe `wgoal`: linear heads that start from CCA and are kept near it, fitted to the data at hand.
//!
//! A head on a few thousand images learns them by heart. So it starts from the closed form, and few epochs and much
//! dropout keep it near. docs/results.md and docs/recipes.md measure the choices made here.

use super::{Init, TrainConfig};
use crate::Result;
use crate::data::{Dataset, Side, Split};
use crate::model::{Pooling, SignedRoot};
use crate::objective::{InfonceParams, Objective};
use std::fmt::Write;

/// The widest features whose covariance is decomposed: the time grows with the cube of the width.
const WIDEST: usize = 4096;
/// Fewer training pairs than this are few.
const FEW: usize = 4000;
/// A random start needs so many times the epochs.
const RANDOM: usize = 4;
/// Image rows that are searched for values below zero.
const SAMPLE: usize = 16;

/// The temperature that suits a start from CCA.
fn infonce(leave_out: bool) -> Objective {
    Objective::Infonce(InfonceParams { temperature: 0.04, learn_temperature: false, leave_out })
}

/// The recipe for a dataset and the options that override it. `options` sets them in a configuration.
pub(super) fn fit(
    dataset: &Dataset,
    options: impl Fn(TrainConfig) -> Result<TrainConfig>,
) -> Result<TrainConfig> {
    let base = TrainConfig {
        objective: infonce(true),
        image_pooling: first_of(dataset, Side::Image, &[Pooling::None, Pooling::Mean]),
        text_pooling: first_of(dataset, Side::Text, &[Pooling::Joined, Pooling::None, Pooling::Mean]),
        standardize: true,
        embed: 384,
        lr: 3e-4,
        ..Default::default()
    };
    // What is given decides what fits: first the head, then its start.
    let run = options(base.clone())?;
    let closed = run.is_linear() && widths(dataset, &run)?.iter().all(|&width| width <= WIDEST);
    let base = TrainConfig { init: if closed { Init::Cca } else { Init::Xavier }, ..base };
    let run = options(base.clone())?;
    options(complete(base, dataset, &run)?)
}

/// The first pooling that the features of a side allow, and that CCA can follow.
fn first_of(dataset: &Dataset, side: Side, poolings: &[Pooling]) -> Pooling {
    let fits = |pooling: &Pooling, most| dataset.width(side, *pooling).is_ok_and(|width| width <= most);
    let found = poolings.iter().find(|pooling| fits(pooling, WIDEST));
    found.or(poolings.iter().find(|pooling| fits(pooling, usize::MAX))).copied().unwrap_or_default()
}

/// The square root of image features without a value below zero, as those after a rectifier are.
fn root(dataset: &Dataset, pooling: Pooling) -> Result<SignedRoot> {
    let images = &dataset.split(Split::Train).images;
    let local = pooling != Pooling::None;
    let width = if local { dataset.local_dim(Side::Image).unwrap_or(0) } else { dataset.dim(Side::Image) };
    let (mut scratch, mut row) = (Vec::new(), vec![0.0; width]);
    for &image in images.iter().step_by(images.len().div_ceil(SAMPLE).max(1)) {
        let image = image as usize;
        match local {
            true => {
                let first = dataset.local_rows(Side::Image, image).start;
                dataset.read_local_row(Side::Image, first, &mut scratch, &mut row)?
            }
            false => dataset.read_row(Side::Image, image, &mut scratch, &mut row)?,
        };
        if row.iter().any(|&x| x < 0.0) {
            return Ok(SignedRoot::None);
        }
    }
    Ok(SignedRoot::Images)
}

/// Completes the recipe for a run with the objective, the poolings, the encoder and the start of `run`.
fn complete(base: TrainConfig, dataset: &Dataset, run: &TrainConfig) -> Result<TrainConfig> {
    let pairs = dataset.split(Split::Train).texts.len();
    let narrower = widths(dataset, run)?.into_iter().min().unwrap_or(0);
    let (epochs, dropout) = if pairs < FEW { (30, 0.7) } else { (10, 0.5) };
    let closed = run.init == Init::Cca;
    Ok(TrainConfig {
        objective: match &run.objective {
            Objective::Infonce(params) => infonce(params.leave_out),
            _ => base.objective,
        },
        signed_root: root(dataset, run.image_pooling)?,
        epochs: if run.init == Init::Xavier { RANDOM * epochs } else { epochs },
        batch: batch(pairs),
        // CCA is no wider than the narrower features.
        embed: if closed { base.embed.min(narrower) } else { base.embed },
        dropout,
        ..base
    })
}

fn widths(dataset: &Dataset, run: &TrainConfig) -> Result<[usize; 2]> {
    let [image, text] = run.pooling();
    Ok([dataset.width(Side::Image, image)?, dataset.width(Side::Text, text)?])
}

/// A power of two with which an epoch has three steps or more.
fn batch(pairs: usize) -> usize {
    (1 << (pairs / 3).max(1).ilog2()).clamp(16, 512)
}

/// What the recipe chose, and what made it choose so, in one line.
pub(super) fn reason(dataset: &Dataset, run: &TrainConfig) -> Result<String> {
    let pairs = dataset.split(Split::Train).texts.len();
    let mut line = format!("{} pairs", grouped(pairs));
    if pairs < FEW {
        let _ = write!(line, " (few: below {})", grouped(FEW));
    }
    let TrainConfig { objective, epochs, batch, embed, dropout, .. } = run;
    let start = match &run.init {
        Init::Cca => "from CCA",
        Init::File(_) => "from the head of --init",
        _ if !run.is_linear() => "from random weights, because the head is not linear",
        _ if widths(dataset, run)?.iter().any(|&width| width > WIDEST) => {
            "from random weights, because the features are too wide for CCA"
        }
        _ => "from random weights",
    };
    let _ = write!(
        line,
        ": {objective}, {start}, {embed} wide, {epochs} epochs, batches of {batch}, dropout {dropout}"
    );
    Ok(line)
}

/// A number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
