//! `wgoal embed`: embeddings of a split, for example for a vector index.

use super::data::{checkpoint_path, warn_of_data};
use super::{DeviceArg, make_folder, refuse_overwriting, say, shown};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use wgoal::data::{Side, Values, write_matrix_fbin, write_matrix_fvecs, write_matrix_npy, write_tensors};
use wgoal::{Checkpoint, Dataset, Error, ErrorKind, Result, Split};

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// images.npy and texts.npy, of shape [rows, width]
    Npy,
    /// images.fvecs and texts.fvecs, as faiss reads them: each row starts with its length
    Fvecs,
    /// images.fbin and texts.fbin, as usearch reads them: the file starts with the numbers of rows and columns
    Fbin,
    /// embeddings.safetensors with images, texts, and their row numbers in the dataset, image_rows and text_rows
    Safetensors,
}

const EXAMPLES: &str = "\
Examples:
  wgoal embed run my-features --split test --out vectors
  wgoal embed run my-features --split all --out vectors --format fbin";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct EmbedArgs {
    /// Folder of a run, or a head such as run/best.safetensors
    ///
    /// In a folder, the head is best.safetensors.
    checkpoint: PathBuf,
    /// Folder, .safetensors or .npz file with features
    dataset: PathBuf,
    /// Rows to embed: train, val, test or all
    ///
    /// `all` embeds every row of the dataset, including rows that belong to no split.
    #[arg(long, help_heading = "Data")]
    split: String,
    /// Folder for the embeddings
    ///
    /// The rows have length 1 and are in the order of the split, or of the dataset for `all`.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: PathBuf,
    /// File format
    #[arg(long, value_name = "FORMAT", default_value = "npy", help_heading = "Output")]
    format: Format,
    #[command(flatten)]
    device: DeviceArg,
}

impl EmbedArgs {
    pub fn run(self) -> Result<()> {
        let split: Option<Split> = (self.split != "all").then(|| self.split.parse()).transpose()?;
        let head = checkpoint_path(&self.checkpoint)?;
        let checkpoint = Checkpoint::load(&head)?;
        let dataset = Dataset::open_for(&self.dataset, split.as_slice())?;
        self.refuse_features(&head)?;
        warn_of_data(&dataset, &[checkpoint.config()], split.as_slice());
        let device = self.device.open()?;
        let all = |side| (0..dataset.items(side) as u32).collect();
        let (image_rows, text_rows): (Vec<u32>, Vec<u32>) = match split.map(|split| dataset.split(split)) {
            Some(rows) => (rows.images.clone(), rows.texts.clone()),
            None => (all(Side::Image), all(Side::Text)),
        };
        let head = checkpoint.head();
        let images = head.embed(&device, &dataset, Side::Image, &image_rows)?;
        let texts = head.embed(&device, &dataset, Side::Text, &text_rows)?;
        let dim = head.dim();
        check(&dataset, Side::Image, &image_rows, images.chunks_exact(dim))?;
        check(&dataset, Side::Text, &text_rows, texts.chunks_exact(dim))?;
        let out = make_folder(&self.out)?;
        type Write = fn(&Path, usize, usize, &[f32]) -> Result<()>;
        let (extension, write): (_, Write) = match self.format {
            Format::Npy => ("npy", write_matrix_npy),
            Format::Fvecs => ("fvecs", write_matrix_fvecs),
            Format::Fbin => ("fbin", write_matrix_fbin),
            Format::Safetensors => {
                let (n, m) = (image_rows.len(), text_rows.len());
                let path = out.join("embeddings.safetensors");
                write_tensors(
                    &path,
                    &[
                        ("images", &[n, dim], Values::F32(&images)),
                        ("texts", &[m, dim], Values::F32(&texts)),
                        ("image_rows", &[n], Values::U32(&image_rows)),
                        ("text_rows", &[m], Values::U32(&text_rows)),
                    ],
                )?;
                say(format!("{} images [{n}, {dim}], texts [{m}, {dim}]", shown(&path)))?;
                return Ok(());
            }
        };
        for (name, rows, values) in [("images", image_rows.len(), images), ("texts", text_rows.len(), texts)]
        {
            let path = out.join(format!("{name}.{extension}"));
            write(&path, rows, dim, &values)?;
            say(format!("{} [{rows}, {dim}]", shown(&path)))?;
        }
        Ok(())
    }

    /// Refuses to overwrite features. In npy format, the files of embeddings have the same names as those of features.
    fn refuse_features(&self, head: &Path) -> Result<()> {
        let ours: &[&str] = match self.format {
            Format::Npy => &["images.npy", "texts.npy"],
            Format::Safetensors => &["embeddings.safetensors"],
            Format::Fvecs => &["images.fvecs", "texts.fvecs"],
            Format::Fbin => &["images.fbin", "texts.fbin"],
        };
        let ours = ours.iter().map(|name| self.out.join(name));
        let of_dataset = |path: &Path| path.exists() && !ours.clone().any(|ours| path == ours);
        if matches!(self.format, Format::Npy)
            && self.out.is_dir()
            && Dataset::paths(&self.out).iter().any(|path| of_dataset(path))
        {
            let expected = "a folder without features, which would be overwritten";
            let advice = "choose another --out";
            return Err(Error::new(ErrorKind::Config, "--out", expected, self.out.display(), advice));
        }
        let inputs = || Dataset::paths(&self.dataset).into_iter().chain([head.to_path_buf()]);
        ours.clone().try_for_each(|out| refuse_overwriting("--out", &out, inputs()))
    }
}

/// Checks that every row is a unit vector. Other rows cannot be searched.
fn check<'a>(
    dataset: &Dataset,
    side: Side,
    rows: &[u32],
    embeddings: impl Iterator<Item = &'a [f32]>,
) -> Result<()> {
    for (&row, embedding) in rows.iter().zip(embeddings) {
        let (kind, found, advice) = if embedding.iter().all(|&x| x == 0.0) {
            let advice = "compute the features of this row again, or leave the row out; if they are not zero, the head \
                          maps them to zero: train another head";
            (ErrorKind::Data, "length 0", advice)
        } else if embedding.iter().any(|x| !x.is_finite()) {
            (
                ErrorKind::Diverged,
                "numbers that are not finite",
                "the head has diverged: train with a lower --lr",
            )
        } else {
            continue;
        };
        let thing = dataset.place(side, row as usize);
        return Err(Error::new(kind, thing, "features with an embedding of length 1", found, advice));
    }
    Ok(())
}
