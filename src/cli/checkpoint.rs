//! Reads checkpoints.

use super::shown;
use std::path::Path;
use wgoal::{Checkpoint, Result};

/// Reads a checkpoint, and notes if it has no checksum.
pub fn read_checkpoint(path: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::load(path)?;
    if !checkpoint.has_checksum() {
        note!("note: {} has no checksum, so damage may go unnoticed: an older version wrote it", shown(path));
    }
    Ok(checkpoint)
}
