//! One array in pieces of several files: shards, the files of several splits, a member of an archive.
//!
//! Knows which byte of the array lies where. Of many shards it keeps only some open (`super::pool`), so that thousands of
//! shards stay within the system's limit of open files.

use super::pool::{self, Owner};
use super::positioned::PositionedFile;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the bytes of a part are.
#[derive(Debug)]
pub(super) enum Origin {
    /// A file that is open for as long as the array.
    Open(Arc<PositionedFile>),
    /// A file of this many bytes that is opened when it is read.
    Path(PathBuf, u64),
}

/// Items that lie at equal distances in one file.
#[derive(Debug)]
pub(super) struct Part {
    pub origin: Origin,
    /// The file, for messages.
    pub label: String,
    /// Position of the first item in bytes.
    pub start: u64,
    /// Number of items.
    pub items: u64,
    /// Every how-many-th item of the file is one of the array: 1 for all of them.
    pub step: u64,
}

/// Items of the same size in several files, one after another.
#[derive(Debug)]
pub(super) struct Parts {
    /// Bytes of an item.
    width: u64,
    /// Whether messages name the file of an item.
    named: bool,
    parts: Vec<Part>,
    /// For every part, the number of items in it and in the parts before it.
    ends: Vec<u64>,
    /// The name of the array among those that have open shards.
    owner: Owner,
    reads_on: AtomicBool,
}

impl Parts {
    /// Parts with items of `width` bytes.
    pub fn new(width: u64, parts: Vec<Part>) -> Self {
        let mut end = 0;
        let ends = parts.iter().map(|part| {
            // Arrays whose length is wrong are refused before they are read.
            end = part.items.saturating_add(end);
            end
        });
        let ends = ends.collect();
        Self { width: width.max(1), named: true, parts, ends, owner: Owner::new(), reads_on: true.into() }
    }

    /// The `bytes` bytes from `start` on of an open file.
    pub fn window(file: Arc<PositionedFile>, start: u64, bytes: u64) -> Self {
        let part = Part { origin: Origin::Open(file), label: String::new(), start, items: bytes, step: 1 };
        let mut window = Self::new(1, vec![part]);
        window.named = false;
        window
    }

    /// The bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.ends.last().map_or(0, |items| items.saturating_mul(self.width))
    }

    /// The part with an item, the number of the item in the part, and how many items follow it there.
    fn find(&self, item: u64) -> Option<(usize, u64, u64)> {
        let index = self.ends.partition_point(|&end| end <= item);
        let part = self.parts.get(index)?;
        let first = self.ends[index] - part.items;
        Some((index, item - first, self.ends[index] - item))
    }

    /// The file in which the byte at `position` lies, and the item of this file.
    pub fn item_at(&self, position: u64) -> Option<(&str, u64)> {
        let (index, item, _) = self.find(position / self.width).filter(|_| self.named)?;
        let part = &self.parts[index];
        Some((&part.label, item * part.step))
    }

    /// Splits bytes into runs that are contiguous in one file: the part, the position in the file, and the length.
    fn runs(&self, mut position: u64, mut bytes: u64, mut take: impl FnMut(usize, u64, u64) -> bool) -> bool {
        while bytes > 0 {
            let Some((index, item, rest)) = self.find(position / self.width) else { return false };
            let (part, inside) = (&self.parts[index], position % self.width);
            let items = if part.step == 1 { rest } else { 1 };
            let length = bytes.min(items * self.width - inside);
            if !take(index, part.start + item * part.step * self.width + inside, length) {
                return true;
            }
            position += length;
            bytes -= length;
        }
        true
    }

    /// Fills `out` from `position`. Returns whether a read had to wait for the disk.
    pub fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<bool> {
        let (mut done, mut missed, mut result) = (0, false, Ok(()));
        let whole = self.runs(position, out.len() as u64, |part, start, length| {
            let out = &mut out[done..][..length as usize];
            done += length as usize;
            result = self.file(part).and_then(|file| {
                file.read_exact_at(out, start)?;
                missed |= file.missed();
                Ok(())
            });
            result.is_ok()
        });
        result?;
        if whole { Ok(missed) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Announces to the system that bytes will be read.
    pub fn will_need(&self, position: u64, bytes: u64) {
        self.runs(position, bytes, |part, start, length| {
            let _ = self.file(part).map(|file| file.will_need(start, length));
            true
        });
    }

    /// Sets whether the system fetches the bytes that follow a read.
    pub fn reads_on(&self, on: bool) {
        self.reads_on.store(on, Ordering::Relaxed);
        let of_parts = self.parts.iter().filter_map(|part| match &part.origin {
            Origin::Open(file) => Some(file),
            Origin::Path(..) => None,
        });
        of_parts.for_each(|file| file.reads_on(on));
        pool::each(&self.owner, |file| file.reads_on(on));
    }

    /// The file of a part, opened if it is not.
    fn file(&self, part: usize) -> io::Result<Arc<PositionedFile>> {
        let (path, bytes) = match &self.parts[part].origin {
            Origin::Open(file) => return Ok(Arc::clone(file)),
            Origin::Path(path, bytes) => (path, *bytes),
        };
        let label = &self.parts[part].label;
        pool::open((&self.owner, part), path, |file, now| {
            if now != bytes {
                return Err(io::Error::other(format!("{now} bytes in {label}, which had {bytes}")));
            }
            let file = PositionedFile::of_file(file, bytes);
            if !self.reads_on.load(Ordering::Relaxed) {
                file.reads_on(false);
            }
            Ok(file)
        })
        .map_err(|error| match error {
            pool::Failure::Obstacle(obstacle) => io::Error::other(format!("{} at {label}", obstacle.found())),
            pool::Failure::Changed(error) => error,
        })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        pool::close(&self.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: &[u8], items: u64, step: u64) -> Part {
        let origin = Origin::Open(Arc::new(PositionedFile::memory(bytes.to_vec())));
        Part { origin, label: format!("file of {}", bytes.len()), start: 1, items, step }
    }

    #[test]
    fn bytes_are_read_across_parts_and_steps() {
        let parts =
            Parts::new(2, vec![memory(b"_aabb", 2, 1), memory(b"_cc__dd__", 2, 2), memory(b"_ee", 1, 1)]);
        assert_eq!(parts.bytes(), 10);
        for start in 0..10 {
            for end in start..=10 {
                let mut out = vec![0; end - start];
                parts.read_exact_at(&mut out, start as u64).unwrap();
                assert_eq!(out, b"aabbccddee"[start..end]);
            }
        }
        assert!(parts.read_exact_at(&mut [0; 2], 9).is_err());
        assert_eq!(parts.item_at(7), Some(("file of 9", 2)));
        assert_eq!(parts.item_at(10), None);
    }

    #[test]
    fn few_files_are_open_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let part = |k: usize| {
            let path = folder.path().join(k.to_string());
            std::fs::write(&path, [k as u8]).unwrap();
            Part { origin: Origin::Path(path, 1), label: k.to_string(), start: 0, items: 1, step: 1 }
        };
        let parts = Parts::new(1, (0..200).map(part).collect());
        for k in (0..200).chain([199, 0, 5]) {
            let mut out = [0];
            parts.read_exact_at(&mut out, k).unwrap();
            assert_eq!(u64::from(out[0]), k);
            assert!(pool::count(&parts.owner) <= pool::MOST);
        }
        std::fs::write(folder.path().join("9"), "longer").unwrap();
        let error = parts.read_exact_at(&mut [0], 9).unwrap_err().to_string();
        assert_eq!(error, "6 bytes in 9, which had 1");
        let owner = parts.owner.clone();
        drop(parts);
        assert_eq!(pool::count(&owner), 0, "an array that is gone leaves nothing open");
    }
}
