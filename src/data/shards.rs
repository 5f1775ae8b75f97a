//! One array in several `.npy` files: shards in numeric order.
//!
//! Finds the files by their names, and joins their arrays row by row. Headers are read when the dataset is opened.

use super::header::Type;
use super::npy::npy_header;
use super::parts::{Origin, Part, Parts};
use super::positioned::{Header, PositionedFile};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More files than this are opened only when they are read.
const FEW: usize = 4;

/// The files `NAME_0.EXTENSION`, `NAME_1.EXTENSION` and so on among the `names` of a folder, by their numbers. Before the
/// number stands `_`, `-` or `.`, and `-of-COUNT` may follow it.
pub(super) fn numbered(names: &[String], name: &str, extension: &str) -> Vec<(u64, String)> {
    let ending = format!(".{extension}");
    let mut found: Vec<_> =
        ["_", "-", "."].iter().flat_map(|mark| between(names, &format!("{name}{mark}"), &ending)).collect();
    found.sort();
    found
}

/// The files whose names are `start`, a number and `end`, by their numbers. `-of-COUNT` may follow the number.
pub(super) fn between(names: &[String], start: &str, end: &str) -> Vec<(u64, String)> {
    let number = |file: &str| Some(number(file.strip_prefix(start)?.strip_suffix(end)?)?.0);
    let mut found: Vec<_> = names.iter().filter_map(|file| Some((number(file)?, file.clone()))).collect();
    found.sort();
    found
}

/// The number in `7`, and also the count in `7-of-9`.
fn number(text: &str) -> Option<(u64, Option<u64>)> {
    let whole = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?;
    match text.split_once("-of-") {
        Some((digits, count)) => Some((whole(digits)?, Some(whole(count)?))),
        None => Some((whole(text)?, None)),
    }
}

/// The number of files that `-of-COUNT` in a name tells.
fn count(file: &str) -> Option<u64> {
    let (_, rest) = file.rsplit_once("-of-")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok()
}

/// Checks that no number is missing or occurs twice. Otherwise rows would belong to other items.
pub(super) fn check_numbers(folder: &Path, found: &[(u64, String)]) -> Result<()> {
    const NUMBER: &str =
        "copy the missing file; or, if nothing is missing, number the files 0, 1, 2 and so on";
    let label = |name: &str| folder.join(name).display().to_string();
    if let Some((first, name)) = found.first().filter(|(first, _)| *first > 1) {
        let expected = format!("the file number {} before it, because numbers start at 0 or 1", first - 1);
        return Err(Error::data(label(name), expected, "none", NUMBER));
    }
    for pair in found.windows(2) {
        let [(before, first), (after, second)] = pair else { continue };
        if before == after {
            let advice = "remove one of the two, or rename it";
            let found = format!("that of {first}");
            return Err(Error::data(label(second), "a number that no other file has", found, advice));
        }
        if *after != before + 1 {
            let expected = format!("the file number {} before it, because {first} is there", before + 1);
            return Err(Error::data(label(second), expected, "none", NUMBER));
        }
    }
    let Some((_, last)) = found.last() else { return Ok(()) };
    for (_, name) in found {
        if count(name) != count(last) {
            let advice = "remove the files of the other set, or rename them";
            return Err(Error::data(label(name), format!("a count as in {last}"), "another one", advice));
        }
    }
    match count(last) {
        Some(count) if count != found.len() as u64 => {
            let expected = format!("{count} files, as its name says");
            let advice = "copy the missing files, or write all files again";
            Err(Error::data(label(last), expected, found.len(), advice))
        }
        _ => Ok(()),
    }
}

/// A file whose array is a part of another array.
pub(super) struct Piece {
    pub path: PathBuf,
    pub header: Header,
    /// Every how-many-th row counts.
    pub step: u64,
}

/// The name of several files in messages.
pub(super) fn pattern(folder: &Path, name: &str, extension: &str) -> String {
    folder.join(format!("{name}_*.{extension}")).display().to_string()
}

/// Joins the arrays of `.npy` files along their first axis. Returns also the rows of each file.
pub(super) fn join_files(label: String, paths: &[PathBuf]) -> Result<(Header, Vec<u64>)> {
    if let [path] = paths {
        let header = npy_header(path)?;
        let rows = header.shape.first().copied().unwrap_or(0);
        return Ok((header, vec![rows]));
    }
    let pieces =
        paths.iter().map(|path| Ok(Piece { path: path.clone(), header: npy_header(path)?, step: 1 }));
    join(label, paths.len(), pieces)
}

/// Joins `count` arrays along their first axis. They must have the same type and the same other axes.
pub(super) fn join(
    label: String,
    count: usize,
    pieces: impl Iterator<Item = Result<Piece>>,
) -> Result<(Header, Vec<u64>)> {
    let mut first: Option<(String, Type, Vec<u64>)> = None;
    let (mut parts, mut rows) = (Vec::new(), Vec::new());
    for piece in pieces {
        let Piece { path, header, step } = piece?;
        let (_, dtype, axes) = first.get_or_insert_with(|| {
            (header.label.clone(), header.dtype.clone(), header.shape.get(1..).unwrap_or_default().to_vec())
        });
        let (dtype, axes) = (dtype.clone(), axes.clone());
        check(&header, first.as_ref().map_or("", |first| &first.0), &dtype, &axes)?;
        let items = header.shape.first().copied().unwrap_or(0).div_ceil(step);
        rows.push(items);
        let origin = match count > FEW && header.file.is_disk() {
            true => Origin::Path(path, header.file.bytes),
            false => Origin::Open(header.file),
        };
        parts.push(Part { origin, label: header.label, start: header.start, items, step });
    }
    let Some((_, dtype, axes)) = first else {
        return Err(Error::data(
            label,
            "an .npy file",
            "none",
            "check the path and that the dataset is complete",
        ));
    };
    let width = axes.iter().fold(dtype.size as u64, |product, &n| product.saturating_mul(n));
    let total = rows.iter().fold(0u64, |sum, &rows| sum.saturating_add(rows));
    let shape = std::iter::once(total).chain(axes).collect();
    let file = Arc::new(PositionedFile::parts(Parts::new(width, parts)));
    Ok((Header { label, file, start: 0, dtype, shape, alone: true }, rows))
}

/// Checks that an array has the type and the axes of the first one, and that its file is whole.
fn check(header: &Header, first: &str, dtype: &Type, axes: &[u64]) -> Result<()> {
    let Header { label, file, start, dtype: own, shape, .. } = header;
    let advice = "write all files in the same way";
    if shape.is_empty() || shape[1..] != *axes {
        let rest: String = axes.iter().map(|n| format!(", {n}")).collect();
        let expected = format!("shape [rows{rest}], as {first} has it");
        return Err(Error::data(label, expected, format!("shape {shape:?}"), advice));
    }
    if (own.kind, own.size, own.big_endian) != (dtype.kind, dtype.size, dtype.big_endian) {
        let expected = format!("values of type {}, as in {first}", dtype.name);
        return Err(Error::data(label, expected, &own.name, advice));
    }
    // The type is checked when the array is used. The size of other types is not known.
    let bytes = shape.iter().try_fold(own.size as u64, |product, &n| product.checked_mul(n));
    match bytes.and_then(|bytes| bytes.checked_add(*start)) {
        Some(bytes) if own.is_number() => file.check_length(label, bytes),
        _ => Ok(()),
    }
}
