//! Where the arrays of a dataset are, and the headers of `.npy` files and safetensors files.
//!
//! Finds an array by its name, and reports its type, its shape and its place in a file. It does not judge whether type
//! and shape fit their use, and it reads no values.

use super::arrays::Arrays;
use super::header::{NpyHeader, Type};
use super::positioned::{Header, PositionedFile};
use crate::io::MAX_SAFETENSORS_HEADER;
use crate::{Error, Result};
use safetensors::tensor::Metadata;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of the longest `.npy` header that is read, in bytes. numpy writes about 118.
const MAX_NPY_HEADER: usize = 65_535;
/// All arrays that a dataset may hold.
pub(super) const ARRAYS: [&str; 10] = [
    "images",
    "texts",
    "image_regions",
    "region_offsets",
    "text_tokens",
    "text_offsets",
    "text_to_image",
    "split_train",
    "split_val",
    "split_test",
];
/// All text files that a folder may also hold.
pub(super) const TEXTS: [&str; 2] = ["captions.txt", "image_names.txt"];

/// The place of a dataset's arrays: a folder of `.npy` files, a safetensors file, or memory.
pub(super) enum Source {
    Folder(PathBuf),
    Safetensors(Tensors),
    Memory(Arrays),
}

impl Source {
    /// Opens a folder, or opens a `.safetensors` file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        const EXPECTED: &str = "a dataset folder or a .safetensors file";
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        let file = PositionedFile::open(path, EXPECTED)?;
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            let advice = "give the folder that holds images.npy, or a file whose name ends in .safetensors";
            return Err(Error::data(path.display(), EXPECTED, "a file of another name", advice));
        }
        Tensors::open(path, file).map(Self::Safetensors)
    }

    /// The name of the array in messages: its file, and its tensor if the file holds several.
    pub fn label(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(format!("{name}.npy")).display().to_string(),
            Self::Safetensors(tensors) => format!("{} tensor {name}", tensors.label),
            Self::Memory(_) => format!("array {name}"),
        }
    }

    /// Every file that a dataset at `path` may consist of, whether it exists or not.
    pub fn paths(path: &Path) -> Vec<PathBuf> {
        if !path.is_dir() {
            return vec![path.to_path_buf()];
        }
        let names = ARRAYS.iter().map(|name| format!("{name}.npy")).chain(TEXTS.map(String::from));
        names.map(|name| path.join(name)).collect()
    }

    /// Whether there is an array `name`, valid or not.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => fs::symlink_metadata(folder.join(format!("{name}.npy"))).is_ok(),
            Self::Safetensors(tensors) => tensors.metadata.info(name).is_some(),
            Self::Memory(arrays) => arrays.has(name),
        }
    }

    /// The header of the array `name`.
    pub fn header(&self, name: &str) -> Result<Header> {
        match self {
            Self::Folder(folder) => npy_header(&folder.join(format!("{name}.npy"))),
            Self::Safetensors(tensors) => tensors.header(name, self.label(name)),
            Self::Memory(arrays) => arrays.header(name, self.label(name)),
        }
    }
}

/// An open safetensors file with its parsed header.
pub(super) struct Tensors {
    label: String,
    file: Arc<PositionedFile>,
    /// Position of the first tensor in bytes.
    start: u64,
    metadata: Metadata,
}

impl Tensors {
    fn open(path: &Path, file: PositionedFile) -> Result<Self> {
        let label = path.display().to_string();
        let fault = |expected: &str, found: String| {
            Error::data(&label, expected, found, "write the file again, for example with safetensors.numpy")
        };
        if file.bytes < 8 {
            return Err(fault("a safetensors header", format!("a file of {} bytes", file.bytes)));
        }
        let mut length = [0; 8];
        file.read(|| label.clone(), &mut length, 0)?;
        let length = u64::from_le_bytes(length);
        let most = MAX_SAFETENSORS_HEADER.min(file.bytes - 8);
        if length > most {
            return Err(fault(&format!("a header of at most {most} bytes"), length.to_string()));
        }
        let mut header = vec![0; length as usize];
        file.read(|| label.clone(), &mut header, 8)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| fault("a safetensors header", format!("one that cannot be read ({e})")))?;
        let start = 8 + length;
        file.check_length(&label, start.saturating_add(metadata.data_len() as u64))?;
        Ok(Self { file: Arc::new(file), start, metadata, label })
    }

    fn header(&self, name: &str, label: String) -> Result<Header> {
        let Some(info) = self.metadata.info(name) else {
            let advice =
                "add it: a dataset holds images, texts, text_to_image, split_train, split_val, split_test";
            return Err(Error::data(label, "this tensor", "none of this name", advice));
        };
        Ok(Header {
            label,
            file: Arc::clone(&self.file),
            start: self.start + info.data_offsets.0 as u64,
            dtype: Type::of_safetensors(&format!("{:?}", info.dtype)),
            shape: info.shape.iter().map(|&n| n as u64).collect(),
            alone: false,
        })
    }
}

/// The header of the `.npy` file `path`, versions 1 to 3.
pub(super) fn npy_header(path: &Path) -> Result<Header> {
    let file = PositionedFile::open(path, "an .npy file")?;
    let label = path.display().to_string();
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
    // The order does not matter if at most one axis is longer than 1.
    if fortran_order && shape.iter().filter(|&&n| n > 1).count() > 1 {
        let advice = "save numpy.ascontiguousarray(array)";
        return Err(Error::data(&label, "values in C order", "Fortran order", advice));
    }
    let start = (prefix + length) as u64;
    Ok(Header { file: Arc::new(file), start, dtype, shape, alone: true, label })
}
