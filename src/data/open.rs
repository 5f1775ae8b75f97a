//! Opening a dataset, with all checks of its files.

use super::arrays::Arrays;
use super::dataset::Dataset;
use super::divide::Division;
use super::features::{Features, pooled_name};
use super::file::{ARRAYS, Source};
use super::fingerprint::fingerprint;
use super::splits::{Opened, Split, SplitRows, TEXT_TO_IMAGE, stored, text_to_image};
use super::{files, relation};
use crate::io::RowList;
use crate::model::Side;
use crate::{Error, Plain, Result};
use std::path::Path;
#[cfg(feature = "native")]
use std::path::PathBuf;
use std::sync::OnceLock;

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
    pub(super) fn open_leniently(path: &Path) -> Result<Self> {
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
