//! `wgoal eval`: recall of a head.

use super::data::{checkpoint_path, warn_of_data};
use super::{DeviceArg, print_json, refuse_overwriting, say, shown};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use wgoal::model::Side;
use wgoal::rerank::Candidates;
use wgoal::{Checkpoint, Dataset, Error, ErrorKind, Recall, Result, Split};

const EXAMPLES: &str = "\
Examples:
  wgoal eval run my-features                 recall on the test split
  wgoal eval run my-features --split val --json
  wgoal eval run my-features --top 128 --write-candidates top.safetensors
  wgoal eval run my-features --rerank scored.safetensors";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct EvalArgs {
    /// Folder of a run, or a head such as run/best.safetensors
    ///
    /// In a folder, the head is best.safetensors.
    checkpoint: PathBuf,
    /// Folder, .safetensors or .npz file with features
    dataset: PathBuf,
    /// Split to evaluate: train, val or test
    #[arg(long, default_value = "test", help_heading = "Data")]
    split: String,
    /// Split the images into this many parts and average their recall (COCO 1K: 5)
    ///
    /// It must divide the number of images.
    #[arg(long, default_value_t = 1, help_heading = "Data")]
    folds: usize,
    /// Number of candidates per query to write, 1 or more
    #[arg(long, value_name = "K", requires = "write_candidates", help_heading = "Re-ranking")]
    top: Option<usize>,
    /// .safetensors file for the candidates, which another model can score
    ///
    /// It holds images, texts, image_to_text and text_to_image, as row numbers of the dataset.
    #[arg(long, value_name = "FILE", requires = "top", help_heading = "Re-ranking")]
    write_candidates: Option<PathBuf>,
    /// The file of candidates with scores: measure recall with these scores
    ///
    /// It is a file of --write-candidates to which image_to_text_score and text_to_image_score were added. Items that
    /// are not candidates rank last.
    #[arg(long, value_name = "FILE", conflicts_with = "top", help_heading = "Re-ranking")]
    rerank: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    split: String,
    folds: usize,
    #[serde(flatten)]
    recall: Recall,
    /// Recall before re-ranking.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_stage: Option<Recall>,
    device: String,
}

impl EvalArgs {
    pub fn run(self) -> Result<()> {
        let split: Split = self.split.parse()?;
        let checkpoint = checkpoint_path(&self.checkpoint)?;
        if let Some(out) = &self.write_candidates {
            let inputs = Dataset::paths(&self.dataset).into_iter().chain([checkpoint.clone()]);
            refuse_overwriting("--write-candidates", out, inputs)?;
        }
        let checkpoint = Checkpoint::load(&checkpoint)?;
        let dataset = Dataset::open_for(&self.dataset, &[split])?;
        warn_of_data(&dataset, &[checkpoint.config()], &[split]);
        let device = self.device.open()?;
        if self.folds != 1 && (self.top.is_some() || self.rerank.is_some()) {
            let advice = "leave --folds out: candidates are chosen in the whole split";
            return Err(Error::new(
                ErrorKind::Config,
                "--folds",
                "1 with --top and --rerank",
                self.folds,
                advice,
            ));
        }
        let (head, rows) = (checkpoint.head(), dataset.split(split));
        let images = head.embed(&device, &dataset, Side::Image, &rows.images)?;
        let texts = head.embed(&device, &dataset, Side::Text, &rows.texts)?;
        warn_of_zeros(&dataset, Side::Image, &rows.images, &images);
        warn_of_zeros(&dataset, Side::Text, &rows.texts, &texts);
        let first = Recall::folds(&device, &images, &texts, head.dim(), &rows.text_image, self.folds)?;
        if let (Some(k), Some(path)) = (self.top, &self.write_candidates) {
            let candidates = Candidates::top(&device, (&images, head.dim()), (&texts, head.dim()), k)?;
            candidates.save(path, rows)?;
            let (texts, images) = (candidates.texts.k, candidates.images.k);
            note!("{}: {texts} texts per image, {images} images per text", shown(path));
        }
        let reranked = match &self.rerank {
            None => None,
            Some(path) => {
                let scored = Candidates::load_scored(path, rows)?;
                Some(Recall::of_candidates(&scored, rows.images.len(), &rows.text_image)?)
            }
        };
        if self.json {
            let (split, device) = (split.to_string(), device.to_string());
            let first_stage = reranked.map(|_| first);
            let recall = reranked.unwrap_or(first);
            return print_json(&Summary { split, folds: self.folds, recall, first_stage, device });
        }
        say(first)?;
        if let Some(reranked) = reranked {
            say(format!("\nre-ranked:\n{reranked}"))?;
        }
        Ok(())
    }
}

/// Warns of embeddings of length 0, which have no direction.
fn warn_of_zeros(dataset: &Dataset, side: Side, rows: &[u32], embeddings: &[f32]) {
    let values = embeddings.chunks_exact((embeddings.len() / rows.len().max(1)).max(1));
    let mut zero = rows.iter().zip(values).filter(|(_, row)| row.iter().all(|&x| x == 0.0));
    if let Some((&first, _)) = zero.next() {
        let (count, all) = (1 + zero.count(), rows.len());
        let first = dataset.place(side, first as usize);
        note!(
            "warning: {count} of {all} embeddings have length 0, so their rank is arbitrary; the first is \
             that of {first}"
        );
    }
}
