//! `wgoal embed`: embeddings of a split, for a vector index.

use super::{DeviceArg, make_folder, say};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use wgoal::data::{Side, Values, write_matrix_fbin, write_matrix_fvecs, write_matrix_npy, write_tensors};
use wgoal::{Checkpoint, Dataset, Result, Split};

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// images.npy and texts.npy [rows, embed]
    Npy,
    /// images.fvecs and texts.fvecs, as faiss reads: before each row its length
    Fvecs,
    /// images.fbin and texts.fbin, as usearch reads: rows and columns first
    Fbin,
    /// embeddings.safetensors: images, texts, and their rows in the dataset, image_rows and text_rows
    Safetensors,
}

#[derive(Args)]
pub struct EmbedArgs {
    /// best.safetensors or last.safetensors of a run
    checkpoint: PathBuf,
    /// Folder or .safetensors file
    dataset: PathBuf,
    /// train, val or test
    #[arg(long)]
    split: String,
    /// Folder for the embeddings: images and texts, unit rows in the order of the split
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How they are written
    #[arg(long, value_name = "FORMAT", default_value = "npy")]
    format: Format,
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
        let (out, dim) = (make_folder(&self.out)?, head.dim());
        type Write = fn(&Path, usize, usize, &[f32]) -> Result<()>;
        let (extension, write): (_, Write) = match self.format {
            Format::Npy => ("npy", write_matrix_npy),
            Format::Fvecs => ("fvecs", write_matrix_fvecs),
            Format::Fbin => ("fbin", write_matrix_fbin),
            Format::Safetensors => {
                let (n, m) = (rows.images.len(), rows.texts.len());
                let path = out.join("embeddings.safetensors");
                write_tensors(
                    &path,
                    &[
                        ("images", &[n, dim], Values::F32(&images)),
                        ("texts", &[m, dim], Values::F32(&texts)),
                        ("image_rows", &[n], Values::U32(&rows.images)),
                        ("text_rows", &[m], Values::U32(&rows.texts)),
                    ],
                )?;
                say(format!("{} images [{n}, {dim}], texts [{m}, {dim}]", path.display()));
                return Ok(());
            }
        };
        for (name, rows, values) in
            [("images", rows.images.len(), images), ("texts", rows.texts.len(), texts)]
        {
            let path = out.join(format!("{name}.{extension}"));
            write(&path, rows, dim, &values)?;
            say(format!("{} [{rows}, {dim}]", path.display()));
        }
        Ok(())
    }
}
