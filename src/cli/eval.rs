//! `wgoal eval`: recall of a checkpoint.

use super::{DeviceArg, print_json, say};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use wgoal::{Checkpoint, Dataset, Recall, Result, Split};

#[derive(Args)]
pub struct EvalArgs {
    /// best.safetensors or last.safetensors of a run
    checkpoint: PathBuf,
    /// Folder or .safetensors file
    dataset: PathBuf,
    /// train, val or test
    #[arg(long, default_value = "test")]
    split: String,
    /// Mean over this many disjoint stretches of images (COCO 1K: 5)
    #[arg(long, default_value_t = 1)]
    folds: usize,
    #[command(flatten)]
    device: DeviceArg,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    split: String,
    folds: usize,
    #[serde(flatten)]
    recall: Recall,
    device: String,
}

impl EvalArgs {
    pub fn run(self) -> Result<()> {
        let split: Split = self.split.parse()?;
        let checkpoint = Checkpoint::load(&self.checkpoint)?;
        let dataset = Dataset::open(&self.dataset)?;
        let device = self.device.open()?;
        let recall = checkpoint.head().recall(&device, &dataset, split, self.folds)?;
        if self.json {
            let (split, device) = (split.to_string(), device.to_string());
            return print_json(&Summary { split, folds: self.folds, recall, device });
        }
        say(recall);
        Ok(())
    }
}
