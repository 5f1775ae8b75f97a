//! Reads bytes by position: from a file, from memory, or from pieces of several files.
//!
//! Files are read, not memory-mapped. So a file that is cut short while in use leads to an error, not to a crash of the
//! process.

#[cfg(feature = "native")]
use super::disk::Disk;
use super::header::Type;
#[cfg(feature = "native")]
use super::parts::Parts;
use crate::io as files;
use crate::{Error, ErrorKind, Result};
use std::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicBool, AtomicU64};

/// The place of the bytes.
#[derive(Debug)]
enum Backing {
    #[cfg(feature = "native")]
    Disk(Disk),
    Memory(Vec<u8>),
    #[cfg(feature = "native")]
    Parts(Parts),
}

/// A regular file that several threads read at different positions, or bytes in memory or in pieces of files that stand
/// for one file.
#[derive(Debug)]
pub(super) struct PositionedFile {
    backing: Backing,
    pub(super) bytes: u64,
    /// Whether a read had to wait for the disk, if the system reports it.
    missed: AtomicBool,
    /// Bytes that were read so far.
    bytes_read: AtomicU64,
}

impl PositionedFile {
    /// The file in which the byte at `position` lies, and the item of this file; `None` unless there are several files.
    pub(super) fn item_at(&self, position: u64) -> Option<(&str, u64)> {
        match &self.backing {
            #[cfg(feature = "native")]
            Backing::Parts(parts) => parts.item_at(position),
            _ => {
                let _ = position;
                None
            }
        }
    }

    /// Bytes in memory.
    pub(super) fn memory(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.len() as u64,
            backing: Backing::Memory(bytes),
            missed: false.into(),
            bytes_read: 0.into(),
        }
    }

    /// Fills `out` from `position`. An error names `thing`.
    pub(super) fn read(&self, thing: impl Fn() -> String, out: &mut [u8], position: u64) -> Result<()> {
        self.bytes_read.fetch_add(out.len() as u64, atomic::Ordering::Relaxed);
        self.read_exact_at(out, position).map_err(|e| {
            let expected = format!("{} bytes at byte {position}", out.len());
            let advice = "leave the file unchanged while it is in use";
            files::Obstacle::from(e).error(ErrorKind::Data, thing(), expected, advice)
        })
    }

    /// Bytes that were read so far, including the header.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(atomic::Ordering::Relaxed)
    }

    /// Announces to the system that bytes will be read, so that it fetches many places at once. Systems without such a
    /// call, or that ignore it, are not affected.
    pub(super) fn will_need(&self, position: u64, bytes: u64) {
        match &self.backing {
            #[cfg(feature = "native")]
            Backing::Disk(disk) => disk.will_need(position, bytes),
            #[cfg(feature = "native")]
            Backing::Parts(parts) => parts.will_need(position, bytes),
            // Nothing has to be fetched.
            Backing::Memory(_) => {
                let _ = (position, bytes);
            }
        }
    }

    /// Sets whether the system fetches the bytes that follow a read. Turn it off to read in blocks: when the system has
    /// dropped a part of a block, it would take the reads of the rest for a file that is read from end to end.
    pub(super) fn reads_on(&self, on: bool) {
        match &self.backing {
            #[cfg(feature = "native")]
            Backing::Disk(disk) => disk.reads_on(on),
            #[cfg(feature = "native")]
            Backing::Parts(parts) => parts.reads_on(on),
            Backing::Memory(_) => {
                let _ = on;
            }
        }
    }

    /// Whether any read since the last call had to wait for the disk. It is false on systems that do not report this.
    pub(super) fn missed(&self) -> bool {
        // The flag needs no order with other memory accesses.
        self.missed.swap(false, atomic::Ordering::Relaxed)
    }

    /// Checks that the file has exactly the length that its header gives.
    pub(super) fn check_length(&self, label: &str, expected: u64) -> Result<()> {
        let advice = match self.bytes.cmp(&expected) {
            Ordering::Equal => return Ok(()),
            Ordering::Less => "the file is cut short: copy or write it again",
            Ordering::Greater => "the file is longer than its header tells: write it again",
        };
        Err(Error::data(label, format!("{expected} bytes"), format!("{} bytes", self.bytes), advice))
    }

    /// Fills `out` from `position`.
    pub(super) fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        match &self.backing {
            #[cfg(feature = "native")]
            Backing::Disk(disk) => {
                if disk.read_exact_at(out, position)? {
                    self.missed.store(true, atomic::Ordering::Relaxed);
                }
                Ok(())
            }
            Backing::Memory(bytes) => {
                let start = usize::try_from(position).unwrap_or(usize::MAX);
                let found = bytes.get(start..).and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            #[cfg(feature = "native")]
            Backing::Parts(parts) => {
                if parts.read_exact_at(out, position)? {
                    self.missed.store(true, atomic::Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }
}

#[cfg(feature = "native")]
impl PositionedFile {
    /// Opens `path`; `expected` is the expectation in an error.
    pub(super) fn open(path: &std::path::Path, expected: &str) -> Result<Self> {
        let (file, bytes) = files::open(path).map_err(|obstacle| {
            let advice = "check the path and that the dataset is complete";
            obstacle.error(ErrorKind::Data, path.display(), expected, advice)
        })?;
        Ok(Self::of_file(file, bytes))
    }

    /// An open file of `bytes` bytes.
    pub(super) fn of_file(file: super::disk::File, bytes: u64) -> Self {
        Self { backing: Backing::Disk(Disk::new(file)), bytes, missed: false.into(), bytes_read: 0.into() }
    }

    /// Pieces of files, one after another.
    pub(super) fn parts(parts: Parts) -> Self {
        Self {
            bytes: parts.bytes(),
            backing: Backing::Parts(parts),
            missed: false.into(),
            bytes_read: 0.into(),
        }
    }

    /// Whether it is a file that can be opened again by its path.
    pub(super) fn is_disk(&self) -> bool {
        matches!(self.backing, Backing::Disk(_))
    }
}

/// The header of one array.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The file, and the tensor if it holds several, for messages.
    pub label: String,
    pub file: Arc<PositionedFile>,
    /// Position of the first value in bytes.
    pub start: u64,
    pub dtype: Type,
    pub shape: Vec<u64>,
    /// Whether the array is all that follows its header in the file.
    pub alone: bool,
}
