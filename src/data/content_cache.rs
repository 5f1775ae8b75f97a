//! Keeps the hash of all feature values in the cache folder, for large files that do not change.

use super::Dataset;
use super::file::Source;
use crate::Result;
use crate::io::{self, cache_folder};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use xxhash_rust::xxh3::xxh3_64;

/// Features of fewer bytes are read again each time. That takes a few milliseconds.
const SMALL: u64 = 1 << 26;

/// The most datasets that the cache remembers.
const MOST: usize = 256;

/// The file in the cache folder: hashes by the state of the files of a dataset.
const CACHE: &str = "features.json";

impl Dataset {
    pub(super) fn cached_hash(&self) -> Result<u64> {
        let bytes: u64 = self.files().map(|file| file.rows as u64 * file.row_bytes() as u64).sum();
        let folder = cache_folder(|name| std::env::var_os(name).map(PathBuf::from));
        let (Some(folder), Some(path), SMALL..) = (folder, &self.path, bytes) else { return self.hashed() };
        let file = folder.join(CACHE);
        let state = || state(path, self.fingerprint());
        let before = state();
        let mut known: BTreeMap<String, String> = io::read(&file, io::SMALL)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        if let Some(hash) = known.get(&before).and_then(|hash| u64::from_str_radix(hash, 16).ok()) {
            return Ok(hash);
        }
        let hash = self.hashed()?;
        // Files that changed while they were read have no hash.
        if state() == before {
            while known.len() >= MOST {
                known.pop_first();
            }
            known.insert(before, format!("{hash:016x}"));
            // A run does not depend on the cache.
            if let Ok(text) = serde_json::to_vec_pretty(&known) {
                let _ = fs::create_dir_all(&folder);
                let _ = io::write_regular(&file, &text);
            }
        }
        Ok(hash)
    }
}

/// The state of the files at a path: their names, sizes and times, and what the dataset takes from them.
fn state(path: &Path, fingerprint: u64) -> String {
    // The number changes with what is hashed.
    let mut text = format!("2 {fingerprint:016x}");
    for path in Source::paths(path) {
        let Ok(found) = fs::metadata(&path) else { continue };
        let time = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let path = std::path::absolute(&path).unwrap_or(path);
        text += &format!("\n{} {} {:?}", path.display(), found.len(), time);
    }
    format!("{:016x}", xxh3_64(text.as_bytes()))
}
