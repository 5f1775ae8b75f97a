//! The size of a dataset in a few lines: what a reader wants to see before training.

use std::fmt;

use serde::Serialize;

use super::features::Features;
use super::{Dataset, Side, Split};

/// The size of a dataset. [`fmt::Display`] prints it in three lines.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The name of the folder or file.
    pub name: String,
    /// The images (N).
    pub images: SideSummary,
    /// The texts (M), which are the captions of the images.
    pub texts: SideSummary,
    /// How many captions an image has. Images without a caption count as 0.
    pub captions_per_image: Spread,
    /// Images without a caption.
    pub uncaptioned: usize,
    /// The splits that were opened and have images.
    pub splits: Vec<SplitSummary>,
    /// Images that are in none of these splits.
    pub in_no_split: usize,
}

/// The features of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SideSummary {
    /// Number of images or texts.
    pub items: usize,
    /// Values per row, if there is one row per item.
    pub width: Option<usize>,
    /// Values per local row, if there are regions or tokens.
    pub local_width: Option<usize>,
    /// Local rows per item, if there are regions or tokens.
    pub local_rows: Option<Spread>,
}

/// The smallest, the mean and the largest of some counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// The smallest.
    pub min: usize,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub max: usize,
}

/// The size of one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SplitSummary {
    /// train, val or test.
    pub name: String,
    /// Its images.
    pub images: usize,
    /// The captions of these images.
    pub captions: usize,
}

impl Dataset {
    /// The size of the dataset, from headers and row numbers. It reads no features.
    ///
    /// ```
    /// let data = wgoal::Dataset::open("data/clipart-mini")?;
    /// let summary = data.summary();
    /// assert_eq!((summary.images.items, summary.texts.width), (1400, Some(384)));
    /// println!("{summary}");
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    pub fn summary(&self) -> Summary {
        let (captions_per_image, uncaptioned) = self.captions_per_image();
        let opened = Split::ALL.into_iter().filter(|&split| !self.split(split).images.is_empty());
        let splits: Vec<_> = opened
            .map(|split| {
                let rows = self.split(split);
                SplitSummary {
                    name: split.to_string(),
                    images: rows.images.len(),
                    captions: rows.texts.len(),
                }
            })
            .collect();
        Summary {
            name: self.name(),
            images: self.sides[Side::Image as usize].summary(),
            texts: self.sides[Side::Text as usize].summary(),
            uncaptioned,
            captions_per_image,
            in_no_split: self.images().saturating_sub(splits.iter().map(|split| split.images).sum()),
            splits,
        }
    }
}

impl Dataset {
    /// How many captions an image has, and how many images have none.
    fn captions_per_image(&self) -> (Spread, usize) {
        if self.text_to_image.counts_up(self.images()) && self.has(Side::Image) {
            return (Spread { min: 1, mean: 1.0, max: 1 }, 0);
        }
        if self.images() > u32::MAX as usize {
            let mut owners = self.text_to_image.to_vec();
            owners.sort_unstable();
            let counts = owners.chunk_by(|a, b| a == b).map(<[u64]>::len);
            let (captioned, Spread { min, max, .. }) = (counts.clone().count(), Spread::of(counts));
            let (uncaptioned, mean) = (self.images() - captioned, owners.len() as f64 / self.images() as f64);
            let min = if uncaptioned > 0 { 0 } else { min };
            return (Spread { min, mean, max }, uncaptioned);
        }
        let mut captions = vec![0usize; self.images()];
        self.text_to_image.iter().for_each(|image| captions[image as usize] += 1);
        let uncaptioned = captions.iter().filter(|&&count| count == 0).count();
        (Spread::of(captions.into_iter()), uncaptioned)
    }
}

impl Features {
    fn summary(&self) -> SideSummary {
        let local = self.local.as_ref();
        SideSummary {
            items: self.items,
            width: self.pooled.as_ref().map(|pooled| pooled.cols),
            local_width: local.map(|local| local.rows.cols),
            local_rows: local.map(|local| match local.even() {
                Some(rows) => Spread { min: rows, mean: rows as f64, max: rows },
                None => Spread::of((0..local.items()).map(|item| local.rows_of(item).len())),
            }),
        }
    }
}

impl Spread {
    /// All zero if there are no counts.
    fn of(counts: impl Iterator<Item = usize>) -> Self {
        let (mut number, mut sum, mut min, mut max) = (0usize, 0usize, usize::MAX, 0);
        for count in counts {
            (number, sum) = (number + 1, sum + count);
            (min, max) = (min.min(count), max.max(count));
        }
        Self { min: min.min(max), mean: sum as f64 / number.max(1) as f64, max }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.max),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// A number and what it counts, such as `1 image` or `2 images`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl SideSummary {
    /// The number of items and their widths, such as `1400, 1280 wide; 10 to 36 regions each, 2048 wide`.
    fn write(&self, f: &mut fmt::Formatter<'_>, local: &str) -> fmt::Result {
        match self.items {
            0 => f.write_str("none")?,
            items => write!(f, "{items}")?,
        }
        if let Some(width) = self.width {
            write!(f, ", {width} wide")?;
        }
        if let (Some(rows), Some(width)) = (self.local_rows, self.local_width) {
            write!(f, "; {rows} {local} each, {width} wide")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("images: ")?;
        self.images.write(f, "regions")?;
        f.write_str("\ncaptions: ")?;
        self.texts.write(f, "tokens")?;
        if self.images.items == 0 || self.texts.items == 0 {
            return Ok(());
        }
        write!(f, "; {} per image", self.captions_per_image)?;
        if self.captions_per_image.min < self.captions_per_image.max {
            write!(f, ", mean {:.1}", self.captions_per_image.mean)?;
        }
        f.write_str("\nsplits: ")?;
        for (k, SplitSummary { name, images, captions }) in self.splits.iter().enumerate() {
            let (images, captions) = (counted(*images, "image"), counted(*captions, "caption"));
            write!(f, "{}{name} {images} with {captions}", if k > 0 { ", " } else { "" })?;
        }
        match (self.splits.is_empty(), self.in_no_split) {
            (true, _) => f.write_str("none opened"),
            (false, 0) => Ok(()),
            (false, rest) => write!(f, "; {} in none of them", counted(rest, "image")),
        }
    }
}
