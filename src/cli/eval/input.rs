//! What `wgoal eval` ranks: a dataset through a head, its features as they are, or embeddings from files.

use super::super::checkpoint::read_checkpoint;
use super::super::data::{checkpoint_path, warn_of_data};
use super::super::run_folder::BEST;
use super::EvalArgs;
use std::path::{Path, PathBuf};
use wgoal::data::{Embeddings, EqualCaptions, RowList, SplitRows};
use wgoal::eval::Truth;
use wgoal::model::Side;
use wgoal::{Checkpoint, Dataset, Device, Error, ErrorKind, Result, Split, TrainConfig};

/// Where the embeddings come from.
pub enum Source {
    /// A dataset, and the head that embeds it. Without a head, its features are compared as they are.
    Dataset {
        head: Option<Box<Checkpoint>>,
        dataset: Box<Dataset>,
        split: Split,
        equal: EqualCaptions,
    },
    Files(Embeddings),
}

/// Embeddings and what is right among them.
pub struct Input {
    pub plain: Vectors,
    /// With the correction for hubs, if the head has one.
    pub corrected: Option<Vectors>,
    pub truth: Truth,
    /// The rows that the embeddings have in the dataset, or in their files.
    pub rows: SplitRows,
}

/// Rows that are compared by inner product.
pub struct Vectors {
    pub images: Vec<f32>,
    pub texts: Vec<f32>,
    pub width: usize,
}

impl EvalArgs {
    /// The files that the command reads.
    pub fn inputs(&self) -> Result<Vec<PathBuf>> {
        if let Some(paths) = &self.embeddings {
            return Ok(Embeddings::paths(paths, self.right_pairs.as_deref()));
        }
        let (head, dataset) = self.paths()?;
        let head = head.map(checkpoint_path).transpose()?;
        Ok(Dataset::paths(dataset).into_iter().chain(head).chain(self.rerank.clone()).collect())
    }

    /// The head, if one is named, and the dataset.
    fn paths(&self) -> Result<(Option<&Path>, &Path)> {
        match (&self.head_or_dataset, &self.dataset) {
            (Some(head), Some(dataset)) => Ok((Some(head), dataset)),
            (Some(dataset), None) => Ok((None, dataset)),
            (None, _) => {
                let advice = "name a head and a dataset, a dataset alone, or files with --embeddings";
                Err(Error::new(ErrorKind::Config, "eval", "a dataset", "none", advice))
            }
        }
    }

    /// Opens what is ranked, and checks it.
    pub fn source(&self) -> Result<Source> {
        if let Some(paths) = &self.embeddings {
            let (embeddings, others) = Embeddings::read(paths, self.right_pairs.as_deref())?;
            for (side, count) in ["image", "text"].into_iter().zip(others).filter(|(_, count)| *count > 0) {
                note!(
                    "note: {count} {side} embeddings had another length than 1: they are compared by direction"
                );
            }
            return Ok(Source::Files(embeddings));
        }
        let split: Split = self.split.as_deref().unwrap_or("test").parse()?;
        let (head, path) = self.paths()?;
        let given = self.equal_captions.map(EqualCaptions::from);
        let Some(head) = head else {
            let run = path.join(BEST).is_file() && !path.join("images.npy").exists();
            if run || (path.is_file() && Checkpoint::load(path).is_ok()) {
                let found = if run { "the folder of a run" } else { "a head" };
                let (expected, advice) = ("a dataset, or a head and a dataset", "name the dataset after it");
                return Err(Error::new(ErrorKind::Config, path.display(), expected, found, advice));
            }
            let dataset = Box::new(Dataset::open_for(path, &[split])?);
            dataset.common_width()?;
            // Without training, the scale of the features does not matter.
            let config = TrainConfig::default().with(|c| {
                c.standardize = true;
                c.equal_captions = given.unwrap_or_default();
            });
            warn_of_data(&dataset, &[&config], &[split]);
            return Ok(Source::Dataset { head: None, dataset, split, equal: given.unwrap_or_default() });
        };
        let head = Box::new(self.correction.of(read_checkpoint(&checkpoint_path(head)?)?));
        let dataset = Box::new(Dataset::open_for(path, &[split])?);
        let equal = given.unwrap_or(head.config().equal_captions);
        let config = head.config().clone().with(|c| c.equal_captions = equal);
        warn_of_data(&dataset, &[&config], &[split]);
        Ok(Source::Dataset { head: Some(head), dataset, split, equal })
    }
}

impl Source {
    pub fn split(&self) -> Option<Split> {
        match self {
            Self::Dataset { split, .. } => Some(*split),
            Self::Files(_) => None,
        }
    }

    pub fn equal_captions(&self) -> Option<EqualCaptions> {
        match self {
            Self::Dataset { equal, .. } => Some(*equal),
            Self::Files(_) => None,
        }
    }

    /// Embeds what is ranked.
    pub fn embed(self, device: &Device) -> Result<Input> {
        match self {
            Self::Dataset { head, dataset, split, equal } => {
                let rows = dataset.split(split).clone();
                let embed = |side, rows: &RowList| match &head {
                    Some(checkpoint) => checkpoint.head().embed(device, &dataset, side, rows),
                    None => dataset.unit_rows(side, rows),
                };
                let images = embed(Side::Image, &rows.images)?;
                let texts = embed(Side::Text, &rows.texts)?;
                warn_of_zeros(&rows.images, &images, |row| dataset.place(Side::Image, row));
                warn_of_zeros(&rows.texts, &texts, |row| dataset.place(Side::Text, row));
                let truth = Truth::of_split(&dataset, split, equal)?;
                let further = truth.pairs().count() - rows.texts.len();
                if further > 0 {
                    note!("note: {further} texts are also right for images other than their own");
                }
                let width =
                    head.as_ref().map_or_else(|| dataset.image_dim(), |checkpoint| checkpoint.head().dim());
                let corrected = head.as_ref().and_then(|head| head.correction()).map(|correction| {
                    let vectors = |side, rows| correction.vectors(device, side, rows);
                    let (images, texts) = (vectors(Side::Image, &images)?, vectors(Side::Text, &texts)?);
                    Ok::<_, Error>(Vectors { images, texts, width: correction.width() })
                });
                let corrected = corrected.transpose()?;
                Ok(Input { plain: Vectors { images, texts, width }, corrected, truth, rows })
            }
            Self::Files(embeddings) => {
                let truth = embeddings.truth()?;
                let Embeddings { images, texts, dim, text_image, .. } = embeddings;
                let count = |values: &[f32]| (0..(values.len() / dim) as u64).into();
                let rows = SplitRows {
                    images: count(&images),
                    texts: count(&texts),
                    text_image: text_image.unwrap_or_default().into_iter().map(u64::from).collect(),
                };
                warn_of_zeros(&rows.images, &images, |row| format!("image row {row}"));
                warn_of_zeros(&rows.texts, &texts, |row| format!("text row {row}"));
                Ok(Input { plain: Vectors { images, texts, width: dim }, corrected: None, truth, rows })
            }
        }
    }
}

/// Warns of embeddings of length 0, which have no direction.
fn warn_of_zeros(rows: &RowList, embeddings: &[f32], place: impl Fn(usize) -> String) {
    let values = embeddings.chunks_exact((embeddings.len() / rows.len().max(1)).max(1));
    let mut zero = rows.iter().zip(values).filter(|(_, row)| row.iter().all(|&x| x == 0.0));
    if let Some((first, _)) = zero.next() {
        let (count, all) = (1 + zero.count(), rows.len());
        let first = place(first as usize);
        note!(
            "warning: {count} of {all} embeddings have length 0, so their rank is arbitrary; the first is \
             that of {first}"
        );
    }
}
