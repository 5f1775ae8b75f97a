//! `wgoal baseline`: a head in closed form, to compare a trained one with.

use super::data::warn_of_data;
use super::options::{InputArgs, Unused, warn};
use super::run_folder::{BEST, RunFolder};
use super::{DeviceArg, make_folder, print_json, refuse_overwriting, say, shown};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use wgoal::train::{Baseline, ClosedForm, REGULARIZATIONS};
use wgoal::{Checkpoint, Dataset, Recall, Result, Split, TrainConfig};

#[derive(Args)]
pub struct BaselineArgs {
    /// cca (regularised canonical correlation analysis) or ridge (regression of one side on the other)
    form: String,
    /// Folder or .safetensors file
    dataset: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// Width of the joint embedding of cca; that of ridge is the width of a side's features [256]
    #[arg(long)]
    embed: Option<usize>,
    /// Multiples of the mean variance of the features, of which validation chooses one [0.03,0.1,0.3,1]
    #[arg(long, value_delimiter = ',', value_name = "R1,R2", allow_negative_numbers = true)]
    regularization: Option<Vec<f64>>,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder for best.safetensors, a head like any other
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Summary {
    form: String,
    regularization: f64,
    embed: usize,
    val: Recall,
    test: Recall,
    device: String,
}

impl BaselineArgs {
    pub fn run(self) -> Result<()> {
        let form: ClosedForm = self.form.parse()?;
        if let Some(out) = &self.out {
            RunFolder::refuse_if_of_run(out)?;
            refuse_overwriting("--out", &out.join(BEST), Dataset::paths(&self.dataset))?;
        }
        let base =
            TrainConfig::default().with(|c| c.embed = self.embed.unwrap_or(TrainConfig::default().embed));
        let mut config = base;
        self.input.apply(&mut config);
        config.validate()?;
        if self.embed.is_some() && form == ClosedForm::Ridge {
            warn(&[Unused::new("embed", "the head of ridge is as wide as the features of a side")]);
        }
        let dataset = Dataset::open(&self.dataset)?;
        warn_of_data(&dataset, &[&config], &Split::ALL);
        let device = self.device.open()?;
        let grid = self.regularization.as_deref().unwrap_or(&REGULARIZATIONS);
        let baseline = Baseline::fit(form, &device, &dataset, &config, grid)?;
        let Baseline { regularization, val, head, .. } = &baseline;
        let test = head.recall(&device, &dataset, Split::Test, 1)?;
        note!(
            "{form}, {} wide, regularisation {regularization} by validation rsum {:.1}; on the test split:",
            head.dim(),
            val.rsum
        );
        if let Some(out) = &self.out {
            let file = make_folder(out)?.join(BEST);
            Checkpoint::of(head.clone(), &dataset, config)?.save(&file)?;
            note!("head: {}", shown(&file));
        }
        if self.json {
            note!("{test}");
            return print_json(&Summary {
                form: form.to_string(),
                regularization: *regularization,
                embed: head.dim(),
                val: *val,
                test,
                device: device.to_string(),
            });
        }
        say(test)
    }
}
