//! Arrays in `.npy` format: reads their header, and rearranges values in Fortran order.

use super::header::NpyHeader;
use super::held::Held;
use super::positioned::{Header, PositionedFile};
use crate::{Error, Result};
use std::sync::Arc;

/// Length of the longest `.npy` header that is read, in bytes. numpy writes about 118.
const MAX_NPY_HEADER: usize = 65_535;

/// The header of the `.npy` file `path`, versions 1 to 3.
#[cfg(feature = "native")]
pub(super) fn npy_header(path: &std::path::Path) -> Result<Header> {
    let file = PositionedFile::open(path, "an .npy file")?;
    npy_in(file, path.display().to_string())
}

/// The header of an array in `.npy` format. Its values get C order if they have Fortran order.
pub(super) fn npy_in(file: PositionedFile, label: String) -> Result<Header> {
    let fault = |expected: &str, found: String| {
        Err(Error::data(&label, expected, found, "write the file again with numpy.save"))
    };
    let mut bytes = vec![0; file.bytes.min(12 + MAX_NPY_HEADER as u64) as usize];
    file.read(|| label.clone(), &mut bytes, 0)?;
    if !bytes.starts_with(b"\x93NUMPY") {
        let start = bytes[..bytes.len().min(6)].escape_ascii();
        let other = [
            (
                &b"PK"[..],
                "this is an archive, as of numpy.savez or torch.save: load it and save one array with numpy.save",
            ),
            (b"\x80", "this is a pickle: load it and save its array with numpy.save"),
            (
                b"version https://git-lfs",
                "this is a pointer of Git LFS: fetch the file itself with `git lfs pull`",
            ),
        ];
        if let Some((_, advice)) = other.into_iter().find(|(start, _)| bytes.starts_with(start)) {
            let expected = r"an .npy file, which starts with \x93NUMPY";
            return Err(Error::data(&label, expected, format!("\"{start}\""), advice));
        }
        return fault(r"an .npy file, which starts with \x93NUMPY", format!("\"{start}\""));
    }
    // Version 1 stores the length of the header in two bytes, later versions in four.
    let (prefix, length) = match bytes[6..] {
        [1, _, a, b, ..] => (10, u16::from_le_bytes([a, b]) as usize),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        [version, ..] if !(1..=3).contains(&version) => {
            return fault("version 1, 2 or 3 of the format", version.to_string());
        }
        _ => return fault("a header", format!("a file of {} bytes", file.bytes)),
    };
    if length > MAX_NPY_HEADER {
        return fault(&format!("a header of at most {MAX_NPY_HEADER} bytes"), length.to_string());
    }
    let Some(text) = bytes.get(prefix..prefix + length) else {
        let expected = format!("at least {} bytes", prefix + length);
        return fault(&expected, format!("{} bytes", file.bytes));
    };
    let text = String::from_utf8_lossy(text);
    let Some(NpyHeader { dtype, fortran_order, shape }) = NpyHeader::parse(&text) else {
        return fault("the header of one plain array", text.trim_end().chars().take(200).collect());
    };
    if shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n.max(1))).is_none() {
        return fault("fewer values than 2^64", format!("shape {shape:?}"));
    }
    let start = (prefix + length) as u64;
    let header = Header { file: Arc::new(file), start, dtype, shape, alone: true, label };
    match fortran_order {
        true => in_c_order(header),
        false => Ok(header),
    }
}

/// Bytes that are rearranged at a time.
const BLOCK: usize = 1 << 27;

/// Rearranges values in Fortran order. Arrays that are not read anyway stay as they are: those of other types, and
/// those that do not match the length of their file.
fn in_c_order(header: Header) -> Result<Header> {
    let Header { label, file, start, dtype, shape, .. } = &header;
    let size = dtype.size as u64;
    let values = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
    // The order does not matter if at most one axis is longer than 1.
    let same = shape.iter().filter(|&&n| n > 1).count() <= 1;
    if same || !dtype.is_number() || values.and_then(|bytes| bytes.checked_add(*start)) != Some(file.bytes) {
        return Ok(header);
    }
    let (rows, rest) = (shape[0], &shape[1..]);
    let width = rest.iter().product::<u64>() * size;
    // Whole rows of a block fit into memory, and so does one row: the file holds it.
    let block = (BLOCK as u64 / width).clamp(1, rows);
    let mut held = Held::new(label);
    let (mut column, mut values) = (vec![0; (block * size) as usize], vec![0; (block * width) as usize]);
    for first in (0..rows).step_by(block as usize) {
        let count = block.min(rows - first) as usize;
        let column = &mut column[..count * size as usize];
        for (k, place) in fortran_places(rest).enumerate() {
            let position = start + (place * rows + first) * size;
            file.read(|| label.clone(), column, position)?;
            let size = size as usize;
            for (row, value) in column.chunks_exact(size).enumerate() {
                values[row * width as usize + k * size..][..size].copy_from_slice(value);
            }
        }
        held.push(&values[..count * width as usize])?;
    }
    Ok(Header { file: Arc::new(held.finish()), start: 0, ..header })
}

/// For every element of an array of this shape, in C order, its position in Fortran order.
fn fortran_places(shape: &[u64]) -> impl Iterator<Item = u64> {
    (0..shape.iter().product()).map(|index: u64| {
        let (mut rest, mut place) = (index, 0);
        for axis in (0..shape.len()).rev() {
            let stride = shape[..axis].iter().product::<u64>();
            place += rest % shape[axis] * stride;
            rest /= shape[axis];
        }
        place
    })
}
