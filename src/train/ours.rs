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
/// Epochs and dropout for fewer training pairs than the first number. The fewer, the sooner a head knows them by heart.
const FEW: [(usize, usize, f32); 2] = [(1000, 30, 0.8), (4000, 30, 0.7)];
/// Epochs and dropout for more.
const MANY: (usize, f32) = (10, 0.5);
/// A random start needs so many times the epochs.
const RANDOM: usize = 4;
/// Image rows that are searched for values below zero.
const SAMPLE: usize = 16;

/// The temperature that suits a start from CCA.
fn infonce(form: InfonceParams) -> Objective {
    Objective::Infonce(InfonceParams { temperature: 0.04, learn_temperature: false, ..form })
}

/// The recipe for a dataset and the options that override it. `options` sets them in a configuration.
pub(super) fn fit(
    dataset: &Dataset,
    options: impl Fn(TrainConfig) -> Result<TrainConfig>,
) -> Result<TrainConfig> {
    let base = TrainConfig {
        objective: infonce(InfonceParams { leave_out: true, ..Default::default() }),
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
    let (epochs, dropout) = few(pairs).map_or(MANY, |(_, epochs, dropout)| (epochs, dropout));
    let closed = run.init == Init::Cca;
    Ok(TrainConfig {
        objective: match &run.objective {
            Objective::Infonce(params) => infonce(*params),
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

/// What suits so few pairs, if they are few.
fn few(pairs: usize) -> Option<(usize, usize, f32)> {
    FEW.into_iter().find(|(below, ..)| pairs < *below)
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
    if let Some((below, ..)) = few(pairs) {
        let _ = write!(line, " (few: below {})", grouped(below));
    }
    let TrainConfig { objective, epochs, batch, embed, dropout, .. } = run;
    let start = match &run.init {
        Init::Cca => "from CCA",
        Init::KernelCca => "from kernel CCA",
        Init::File(_) => "from the head of --init",
        _ if !run.is_linear() => "from random weights, because the head is not linear",
        _ if widths(dataset, run)?.iter().any(|&width| width > WIDEST) => {
            "from random weights, because the features are too wide for CCA"
        }
        _ => "from random weights",
    };
    let _ = write!(
        line,
        ": {objective}, {start}, {embed} wide, {epochs} epoch{}, batches of {batch}, dropout {dropout}",
        if *epochs == 1 { "" } else { "s" }
    );
    Ok(line)
}

/// A number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Arrays;
    use crate::model::EncoderKind;

    /// A dataset with features of these widths: one row per image, regions, one row per caption, tokens; 0 for none.
    fn dataset(pairs: usize, [images, regions, texts, tokens]: [usize; 4], least: f32) -> Dataset {
        let rows: Vec<u32> = (0..pairs as u32 + 8).collect();
        let mut arrays = Arrays::new()
            .with_rows("text_to_image", &rows)
            .with_rows("split_train", &rows[..pairs])
            .with_rows("split_val", &rows[pairs..pairs + 4])
            .with_rows("split_test", &rows[pairs + 4..]);
        for (name, local, width) in [
            ("images", false, images),
            ("image_regions", true, regions),
            ("texts", false, texts),
            ("text_tokens", true, tokens),
        ] {
            let values: Vec<f32> = (0..rows.len() * width).map(|k| (k as f32).sin().max(least)).collect();
            match (width, local) {
                (0, _) => {}
                (_, false) => arrays = arrays.with_features(name, &[rows.len(), width], &values),
                (_, true) => arrays = arrays.with_features(name, &[rows.len(), 1, width], &values),
            }
        }
        Dataset::from_arrays("made", arrays).unwrap()
    }

    fn recipe(dataset: &Dataset, options: impl Fn(&mut TrainConfig)) -> (TrainConfig, String) {
        TrainConfig::recipe_with("wgoal", dataset, |config| Ok(config.with(|c| options(c)))).unwrap()
    }

    #[test]
    fn the_recipe_uses_the_features_that_there_are() {
        let of = |widths| {
            let (config, _) = recipe(&dataset(48, widths, -1.0), |_| ());
            config.validate().unwrap();
            (config.image_pooling, config.text_pooling, config.embed)
        };
        assert_eq!(of([400, 0, 500, 0]), (Pooling::None, Pooling::None, 384));
        assert_eq!(of([400, 7, 300, 20]), (Pooling::None, Pooling::Joined, 340));
        assert_eq!(of([0, 7, 0, 20]), (Pooling::Mean, Pooling::Mean, 7));
        // Joined, they would be too wide for CCA.
        assert_eq!(of([9, 0, 30, 2050]), (Pooling::None, Pooling::None, 9));
    }

    #[test]
    fn image_features_without_negative_values_get_the_square_root() {
        for (widths, pooled) in [([9, 0, 9, 0], true), ([0, 9, 9, 0], false)] {
            for (least, root) in [(-1.0, SignedRoot::None), (0.0, SignedRoot::Images)] {
                let (config, _) = recipe(&dataset(48, widths, least), |_| ());
                assert_eq!(config.signed_root, root, "{least} {pooled}");
            }
        }
    }

    #[test]
    fn few_pairs_get_more_epochs_and_dropout_and_smaller_batches() {
        for (pairs, expected) in [
            (4, (30, 0.8, 16)),
            (96, (30, 0.8, 32)),
            (999, (30, 0.8, 256)),
            (1000, (30, 0.7, 256)),
            (3999, (30, 0.7, 512)),
            (4000, (10, 0.5, 512)),
        ] {
            let (config, why) = recipe(&dataset(pairs, [3, 0, 3, 0], -1.0), |_| ());
            assert_eq!((config.epochs, config.dropout, config.batch), expected, "{pairs}");
            assert_eq!(why.contains("(few: below "), pairs < 4000, "{why}");
        }
    }

    #[test]
    fn options_decide_the_start_and_stay() {
        let data = dataset(4000, [9, 4, 9, 4], -1.0);
        let (random, why) = recipe(&data, |c| c.image_encoder = EncoderKind::ResidualMlp);
        assert_eq!((&random.init, random.epochs, random.embed), (&Init::Xavier, 40, 384));
        assert!(why.contains(", from random weights, because the head is not linear, "), "{why}");
        let (learned, _) = recipe(&data, |c| c.text_pooling = Pooling::Gpo);
        assert_eq!(learned.init, Init::Xavier);
        let (xavier, _) = recipe(&data, |c| c.init = Init::Xavier);
        assert_eq!((xavier.init, xavier.epochs), (Init::Xavier, 40));
        let (given, why) = recipe(&data, |c| (c.epochs, c.embed, c.dropout) = (3, 50, 0.25));
        assert_eq!((given.init, given.epochs, given.embed, given.dropout), (Init::Cca, 3, 50, 0.25));
        let expected = "recipe wgoal for 4,000 pairs: infonce-masked, from CCA, 50 wide, 3 epochs, batches of 512, \
                        dropout 0.25";
        assert_eq!(why, expected);
        // InfoNCE in another form keeps the temperature that suits the start.
        let plain = Objective::Infonce(InfonceParams::default());
        let set = |c: &mut TrainConfig| {
            if !matches!(&c.objective, Objective::Infonce(params) if !params.leave_out) {
                c.objective = plain.clone();
            }
        };
        assert_eq!(recipe(&data, set).0.objective, infonce(InfonceParams::default()));
        let wide = dataset(48, [4097, 0, 9, 0], -1.0);
        let (config, why) = recipe(&wide, |_| ());
        assert_eq!(config.init, Init::Xavier);
        assert!(why.contains(", because the features are too wide for CCA, "), "{why}");
    }
}
