//! The layout of SCAN and VSE++: per split, `SPLIT_ims.npy` and `SPLIT_caps.txt`, with five captions per image.
//!
//! wgoal trains on features of texts, so it also needs `SPLIT_texts.npy` with one row per line of `SPLIT_caps.txt`.

use super::lines::Lines;
use super::npy::npy_header;
use super::positioned::Header;
use super::shards::{Piece, join};
use super::splits::TEXT_TO_IMAGE;
use crate::io::{Collected, RowList};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The names of each split, the first that exists. `testall` holds the whole test split of COCO, `test` a fifth of it.
const SPLITS: [(&str, &[&str]); 3] =
    [("split_train", &["train"]), ("split_val", &["dev", "val"]), ("split_test", &["testall", "test"])];
const IMAGES: &str = "_ims.npy";
const TEXTS: [&str; 2] = ["_texts.npy", "_txts.npy"];
const CAPTIONS: &str = "_caps.txt";
/// Captions of an image. Files with one image row per caption repeat each row so often.
const PER_IMAGE: u64 = 5;
/// Groups of rows in which repetition is looked for.
const GROUPS: u64 = 64;

/// What the layout holds: arrays in files, arrays that follow, and captions.
pub(super) struct Scan {
    pub headers: Vec<(&'static str, Header)>,
    pub rows: Vec<(&'static str, RowList)>,
    pub captions: Lines,
}

/// The files of one split.
struct Files {
    array: &'static str,
    images: PathBuf,
    texts: Option<PathBuf>,
    captions: PathBuf,
}

impl Scan {
    /// `None` if no file has such a name.
    pub fn open(folder: &Path, entries: &[String]) -> Result<Option<Self>> {
        let files = files(folder, entries);
        let Some(first) = files.first() else { return Ok(None) };
        let (mut pieces, mut texts, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        let images_alone = files.iter().all(|files| files.texts.is_none());
        for Files { images, texts: of_texts, captions, .. } in &files {
            let image = npy_header(images)?;
            if images_alone {
                let step = if repeated(&image)? { PER_IMAGE } else { 1 };
                counts.push((rows(&image) / step, 0));
                pieces.push(Piece { path: images.clone(), header: image, step });
                continue;
            }
            let Some(path) = of_texts else { return Err(lacks_texts(captions)) };
            let text = npy_header(path)?;
            let (rows, captions) = (rows(&image), rows(&text));
            let step = if rows == captions && repeated(&image)? { PER_IMAGE } else { 1 };
            let own = rows / step;
            if own == 0 || captions % own != 0 {
                let expected =
                    format!("equally many captions for each of the {own} images of {}", image.label);
                let advice = "write a row for every line of the captions' file, in the same order";
                return Err(Error::data(&text.label, expected, format!("{captions} rows"), advice));
            }
            counts.push((own, captions));
            pieces.push(Piece { path: images.clone(), header: image, step });
            texts.push(Piece { path: path.clone(), header: text, step: 1 });
        }
        let local = |pieces: &[Piece]| pieces[0].header.shape.len() == 3;
        let joined = |pieces: Vec<Piece>, ending: &str| {
            let label = folder.join(format!("*{ending}")).display().to_string();
            join(label, pieces.len(), pieces.into_iter().map(Ok)).map(|joined| joined.0)
        };
        let ending = TEXTS
            .into_iter()
            .find(|ending| first.texts.as_ref().is_some_and(|path| path.to_string_lossy().ends_with(ending)));
        let name = if local(&pieces) { "image_regions" } else { "images" };
        let mut headers = vec![(name, joined(pieces, IMAGES)?)];
        if !images_alone {
            let name = if local(&texts) { "text_tokens" } else { "texts" };
            headers.push((name, joined(texts, ending.unwrap_or(TEXTS[0]))?));
        }
        let captions = Lines::Files(files.iter().map(|files| files.captions.clone()).collect());
        let has_captions = files.iter().all(|files| files.captions.exists());
        let captions = if has_captions { captions } else { Lines::None };
        Ok(Some(Self { headers, rows: derived(&files, &counts), captions }))
    }

    /// The error of images in this layout without features of texts; `None` if there are no such images.
    pub fn without_texts(folder: &Path, entries: &[String]) -> Option<Error> {
        let files = files(folder, entries);
        files.first().filter(|files| files.texts.is_none()).map(|files| lacks_texts(&files.captions))
    }

    /// The files of this layout that exist.
    pub fn paths(folder: &Path, entries: &[String]) -> Vec<PathBuf> {
        let of_split = |files: Files| [Some(files.images), files.texts, Some(files.captions)];
        files(folder, entries).into_iter().flat_map(of_split).flatten().collect()
    }
}

/// The files of each split that exists.
fn files(folder: &Path, entries: &[String]) -> Vec<Files> {
    let has = |name: &String| entries.contains(name);
    let of_split = |(array, names): (&'static str, &[&str])| {
        let split = names.iter().find(|split| has(&format!("{split}{IMAGES}")))?;
        let texts = TEXTS.iter().map(|ending| format!("{split}{ending}")).find(|name| has(name));
        Some(Files {
            array,
            images: folder.join(format!("{split}{IMAGES}")),
            texts: texts.map(|name| folder.join(name)),
            captions: folder.join(format!("{split}{CAPTIONS}")),
        })
    };
    SPLITS.into_iter().filter_map(of_split).collect()
}

/// The rows of the splits, and the image row of every text.
fn derived(files: &[Files], counts: &[(u64, u64)]) -> Vec<(&'static str, RowList)> {
    let (mut first, mut text_to_image, mut found) = (0, Collected::default(), Vec::new());
    for (Files { array, .. }, &(images, captions)) in files.iter().zip(counts) {
        found.push((*array, (first..first + images).into()));
        let each = captions / images;
        (0..captions).for_each(|caption| text_to_image.push(first + caption / each));
        first += images;
    }
    let text_to_image = text_to_image.finish();
    if !text_to_image.is_empty() {
        found.push((TEXT_TO_IMAGE, text_to_image));
    }
    found
}

/// The error of captions without features.
fn lacks_texts(captions: &Path) -> Error {
    let name = captions.to_string_lossy();
    let texts = format!("{}{}", name.strip_suffix(CAPTIONS).unwrap_or(&name), TEXTS[0]);
    let advice = format!(
        "wgoal trains on features of texts: encode every line of {name} and save the rows in the same order"
    );
    Error::data(texts, "the features of the captions, an .npy file [captions, Q]", "no such file", advice)
}

fn rows(header: &Header) -> u64 {
    header.shape.first().copied().unwrap_or(0)
}

/// Whether the rows are repeated for every caption. A sample is looked at.
fn repeated(header: &Header) -> Result<bool> {
    let Header { label, file, start, shape, dtype, .. } = header;
    let rows = rows(header);
    let width = shape.iter().skip(1).try_fold(dtype.size as u64, |product, &n| product.checked_mul(n));
    let whole = width.and_then(|width| rows.checked_mul(width)).and_then(|bytes| bytes.checked_add(*start));
    // A file that does not match its header is refused later.
    let (Some(width), true) = (width, whole == Some(file.bytes)) else { return Ok(false) };
    if rows == 0 || !rows.is_multiple_of(PER_IMAGE) {
        return Ok(false);
    }
    let groups = rows / PER_IMAGE;
    for k in 0..GROUPS.min(groups) {
        let group = if groups <= GROUPS { k } else { k * (groups - 1) / (GROUPS - 1) };
        let mut bytes = vec![0; (PER_IMAGE * width) as usize];
        file.read(|| label.clone(), &mut bytes, start + group * PER_IMAGE * width)?;
        let (first, others) = bytes.split_at(width as usize);
        if others.chunks_exact(width.max(1) as usize).any(|other| other != first) {
            return Ok(false);
        }
    }
    Ok(true)
}
