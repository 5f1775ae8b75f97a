//! `wgoal baseline`: a head in closed form, to compare with trained heads.

use super::corrected::{self, Corrected};
use super::data::warn_of_data;
use super::job::Job;
use super::options::{CorrectionName, InputArgs, Unused, fixed_poolings, warn};
use super::progress::Spinner;
use super::run_folder::{BEST, RunFolder};
use super::{DeviceArg, make_folder, print_json, refuse_overwriting, say, shown};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use wgoal::train::{
    BANDWIDTHS, Baseline, ClosedForm, KERNEL_REGULARIZATIONS, LANDMARK_BANDWIDTHS, LANDMARK_REGULARIZATIONS,
    LANDMARKS, REGULARIZATIONS,
};
use wgoal::{Checkpoint, Dataset, Device, Recall, Result, Split, TrainConfig};

const EXAMPLES: &str = "\
Examples:
  wgoal baseline cca my-features --out cca
  wgoal baseline ridge my-features --standardize
  wgoal baseline cca my-features --regularization 0.1,1,10
  wgoal baseline kcca my-features --standardize --embed 512 --out kcca";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
#[command(mut_arg("image_pooling", |arg| arg.value_parser(fixed_poolings())))]
#[command(mut_arg("text_pooling", |arg| arg.value_parser(fixed_poolings())))]
pub struct BaselineArgs {
    /// cca, ridge or kcca
    ///
    /// `cca` is regularised canonical correlation analysis, `ridge` a regression of one side on the other. `kcca` is
    /// kernel CCA: CCA on the Gaussian kernel of the features and the training items, or on random Fourier features.
    form: String,
    /// Folder, .safetensors or .npz file with features
    dataset: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// Width of the joint embedding of cca and kcca, 1 to 65536 [default: 256]
    ///
    /// The embedding of ridge is as wide as the features of one side.
    #[arg(long, value_name = "WIDTH", help_heading = "Head")]
    embed: Option<usize>,
    /// Training images that kcca compares features with, 1 or more [default: 5000]
    ///
    /// The kernel of an input and these images, or all their captions, makes its embedding. If there are fewer training
    /// images, all are used, and kcca is exact. The time grows with the cube of their number.
    #[arg(long, value_name = "NUMBER", help_heading = "Head")]
    landmarks: Option<usize>,
    /// Random Fourier features of each side for kcca, in place of landmarks [default: 0]
    ///
    /// The time grows with the cube of their number.
    #[arg(long, value_name = "NUMBER", help_heading = "Head")]
    random_features: Option<usize>,
    /// Bandwidths of the kernel of kcca to try [default: 0.5,0.8]
    ///
    /// They are multiples of the median distance between training rows. The one with the best validation rsum is used.
    /// With --random-features the default is 0.5,0.7,1.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "G1,G2",
        allow_negative_numbers = true,
        help_heading = "Head"
    )]
    bandwidth: Option<Vec<f64>>,
    /// Strengths of regularisation to try [default: 0.03,0.1,0.3,1]
    ///
    /// They are multiples of the mean variance of the features. The one with the best validation rsum is used.
    /// For kcca the default is 0.0002,0.001,0.005, shares of the variance of all directions together. With
    /// --random-features it is 0.3,1,2.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "R1,R2",
        allow_negative_numbers = true,
        help_heading = "Head"
    )]
    regularization: Option<Vec<f64>>,
    /// Seed of the landmarks and random features of kcca [default: 0]
    #[arg(long, help_heading = "Head")]
    seed: Option<u64>,
    /// Parts of the sums over the training pairs, for several processes; 0 for none [default: 0]
    ///
    /// `mpirun -n R wgoal baseline` divides the sums into these parts (8 if not given), and adds them in one order. So the
    /// result has the same bits for every R. In one process, slices change only rounding.
    #[arg(long, value_name = "N", help_heading = "Head")]
    slices: Option<usize>,
    /// Correction for hubs, fitted to the head [default: auto]
    ///
    /// Hubs are items that are similar to most queries. Every item loses a part of its similarity to training items.
    /// Validation chooses the part.
    #[arg(long, value_name = "CORRECTION", help_heading = "Head")]
    correction: Option<CorrectionName>,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder for the head, best.safetensors [default: the head is not saved]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Summary {
    form: String,
    regularization: f64,
    /// Missing except for kcca.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<f64>,
    embed: usize,
    val: Recall,
    /// Missing if the dataset has no test split.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Recall>,
    /// Recall with the correction for hubs; missing without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<Corrected>,
    device: String,
}

impl BaselineArgs {
    /// The method, and the configuration of its head.
    pub fn config(&self) -> Result<(ClosedForm, TrainConfig)> {
        let form: ClosedForm = self.form.parse()?;
        let base =
            TrainConfig::default().with(|c| c.embed = self.embed.unwrap_or(TrainConfig::default().embed));
        let mut config = base;
        self.input.apply(&mut config);
        config.slices = self.slices.unwrap_or(0);
        config.correction = self.correction.map_or(config.correction, Into::into);
        if form == ClosedForm::KernelCca {
            config.random_features = self.random_features.unwrap_or(0);
            config.landmarks =
                self.landmarks.unwrap_or(if config.random_features > 0 { 0 } else { LANDMARKS });
            config.seed = self.seed.unwrap_or(config.seed);
        }
        config.validate()?;
        Ok((form, config))
    }

    pub fn run(self, job: &Job) -> Result<u8> {
        let (form, config) = self.config()?;
        let config = job.divided(config);
        if let Some(out) = &self.out {
            RunFolder::refuse_if_of_run(out)?;
            refuse_overwriting("--out", &out.join(BEST), Dataset::paths(&self.dataset))?;
        }
        warn(&self.unused(form));
        let dataset = Dataset::open(&self.dataset)?;
        warn_of_data(&dataset, &[&config], &Split::ALL);
        let device = self.device.open_shared(job)?;
        let baseline = self.fit(form, &device, &dataset, &config)?;
        let Baseline { regularization, bandwidth, val, head, .. } = &baseline;
        let has_test = !dataset.split(Split::Test).images.is_empty();
        let test = has_test
            .then(|| head.recall(&device, &dataset, Split::Test, 1, config.equal_captions))
            .transpose()?;
        let bandwidth_text =
            bandwidth.map_or_else(String::new, |bandwidth| format!("bandwidth {bandwidth}, "));
        note!(
            "{form}, {} wide, {bandwidth_text}regularisation {regularization} by validation rsum {:.1}; on the {} split:",
            head.dim(),
            val.rsum,
            if has_test { Split::Test } else { Split::Val }
        );
        let mut checkpoint = Checkpoint::of(head.clone(), &dataset, config)?;
        let corrected = corrected::fit(&mut checkpoint, &device, &dataset)?;
        if let Some(out) = self.out.as_ref().filter(|_| job.is_first()) {
            let file = make_folder(out)?.join(BEST);
            checkpoint.save(&file)?;
            note!("head: {}", shown(&file));
        }
        let recall = test.unwrap_or(*val);
        if self.json {
            note!("{recall}");
            print_json(&Summary {
                form: form.to_string(),
                regularization: *regularization,
                bandwidth: *bandwidth,
                embed: head.dim(),
                val: *val,
                test,
                corrected,
                device: device.to_string(),
            })?;
            return Ok(0);
        }
        say(recall)?;
        corrected.map_or(Ok(()), say)?;
        Ok(0)
    }

    /// The given options that the method does not have.
    pub fn unused(&self, form: ClosedForm) -> Vec<Unused> {
        let ridge = form == ClosedForm::Ridge;
        let embed = (self.embed.is_some() && ridge)
            .then(|| Unused::new("embed", "the head of ridge is as wide as the features of one side"));
        let given = [
            ("landmarks", self.landmarks.is_some()),
            ("random-features", self.random_features.is_some()),
            ("bandwidth", self.bandwidth.is_some()),
            ("seed", self.seed.is_some()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given && form != ClosedForm::KernelCca);
        let random = given.map(|(option, _)| Unused::new(option, format!("{form} has no kernel")));
        embed.into_iter().chain(random).collect()
    }

    /// The head of this method.
    pub fn fit(
        &self,
        form: ClosedForm,
        device: &Device,
        dataset: &Dataset,
        config: &TrainConfig,
    ) -> Result<Baseline> {
        let regularizations = self.regularization.as_deref();
        if form != ClosedForm::KernelCca {
            return Baseline::fit(form, device, dataset, config, regularizations.unwrap_or(&REGULARIZATIONS));
        }
        let _spinner = Spinner::new("fitting kernel CCA");
        let (bandwidths, strengths) = match config.landmarks {
            0 => (&BANDWIDTHS[..], &KERNEL_REGULARIZATIONS[..]),
            _ => (&LANDMARK_BANDWIDTHS[..], &LANDMARK_REGULARIZATIONS[..]),
        };
        let bandwidths = self.bandwidth.as_deref().unwrap_or(bandwidths);
        let regularizations = regularizations.unwrap_or(strengths);
        Baseline::kernel_cca(device, dataset, config, bandwidths, regularizations)
    }
}
