//! Values that cannot be read in place, because they are compressed or stored in another order.
//!
//! They are held in memory up to a limit. Beyond it they go into an unnamed temporary file, which the system removes
//! when the process ends. So features may be larger than memory in every format.

use super::positioned::PositionedFile;
use crate::io::{Obstacle, may_fail};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{self, Write};

/// Most bytes of an array that are held in memory.
const MEMORY: usize = 1 << 30;

/// Bytes that arrive one after another.
#[derive(Debug)]
pub(super) struct Held {
    label: String,
    limit: usize,
    memory: Vec<u8>,
    file: Option<File>,
    /// How many bytes arrived.
    bytes: u64,
}

impl Held {
    /// Holds nothing yet. Errors name `label`.
    pub fn new(label: &str) -> Self {
        Self::with_limit(label, MEMORY)
    }

    fn with_limit(label: &str, limit: usize) -> Self {
        Self { label: label.into(), limit, memory: Vec::new(), file: None, bytes: 0 }
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        let fits = self.file.is_none()
            && self.memory.len() + bytes.len() <= self.limit
            && may_fail(|| self.memory.try_reserve(bytes.len())).is_ok();
        if fits {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        self.spill(bytes).map_err(|e| {
            let expected = format!("space for its values in {}", std::env::temp_dir().display());
            let advice = "set TMPDIR to a folder with more space, or save the array as .npy in C order";
            Obstacle::from(e).error(ErrorKind::Data, &self.label, expected, advice).with_advice(advice)
        })
    }

    fn spill(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = tempfile::tempfile()?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    /// All bytes, to be read by position.
    pub fn finish(self) -> PositionedFile {
        match self.file {
            Some(file) => PositionedFile::of_file(file, self.bytes),
            None => PositionedFile::memory(self.memory),
        }
    }

    /// Adds everything that `read` gives, up to `most` bytes. More is an error, and so is a failure to read.
    pub fn read_from(
        &mut self,
        read: &mut dyn io::Read,
        most: u64,
        expected: &str,
        advice: &str,
    ) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let fault = |found: String| Error::data(&self.label, expected, found, advice);
            let count = match read.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(fault(format!("damaged data ({e})"))),
            };
            if self.bytes + count as u64 > most {
                return Err(fault(format!("more than {most} bytes")));
            }
            self.push(&buffer[..count])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_limit_go_to_a_file() {
        for (limit, on_disk) in [(7, true), (10, false)] {
            let mut held = Held::with_limit("x", limit);
            for bytes in [&b"abc"[..], b"defg", b"hij"] {
                held.push(bytes).unwrap();
            }
            let file = held.finish();
            assert_eq!((file.bytes, file.is_disk()), (10, on_disk));
            let mut out = [0; 10];
            file.read_exact_at(&mut out, 0).unwrap();
            assert_eq!(&out, b"abcdefghij");
        }
    }
}
