//! Recipe `wgoal`: heads that start from a closed form and are kept near it, fitted to the data at hand. `wgoal-fast` is
//! the closed form with fixed parameters.
//!
//! A head on a few thousand images learns them by heart. So it starts from exact kernel CCA, or from CCA where the kernel
//! would be too large. Few epochs and much dropout keep it near. docs/results.md and docs/recipes.md measure the choices
//! made here.

use super::{Init, LANDMARK_BANDWIDTHS, LANDMARK_REGULARIZATIONS, LANDMARKS, TrainConfig};
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
/// From so many training images on, a run from kernel CCA has fewer epochs, which take longer.
const FEW_IMAGES: usize = 2000;
/// The widest embedding of a start from kernel CCA, and of `wgoal-fast`.
const WIDE: [usize; 2] = [1024, 512];
/// Image rows that are searched for values below zero.
const SAMPLE: usize = 16;

/// The temperature that suits a start from CCA.
fn infonce(form: InfonceParams) -> Objective {
    Objective::Infonce(InfonceParams { temperature: 0.04, learn_temperature: false, ..form })
}

/// The recipe for a dataset and the options that override it. `options` sets them in a configuration.
pub(super) fn fit(
    dataset: &Dataset,
    fast: bool,
    options: impl Fn(TrainConfig) -> Result<TrainConfig>,
) -> Result<TrainConfig> {
    let base = TrainConfig {
        objective: infonce(InfonceParams { leave_out: true, ..Default::default() }),
        image_pooling: first_of(dataset, Side::Image, &[Pooling::None, Pooling::Mean]),
        text_pooling: first_of(dataset, Side::Text, &[Pooling::None, Pooling::Mean]),
        standardize: true,
        embed: 384,
        lr: 3e-4,
        ..Default::default()
    };
    // What is given decides what fits: first the head, then its start.
    let run = options(base.clone())?;
    let kernel = run.is_linear() && dataset.split(Split::Train).images.len() <= LANDMARKS;
    let landmarks = if kernel { LANDMARKS } else { 0 };
    let base = TrainConfig { init: if kernel { Init::KernelCca } else { Init::Cca }, landmarks, ..base };
    let run = options(base.clone())?;
    // CCA gains from tokens, kernel CCA does not.
    let text_pooling = match run.init {
        Init::KernelCca => base.text_pooling,
        _ => first_of(dataset, Side::Text, &[Pooling::Joined, Pooling::None, Pooling::Mean]),
    };
    let exact = run.init == Init::KernelCca && run.random_features == 0;
    let base = TrainConfig { text_pooling, landmarks: if exact { LANDMARKS } else { 0 }, ..base };
    let run = options(base.clone())?;
    let fits = run.is_linear() && widths(dataset, &run)?.iter().all(|&width| width <= WIDEST);
    let init = if kernel || fits { base.init.clone() } else { Init::Xavier };
    let base = TrainConfig { landmarks: if init == Init::Xavier { 0 } else { base.landmarks }, init, ..base };
    let run = options(base.clone())?;
    options(complete(base, dataset, &run, fast)?)
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
    for image in images.iter().step_by(images.len().div_ceil(SAMPLE).max(1)) {
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
fn complete(base: TrainConfig, dataset: &Dataset, run: &TrainConfig, fast: bool) -> Result<TrainConfig> {
    let pairs = dataset.split(Split::Train).texts.len();
    let narrower = widths(dataset, run)?.into_iter().min().unwrap_or(0);
    let (epochs, dropout) = few(pairs).map_or(MANY, |(_, epochs, dropout)| (epochs, dropout));
    let closed = run.init == Init::Cca;
    let base = TrainConfig {
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
    };
    Ok(if run.init == Init::KernelCca { near_kernel(base, dataset, run, fast) } else { base })
}

/// A run from kernel CCA. The start already separates the training pairs, so the steps are small and see most features
/// dropped, and the head is an average over them. More training images give more directions that generalise.
fn near_kernel(base: TrainConfig, dataset: &Dataset, run: &TrainConfig, fast: bool) -> TrainConfig {
    let images = dataset.split(Split::Train).images.len();
    let [widest, narrower] = WIDE;
    let infonce = matches!(run.objective, Objective::Infonce(_));
    let most = if fast { narrower } else { widest };
    TrainConfig {
        embed: (images / 4).next_power_of_two().clamp(64, most),
        epochs: match () {
            () if fast => 1,
            () if images < FEW_IMAGES => 10,
            () => 4,
        },
        dropout: 0.8,
        // InfoNCE is as good without it, and its gradients stay small near the start.
        centre_kernel: !infonce,
        lr: if infonce { 3e-5 } else { 3e-6 },
        lr_linear: 0.1,
        ema: 0.95,
        // The members of an ensemble have a bandwidth each.
        bandwidth: if fast && run.ensemble == 1 { vec![LANDMARK_BANDWIDTHS[0]] } else { Vec::new() },
        regularization: if fast { vec![LANDMARK_REGULARIZATIONS[0]] } else { Vec::new() },
        ..base
    }
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
    if let Some((below, ..)) = few(pairs).filter(|_| run.init != Init::KernelCca) {
        let _ = write!(line, " (few: below {})", grouped(below));
    }
    let TrainConfig { objective, epochs, batch, embed, dropout, .. } = run;
    let start = match &run.init {
        Init::Cca => "from CCA",
        Init::KernelCca if run.landmarks > 0 => "from exact kernel CCA",
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
        let rows: Vec<u64> = (0..pairs as u64 + 8).collect();
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
        let of = |widths, init: Option<Init>| {
            let (config, _) =
                recipe(&dataset(48, widths, -1.0), |c| c.init = init.clone().unwrap_or(c.init.clone()));
            config.validate().unwrap();
            (config.init, config.image_pooling, config.text_pooling, config.embed)
        };
        // Kernel CCA takes the rows, whatever their width.
        let kernel = |image, text| (Init::KernelCca, image, text, 64);
        assert_eq!(of([400, 7, 300, 20], None), kernel(Pooling::None, Pooling::None));
        assert_eq!(of([0, 7, 0, 20], None), kernel(Pooling::Mean, Pooling::Mean));
        assert_eq!(of([5000, 0, 9, 0], None), kernel(Pooling::None, Pooling::None));
        let cca = |widths| of(widths, Some(Init::Cca));
        assert_eq!(cca([400, 0, 500, 0]), (Init::Cca, Pooling::None, Pooling::None, 384));
        assert_eq!(cca([400, 7, 300, 20]), (Init::Cca, Pooling::None, Pooling::Joined, 340));
        // Joined, they would be too wide for CCA.
        assert_eq!(cca([9, 0, 30, 2050]), (Init::Cca, Pooling::None, Pooling::None, 9));
    }

    #[test]
    fn kernel_cca_is_for_few_images_and_fast_is_faster() {
        let widths = [3, 0, 3, 0];
        for (pairs, embed, epochs) in [(48, 64, 10), (950, 256, 10), (2100, 1024, 4), (5000, 1024, 4)] {
            let data = dataset(pairs, widths, -1.0);
            let (config, why) = recipe(&data, |_| ());
            assert_eq!((config.init, config.landmarks), (Init::KernelCca, 5000), "{pairs}");
            assert_eq!((config.embed, config.epochs, config.dropout), (embed, epochs, 0.8), "{pairs}");
            assert!(why.contains("from exact kernel CCA") && !why.contains("few"), "{why}");
            let fast = TrainConfig::recipe_with("wgoal-fast", &data, Ok).unwrap().0;
            assert_eq!((fast.embed, fast.epochs), (embed.min(512), 1), "{pairs}");
            assert_eq!((fast.bandwidth.len(), fast.regularization.len()), (1, 1));
        }
        let (many, _) = recipe(&dataset(5001, widths, -1.0), |_| ());
        assert_eq!((many.init, many.landmarks, many.epochs), (Init::Cca, 0, 10));
        let (random, _) = recipe(&dataset(48, widths, -1.0), |c| c.random_features = 7);
        assert_eq!((random.init, random.random_features, random.landmarks), (Init::KernelCca, 7, 0));
    }

    #[test]
    fn objectives_other_than_infonce_are_trained_slowly_on_the_centred_kernel() {
        let data = dataset(2100, [3, 0, 3, 0], -1.0);
        let of = |objective: &str| {
            let (config, _) = recipe(&data, |c| c.objective = objective.parse().unwrap());
            (config.lr, config.centre_kernel)
        };
        assert_eq!(of("infonce"), (3e-5, false));
        assert_eq!([of("con:con"), of("siglip")], [(3e-6, true); 2]);
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
            let (config, why) = recipe(&dataset(pairs, [3, 0, 3, 0], -1.0), |c| c.init = Init::Cca);
            assert_eq!((config.epochs, config.dropout, config.batch), expected, "{pairs}");
            assert_eq!(why.contains("(few: below "), pairs < 4000, "{why}");
        }
    }

    #[test]
    fn options_decide_the_start_and_stay() {
        let data = dataset(5001, [9, 4, 9, 4], -1.0);
        let (random, why) = recipe(&data, |c| c.image_encoder = EncoderKind::ResidualMlp);
        assert_eq!((&random.init, random.epochs, random.embed), (&Init::Xavier, 40, 384));
        assert!(why.contains(", from random weights, because the head is not linear, "), "{why}");
        let (learned, _) = recipe(&data, |c| c.text_pooling = Pooling::Gpo);
        assert_eq!(learned.init, Init::Xavier);
        let (xavier, _) = recipe(&dataset(4000, [9, 4, 9, 4], -1.0), |c| c.init = Init::Xavier);
        assert_eq!((xavier.init, xavier.epochs, xavier.landmarks), (Init::Xavier, 40, 0));
        let (given, why) = recipe(&data, |c| (c.epochs, c.embed, c.dropout) = (3, 50, 0.25));
        assert_eq!((given.init, given.epochs, given.embed, given.dropout), (Init::Cca, 3, 50, 0.25));
        let expected = "recipe wgoal for 5,001 pairs: infonce-masked, from CCA, 50 wide, 3 epochs, batches of 512, \
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
        let wide = dataset(5001, [4097, 0, 1, 0], -1.0);
        let (config, why) = recipe(&wide, |_| ());
        assert_eq!(config.init, Init::Xavier);
        assert!(why.contains(", because the features are too wide for CCA, "), "{why}");
    }
}
