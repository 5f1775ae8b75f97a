//! `wgoal embed`: embeddings of a split, for a vector index.

use super::{DeviceArg, make_folder, say};
use clap::Args;
use std::path::PathBuf;
use wgoal::data::{Side, write_matrix_npy};
use wgoal::{Checkpoint, Dataset, Result, Split};

#[derive(Args)]
pub struct EmbedArgs {
    /// best.safetensors or last.safetensors of a run
    checkpoint: PathBuf,
    /// Folder or .safetensors file
    dataset: PathBuf,
    /// train, val or test
    #[arg(long)]
    split: String,
    /// Folder for images.npy [images, embed] and texts.npy [texts, embed]
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArg,
}

impl EmbedArgs {
    pub fn run(self) -> Result<()> {
        let split: Split = self.split.parse()?;
        let checkpoint = Checkpoint::load(&self.checkpoint)?;
        let dataset = Dataset::open(&self.dataset)?;
        let device = self.device.open()?;
        let (head, rows) = (checkpoint.head(), dataset.split(split));
        let images = head.embed(&device, &dataset, Side::Image, &rows.images)?;
        let texts = head.embed(&device, &dataset, Side::Text, &rows.texts)?;
        let out = make_folder(&self.out)?;
        for (name, rows, values) in
            [("images.npy", rows.images.len(), images), ("texts.npy", rows.texts.len(), texts)]
        {
            write_matrix_npy(&out.join(name), rows, head.dim(), &values)?;
            say(format!("{} [{rows}, {}]", out.join(name).display(), head.dim()));
        }
        Ok(())
    }
}
