//! `wgoal embed`: embeddings of a dataset or of a split, for example for a vector index.

use super::checkpoint::read_checkpoint;
use super::data::{Rows, checkpoint_path, warn_of_data};
use super::job::Job;
use super::options::UsedCorrection;
use super::{DeviceArg, make_folder, refuse_overwriting, say, shown};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use wgoal::data::{
    RowList, Side, SplitRows, Values, read_ids_npy, write_ids_npy, write_matrix_fbin, write_matrix_fvecs,
    write_matrix_npy, write_tensors,
};
use wgoal::{Dataset, Error, ErrorKind, Result};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// images.npy and texts.npy, of shape [rows, width]
    Npy,
    /// images.fvecs and texts.fvecs, as faiss reads them: each row starts with its length
    Fvecs,
    /// images.fbin and texts.fbin, as usearch reads them: the file starts with the numbers of rows and columns
    Fbin,
    /// embeddings.safetensors with images, texts and the row numbers
    Safetensors,
    /// images.parquet and texts.parquet with row numbers, embeddings (lists of fixed size), captions and names; needs
    /// the cargo feature parquet
    Parquet,
    /// images.arrow and texts.arrow with the same columns, as Arrow IPC (Feather version 2); needs the cargo feature
    /// parquet
    Arrow,
}

impl Format {
    /// The end of the names of its files, which is also its own name.
    fn extension(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Fvecs => "fvecs",
            Self::Fbin => "fbin",
            Self::Safetensors => "safetensors",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    /// An error if this wgoal cannot write the format.
    fn require(self) -> Result<()> {
        if cfg!(feature = "parquet") || !matches!(self, Self::Parquet | Self::Arrow) {
            return Ok(());
        }
        let option = format!("--format {}", self.extension());
        let expected = "a wgoal with the cargo feature parquet";
        let advice = "install it with `cargo install --locked --path . --features parquet`";
        Err(Error::new(ErrorKind::Config, option, expected, "one without", advice))
    }
}

/// One side of a dataset, as the command line names it.
#[derive(Clone, Copy, ValueEnum)]
pub enum SideArg {
    Image,
    Text,
}

impl From<SideArg> for Side {
    fn from(side: SideArg) -> Self {
        match side {
            SideArg::Image => Self::Image,
            SideArg::Text => Self::Text,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  wgoal embed run my-features --out vectors
  wgoal embed run my-features --split test --out vectors --format fbin
  wgoal embed run gallery --out vectors           a folder with images.npy alone";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct EmbedArgs {
    /// Folder of a run, or a head such as run/best.safetensors
    ///
    /// In a folder, the head is best.safetensors.
    checkpoint: PathBuf,
    /// Folder, .safetensors or .npz file with features
    ///
    /// Images alone or texts alone are enough. Then neither captions nor splits are needed.
    dataset: PathBuf,
    /// Rows to embed: train, val, test or all
    ///
    /// `all` embeds every row of the dataset, including rows that belong to no split. Images come in the order of the
    /// split's file, texts in ascending order of their rows. With `all`, both come in the order of the dataset.
    #[arg(long, default_value = "all", help_heading = "Data")]
    split: String,
    /// Side to embed, image or text [default: every side that the dataset has]
    #[arg(long, value_name = "SIDE", help_heading = "Data")]
    side: Option<SideArg>,
    #[command(flatten)]
    correction: UsedCorrection,
    /// Folder for the embeddings
    ///
    /// The embeddings have length 1. A correction for hubs adds two columns, and the inner product is then the corrected
    /// score. Beside them are image_rows and text_rows, the row of each embedding in the
    /// dataset, and text_to_image, the position of each text's image among the exported images. They are .npy files of
    /// int64, or tensors in embeddings.safetensors.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: PathBuf,
    /// File format
    #[arg(long, value_name = "FORMAT", default_value = "npy", help_heading = "Output")]
    format: Format,
    #[command(flatten)]
    device: DeviceArg,
}

/// The embeddings of one side, with their rows in the dataset.
struct Embedded<'a> {
    side: Side,
    rows: &'a RowList,
    values: Vec<f32>,
}

/// The names of a side's embeddings and of their row numbers.
fn names(side: Side) -> [&'static str; 2] {
    match side {
        Side::Image => ["images", "image_rows"],
        Side::Text => ["texts", "text_rows"],
    }
}

const TRUTH: &str = "text_to_image";

impl EmbedArgs {
    pub fn run(self, job: &Job) -> Result<u8> {
        let asked: Rows = self.split.parse()?;
        self.format.require()?;
        let head = checkpoint_path(&self.checkpoint)?;
        let checkpoint = self.correction.of(read_checkpoint(&head)?);
        let only: Option<Side> = self.side.map(Side::from);
        // A split lists images, and text_to_image assigns texts to it.
        let open = only.filter(|&side| side == Side::Image || asked.needed().is_empty());
        let dataset = Dataset::open_sides(&self.dataset, open, asked.needed())?;
        let rows = asked.of(&dataset);
        let wanted = |side: &Side| dataset.has(*side) && only.is_none_or(|only| only == *side);
        let sides: Vec<Side> = [Side::Image, Side::Text].into_iter().filter(wanted).collect();
        let outputs = Outputs { folder: &self.out, format: self.format, sides: &sides, rows: &rows };
        outputs.refuse(Dataset::paths(&self.dataset).into_iter().chain([head]))?;
        warn_of_data(&dataset, &[checkpoint.config()], asked.needed());
        let device = self.device.open_shared(job)?;
        let (width, mut embedded) = (checkpoint.width(), Vec::new());
        for &side in &sides {
            let rows = rows.of(side);
            let values = checkpoint.embed(&device, &dataset, side, rows)?;
            let dim = checkpoint.head().dim();
            check(&dataset, side, rows, values.chunks_exact(width).map(|row| &row[..dim]))?;
            embedded.push(Embedded { side, rows, values });
        }
        if !job.is_first() {
            return Ok(0);
        }
        make_folder(&self.out)?;
        outputs.write(&dataset, &embedded, width)?;
        if checkpoint.correction().is_some() {
            note!(
                "note: the last two columns correct for hubs: use the inner product, not the cosine, or leave them out \
                 with --correction none"
            );
        }
        Ok(0)
    }
}

/// What a call writes, and where.
struct Outputs<'a> {
    folder: &'a Path,
    format: Format,
    sides: &'a [Side],
    rows: &'a SplitRows,
}

impl Outputs<'_> {
    /// Whether it is known to which exported image each exported text belongs.
    fn has_truth(&self) -> bool {
        self.sides.len() == 2 && self.rows.text_image.len() == self.rows.texts.len()
    }

    fn npy(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.npy"))
    }

    /// Every file that is written.
    fn files(&self) -> Vec<PathBuf> {
        if self.format == Format::Safetensors {
            return vec![self.folder.join("embeddings.safetensors")];
        }
        let of_side = |&side: &Side| {
            let [vectors, rows] = names(side);
            [self.folder.join(format!("{vectors}.{}", self.format.extension())), self.npy(rows)]
        };
        let truth = self.has_truth().then(|| self.npy(TRUTH));
        self.sides.iter().flat_map(of_side).chain(truth).collect()
    }

    /// Refuses to overwrite what the command reads, features of another dataset, and the row numbers of embeddings that
    /// would stay.
    fn refuse(&self, inputs: impl Iterator<Item = PathBuf> + Clone) -> Result<()> {
        let (ours, found) = (self.files(), self.folder.display());
        let refuse = || ours.iter().try_for_each(|out| refuse_overwriting("--out", out, inputs.clone()));
        if self.format == Format::Safetensors || !self.folder.is_dir() {
            return refuse();
        }
        // A folder that this command wrote has row numbers. A folder of features has none.
        let written = [Side::Image, Side::Text].iter().any(|&side| self.npy(names(side)[1]).exists());
        let mut may_be_written = ["images", "texts", TRUTH].map(|name| self.npy(name)).to_vec();
        for end in ["parquet", "arrow"] {
            may_be_written.extend(["images", "texts"].map(|name| self.folder.join(format!("{name}.{end}"))));
        }
        let feature = |path: &PathBuf| path.exists() && !(written && may_be_written.contains(path));
        if Dataset::paths(self.folder).iter().any(feature) {
            let expected = "a folder without features, which would be overwritten";
            return Err(Error::new(ErrorKind::Config, "--out", expected, found, "choose another --out"));
        }
        refuse()?;
        let vectors = ["images", "texts"].into_iter().flat_map(|name| {
            ["npy", "fvecs", "fbin", "parquet", "arrow"].map(|end| self.folder.join(format!("{name}.{end}")))
        });
        let Some(left) = vectors.chain([self.npy(TRUTH)]).find(|path| path.exists() && !ours.contains(path))
        else {
            return Ok(());
        };
        let differ = |&&side: &&Side| {
            let path = self.npy(names(side)[1]);
            path.exists() && read_ids_npy(&path).ok().as_ref() != Some(self.rows.of(side))
        };
        match self.sides.iter().find(differ) {
            None => Ok(()),
            Some(&side) => {
                let expected = format!(
                    "the same rows as in its {}.npy, because other embeddings are there",
                    names(side)[1]
                );
                let found = format!("{} of other rows", left.display());
                Err(Error::new(ErrorKind::Config, "--out", expected, found, "choose another --out"))
            }
        }
    }

    /// Writes the row numbers and the embeddings.
    fn write(&self, dataset: &Dataset, embedded: &[Embedded], dim: usize) -> Result<()> {
        if self.format == Format::Safetensors {
            return self.write_safetensors(embedded, dim);
        }
        // Row numbers first: they mark the folder as one of this command.
        for Embedded { side, rows, .. } in embedded {
            write_ids_npy(&self.npy(names(*side)[1]), rows)?;
        }
        if self.has_truth() {
            write_ids_npy(&self.npy(TRUTH), &self.rows.text_image)?;
        }
        for Embedded { side, rows, values } in embedded {
            let path = self.folder.join(format!("{}.{}", names(*side)[0], self.format.extension()));
            match self.format {
                Format::Parquet | Format::Arrow => self.write_columns(dataset, &path, *side, values, dim)?,
                Format::Fvecs => write_matrix_fvecs(&path, rows.len(), dim, values)?,
                Format::Fbin => write_matrix_fbin(&path, rows.len(), dim, values)?,
                Format::Npy | Format::Safetensors => write_matrix_npy(&path, rows.len(), dim, values)?,
            }
            say(format!("{} [{}, {dim}]", shown(&path), rows.len()))?;
        }
        let ids = embedded.iter().map(|side| self.npy(names(side.side)[1]));
        let ids: Vec<String> = ids
            .chain(self.has_truth().then(|| self.npy(TRUTH)))
            .map(|path| shown(&path).to_string())
            .collect();
        say(ids.join(" "))
    }

    /// The columns image_row, embedding and image_name, or text_row, text_to_image, embedding and caption.
    #[cfg(feature = "parquet")]
    fn write_columns(
        &self,
        dataset: &Dataset,
        path: &Path,
        side: Side,
        values: &[f32],
        dim: usize,
    ) -> Result<()> {
        use wgoal::io::{Column, write_arrow, write_parquet};
        let rows = self.rows.of(side);
        let (id, what) = match side {
            Side::Image => ("image_row", "image_name"),
            Side::Text => ("text_row", "caption"),
        };
        let mut columns = vec![(id, Column::Rows(rows))];
        if side == Side::Text && self.has_truth() {
            columns.push((TRUTH, Column::Rows(&self.rows.text_image)));
        }
        columns.push(("embedding", Column::Vectors(values, dim)));
        let text = |row: u64| match side {
            Side::Image => dataset.image_name(row as usize),
            Side::Text => dataset.caption(row as usize),
        };
        let texts: Option<Vec<&str>> = rows.iter().map(text).collect::<Result<_>>()?;
        columns.extend(texts.map(|texts| (what, Column::Texts(texts))));
        match self.format {
            Format::Arrow => write_arrow(path, &columns),
            _ => write_parquet(path, &columns),
        }
    }

    #[cfg(not(feature = "parquet"))]
    fn write_columns(&self, _: &Dataset, _: &Path, _: Side, _: &[f32], _: usize) -> Result<()> {
        self.format.require()
    }

    fn write_safetensors(&self, embedded: &[Embedded], dim: usize) -> Result<()> {
        let shapes: Vec<[usize; 2]> = embedded.iter().map(|side| [side.rows.len(), dim]).collect();
        let mut tensors: Vec<(&str, &[usize], Values)> = Vec::new();
        for (Embedded { side, rows, values }, shape) in embedded.iter().zip(&shapes) {
            let [vectors, ids] = names(*side);
            tensors.push((vectors, shape, Values::F32(values)));
            tensors.push((ids, &shape[..1], Values::Rows(rows)));
        }
        let texts = [self.rows.texts.len()];
        if self.has_truth() {
            tensors.push((TRUTH, &texts, Values::Rows(&self.rows.text_image)));
        }
        let path = self.folder.join("embeddings.safetensors");
        write_tensors(&path, &tensors)?;
        let held: Vec<String> = tensors.iter().map(|(name, shape, _)| format!("{name} {shape:?}")).collect();
        say(format!("{} {}", shown(&path), held.join(", ")))
    }
}

/// Checks that every row is a unit vector. Other rows cannot be searched.
pub fn check<'a>(
    dataset: &Dataset,
    side: Side,
    rows: &RowList,
    embeddings: impl Iterator<Item = &'a [f32]>,
) -> Result<()> {
    for (row, embedding) in rows.iter().zip(embeddings) {
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
