//! A dataset that is open: its sizes, its splits, its captions, and the rows of its features.

use super::array::FeatureFile;
use super::features::{Features, pooled_name};
use super::lines::Lines;
use super::local::{self, Local};
use super::splits::{Split, SplitRows, purpose};
use crate::gradient::Relation;
use crate::io::RowList;
use crate::model::{Pooling, Side};
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// An open dataset: N images and M texts with cached features, each text the caption of one image.
///
/// A side has one row of features per item (`images`, `texts`), several rows per item (`image_regions [N, R, P']`, or
/// `[T, P']` with `region_offsets [N + 1]`; `text_tokens` with `text_offsets` in the same way), or both. A head uses
/// one of them.
#[derive(Debug)]
pub struct Dataset {
    pub(super) name: String,
    pub(super) sides: [Features; 2],
    pub(super) text_to_image: RowList,
    /// Whether there are pairs and no text_to_image.
    pub(super) pairs: bool,
    /// Right pairs (image row, text row) beside those of `text_to_image`.
    pub(super) right_pairs: Vec<[u64; 2]>,
    /// The relations of [`Dataset::relation`].
    pub(super) relations: [OnceLock<Result<Option<Arc<Relation>>>>; 2],
    pub(super) splits: [SplitRows; 3],
    /// Which splits the dataset stores.
    pub(super) stored: [bool; 3],
    /// How files are read that need an explanation, and what takes the place of missing arrays.
    pub(super) notes: Vec<String>,
    /// What is wrong with the splits of a dataset that is opened to be inspected.
    pub(super) faults: Vec<String>,
    /// The folder of the arrays. Other sources have none.
    pub(super) folder: Option<PathBuf>,
    /// Where the captions and the names of images are.
    pub(super) lines: [Lines; 2],
    pub(super) captions: OnceLock<Result<Option<Vec<String>>>>,
    pub(super) image_names: OnceLock<Result<Option<Vec<String>>>>,
    pub(super) fingerprint: u64,
    /// Where the dataset is, if it was opened from a path.
    pub(super) path: Option<PathBuf>,
    pub(super) content: OnceLock<Result<u64>>,
}

impl Dataset {
    /// The name of the folder or file, for messages.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Width of an image row (P), or of a region if there are only regions.
    pub fn image_dim(&self) -> usize {
        self.dim(Side::Image)
    }

    /// Width of a text row (Q), or of a token if there are only tokens.
    pub fn text_dim(&self) -> usize {
        self.dim(Side::Text)
    }

    /// Number of images (N), including those in no split.
    pub fn images(&self) -> usize {
        self.sides[0].items
    }

    /// Number of texts (M).
    pub fn texts(&self) -> usize {
        self.sides[1].items
    }

    /// Width of a row of this side, or of a local row if there are only local rows.
    pub fn dim(&self, side: Side) -> usize {
        let pooled = self.sides[side as usize].pooled.as_ref();
        pooled.map(|file| file.cols).or(self.local_dim(side)).unwrap_or(0)
    }

    /// Number of images or texts.
    pub fn items(&self, side: Side) -> usize {
        self.sides[side as usize].items
    }

    /// Width of the input rows of a head with this pooling.
    ///
    /// # Errors
    /// A side without the features that the pooling needs.
    pub fn width(&self, side: Side, pooling: Pooling) -> Result<usize> {
        match (pooling, &self.sides[side as usize].pooled, self.local_dim(side)) {
            (Pooling::None, Some(file), _) => Ok(file.cols),
            (Pooling::None, None, _) => Err(self.lacks(side, false)),
            (Pooling::Joined, None, _) => Err(self.lacks(side, false)),
            (Pooling::Joined, Some(file), Some(dim)) => Ok(file.cols + 2 * dim),
            (_, _, Some(dim)) => Ok(dim),
            (_, _, None) => Err(self.lacks(side, true)),
        }
    }

    /// Values of one local row of this side (P' of a region, Q' of a token); `None` if there are none.
    pub fn local_dim(&self, side: Side) -> Option<usize> {
        self.local(side).map(|local| local.rows.cols)
    }

    /// The largest number of local rows of an item of this side; `None` if there are none.
    pub fn local_len(&self, side: Side) -> Option<usize> {
        self.local(side).map(Local::longest)
    }

    /// The local rows of an item, for [`Dataset::read_local_row`]. Empty only if the side has no local features or the
    /// item does not exist.
    pub fn local_rows(&self, side: Side, item: usize) -> Range<usize> {
        self.local(side).map_or(0..0, |local| local.rows_of(item))
    }

    fn local(&self, side: Side) -> Option<&Local> {
        self.sides[side as usize].local.as_ref()
    }

    /// Whether this side is open. Only [`Dataset::open_sides`] leaves a side out.
    pub fn has(&self, side: Side) -> bool {
        self.items(side) > 0
    }

    /// The image row of every text. Empty only if a side is missing, or if [`Dataset::open_sides`] found no
    /// `text_to_image`.
    pub fn text_to_image(&self) -> &RowList {
        &self.text_to_image
    }

    /// All rows in the order of the dataset, in the form of a split.
    pub fn all_rows(&self) -> SplitRows {
        SplitRows {
            images: (0..self.images() as u64).into(),
            texts: (0..self.texts() as u64).into(),
            text_image: self.text_to_image.clone(),
        }
    }

    /// The rows of a split.
    pub fn split(&self, split: Split) -> &SplitRows {
        &self.splits[split as usize]
    }

    /// Whether the dataset stores this split, in a file or an array, whether it was opened or not.
    pub fn stores(&self, split: Split) -> bool {
        self.stored[split as usize]
    }

    /// Whether the dataset stores no split, so that its images are divided by the default [`Division`](super::Division).
    pub fn is_divided(&self) -> bool {
        self.stored == [false; 3]
    }

    /// Whether the dataset has no `text_to_image`, so that text i is the caption of image i.
    pub fn is_paired(&self) -> bool {
        self.pairs
    }

    /// The folder of the dataset, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// An error if a split has no images, because the dataset does not store it, or was opened without it.
    pub(crate) fn need(&self, split: Split) -> Result<()> {
        if !self.split(split).images.is_empty() {
            return Ok(());
        }
        let advice = match self.stores(split) || self.is_divided() {
            true => format!("open the dataset with {}", split.array()),
            false => format!("write {}, or use another split", split.array()),
        };
        Err(Error::data(&self.name, purpose(split), "none", advice))
    }

    /// The caption of a text row, if the dataset has captions and such a row. The first call reads `captions.txt`.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not have one line per text.
    pub fn caption(&self, text: usize) -> Result<Option<&str>> {
        let read = || self.read_lines(&self.lines[0], Side::Text);
        let captions = self.captions.get_or_init(read).as_ref().map_err(Clone::clone)?;
        Ok(captions.as_ref().and_then(|captions| captions.get(text)).map(String::as_str))
    }

    /// The name of an image row, if the dataset has names and such a row. The first call reads `image_names.txt`.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not have one line per image.
    pub fn image_name(&self, image: usize) -> Result<Option<&str>> {
        let read = || self.read_lines(&self.lines[1], Side::Image);
        let names = self.image_names.get_or_init(read).as_ref().map_err(Clone::clone)?;
        Ok(names.as_ref().and_then(|names| names.get(image)).map(String::as_str))
    }

    fn read_lines(&self, lines: &Lines, side: Side) -> Result<Option<Vec<String>>> {
        let side = &self.sides[side as usize];
        lines.read(side.items, &side.counted())
    }

    /// Reads one feature row into `out`, which holds [`dim`](Self::dim) values, and returns whether all of them are
    /// zero. `scratch` is working space that the caller keeps, so that it is allocated once.
    ///
    /// # Errors
    /// A row out of range, a value that is not a finite f32 (named by file, row and column), or a file that can no
    /// longer be read.
    pub fn read_row(&self, side: Side, row: usize, scratch: &mut Vec<u8>, out: &mut [f32]) -> Result<bool> {
        match &self.sides[side as usize].pooled {
            Some(file) => file.read_row(row, scratch, out),
            None => Err(self.lacks(side, false)),
        }
    }

    /// Reads one local row as [`Dataset::read_row`] does. Rows are counted over all items: see [`Dataset::local_rows`].
    ///
    /// # Errors
    /// Those of [`Dataset::read_row`].
    pub fn read_local_row(
        &self,
        side: Side,
        row: usize,
        scratch: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<bool> {
        match self.local(side) {
            Some(local) => local.rows.read_row(row, scratch, out),
            None => Err(self.lacks(side, true)),
        }
    }

    /// The name of an item's row in messages: `images.npy row 3`, with the path.
    pub fn place(&self, side: Side, item: usize) -> String {
        let Features { pooled, label, .. } = &self.sides[side as usize];
        pooled.as_ref().map_or_else(|| format!("{label} item {item}"), |file| file.place(item))
    }

    /// Announces to the system that items will be read with this pooling.
    pub(super) fn will_need(&self, side: Side, items: Range<usize>, pooling: Pooling) {
        let Features { pooled, local, .. } = &self.sides[side as usize];
        if let (Some(local), false) = (local, pooling == Pooling::None) {
            local.rows.will_need(local.rows_of(items.start).start..local.rows_of(items.end - 1).end);
        }
        if let (Some(pooled), Pooling::None | Pooling::Joined) = (pooled, pooling) {
            pooled.will_need(items);
        }
    }

    /// Whether reading any row since the last call had to wait for the disk.
    pub(super) fn missed(&self) -> bool {
        self.files().fold(false, |missed, file| file.missed() | missed)
    }

    /// Bytes of the feature files that were read so far. A file that holds both sides counts for each.
    #[doc(hidden)]
    pub fn bytes_read(&self) -> u64 {
        self.files().map(FeatureFile::bytes_read).sum()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &FeatureFile> {
        self.sides
            .iter()
            .flat_map(|side| side.pooled.iter().chain(side.local.iter().map(|local| &local.rows)))
    }

    /// Whether a side's pooled rows, or its local rows with `local`, are cached as f16.
    pub(super) fn is_half(&self, side: Side, local: bool) -> bool {
        let file = if local {
            self.local(side).map(|local| &local.rows)
        } else {
            self.sides[side as usize].pooled.as_ref()
        };
        file.is_some_and(FeatureFile::is_half)
    }

    /// The error of a side without local features, or without pooled ones if `local` is false.
    fn lacks(&self, side: Side, local: bool) -> Error {
        let (pooled, rows) = (pooled_name(side), local::names(side).0);
        let (wanted, there, other) = match local {
            true => (rows, pooled, "none"),
            false => (pooled, rows, "mean, max or gpo"),
        };
        let side = if side == Side::Image { "image" } else { "text" };
        let advice = format!("add {wanted}, or choose --{side}-pooling {other}");
        Error::data(&self.name, wanted, format!("{there} alone"), advice)
    }
}
