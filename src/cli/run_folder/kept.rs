//! Texts of a run folder that the process keeps in memory while it trains, to write them again if they are deleted.

use super::{METRICS, fault, unwritable};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use wgoal::Result;
use wgoal::io as files;

pub(super) struct Kept {
    metrics: File,
    /// What is in metrics.jsonl.
    lines: String,
    /// Other files, by name.
    texts: Vec<(&'static str, Vec<u8>)>,
}

impl Kept {
    /// Opens the metrics of a folder, which has these lines in it.
    pub fn open(folder: &Path, lines: String) -> Result<Self> {
        let metrics = open(folder).map_err(unwritable(&folder.join(METRICS)))?;
        Ok(Self { metrics, lines, texts: Vec::new() })
    }

    /// Keeps a file that stays as it is now.
    pub fn keep(&mut self, folder: &Path, name: &'static str) {
        if let Ok(bytes) = files::read(&folder.join(name), files::SMALL) {
            self.texts.push((name, bytes));
        }
    }

    /// Appends a line to the metrics.
    pub fn add_line(&mut self, folder: &Path, line: &str) -> Result<()> {
        let written = self.metrics.write_all(line.as_bytes()).and_then(|()| self.metrics.sync_data());
        written.map_err(unwritable(&folder.join(METRICS)))?;
        self.lines += line;
        Ok(())
    }

    /// Writes again what is missing, and returns the names. Metrics that were cut short count as missing.
    ///
    /// # Errors
    /// Another file in the place of the metrics.
    pub fn restore(&mut self, folder: &Path) -> Result<Vec<&'static str>> {
        let mut restored = Vec::new();
        for (name, bytes) in &self.texts {
            if folder.join(name).symlink_metadata().is_err() {
                files::write_regular(&folder.join(name), bytes)?;
                restored.push(*name);
            }
        }
        let path = folder.join(METRICS);
        if self.is_open(&path) {
            return Ok(restored);
        }
        match files::read(&path, files::LINES) {
            // Somebody has written the file anew with what it held.
            Ok(found) if found == self.lines.as_bytes() => {}
            Ok(found) if !self.lines.as_bytes().starts_with(&found) => {
                let advice = "move it elsewhere, and continue with --resume";
                return Err(fault(&path, "the metrics of the run that trains", "another text", advice));
            }
            _ => {
                files::write_regular(&path, self.lines.as_bytes())?;
                restored.push(METRICS);
            }
        }
        self.metrics = open(folder).map_err(unwritable(&path))?;
        Ok(restored)
    }

    /// Whether the open file is the one with this path, and has the length that was written.
    fn is_open(&self, path: &Path) -> bool {
        let (Ok(open), Ok(there)) = (self.metrics.metadata(), fs::metadata(path)) else { return false };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            if (open.dev(), open.ino()) != (there.dev(), there.ino()) {
                return false;
            }
        }
        open.len() == there.len() && there.len() == self.lines.len() as u64
    }
}

fn open(folder: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).open(folder.join(METRICS))
}
