//! `wgoal eval`: recall and other measures of a head, of features, or of embeddings.

mod input;
mod output;
mod ranks;

use super::job::Job;
use super::options::{EqualCaptionsName, UsedCorrection};
use super::{DeviceArg, print_json, refuse_overwriting, say, shown};
use clap::{Args, ValueEnum};
use input::{Input, Vectors};
use output::{Summary, Table};
use std::path::PathBuf;
use wgoal::eval::{Evaluation, Ranks, Truth};
use wgoal::rerank::Candidates;
use wgoal::{Device, Error, ErrorKind, Result};

const EXAMPLES: &str = "\
Examples:
  wgoal eval run my-features                 recall on the test split
  wgoal eval run my-features --split val --json
  wgoal eval run my-features --k 1,5,50 --metrics all
  wgoal eval my-features                     the features themselves, without a head
  wgoal eval --embeddings images.npy texts.npy text_to_image.npy
  wgoal eval run my-features --top 128 --write-candidates top.safetensors
  wgoal eval run my-features --rerank scored.safetensors";

const USAGE: &str = "wgoal eval [OPTIONS] [HEAD] DATASET
       wgoal eval [OPTIONS] --embeddings IMAGES TEXTS [TEXT_TO_IMAGE]";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metrics {
    /// Recall@K, and the median and the mean rank of the first right candidate
    Recall,
    /// Also mAP@R, R-precision, mean reciprocal rank and nDCG, as percentages
    All,
}

#[derive(Args)]
#[command(before_long_help = EXAMPLES, override_usage = USAGE)]
pub struct EvalArgs {
    /// Folder of a run, or a head such as run/best.safetensors
    ///
    /// In a folder, the head is best.safetensors. Without a head, the features of the dataset are compared as they
    /// are. Both sides must then have the same width.
    #[arg(value_name = "HEAD")]
    head_or_dataset: Option<PathBuf>,
    /// Folder, .safetensors or .npz file with features
    dataset: Option<PathBuf>,
    /// Files of embeddings to evaluate, instead of a head and a dataset
    ///
    /// Either images.npy, texts.npy and text_to_image.npy, the image row of every text; or one folder, .safetensors or
    /// .npz file with these arrays. Without text_to_image, text i is that of image i. The embeddings are compared by
    /// direction.
    #[arg(long, value_name = "FILE", num_args = 1..=3, help_heading = "Data")]
    #[arg(conflicts_with_all = ["head_or_dataset", "dataset", "split", "equal_captions"])]
    embeddings: Option<Vec<PathBuf>>,
    /// .npy file of further right pairs for --embeddings, [K, 2]: image row, text row
    ///
    /// A dataset may hold them as pairs.npy.
    #[arg(long = "pairs", value_name = "FILE", requires = "embeddings", help_heading = "Data")]
    right_pairs: Option<PathBuf>,
    /// Split to evaluate: train, val or test [default: test]
    #[arg(long, help_heading = "Data")]
    split: Option<String>,
    /// Split the images into this many parts and average their results (COCO 1K: 5)
    ///
    /// It must divide the number of images.
    #[arg(long, default_value_t = 1, help_heading = "Data")]
    folds: usize,
    /// What equal captions of different images are for each other's images [default: as in the head's run]
    #[arg(long, value_name = "VALUE", help_heading = "Data")]
    equal_captions: Option<EqualCaptionsName>,
    #[command(flatten)]
    correction: UsedCorrection,
    /// Values of K for recall@K, each 1 or more
    ///
    /// rsum is always the sum of recall at 1, 5 and 10.
    #[arg(
        long,
        value_name = "K1,K2",
        value_delimiter = ',',
        default_value = "1,5,10",
        help_heading = "Measures"
    )]
    k: Vec<usize>,
    /// Measures of the table; --json has all of them
    #[arg(long, value_name = "MEASURES", default_value = "recall", help_heading = "Measures")]
    metrics: Metrics,
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
    /// .safetensors or .jsonl file for the rank of every query and of every right pair
    ///
    /// Ranks count from 1. A .jsonl file has one line per query: its row, the rank of its first right candidate, and
    /// all its right candidates with their ranks.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    write_ranks: Option<PathBuf>,
}

impl EvalArgs {
    pub fn run(self, job: &Job) -> Result<u8> {
        self.check_k()?;
        let format = self.write_ranks.as_deref().map(ranks::Format::of).transpose()?;
        for (option, out) in
            [("--write-candidates", &self.write_candidates), ("--write-ranks", &self.write_ranks)]
        {
            if let Some(out) = out {
                refuse_overwriting(option, out, self.inputs()?)?;
            }
        }
        let source = self.source()?;
        let device = self.device.open_shared(job)?;
        self.check_folds()?;
        let (split, equal) = (source.split(), source.equal_captions());
        let input = source.embed(&device)?;
        let (plain, mut ranks) = self.evaluate(&device, &input.plain, &input.truth)?;
        let mut corrected = None;
        if let Some(vectors) = &input.corrected {
            let (evaluation, found) = self.evaluate(&device, vectors, &input.truth)?;
            (corrected, ranks) = (Some(evaluation), found);
        }
        self.save_candidates(&device, &input, job)?;
        let reranked = match &self.rerank {
            None => None,
            Some(path) => {
                let scored = Candidates::load_scored(path, &input.rows)?;
                let scored = Ranks::of_candidates(&scored, &input.truth)?;
                let evaluation = Evaluation::of(&scored, &self.k);
                ranks = Some(scored);
                Some(evaluation)
            }
        };
        if let (Some(path), Some(format), Some(ranks)) = (&self.write_ranks, format, &ranks)
            && job.is_first()
        {
            format.write(path, ranks, &input.rows)?;
            note!("{}: ranks of {} right pairs", shown(path), input.truth.pairs().count());
        }
        if self.json {
            let first = corrected.as_ref().unwrap_or(&plain);
            let last = reranked.as_ref().unwrap_or(first);
            print_json(&Summary {
                split: split.map(|split| split.to_string()),
                folds: self.folds,
                equal_captions: equal.map(|equal| equal.to_string()),
                recall: last.recall,
                measures: last.into(),
                plain: corrected.as_ref().map(|_| plain.recall),
                first_stage: reranked.as_ref().map(|_| first.recall),
                device: device.to_string(),
            })?;
            return Ok(0);
        }
        let all = self.metrics == Metrics::All;
        say(Table { evaluation: &plain, corrected: corrected.as_ref(), all })?;
        if let Some(evaluation) = &reranked {
            say(format!("\nre-ranked:\n{}", Table { evaluation, corrected: None, all }))?;
        }
        Ok(0)
    }

    /// The evaluation of the embeddings, and their ranks if there is one gallery.
    fn evaluate(
        &self,
        device: &Device,
        vectors: &Vectors,
        truth: &Truth,
    ) -> Result<(Evaluation, Option<Ranks>)> {
        let Vectors { images, texts, width } = vectors;
        if self.folds != 1 {
            let folds = Evaluation::folds(device, images, texts, *width, truth, self.folds, &self.k)?;
            return Ok((folds, None));
        }
        let ranks = Ranks::of(device, images, texts, *width, truth)?;
        Ok((Evaluation::of(&ranks, &self.k), Some(ranks)))
    }

    /// Writes the candidates, if they are asked for.
    fn save_candidates(&self, device: &Device, input: &Input, job: &Job) -> Result<()> {
        let (Some(k), Some(path)) = (self.top, &self.write_candidates) else { return Ok(()) };
        let Vectors { images, texts, width } = input.corrected.as_ref().unwrap_or(&input.plain);
        let candidates = Candidates::top(device, (images, *width), (texts, *width), k)?;
        if !job.is_first() {
            return Ok(());
        }
        match input.corrected {
            Some(_) => candidates.save_corrected(path, &input.rows)?,
            None => candidates.save(path, &input.rows)?,
        }
        let (texts, images) = (candidates.texts.k, candidates.images.k);
        note!("{}: {texts} texts per image, {images} images per text", shown(path));
        Ok(())
    }

    fn check_k(&self) -> Result<()> {
        match self.k.contains(&0) {
            true => Err(Error::new(ErrorKind::Config, "--k", "numbers of 1 or more", 0, "leave the 0 out")),
            false => Ok(()),
        }
    }

    /// Candidates and ranks are those of one gallery.
    fn check_folds(&self) -> Result<()> {
        if self.folds == 1 {
            return Ok(());
        }
        if self.top.is_some() || self.rerank.is_some() {
            let advice = "leave --folds out: candidates are chosen in the whole split";
            let expected = "1 with --top and --rerank";
            return Err(Error::new(ErrorKind::Config, "--folds", expected, self.folds, advice));
        }
        if self.write_ranks.is_some() {
            let advice = "leave --folds out: ranks are those in the whole split";
            return Err(Error::new(ErrorKind::Config, "--folds", "1 with --write-ranks", self.folds, advice));
        }
        Ok(())
    }
}
