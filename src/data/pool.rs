//! The shards that are open, of all datasets of the process: only so many that the process stays within its limit of open
//! files.

use super::positioned::PositionedFile;
use crate::io as files;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most shards that are open at the same time.
pub(super) const MOST: usize = 64;

/// The shards take this part of the files that the system lets a process open.
#[cfg(unix)]
const PART: u64 = 4;

/// A number that no other array of the process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner(u64);

impl Owner {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An open shard: its array, its number there, and the file.
struct Open {
    owner: Owner,
    part: usize,
    file: Arc<PositionedFile>,
}

/// The shard that was used last stands at the end.
static POOL: Mutex<VecDeque<Open>> = Mutex::new(VecDeque::new());

fn pool() -> MutexGuard<'static, VecDeque<Open>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a shard cannot be read.
pub(super) enum Failure {
    Obstacle(files::Obstacle),
    Changed(io::Error),
}

/// How many shards may be open. The limit of the process may change while it runs.
fn most() -> usize {
    #[cfg(unix)]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        limit.map_or(MOST, |limit| (limit / PART).clamp(1, MOST as u64) as usize)
    }
    #[cfg(not(unix))]
    {
        MOST
    }
}

/// The file of a part of an array. Opens it if it is not open, and closes others instead. `check` takes the opened file
/// and its length.
pub(super) fn open(
    (owner, part): (&Owner, usize),
    path: &Path,
    check: impl FnOnce(File, u64) -> io::Result<PositionedFile>,
) -> Result<Arc<PositionedFile>, Failure> {
    let mut pool = pool();
    if let Some(at) = pool.iter().position(|open| open.part == part && open.owner == *owner)
        && let Some(found) = pool.remove(at)
    {
        let file = Arc::clone(&found.file);
        pool.push_back(found);
        return Ok(file);
    }
    let most = most();
    while pool.len() >= most {
        pool.pop_front();
    }
    let opened = match files::open(path) {
        // Other files of the process may have used up the limit.
        Err(obstacle) if obstacle.is_of_limit() && !pool.is_empty() => {
            pool.clear();
            files::open(path)
        }
        opened => opened,
    };
    let (file, bytes) = opened.map_err(Failure::Obstacle)?;
    let file = Arc::new(check(file, bytes).map_err(Failure::Changed)?);
    pool.push_back(Open { owner: owner.clone(), part, file: Arc::clone(&file) });
    Ok(file)
}

/// Calls `each` for every open shard of an array.
pub(super) fn each(owner: &Owner, each: impl FnMut(&PositionedFile)) {
    pool().iter().filter(|open| open.owner == *owner).map(|open| &*open.file).for_each(each);
}

/// Closes the shards of an array.
pub(super) fn close(owner: &Owner) {
    pool().retain(|open| open.owner != *owner);
}

/// The number of open shards of an array.
#[cfg(test)]
pub(super) fn count(owner: &Owner) -> usize {
    pool().iter().filter(|open| open.owner == *owner).count()
}
