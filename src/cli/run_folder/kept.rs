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

    /// Writes again what is missing, and returns the names. Metrics of which a part is missing count as missing.
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
            Ok(found) if !is_cut_from(&found, self.lines.as_bytes()) => {
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

/// Whether `found` is `lines` without one part. A file that is cut short while the run trains may get a line before the run
/// notices: then the part is in the middle.
fn is_cut_from(found: &[u8], lines: &[u8]) -> bool {
    let start = found.iter().zip(lines).take_while(|(a, b)| a == b).count();
    let end = found.iter().rev().zip(lines.iter().rev()).take_while(|(a, b)| a == b).count();
    found.len() <= lines.len() && start + end >= found.len()
}

fn open(folder: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).open(folder.join(METRICS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metrics that lose a part just before a line is added come back. A text that is not from the run is left alone.
    #[test]
    fn metrics_that_are_cut_before_a_line_come_back() {
        for (left, foreign) in [(0, false), (7, false), (9, false), (7, true)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(METRICS);
            let text = |from: usize, to: usize| {
                (from..to).map(|k| format!("{{\"epoch\":{k}}}\n")).collect::<String>()
            };
            fs::write(&path, text(0, 3)).unwrap();
            let mut kept = Kept::open(folder.path(), text(0, 3)).unwrap();
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
            if foreign {
                fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"a note").unwrap();
            }
            kept.add_line(folder.path(), &text(3, 4)).unwrap();
            let before = fs::read_to_string(&path).unwrap();
            let restored = kept.restore(folder.path());
            let after = fs::read_to_string(&path).unwrap();
            if foreign {
                assert!(restored.unwrap_err().to_string().contains("found another text"));
                assert_eq!(after, before);
            } else {
                assert_eq!((restored.unwrap(), after), (vec![METRICS], text(0, 4)));
                kept.add_line(folder.path(), &text(4, 5)).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), text(0, 5));
            }
        }
    }
}
