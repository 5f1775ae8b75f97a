//! The name that was probably meant where a file is missing.

use std::path::{Path, PathBuf};

/// The file with the name that is spelled most like that of `path`, which is missing, if one in its folder is close.
pub(super) fn nearest(path: &Path) -> Option<PathBuf> {
    /// A folder of more files is not searched.
    const FILES: usize = 10_000;
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let stem = name.split('.').next()?.chars().count();
    if stem < 2 {
        return None;
    }
    let most = (stem / 4).max(1);
    let names = std::fs::read_dir(listed).ok()?.take(FILES).flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let near = names.map(|other| (strsim::damerau_levenshtein(name, &other), other));
    near.filter(|(distance, _)| *distance <= most).min().map(|(_, other)| folder.join(other))
}
