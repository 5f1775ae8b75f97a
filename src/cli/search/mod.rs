//! `wgoal search`: the best results for one query, as text, JSON or a page.

mod item;
mod page;
mod query;
mod thumbnail;

use super::checkpoint::read_checkpoint;
use super::data::{Rows, checkpoint_path};
use super::embed::check;
use super::options::UsedCorrection;
use super::{DeviceArg, print_json, refuse_overwriting, say, shown};
use clap::Args;
use item::{Item, Items};
use query::{Query, QueryArgs};
use serde::Serialize;
use std::path::PathBuf;
use wgoal::data::{Side, write_file};
use wgoal::rerank::TopK;
use wgoal::{Dataset, Error, ErrorKind, Result};

const EXAMPLES: &str = "\
Examples:
  wgoal search run my-features --caption bird
  wgoal search run my-features --image-row 7 --split test --top 5
  wgoal search run my-features --text-row 12 --html found.html --images pictures
  wgoal search run gallery --query query.npy";

#[derive(Args)]
#[command(before_long_help = EXAMPLES, override_usage = "wgoal search [OPTIONS] <QUERY> <CHECKPOINT> <DATASET>")]
pub struct SearchArgs {
    /// Folder of a run, or a head such as run/best.safetensors
    ///
    /// In a folder, the head is best.safetensors.
    checkpoint: PathBuf,
    /// Folder or .safetensors file with features
    ///
    /// For --query, the side that is searched is enough. captions.txt and image_names.txt, if they are there, give the
    /// results their captions and names.
    dataset: PathBuf,
    #[command(flatten)]
    query: QueryArgs,
    /// Rows to search: train, val, test or all
    #[arg(long, default_value = "all", help_heading = "Search")]
    split: String,
    /// Number of results, 1 or more
    #[arg(long, value_name = "K", default_value_t = 10, help_heading = "Search")]
    top: usize,
    #[command(flatten)]
    correction: UsedCorrection,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// HTML file for a page with the results, which needs no network [default: no page]
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,
    /// Folder with the pictures, for the page
    ///
    /// The lines of image_names.txt name the files, with or without their ending: jpg, jpeg, png, webp, gif, svg, bmp
    /// or avif. A file of up to 256 KiB becomes part of the page. The page links to larger ones.
    #[arg(long, value_name = "DIR", requires = "html", help_heading = "Output")]
    images: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
}

/// One result.
#[derive(Serialize)]
struct Hit {
    rank: usize,
    score: f32,
    #[serde(flatten)]
    item: Item,
    /// Whether it belongs to the query; none if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<bool>,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Findings {
    query: Query,
    split: String,
    /// Number of rows that were searched.
    candidates: usize,
    results: Vec<Hit>,
    /// Ranks of all right results, ascending.
    #[serde(skip_serializing_if = "Option::is_none")]
    right_ranks: Option<Vec<usize>>,
    device: String,
}

impl SearchArgs {
    pub fn run(self) -> Result<()> {
        let rows: Rows = self.split.parse()?;
        if self.top == 0 {
            return Err(Error::new(ErrorKind::Config, "--top", "1 or more", 0, "give a number of results"));
        }
        let head = checkpoint_path(&self.checkpoint)?;
        if let Some(html) = &self.html {
            let query = self.query.file().map(PathBuf::from);
            let inputs = Dataset::paths(&self.dataset).into_iter().chain(query).chain([head.clone()]);
            refuse_overwriting("--html", html, inputs)?;
        }
        let checkpoint = self.correction.of(read_checkpoint(&head)?);
        let dataset = Dataset::open_sides(&self.dataset, None, rows.needed())?;
        let query = self.query.find(&dataset, &rows)?;
        let side = query.searched();
        if !dataset.has(side) {
            let (wanted, there) = match side {
                Side::Image => ("images to search", "texts alone"),
                Side::Text => ("texts to search", "images alone"),
            };
            let advice = "give a dataset with this side, or search the other side";
            return Err(Error::new(ErrorKind::Data, self.dataset.display(), wanted, there, advice));
        }
        let device = self.device.open()?;
        let (width, split) = (checkpoint.width(), rows.of(&dataset));
        let candidates = split.of(side);
        let vector = query.embed(&checkpoint, &device, &dataset)?;
        let vectors = checkpoint.embed(&device, &dataset, side, candidates)?;
        let dim = checkpoint.head().dim();
        check(&dataset, side, candidates, vectors.chunks_exact(width).map(|row| &row[..dim]))?;
        let all = TopK::of(&device, (&vector, width), (&vectors, width), candidates.len())?;

        let ranked: Vec<u64> = all.index.iter().filter_map(|&at| candidates.get(at as usize)).collect();
        let right = query.right(&dataset);
        let items = Items::of(&dataset, side, &ranked[..self.top.min(ranked.len())])?;
        let is_right = |row: u64| right.as_ref().map(|right| right.binary_search(&row).is_ok());
        let hits = ranked.iter().zip(&all.score).zip(items.0).zip(1..);
        let results =
            hits.map(|(((&row, &score), item), rank)| Hit { rank, score, item, right: is_right(row) });
        let results = results.collect();
        let ranks = (1..).zip(&ranked).filter(|(_, row)| is_right(**row) == Some(true)).map(|(rank, _)| rank);
        let right_ranks = right.as_ref().map(|_| ranks.collect());
        let (split, device) = (rows.to_string(), device.to_string());
        let findings = Findings { query, split, candidates: ranked.len(), results, right_ranks, device };
        if let Some(html) = &self.html {
            let page = page::write(&findings, html, self.images.as_deref())?;
            write_file(html, page.as_bytes())?;
        }
        match self.json {
            true => print_json(&findings),
            false => findings.print(self.html.as_deref()),
        }
    }
}

impl Findings {
    fn print(&self, html: Option<&std::path::Path>) -> Result<()> {
        let row = if self.query.searched() == Side::Image { "image" } else { "text" };
        say(format!("query: {}", self.query).trim_end())?;
        say(format!(" rank    score {row:>8}"))?;
        for Hit { rank, score, item, right } in &self.results {
            let mark = if *right == Some(true) { "right" } else { "" };
            let own = item.row(self.query.searched()).map_or_else(String::new, |row| row.to_string());
            let line = format!("{rank:5}  {score:7.4} {own:>8}  {mark:5}  {item}");
            say(line.trim_end())?;
        }
        if let Some(said) = self.said_of_right() {
            say(said)?;
        }
        html.map_or(Ok(()), |html| say(format!("page: {}", shown(html))))
    }

    /// Where the right results are that are not among those shown.
    fn said_of_right(&self) -> Option<String> {
        const SHOWN: usize = 5;
        let ranks = self.right_ranks.as_ref()?;
        if ranks.is_empty() {
            let what = if self.split == "all" { "the dataset" } else { "this split" };
            return Some(format!("the right result is not in {what}"));
        }
        let hidden: Vec<_> = ranks.iter().filter(|&&rank| rank > self.results.len()).collect();
        let text: Vec<String> = hidden.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = if hidden.len() > SHOWN { ", ..." } else { "" };
        let (word, of) = (if hidden.len() == 1 { "rank" } else { "ranks" }, self.candidates);
        (!hidden.is_empty()).then(|| format!("right but not shown: {word} {}{more} of {of}", text.join(", ")))
    }
}
