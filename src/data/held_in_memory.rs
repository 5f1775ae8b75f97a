//! Values that cannot be read in place, because they are stored in another order. Without files they are held in memory.

use super::positioned::PositionedFile;
use crate::io::may_fail;
use crate::{Error, Result};

/// Bytes that arrive one after another.
#[derive(Debug)]
pub(super) struct Held {
    label: String,
    memory: Vec<u8>,
}

impl Held {
    /// Holds nothing yet. Errors name `label`.
    pub fn new(label: &str) -> Self {
        Self { label: label.into(), memory: Vec::new() }
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if may_fail(|| self.memory.try_reserve(bytes.len())).is_err() {
            let found = format!("none for {} more", bytes.len());
            return Err(Error::data(
                &self.label,
                "memory for its values",
                found,
                "save the array in C order",
            ));
        }
        self.memory.extend_from_slice(bytes);
        Ok(())
    }

    /// All bytes, to be read by position.
    pub fn finish(self) -> PositionedFile {
        PositionedFile::memory(self.memory)
    }
}
