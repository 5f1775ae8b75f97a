//! Formats that are not read: how to convert them without loss.
//!
//! Each advice is one command that works when it is pasted into a shell. It needs the Python package of the format.

use super::columns;
use crate::io::quoted;
use crate::{Error, Result};
use std::path::Path;

/// A format: endings of names, what it is, and Python code.
struct Format {
    endings: &'static [&'static str],
    what: &'static str,
    /// Reads the file `a[1]` as the value `x`.
    read: &'static str,
    /// The array in `x`, if the file holds one array.
    array: &'static str,
    /// Writes all arrays of `x` to `a[2]`, if the file may hold a dataset, and the ending of that file.
    dataset: Option<(&'static str, &'static str)>,
}

/// Writes a dictionary of arrays.
const SAVE: &str = "numpy.savez(a[2], **{k: numpy.asarray(v) for k, v in x.items()})";

const FORMATS: &[Format] = &[
    Format {
        endings: &["pt", "pth", "ckpt"],
        what: "a PyTorch file",
        read: "import torch; x = torch.load(a[1], map_location='cpu')",
        array: "(x.float() if x.is_floating_point() else x).numpy()",
        dataset: Some((
            "import safetensors.torch; safetensors.torch.save_file({k: v.contiguous() for k, v in x.items()}, a[2])",
            "safetensors",
        )),
    },
    Format {
        endings: &["safetensors"],
        what: "a safetensors file",
        read: "import safetensors.torch; x = [*safetensors.torch.load_file(a[1]).values()][0]",
        array: "(x.float() if x.is_floating_point() else x).numpy()",
        dataset: None,
    },
    Format {
        endings: &["npz"],
        what: "an archive of arrays",
        read: "x = numpy.load(a[1])",
        array: "x[x.files[0]]",
        dataset: None,
    },
    Format {
        endings: &["pkl", "pickle"],
        what: "a pickle",
        read: "import pickle; x = pickle.load(open(a[1], 'rb'))",
        array: "numpy.asarray(x)",
        dataset: Some((SAVE, "npz")),
    },
    Format {
        endings: &["h5", "hdf5", "hdf"],
        what: "an HDF5 file",
        read: "import h5py; x = {k: v[:] for k, v in h5py.File(a[1]).items()}",
        array: "max(x.values(), key=lambda v: v.size)",
        dataset: Some((SAVE, "npz")),
    },
    Format {
        endings: &["mat"],
        what: "a MATLAB file",
        read: "import scipy.io; x = {k: v.ravel() if 1 in v.shape else v for k, v in scipy.io.loadmat(a[1]).items() \
               if k[0] != '_'}",
        array: "max(x.values(), key=lambda v: v.size)",
        dataset: Some((SAVE, "npz")),
    },
    Format {
        endings: &["csv"],
        what: "a table as text",
        read: "x = numpy.loadtxt(a[1], delimiter=',', ndmin=2)",
        array: "x[:, 0] if x.shape[1] == 1 else x",
        dataset: None,
    },
    Format {
        endings: &["tsv", "txt"],
        what: "a table as text",
        read: "x = numpy.loadtxt(a[1], ndmin=2)",
        array: "x[:, 0] if x.shape[1] == 1 else x",
        dataset: None,
    },
    Format {
        endings: &["json"],
        what: "a JSON file",
        read: "import json; x = json.load(open(a[1]))",
        array: "numpy.array(x)",
        dataset: Some(("numpy.savez(a[2], **{k: numpy.array(v) for k, v in x.items()})", "npz")),
    },
    Format {
        endings: &["fvecs"],
        what: "vectors of faiss",
        read: "x = numpy.fromfile(a[1], '<i4')",
        array: "x.reshape(-1, x[0] + 1)[:, 1:].view('<f4')",
        dataset: None,
    },
    Format {
        endings: &["fbin"],
        what: "vectors of usearch",
        read: "x = numpy.fromfile(a[1], '<i4', 2)",
        array: "numpy.fromfile(a[1], '<f4', offset=8).reshape(x)",
        dataset: None,
    },
    Format {
        endings: &["tar"],
        what: "an archive of samples",
        read: "import tarfile, io; t = tarfile.open(a[1]); x = [numpy.load(io.BytesIO(t.extractfile(m).read())) for m in \
               t if m.name.endswith('.npy')]",
        array: "numpy.stack(x)",
        dataset: None,
    },
    Format {
        endings: &columns::EXTENSIONS,
        what: "a Parquet or Arrow file",
        read: "import pyarrow.dataset; t = pyarrow.dataset.dataset(a[1], format='parquet' if 'parquet' in a[1] else \
               'ipc').to_table(); x = [c for c in t.columns if 'list' in str(c.type)]",
        array: "numpy.stack(x[0].to_numpy())",
        dataset: None,
    },
];

/// Formats without a general conversion.
const OTHERS: &[(&str, &str)] = &[
    ("tfrecord", "a TFRecord file"),
    ("lmdb", "an LMDB database"),
    ("mdb", "an LMDB database"),
    ("zarr", "a Zarr store"),
    ("jsonl", "lines of JSON"),
    ("index", "an index"),
    ("faiss", "an index"),
];

/// Endings of text files. They may hold something else than numbers.
const TEXT: [&str; 5] = ["csv", "tsv", "txt", "json", "jsonl"];

/// The ending of a name.
fn ending(name: &str) -> Option<&str> {
    Path::new(name).extension()?.to_str()
}

fn format_of(name: &str) -> Option<&'static Format> {
    let ending = ending(name)?.to_lowercase();
    FORMATS.iter().find(|format| format.endings.contains(&&*ending))
}

/// A command that runs Python code with two paths.
fn command(code: &str, from: &Path, to: &Path) -> String {
    format!("python3 -c \"import numpy, sys; a = sys.argv; {code}\" {} {}", quoted(from), quoted(to))
}

/// The advice to convert a file, or to install the reader of its format.
fn advice(format: &Format, command: &str) -> String {
    if format.endings == columns::EXTENSIONS {
        return format!(
            "install wgoal with its reader: {}; or, to convert it, run {command}",
            columns::INSTALL
        );
    }
    let condition = if TEXT.contains(&format.endings[0]) { "if it holds numbers, " } else { "" };
    format!("{condition}to convert it, run {command}")
}

/// Whether a folder holds the array `name` in a format that is not read. Text files do not count.
pub(super) fn has_array(entries: &[String], name: &str) -> bool {
    let of_array = |entry: &&String| Path::new(entry).file_stem().is_some_and(|stem| stem == name);
    let binary = |entry: &&String| !ending(entry).is_some_and(|ending| TEXT.contains(&ending));
    let known = |entry: &String| {
        format_of(entry).is_some() || OTHERS.iter().any(|(known, _)| ending(entry) == Some(*known))
    };
    entries.iter().filter(of_array).filter(binary).any(known)
}

/// The error of the array `name` that a folder holds only in a format that is not read; `None` if it holds no such file.
pub(super) fn array(folder: &Path, entries: &[String], name: &str) -> Option<Error> {
    let of_array = |entry: &&String| Path::new(entry).file_stem().is_some_and(|stem| stem == name);
    let label = folder.join(format!("{name}.npy"));
    for entry in entries.iter().filter(of_array) {
        if let Some(format) = format_of(entry) {
            let Format { what, read, array, .. } = format;
            let code = format!("{read}; numpy.save(a[2], {array})");
            let command = command(&code, &folder.join(entry), &label);
            let found = format!("{entry}, {what}");
            return Some(unread(&label, "an .npy file", &found, &advice(format, &command)));
        }
        if let Some((_, what)) = OTHERS.iter().find(|(known, _)| ending(entry) == Some(*known)) {
            let advice = "read it with the program that wrote it, and save a numpy array with numpy.save";
            return Some(unread(&label, "an .npy file", &format!("{entry}, {what}"), advice));
        }
    }
    None
}

/// The error of numbered Parquet or Arrow files in a build without their reader.
pub(super) fn needs_install(label: String) -> Error {
    let advice = format!("install wgoal with its reader: {}", columns::INSTALL);
    Error::data(label, "files that this build reads", "Parquet or Arrow files", advice)
}

/// An error about a format.
fn unread(thing: &Path, expected: &str, found: &str, advice: &str) -> Error {
    Error::data(thing.display(), expected, found, advice)
}

/// The error of a dataset that is a file in a format that is not read.
pub(super) fn dataset<T>(path: &Path, expected: &str) -> Result<T> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fault = |found: &str, advice: &str| Err(unread(path, expected, found, advice));
    if ending(&name) == Some("npy") {
        return fault("one array", "give the folder that holds it, with images.npy and texts.npy");
    }
    // A text file may be anything.
    if let Some(format) = format_of(&name).filter(|_| ending(&name) != Some("txt")) {
        if let Some((save, ending)) = format.dataset {
            let code = format!("{}; {save}", format.read);
            let command = command(&code, path, &path.with_extension(ending));
            return fault(format.what, &advice(format, &command));
        }
        let Format { what, read, array, .. } = format;
        let code = format!("{read}; numpy.save(a[2], {array})");
        let command = command(&code, path, Path::new("images.npy"));
        let folder = "make a folder with images.npy and texts.npy, and give that folder";
        return fault(what, &format!("{folder}; {}", advice(format, &command)));
    }
    let other = OTHERS.iter().find(|(known, _)| ending(&name) == Some(*known));
    fault(
        other.map_or("a file of another name", |(_, what)| what),
        "give the folder that holds images.npy, or a file whose name ends in .safetensors or .npz",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_stands_in_double_quotes() {
        for format in FORMATS {
            let save = format.dataset.map_or("", |dataset| dataset.0);
            for code in [format.read, format.array, save] {
                assert!(!code.contains(['"', '$', '`', '\\', '!']) || code.contains("!="), "{code}");
            }
        }
    }
}
