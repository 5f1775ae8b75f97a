//! Datasets of cached image and text features, and the training batches made of them.
//!
//! Owns opening a dataset, every check of its files, its splits and its captions. It computes no features,
//! trains nothing, and reads the values of features only when a row is asked for.
//! The file is long because it is one type, the dataset, with its checks and its reads.

mod array;
mod arrays;
mod assign;
mod batch;
#[cfg(feature = "native")]
mod columns;
mod content;
#[cfg(feature = "native")]
mod content_cache;
#[cfg(feature = "native")]
mod disk;
mod divide;
#[cfg(feature = "native")]
mod embeddings;
mod file;
mod files;
#[cfg(feature = "native")]
mod folder;
#[cfg(feature = "native")]
mod foreign;
mod hash;
mod header;
#[cfg_attr(not(feature = "native"), path = "held_in_memory.rs")]
mod held;
#[cfg(feature = "native")]
mod inspect;
mod lines;
mod local;
#[cfg(feature = "native")]
mod look;
#[cfg(feature = "native")]
mod manifest;
mod npy;
#[cfg(feature = "native")]
mod npz;
mod numbers;
#[cfg(not(feature = "native"))]
mod one_by_one;
mod order;
#[cfg(feature = "native")]
mod parts;
#[cfg(feature = "native")]
mod pool;
mod positioned;
mod preprocess;
mod relation;
mod sample;
#[cfg(feature = "native")]
mod scan;
#[cfg(feature = "native")]
mod shards;
mod splits;
mod statistics;
#[cfg(feature = "native")]
mod summary;
#[cfg(feature = "native")]
mod suspicions;
#[cfg(feature = "parquet")]
mod tables;
mod tensors;
#[cfg(feature = "native")]
mod whole;
#[cfg(feature = "native")]
mod worker;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::model::Pooling;
use crate::{Error, Plain, Result};
use array::FeatureFile;
use file::{ARRAYS, Source};
use lines::Lines;
use local::Local;
use splits::{Opened, TEXT_TO_IMAGE, purpose, stored, text_to_image};

pub use crate::gradient::Relation;
pub use crate::io::{RowIter, RowList};
#[cfg(feature = "native")]
pub use crate::io::{
    Values, write_file, write_ids_npy, write_matrix_fbin, write_matrix_fvecs, write_matrix_npy, write_tensors,
};
pub use crate::model::{Side, Standardizer};
pub use crate::objective::EqualCaptions;
pub use arrays::Arrays;
pub use batch::{Batch, Batches, steps_per_epoch};
pub(crate) use batch::{Epoch as BatchesOf, rows_of_steps};
pub use divide::Division;
#[cfg(feature = "native")]
pub use embeddings::Embeddings;
#[cfg(feature = "native")]
pub(crate) use embeddings::make_unit;
#[cfg(feature = "native")]
pub use inspect::{ArrayInspection, Found, Inspection, SharedRows};
#[cfg(feature = "native")]
pub use numbers::{read_ids_npy, read_positions_npy};
#[cfg(feature = "native")]
pub(crate) use order::bytes as order_bytes;
pub(crate) use order::check as check_order;
pub use order::{block_order, pair_order};
pub(crate) use preprocess::ReadAhead;
pub use preprocess::{Preprocess, row_stride};
pub use splits::{Split, SplitRows};
#[cfg(feature = "native")]
pub use summary::{SideSummary, SplitSummary, Spread, Summary};
#[cfg(feature = "native")]
pub use suspicions::Suspicion;
#[cfg(feature = "native")]
pub use whole::{read_matrix_npy, read_rows_npy};
#[cfg(feature = "native")]
pub use worker::read_batches_alone;

/// The features of one side: one row per item, several rows per item (regions, tokens), or both.
#[derive(Debug)]
struct Features {
    pooled: Option<FeatureFile>,
    local: Option<Local>,
    /// Number of images or texts.
    items: usize,
    /// The array that determines it.
    label: String,
}

impl Features {
    /// `pooled` may be missing if there are local features.
    fn open(source: &Source, side: Side) -> Result<Self> {
        let local = Local::open(source, side)?;
        let name = pooled_name(side);
        let pooled = match local.is_none() || source.has(name) {
            true => Some(FeatureFile::open(source, name)?),
            false => None,
        };
        if let (Some(pooled), Some(local)) = (&pooled, &local) {
            local.check_items(pooled)?;
        }
        let counted = pooled.as_ref().map(|pooled| (pooled.rows, &pooled.label));
        let counted = counted.or_else(|| local.as_ref().map(|local| (local.items(), local.label())));
        let (items, label) = counted.map_or((0, source.label(name)), |(items, label)| (items, label.clone()));
        Ok(Self { pooled, local, items, label })
    }

    /// Those of a side that is not read.
    fn absent(source: &Source, side: Side) -> Self {
        Self { pooled: None, local: None, items: 0, label: source.label(pooled_name(side)) }
    }

    /// Whether the source has features of this side, valid or not.
    fn are_in(source: &Source, side: Side) -> bool {
        source.has(pooled_name(side)) || source.has(local::names(side).0)
    }

    /// The array that determines the number of items, for messages.
    fn counted(&self) -> String {
        let what = if self.pooled.is_some() { "row" } else { "item" };
        format!("{what} of {}", self.label)
    }

    /// What the fingerprint contains of the pooled rows.
    fn pooled_shape(&self) -> [u64; 3] {
        self.pooled.as_ref().map_or([0; 3], FeatureFile::shape)
    }
}

/// The array with one row per item.
fn pooled_name(side: Side) -> &'static str {
    match side {
        Side::Image => "images",
        Side::Text => "texts",
    }
}

/// An open dataset: N images and M texts with cached features, each text the caption of one image.
///
/// A side has one row of features per item (`images`, `texts`), several rows per item (`image_regions [N, R, P']`, or
/// `[T, P']` with `region_offsets [N + 1]`; `text_tokens` with `text_offsets` in the same way), or both. A head uses
/// one of them.
#[derive(Debug)]
pub struct Dataset {
    name: String,
    sides: [Features; 2],
    text_to_image: RowList,
    /// Whether there are pairs and no text_to_image.
    pairs: bool,
    /// Right pairs (image row, text row) beside those of `text_to_image`.
    right_pairs: Vec<[u64; 2]>,
    /// The relations of [`Dataset::relation`].
    relations: [OnceLock<Result<Option<Arc<Relation>>>>; 2],
    splits: [SplitRows; 3],
    /// Which splits the dataset stores.
    stored: [bool; 3],
    /// How files are read that need an explanation, and what takes the place of missing arrays.
    notes: Vec<String>,
    /// What is wrong with the splits of a dataset that is opened to be inspected.
    faults: Vec<String>,
    /// The folder of the arrays. Other sources have none.
    folder: Option<PathBuf>,
    /// Where the captions and the names of images are.
    lines: [Lines; 2],
    captions: OnceLock<Result<Option<Vec<String>>>>,
    image_names: OnceLock<Result<Option<Vec<String>>>>,
    fingerprint: u64,
    /// Where the dataset is, if it was opened from a path.
    path: Option<PathBuf>,
    content: OnceLock<Result<u64>>,
}

/// The splits that training needs. It reports the recall on the test split if there is one.
const TRAINING: [Split; 2] = [Split::Train, Split::Val];

impl Dataset {
    /// Opens a folder of `.npy` files, or one `.safetensors` or `.npz` file with arrays of the same names. A folder may
    /// also hold numbered `.npy` files, or be as clip-retrieval, SCAN or VSE++ write it. With the cargo feature
    /// `parquet`, it opens Parquet and Arrow files too.
    ///
    /// Reads headers and row numbers. Compressed values, and values in Fortran order, are decoded here: into memory up to
    /// 1 GiB per array, beyond that into a temporary file. Feature values are checked when their row is read,
    /// captions and names when they are first used.
    ///
    /// `images` and `texts` are enough. Without `text_to_image`, text i is the caption of image i. If there is no split
    /// at all, the images are divided into splits by the default [`Division`], which reads the image rows once. If there
    /// are some splits, `split_train` and `split_val` must be among them, and `split_test` may be missing. It then has
    /// no images.
    ///
    /// # Errors
    /// Anything that is missing, malformed or inconsistent. The error names the file (or tensor), the position, and
    /// what to do.
    #[cfg(feature = "native")]
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), &TRAINING, &[Split::Test])
    }

    /// [`Dataset::open`], but needs and reads only the splits `needed`. The others have no images.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    #[cfg(feature = "native")]
    pub fn open_for(path: impl AsRef<Path>, needed: &[Split]) -> Result<Self> {
        Self::open_with(path.as_ref(), needed, &[])
    }

    /// Opens the sides that are there: images, texts, or both. With `only`, opens this side and ignores the other one.
    ///
    /// This is enough to embed a gallery of images without captions. A side that is not open has no items (see
    /// [`Dataset::has`]). `text_to_image` is read if both sides are open. It may be missing: then
    /// [`Dataset::text_to_image`] is empty. A split lists images, so texts alone have none.
    ///
    /// # Errors
    /// Those of [`Dataset::open_for`] for the sides and splits that are opened; no features at all; a split of texts
    /// alone.
    #[cfg(feature = "native")]
    pub fn open_sides(path: impl AsRef<Path>, only: Option<Side>, needed: &[Split]) -> Result<Self> {
        let path = path.as_ref();
        Ok(Self::of_sides(&Source::open(path)?, name(path), only, needed)?.at(path))
    }

    #[cfg(feature = "native")]
    fn open_with(path: &Path, needed: &[Split], optional: &[Split]) -> Result<Self> {
        Ok(Self::of(&Source::open(path)?, name(path), needed, optional)?.at(path))
    }

    #[cfg(feature = "native")]
    fn at(self, path: &Path) -> Self {
        Self { path: Some(path.to_path_buf()), ..self }
    }

    /// A dataset in memory: the arrays that a folder would have as files, of the same names and shapes.
    ///
    /// ```
    /// use wgoal::{Dataset, data::Arrays};
    /// let features: Vec<f32> = (0..40).map(|k| (k as f32).sin()).collect();
    /// let arrays = Arrays::new()
    ///     .with_features("images", &[10, 4], &features)
    ///     .with_features("texts", &[10, 4], &features)
    ///     .with_rows("text_to_image", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    ///     .with_rows("split_train", &[0, 1, 2, 3, 4, 5])
    ///     .with_rows("split_val", &[6, 7])
    ///     .with_rows("split_test", &[8, 9]);
    /// let dataset = Dataset::from_arrays("mine", arrays)?;
    /// assert_eq!((dataset.images(), dataset.texts(), dataset.image_dim()), (10, 10, 4));
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Dataset::open`], and an array with another name or with a number of values that does not fit its
    /// shape.
    pub fn from_arrays(name: &str, arrays: Arrays) -> Result<Self> {
        arrays.check(&ARRAYS)?;
        Self::of(&Source::Memory(arrays), Plain(name).to_string(), &TRAINING, &[Split::Test])
    }

    /// A dataset in the contents of files: `images.npy`, `texts.npy` and the other `.npy` files that a folder may have, or
    /// one `.safetensors` file with arrays of the same names; beside them `captions.txt` and `image_names.txt`. Of the
    /// name of a file, only what follows the last slash counts. Other files are ignored.
    ///
    /// ```
    /// use wgoal::Dataset;
    /// let read = |name: &str| (name.to_string(), std::fs::read(format!("data/clipart-mini/{name}")).unwrap());
    /// let names = ["images.npy", "texts.npy", "text_to_image.npy", "split_train.npy", "split_val.npy"];
    /// let dataset = Dataset::from_files("clipart-mini", names.map(read).into())?;
    /// assert_eq!(dataset.texts(), Dataset::open("data/clipart-mini")?.texts());
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Dataset::open`]; two files of the same kind; no array.
    pub fn from_files(name: &str, files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let source = Source::Files(files::Files::open(files)?);
        Self::of(&source, Plain(name).to_string(), &TRAINING, &[Split::Test])
    }

    /// One side in memory, for [`crate::Head::embed`]: an array `images` or `image_regions` (or `texts` or
    /// `text_tokens`), or both.
    ///
    /// # Errors
    /// Those of [`Dataset::open_sides`], and those of [`Dataset::from_arrays`] for the arrays.
    pub fn side_from_arrays(name: &str, side: Side, arrays: Arrays) -> Result<Self> {
        arrays.check(&ARRAYS)?;
        Self::of_sides(&Source::Memory(arrays), Plain(name).to_string(), Some(side), &[])
    }

    /// Opens a dataset whose splits may have faults, and keeps these.
    #[cfg(feature = "native")]
    fn open_leniently(path: &Path) -> Result<Self> {
        let (source, name) = (Source::open(path)?, name(path));
        // A gallery of images, or texts alone. With splits or text_to_image, the other side is missing by mistake.
        let there = [Side::Image, Side::Text].map(|side| Features::are_in(&source, side));
        let is_gallery = there[0] != there[1] && stored(&source) == [false; 3] && !source.has(TEXT_TO_IMAGE);
        if is_gallery {
            return Self::of_sides(&source, name, None, &[]);
        }
        let (sides, text_image, right_pairs) = Self::features(&source)?;
        let opened = Opened { source: &source, name: &name, images: &sides[0], text_image: &text_image };
        let (splits, faults) = opened.splits_and_faults(&TRAINING);
        let mut dataset = Self::of_parts(&source, name, sides, (text_image, right_pairs), splits);
        dataset.faults = faults.iter().map(Error::to_string).collect();
        Ok(dataset)
    }

    fn of(source: &Source, name: String, needed: &[Split], optional: &[Split]) -> Result<Self> {
        let (sides, text_image, right_pairs) = Self::features(source)?;
        let opened = Opened { source, name: &name, images: &sides[0], text_image: &text_image };
        let splits = opened.splits(needed, optional)?;
        Ok(Self::of_parts(source, name, sides, (text_image, right_pairs), splits))
    }

    /// Both sides, the image row of every text, and further right pairs.
    fn features(source: &Source) -> Result<([Features; 2], RowList, Vec<[u64; 2]>)> {
        let sides = [Features::open(source, Side::Image)?, Features::open(source, Side::Text)?];
        let [images, texts] = &sides;
        let text_image = text_to_image(source, images.items, (texts.items, texts.counted()))?;
        let right_pairs = relation::read_pairs(source, images.items, texts.items)?;
        Ok((sides, text_image, right_pairs))
    }

    fn of_sides(source: &Source, name: String, only: Option<Side>, needed: &[Split]) -> Result<Self> {
        // Without split files, images are divided by whether they have captions, so both sides are opened.
        let is_divided = stored(source) == [false; 3] && !needed.is_empty();
        let only = only.filter(|_| !is_divided);
        let [images, texts] = [Side::Image, Side::Text]
            .map(|side| only.map_or_else(|| Features::are_in(source, side), |only| only == side));
        if !images && !texts {
            let advice = "add one of them; docs/your-features.md describes the files";
            return Err(Error::data(
                source.label(pooled_name(Side::Image)),
                "images or texts",
                "neither",
                advice,
            ));
        }
        if let (false, Some(split)) = (images, needed.first()) {
            let expected = format!("images, because split_{split} lists images");
            return Err(Error::data(name, expected, "texts alone", "leave --split out, or give --split all"));
        }
        if let (true, false, Some(&split)) = (is_divided, texts, needed.first()) {
            let expected = "the image rows of this split, because images alone are not divided";
            let advice = format!("give --split all, or write {}", split.array());
            return Err(Error::data(source.label(split.array()), expected, "none", advice));
        }
        let side = |side, is_there| match is_there {
            true => Features::open(source, side),
            false => Ok(Features::absent(source, side)),
        };
        let sides = [side(Side::Image, images)?, side(Side::Text, texts)?];
        let text_image = match images && texts {
            true => text_to_image(source, sides[0].items, (sides[1].items, sides[1].counted())),
            false => Ok(RowList::default()),
        };
        let text_image = match text_image {
            // Without a split, nothing depends on it.
            Err(_) if needed.is_empty() && !source.has(TEXT_TO_IMAGE) => RowList::default(),
            read => read?,
        };
        let opened = Opened { source, name: &name, images: &sides[0], text_image: &text_image };
        let splits = opened.splits(needed, &[])?;
        Ok(Self::of_parts(source, name, sides, (text_image, Vec::new()), splits))
    }

    fn of_parts(
        source: &Source,
        name: String,
        sides: [Features; 2],
        (text_image, right_pairs): (RowList, Vec<[u64; 2]>),
        splits: [SplitRows; 3],
    ) -> Self {
        let pairs = !source.has(TEXT_TO_IMAGE) && !text_image.is_empty();
        let stored = stored(source);
        let divided = stored == [false; 3] && splits.iter().any(|rows| !rows.images.is_empty());
        Self {
            name,
            fingerprint: fingerprint(&sides, &text_image, &splits, &right_pairs),
            lines: source.lines(),
            notes: assumptions(source, pairs, divided),
            faults: Vec::new(),
            folder: source.folder().map(Path::to_path_buf),
            captions: OnceLock::new(),
            image_names: OnceLock::new(),
            path: None,
            content: OnceLock::new(),
            text_to_image: text_image,
            pairs,
            right_pairs,
            relations: Default::default(),
            stored,
            sides,
            splits,
        }
    }

    /// Every file that a dataset at `path` may consist of, whether it exists or not. Outputs must not overwrite them.
    #[cfg(feature = "native")]
    pub fn paths(path: impl AsRef<Path>) -> Vec<PathBuf> {
        Source::paths(path.as_ref())
    }

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

    /// Whether the dataset stores no split, so that its images are divided by the default [`Division`].
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

    /// A stable hash of shapes, types, `text_to_image` and the splits opened, but not of feature values. With it, a
    /// resumed run notices another dataset. It is the same for a folder and a safetensors file of the same arrays.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// A hash of feature values of 16 rows of every array. Unlike [`Dataset::fingerprint`], it changes when the
    /// features are computed again. It is the same for a folder and a safetensors file.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sample_hash(&self) -> Result<u64> {
        const ROWS: usize = 16;
        let (mut bytes, mut hash) = (Vec::new(), FNV_OFFSET);
        for file in self.files() {
            for k in 0..ROWS.min(file.rows) {
                let last = file.rows - 1;
                file.read_bytes(if file.rows <= ROWS { k } else { k * last / (ROWS - 1) }, &mut bytes)?;
                hash = fnv(hash, bytes.iter().copied());
            }
        }
        Ok(hash)
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
    fn will_need(&self, side: Side, items: Range<usize>, pooling: Pooling) {
        let Features { pooled, local, .. } = &self.sides[side as usize];
        if let (Some(local), false) = (local, pooling == Pooling::None) {
            local.rows.will_need(local.rows_of(items.start).start..local.rows_of(items.end - 1).end);
        }
        if let (Some(pooled), Pooling::None | Pooling::Joined) = (pooled, pooling) {
            pooled.will_need(items);
        }
    }

    /// Whether reading any row since the last call had to wait for the disk.
    fn missed(&self) -> bool {
        self.files().fold(false, |missed, file| file.missed() | missed)
    }

    /// Bytes of the feature files that were read so far. A file that holds both sides counts for each.
    #[doc(hidden)]
    pub fn bytes_read(&self) -> u64 {
        self.files().map(FeatureFile::bytes_read).sum()
    }

    fn files(&self) -> impl Iterator<Item = &FeatureFile> {
        self.sides
            .iter()
            .flat_map(|side| side.pooled.iter().chain(side.local.iter().map(|local| &local.rows)))
    }

    /// Whether a side's pooled rows, or its local rows with `local`, are cached as f16.
    fn is_half(&self, side: Side, local: bool) -> bool {
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

/// The name of a dataset's folder or file, for messages.
#[cfg(feature = "native")]
fn name(path: &Path) -> String {
    Plain(path.file_name().unwrap_or(path.as_os_str()).display()).to_string()
}

/// How files are read that need an explanation, and what takes the place of missing arrays, one line each.
fn assumptions(source: &Source, pairs: bool, divided: bool) -> Vec<String> {
    let mut notes = source.notes().to_vec();
    if pairs {
        notes.push("no text_to_image: text i is the caption of image i".into());
    }
    if divided {
        let [train, val, test] = Division::default().shares;
        let write = source
            .folder()
            .map(|folder| format!("; `wgoal split {}` writes them", crate::io::quoted(folder)));
        notes.push(format!(
            "no split files: {train} % of the images are for training, {val} % for validation, {test} % for the test, by a \
             hash of their row{}",
            write.unwrap_or_default()
        ));
    }
    notes
}

/// Hashes the numbers and the lengths of the lists. Local features come last, then pairs, and only if there are any. Of a
/// list with more than 2^32 rows, it hashes the runs of neighbours.
fn fingerprint(
    sides: &[Features; 2],
    text_image: &RowList,
    splits: &[SplitRows; 3],
    pairs: &[[u64; 2]],
) -> u64 {
    let lists = [text_image, &splits[0].images, &splits[1].images, &splits[2].images];
    let numbers = lists.iter().flat_map(|list| std::iter::once(list.len() as u64).chain(to_hash(list)));
    let local = sides.iter().zip(1u64..).filter_map(|(side, tag)| Some((side.local.as_ref()?, tag)));
    let bytes = sides
        .iter()
        .flat_map(Features::pooled_shape)
        .chain(numbers)
        .chain(local.flat_map(|(local, tag)| std::iter::once(tag).chain(local.numbers())))
        .chain(pairs.iter().flatten().copied())
        .flat_map(u64::to_le_bytes);
    fnv(FNV_OFFSET, bytes)
}

/// The numbers of a list that a fingerprint covers: its rows, or the runs of neighbours where there are more than 2^32 rows.
fn to_hash(list: &RowList) -> impl Iterator<Item = u64> + '_ {
    let (rows, runs) = if list.len() > u32::MAX as usize { (0, usize::MAX) } else { (list.len(), 0) };
    list.between(0..rows).chain(list.runs().take(runs).flat_map(|(start, len)| [start, len as u64]))
}

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues a 64-bit FNV-1a hash with more bytes.
pub(crate) fn fnv(hash: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
