//! `wgoal rank`: the ranking of every query in the file formats of evaluation tools.

use super::checkpoint::read_checkpoint;
use super::data::{Rows, checkpoint_path, warn_of_data};
use super::embed::check;
use super::options::UsedCorrection;
use super::{DeviceArg, refuse_overwriting, say, shown};
use clap::{Args, ValueEnum};
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use wgoal::data::{RowList, Side, SplitRows, read_ids_npy, write_file};
use wgoal::rerank::TopK;
use wgoal::{Dataset, Error, ErrorKind, Result};

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// TREC run file: one line `query Q0 result rank score wgoal` per result, as trec_eval and ranx read it
    Trec,
    /// One object: the ids of the results, best first, by the id of the query, as eccv_caption takes it
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Texts are queries, images are results
    T2i,
    /// Images are queries, texts are results
    I2t,
}

impl Direction {
    /// The sides of the queries and of the results.
    fn sides(self) -> [Side; 2] {
        match self {
            Self::T2i => [Side::Text, Side::Image],
            Self::I2t => [Side::Image, Side::Text],
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  wgoal rank run my-features --out t2i.trec --qrels t2i.qrels
  wgoal rank run my-features --direction i2t --format json --out i2t.json";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct RankArgs {
    /// Folder of a run, or a head such as run/best.safetensors
    ///
    /// In a folder, the head is best.safetensors.
    checkpoint: PathBuf,
    /// Folder or .safetensors file with features
    dataset: PathBuf,
    /// Rows to rank: train, val, test or all
    #[arg(long, default_value = "test", help_heading = "Data")]
    split: String,
    /// .npy file with a whole number per image, its id in the output [default: the row in the dataset]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    image_ids: Option<PathBuf>,
    /// .npy file with a whole number per text, its id in the output [default: the row in the dataset]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    text_ids: Option<PathBuf>,
    /// Which side the queries are
    ///
    /// Images without a caption are results, but not queries.
    #[arg(long, value_name = "DIRECTION", default_value = "t2i", help_heading = "Ranking")]
    direction: Direction,
    /// Number of results per query, 1 or more
    #[arg(long, value_name = "K", default_value_t = 100, help_heading = "Ranking")]
    top: usize,
    #[command(flatten)]
    correction: UsedCorrection,
    /// File for the ranking
    ///
    /// Results of equal similarity are in ascending order of their rows. In a TREC file their scores differ in the last
    /// digit, so that every tool keeps this order.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: PathBuf,
    /// File for the right results of every query, in the same format
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    qrels: Option<PathBuf>,
    /// File format
    #[arg(long, value_name = "FORMAT", default_value = "trec", help_heading = "Output")]
    format: Format,
    #[command(flatten)]
    device: DeviceArg,
}

impl RankArgs {
    pub fn run(self) -> Result<()> {
        let rows: Rows = self.split.parse()?;
        let head = checkpoint_path(&self.checkpoint)?;
        self.refuse(&head)?;
        let checkpoint = self.correction.of(read_checkpoint(&head)?);
        let dataset = Dataset::open_for(&self.dataset, rows.needed())?;
        warn_of_data(&dataset, &[checkpoint.config()], rows.needed());
        let ids = [(Side::Image, &self.image_ids), (Side::Text, &self.text_ids)]
            .map(|(side, path)| ids(&dataset, side, path.as_deref()));
        let [image_ids, text_ids] = ids;
        let ids = [image_ids?, text_ids?];
        let rows = rows.of(&dataset);
        let (queries, right) = queries(&rows, self.direction);
        let device = self.device.open()?;
        let (sides, width) = (self.direction.sides(), checkpoint.width());
        let results = rows.of(sides[1]);
        let embed = |side, rows: &RowList| -> Result<Vec<f32>> {
            let vectors = checkpoint.embed(&device, &dataset, side, rows)?;
            let dim = checkpoint.head().dim();
            check(&dataset, side, rows, vectors.chunks_exact(width).map(|row| &row[..dim]))?;
            Ok(vectors)
        };
        let (embedded, candidates) = (embed(sides[0], &queries)?, embed(sides[1], results)?);
        let top = TopK::of(&device, (&embedded, width), (&candidates, width), self.top)?;

        let id = |side: Side, row: u64| -> u64 {
            ids[side as usize].as_ref().and_then(|ids| ids.get(row as usize)).unwrap_or(row)
        };
        let query_ids: Vec<u64> = queries.iter().map(|row| id(sides[0], row)).collect();
        let result_ids = |at: &u32| id(sides[1], results.get(*at as usize).unwrap_or_default());
        let found: Vec<u64> = top.index.iter().map(result_ids).collect();
        let ranking = match self.format {
            Format::Trec => trec(&query_ids, &found, &top),
            Format::Json => json(query_ids.iter().zip(found.chunks_exact(top.k.max(1)))),
        };
        write_file(&self.out, ranking.as_bytes())?;
        if let Some(path) = &self.qrels {
            let right: Vec<Vec<u64>> =
                right.iter().map(|right| right.iter().map(result_ids).collect()).collect();
            let text = match self.format {
                Format::Trec => qrels(&query_ids, &right),
                Format::Json => json(query_ids.iter().zip(right.iter().map(Vec::as_slice))),
            };
            write_file(path, text.as_bytes())?;
            note!("{}: the right results", shown(path));
        }
        let direction = if self.direction == Direction::T2i { "text to image" } else { "image to text" };
        say(format!(
            "{}: {} queries, {direction}, {} results per query",
            shown(&self.out),
            queries.len(),
            top.k
        ))
    }

    fn refuse(&self, head: &Path) -> Result<()> {
        let ids = self.image_ids.iter().chain(&self.text_ids).cloned();
        let inputs: Vec<PathBuf> =
            Dataset::paths(&self.dataset).into_iter().chain(ids).chain([head.to_path_buf()]).collect();
        refuse_overwriting("--out", &self.out, inputs.iter().cloned())?;
        let Some(qrels) = &self.qrels else { return Ok(()) };
        refuse_overwriting("--qrels", qrels, inputs)?;
        if *qrels == self.out {
            let expected = "another file than --out";
            return Err(Error::new(
                ErrorKind::Config,
                "--qrels",
                expected,
                qrels.display(),
                "give another file",
            ));
        }
        Ok(())
    }
}

/// The rows of the queries, and for each query the positions of its right results in the split.
fn queries(rows: &SplitRows, direction: Direction) -> (RowList, Vec<Vec<u32>>) {
    if direction == Direction::T2i {
        return (rows.texts.clone(), rows.text_image.iter().map(|image| vec![image as u32]).collect());
    }
    let mut captions = vec![Vec::new(); rows.images.len()];
    rows.text_image.iter().zip(0..).for_each(|(image, text)| captions[image as usize].push(text));
    let captioned = rows.images.iter().zip(captions).filter(|(_, captions)| !captions.is_empty());
    let (images, captions): (Vec<u64>, _) = captioned.unzip();
    (images.into(), captions)
}

/// The id of every item of a side; `None` if the rows are the ids.
fn ids(dataset: &Dataset, side: Side, path: Option<&Path>) -> Result<Option<RowList>> {
    let items = dataset.items(side);
    let Some(path) = path else { return Ok(None) };
    let ids = read_ids_npy(path)?;
    let what = if side == Side::Image { "image" } else { "text" };
    if ids.len() != items {
        let expected = format!("{items} ids, one for each {what} of {}", dataset.name());
        return Err(Error::new(
            ErrorKind::Data,
            path.display(),
            expected,
            ids.len(),
            "write an id for every row",
        ));
    }
    let mut seen = HashSet::new();
    match ids.iter().enumerate().find(|(_, id)| !seen.insert(*id)) {
        None => Ok(Some(ids)),
        Some((at, id)) => {
            let thing = format!("{} position {at}", path.display());
            let advice = format!("give every {what} its own id");
            Err(Error::new(ErrorKind::Data, thing, "an id not listed before", id, advice))
        }
    }
}

/// A TREC run: one line per result.
fn trec(queries: &[u64], found: &[u64], top: &TopK) -> String {
    let mut text = String::new();
    let lists = found.chunks_exact(top.k.max(1)).zip(top.score.chunks_exact(top.k.max(1)));
    for (query, (ids, scores)) in queries.iter().zip(lists) {
        let mut below = f32::INFINITY;
        for (rank, (id, score)) in (1..).zip(ids.iter().zip(scores)) {
            // Tools sort by score, and each orders equal scores in its own way.
            let score = score.min(below.next_down());
            below = score;
            let _ = writeln!(text, "{query} Q0 {id} {rank} {score} wgoal");
        }
    }
    text
}

/// TREC relevance judgements: one line per right result.
fn qrels(queries: &[u64], right: &[Vec<u64>]) -> String {
    let mut text = String::new();
    for (query, ids) in queries.iter().zip(right) {
        for id in ids {
            let _ = writeln!(text, "{query} 0 {id} 1");
        }
    }
    text
}

/// One JSON object: lists of ids by the id of the query.
fn json<'a>(lists: impl Iterator<Item = (&'a u64, &'a [u64])>) -> String {
    let mut text = String::from("{");
    for (query, ids) in lists {
        let start = if text.len() > 1 { ",\n" } else { "" };
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let _ = write!(text, "{start}\"{query}\": [{}]", ids.join(", "));
    }
    text + "}\n"
}
