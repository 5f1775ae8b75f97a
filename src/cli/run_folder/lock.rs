//! Keeps other processes out of a folder.

#[cfg(unix)]
use super::{fault, shown, unwritable};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use wgoal::Result;

/// How long a lock may take to come free, as the one of a process that is just ending.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps other processes out of a folder until this process ends, however it ends. Does nothing where folders cannot be
/// locked, as on Windows.
pub struct Lock(#[allow(dead_code, reason = "held open")] Option<fs::File>);

impl Lock {
    /// Waits a second for another process. On a file system without locks, says so.
    ///
    /// # Errors
    /// If another process holds the lock.
    pub fn of(folder: &Path) -> Result<Self> {
        #[cfg(unix)]
        {
            use rustix::fs::{FlockOperation, flock};
            use rustix::io::Errno;
            let file = fs::File::open(folder).map_err(unwritable(folder))?;
            let began = Instant::now();
            loop {
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok(Self(Some(file))),
                    Err(Errno::WOULDBLOCK) if began.elapsed() >= PATIENCE => {
                        let expected = "a folder that no other process writes to";
                        let advice = "wait until that process ends, or choose another --out";
                        return Err(fault(folder, expected, "another process", advice));
                    }
                    Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(Duration::from_millis(20)),
                    Err(error) => {
                        let (folder, error) = (shown(folder), std::io::Error::from(error));
                        note!(
                            "note: {folder} cannot be locked ({error}): make sure that no other process writes into it"
                        );
                        return Ok(Self(None));
                    }
                }
            }
        }
        #[cfg(not(unix))]
        {
            let _ = (folder, PATIENCE, Instant::now);
            Ok(Self(None))
        }
    }
}
