//! A file on a disk that several threads read by position.

pub(super) use std::fs::File;
use std::io;

/// An open file.
#[derive(Debug)]
pub(super) struct Disk {
    #[cfg(any(unix, windows))]
    file: File,
    #[cfg(not(any(unix, windows)))]
    file: std::sync::Mutex<File>,
}

impl Disk {
    pub fn new(file: File) -> Self {
        #[cfg(not(any(unix, windows)))]
        let file = file.into();
        Self { file }
    }

    /// Announces to the system that bytes will be read.
    pub fn will_need(&self, position: u64, bytes: u64) {
        #[cfg(target_os = "linux")]
        {
            /// Most bytes that the system fetches per call. From a longer range it fetches only the beginning.
            const PIECE: u64 = 1 << 17;
            for start in (0..bytes).step_by(PIECE as usize) {
                let piece = std::num::NonZeroU64::new(PIECE.min(bytes - start));
                let advice = rustix::fs::Advice::WillNeed;
                let _ = rustix::fs::fadvise(&self.file, position + start, piece, advice);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (position, bytes);
    }

    /// Sets whether the system fetches the bytes that follow a read.
    pub fn reads_on(&self, on: bool) {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::Advice;
            let advice = if on { Advice::Normal } else { Advice::Random };
            let _ = rustix::fs::fadvise(&self.file, 0, None, advice);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = on;
    }

    /// Fills `out` from `position`. Returns whether it had to wait for the disk, if the system reports it.
    #[cfg(unix)]
    pub fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        let waits = {
            use rustix::io::{ReadWriteFlags, preadv2};
            // Read from the cache without waiting. If the file system does not support this, count the read as one that
            // waits.
            let into = &mut [io::IoSliceMut::new(out)];
            if preadv2(&self.file, into, position, ReadWriteFlags::NOWAIT) == Ok(out.len()) {
                return Ok(false);
            }
            true
        };
        #[cfg(not(target_os = "linux"))]
        let waits = false;
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, position)?;
        Ok(waits)
    }

    /// Fills `out` from `position`. Returns whether it had to wait for the disk, if the system reports it.
    #[cfg(windows)]
    pub fn read_exact_at(&self, mut out: &mut [u8], mut position: u64) -> io::Result<bool> {
        use std::os::windows::fs::FileExt;
        while !out.is_empty() {
            match self.file.seek_read(out, position) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    out = &mut out[read..];
                    position += read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// Fills `out` from `position`. Returns whether it had to wait for the disk, if the system reports it.
    #[cfg(not(any(unix, windows)))]
    pub fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<bool> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock().map_err(|_| io::Error::other("another reader failed"))?;
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(out)?;
        Ok(false)
    }
}
