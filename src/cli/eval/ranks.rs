//! Writes the rank of every query and of every right pair.

use serde::Serialize;
use std::path::Path;
use wgoal::data::{RowList, SplitRows, Values, write_file, write_tensors};
use wgoal::eval::Ranks;
use wgoal::{Error, ErrorKind, Result};

/// The formats, by the ending of the file.
#[derive(Clone, Copy)]
pub enum Format {
    Safetensors,
    Lines,
}

impl Format {
    /// The format of a file, by its ending.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("jsonl") => Ok(Self::Lines),
            _ => {
                let (expected, advice) =
                    ("a name that ends in .safetensors or .jsonl", "give a name with one of these endings");
                Err(Error::new(ErrorKind::Config, "--write-ranks", expected, path.display(), advice))
            }
        }
    }

    /// Writes all ranks, counted from 1, with the row numbers of queries and candidates.
    pub fn write(self, path: &Path, ranks: &Ranks, rows: &SplitRows) -> Result<()> {
        match self {
            Self::Safetensors => write_arrays(path, ranks, rows),
            Self::Lines => write_lines(path, ranks, rows),
        }
    }
}

/// A query as one line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    query: &'a str,
    row: u64,
    rank: u32,
    right: Vec<Right>,
}

#[derive(Serialize)]
struct Right {
    row: u64,
    rank: u32,
}

fn write_lines(path: &Path, ranks: &Ranks, rows: &SplitRows) -> Result<()> {
    let mut lines = String::new();
    let mut add = |query, row, right: &mut dyn Iterator<Item = (u32, u32)>, others: &RowList| -> Result<()> {
        let right =
            right.filter_map(|(at, rank)| Some(Right { row: others.get(at as usize)?, rank: rank + 1 }));
        let mut right: Vec<_> = right.collect();
        right.sort_by_key(|right| right.rank);
        if let Some(first) = right.first() {
            let rank = first.rank;
            lines.push_str(&super::super::to_json(&Line { query, row, rank, right })?);
            lines.push('\n');
        }
        Ok(())
    };
    for (at, row) in rows.images.iter().enumerate() {
        add("image", row, &mut ranks.texts_of(at), &rows.texts)?;
    }
    for (at, row) in rows.texts.iter().enumerate() {
        add("text", row, &mut ranks.images_of(at), &rows.images)?;
    }
    write_file(path, lines.as_bytes())
}

fn write_arrays(path: &Path, ranks: &Ranks, rows: &SplitRows) -> Result<()> {
    // The queries that have a right candidate, and the rank of the first one.
    let first = |rows: &RowList, best: &dyn Fn(usize) -> Option<u32>| -> [RowList; 2] {
        let ranked = rows.iter().enumerate().filter_map(|(at, row)| Some((row, u64::from(best(at)? + 1))));
        let (rows, ranks): (Vec<u64>, Vec<u64>) = ranked.unzip();
        [rows.into(), ranks.into()]
    };
    let [images, image_rank] = first(&rows.images, &|at| ranks.texts_of(at).map(|(_, rank)| rank).min());
    let [texts, text_rank] = first(&rows.texts, &|at| ranks.images_of(at).map(|(_, rank)| rank).min());
    let (mut pairs, mut text_ranks, mut image_ranks) = (Vec::new(), Vec::new(), Vec::new());
    for (image, row) in rows.images.iter().enumerate() {
        for (text, rank) in ranks.texts_of(image) {
            pairs.extend([row, rows.texts.get(text as usize).unwrap_or_default()]);
            text_ranks.push(u64::from(rank + 1));
            let back = ranks.images_of(text as usize).find(|&(other, _)| other as usize == image);
            image_ranks.push(back.map_or(0, |(_, rank)| u64::from(rank + 1)));
        }
    }
    let count = text_ranks.len();
    let [pairs, text_ranks, image_ranks] = [pairs, text_ranks, image_ranks].map(RowList::from);
    write_tensors(
        path,
        &[
            ("images", &[images.len()], Values::Rows(&images)),
            ("image_rank", &[images.len()], Values::Rows(&image_rank)),
            ("texts", &[texts.len()], Values::Rows(&texts)),
            ("text_rank", &[texts.len()], Values::Rows(&text_rank)),
            ("pairs", &[count, 2], Values::Rows(&pairs)),
            ("image_to_text_rank", &[count], Values::Rows(&text_ranks)),
            ("text_to_image_rank", &[count], Values::Rows(&image_ranks)),
        ],
    )
}
