//! The check of the options of a training run. The first option that training cannot use is named.

use super::{LANDMARKS, TrainConfig};
use crate::kernels::MAX_PAIRS;
use crate::model::{MAX_MEMBERS, Pooling};
use crate::optim::Warmup;
use crate::train::slices::check_slices;
use crate::train::{Init, Shuffle};
use crate::{Error, Result};
use std::fmt::Display;

/// The widest hidden layer of a gated perceptron, as a multiple of the width of the features.
const MAX_GATED_WIDTH: usize = 64;

/// The most random features of a side.
const MAX_RANDOM_FEATURES: usize = 65_536;

/// The most landmark images. Their kernel is decomposed in memory.
const MAX_LANDMARKS: usize = 65_536;

/// The error of an option that is not as expected.
fn check(ok: bool, option: &str, expected: &str, found: &dyn Display) -> Result<()> {
    match ok {
        true => Ok(()),
        false => Err(Error::config(option, expected, found, format!("change {option}, or leave it out"))),
    }
}

impl TrainConfig {
    /// Checks that every value is one that training can use.
    ///
    /// # Errors
    /// Names the first option that is not.
    pub fn validate(&self) -> Result<()> {
        self.objective.validate()?;
        self.check_start()?;
        self.check_sizes()?;
        self.check_strengths()?;
        self.check_course()?;
        check_slices(self)?;
        self.optimizer.validate()
    }

    /// What the initial weights and the memory bank need.
    fn check_start(&self) -> Result<()> {
        if self.init.is_closed_form() {
            let init = if self.init == Init::Cca { "--init cca" } else { "--init kcca" };
            self.need_fixed_pooling(init, "use poolings other than gpo, or --init xavier")?;
        }
        if self.init == Init::KernelCca {
            self.need_kernel("--init kcca")?;
        }
        if self.memory_bank > 0 && !self.objective.mines() {
            let expected = "an objective that mines negatives";
            let advice = "leave it out, or choose an objective on the hardest, semi-hard or top:K negatives";
            return Err(Error::config("--memory-bank", expected, &self.objective, advice));
        }
        Ok(())
    }

    /// Numbers of epochs, pairs and columns.
    fn check_sizes(&self) -> Result<()> {
        // Steps are counted in 64 bits, over at most 2^32 captions.
        for (option, from, to, unit, found) in [
            ("--epochs", 1, u32::MAX as usize, "", self.epochs),
            ("--batch", 1, MAX_PAIRS, " pairs", self.batch),
            ("--embed", 1, 65_536, "", self.embed),
            ("--ensemble", 1, MAX_MEMBERS, "", self.ensemble),
            ("--gated-width", 1, MAX_GATED_WIDTH, "", self.gated_width),
            ("--random-features", 0, MAX_RANDOM_FEATURES, "", self.random_features),
            ("--landmarks", 0, MAX_LANDMARKS, "", self.landmarks),
        ] {
            check((from..=to).contains(&found), option, &format!("{from} to {to}{unit}"), &found)?;
        }
        match self.landmarks {
            0 => Ok(()),
            _ => self.need_fixed_pooling("--landmarks", "leave it out, or use poolings other than gpo"),
        }
    }

    /// Factors, strengths and probabilities.
    fn check_strengths(&self) -> Result<()> {
        let (positive, not_negative) = ("a finite number above 0", "a finite number of 0 or more");
        for (option, numbers) in
            [("--bandwidth", &self.bandwidth), ("--regularization", &self.regularization)]
        {
            for number in numbers {
                let ok = number.is_finite() && *number > 0.0;
                check(ok, option, "finite numbers above 0", number)?;
            }
        }
        check(self.lr.is_finite() && self.lr > 0.0, "--lr", positive, &self.lr)?;
        for (option, factor) in [
            ("--lr-linear", self.lr_linear),
            ("--lr-random-features", self.lr_random_features),
            ("--lr-mlp", self.lr_mlp),
            ("--l2-sp", self.l2_sp),
            ("--structure", self.structure),
        ] {
            check(factor.is_finite() && factor >= 0.0, option, not_negative, &factor)?;
        }
        let temperature = self.structure_temperature;
        let ok = temperature.is_finite() && temperature > 0.0;
        check(ok, "--structure-temperature", positive, &temperature)?;
        if self.structure > 0.0 {
            self.need_fixed_pooling("--structure", "leave it out, or use poolings other than gpo")?;
        }
        let decay = self.weight_decay;
        check(decay.is_finite() && decay >= 0.0, "--weight-decay", not_negative, &decay)?;
        check(self.clip.is_finite() && self.clip >= 0.0, "--clip", not_negative, &self.clip)?;
        check((0.0..1.0).contains(&self.ema), "--ema", "a number in [0, 1)", &self.ema)?;
        check((0.0..1.0).contains(&self.dropout), "--dropout", "a number in [0, 1)", &self.dropout)?;
        let token_dropout = self.token_dropout;
        check((0.0..1.0).contains(&token_dropout), "--token-dropout", "a number in [0, 1)", &token_dropout)
    }

    /// The schedule of the learning rate and the order of the pairs.
    fn check_course(&self) -> Result<()> {
        check(!self.lr_drop.contains(&0), "--lr-drop", "numbers of epochs of 1 or more", &0)?;
        if let Some(window) = self.shuffle.window(self.batch) {
            let least = Shuffle::BATCHES * self.batch;
            let expected = format!("a window of at least {} batches, {least} pairs", Shuffle::BATCHES);
            check(window >= least, "--shuffle", &expected, &window)?;
        }
        if let Warmup::Share { percent } = self.lr_warmup {
            check((0.0..=100.0).contains(&percent), "--lr-warmup", "0% to 100%", &format!("{percent}%"))?;
        }
        Ok(())
    }

    /// Checks that no pooling has weights to learn, which `what` cannot use.
    fn need_fixed_pooling(&self, what: &str, advice: &str) -> Result<()> {
        match self.pooling().contains(&Pooling::Gpo) {
            false => Ok(()),
            true => Err(Error::config(what, "poolings without learned weights", "pooling gpo", advice)),
        }
    }

    /// Checks that there are landmarks or random features, which `what` needs.
    pub(crate) fn need_kernel(&self, what: &str) -> Result<()> {
        let expected = format!("--landmarks or --random-features for {what}");
        match (self.landmarks, self.random_features) {
            (0, 0) => {
                let advice = format!("give for example --landmarks {LANDMARKS}");
                Err(Error::config("kernel", expected, "neither", advice))
            }
            (1.., 1..) => Err(Error::config("kernel", expected, "both", "leave out one of them")),
            _ => Ok(()),
        }
    }
}
