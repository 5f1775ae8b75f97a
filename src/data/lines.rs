//! Captions of texts and names of images: one line of text per item.

#[cfg(feature = "native")]
use super::columns;
use crate::{Error, Result};
#[cfg(feature = "native")]
use crate::{ErrorKind, io};
#[cfg(feature = "native")]
use std::path::{Path, PathBuf};

/// Where the lines are.
#[derive(Debug, Clone)]
pub(super) enum Lines {
    /// The dataset has none.
    None,
    /// The name and the bytes of a text file.
    Bytes(String, Vec<u8>),
    /// A text file, which may be missing.
    #[cfg(feature = "native")]
    File(PathBuf),
    /// Text files, one after another. Those that are missing have no lines.
    #[cfg(feature = "native")]
    Files(Vec<PathBuf>),
    /// Text files, one after another. None of them may be missing.
    #[cfg(feature = "native")]
    Listed(Vec<PathBuf>),
    /// The first column with one of these names in Parquet or Arrow files, one after another.
    #[cfg(feature = "native")]
    Column(Vec<PathBuf>, &'static [&'static str]),
}

/// The most lines that are read.
const MOST: u64 = u32::MAX as u64;

impl Lines {
    /// The files in messages, if there are any.
    fn there(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Bytes(label, _) => Some(label.clone()),
            #[cfg(feature = "native")]
            Self::File(path) => path.exists().then(|| path.display().to_string()),
            #[cfg(feature = "native")]
            Self::Files(paths) | Self::Listed(paths) | Self::Column(paths, _) => Some(label(paths)),
        }
    }

    /// Reads one line for each of `items`. `counted` says what the items are, for messages.
    pub fn read(&self, items: usize, counted: &str) -> Result<Option<Vec<String>>> {
        if items as u64 > MOST {
            let Some(label) = self.there() else { return Ok(None) };
            let expected = format!("at most {MOST} lines, because memory holds all of them");
            let found = format!("{items}, one for each {counted}");
            return Err(Error::data(label, expected, found, "move the file away: training does without it"));
        }
        let (label, lines): (String, Vec<String>) = match self {
            Self::None => return Ok(None),
            Self::Bytes(label, bytes) => match str::from_utf8(bytes) {
                Ok(text) => (label.clone(), text.lines().map(str::to_string).collect()),
                Err(e) => {
                    let found = format!("another encoding at byte {}", e.valid_up_to());
                    return Err(Error::data(label, "UTF-8 text", found, "save the file as UTF-8"));
                }
            },
            #[cfg(feature = "native")]
            Self::File(path) => match read_file(path, items)? {
                None => return Ok(None),
                Some(lines) => (path.display().to_string(), lines),
            },
            #[cfg(feature = "native")]
            Self::Files(paths) => {
                let mut lines = Vec::new();
                for path in paths {
                    lines.extend(read_file(path, items)?.unwrap_or_default());
                }
                (label(paths), lines)
            }
            #[cfg(feature = "native")]
            Self::Listed(paths) => {
                let mut lines = Vec::new();
                for path in paths {
                    let Some(more) = read_file(path, items)? else {
                        let advice = "check the path, or take the file out of the list";
                        return Err(Error::data(path.display(), "lines of text", "no such file", advice));
                    };
                    lines.extend(more);
                }
                (label(paths), lines)
            }
            #[cfg(feature = "native")]
            Self::Column(paths, names) => match columns::read_lines(paths, names)? {
                None => return Ok(None),
                Some(lines) => (label(paths), lines),
            },
        };
        if lines.len() != items {
            let expected = format!("{items} lines, one for each {counted}");
            let advice = "correct the file, or remove it";
            return Err(Error::data(label, expected, format!("{} lines", lines.len()), advice));
        }
        Ok(Some(lines))
    }
}

/// The files in messages.
#[cfg(feature = "native")]
fn label(paths: &[PathBuf]) -> String {
    match paths {
        [first, .., last] => format!("{} to {}", first.display(), last.display()),
        _ => paths.iter().map(|path| path.display().to_string()).collect(),
    }
}

/// The lines of an optional text file.
#[cfg(feature = "native")]
fn read_file(path: &Path, items: usize) -> Result<Option<Vec<String>>> {
    // A line may be long, but not every line.
    const LINE: u64 = 1 << 12;
    let most = (items as u64).saturating_mul(LINE).saturating_add(io::SMALL);
    match io::read_text(path, most) {
        Ok(text) => Ok(Some(text.lines().map(str::to_string).collect())),
        Err(obstacle) if obstacle.is_missing() => Ok(None),
        Err(obstacle) => {
            let (thing, advice) = (path.display(), "check it, or remove it");
            Err(obstacle.error(ErrorKind::Data, thing, "UTF-8 text", advice))
        }
    }
}
