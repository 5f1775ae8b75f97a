//! Why a file cannot be used, in plain words.

use crate::{Error, ErrorKind};
use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::sync::Arc;

/// Why a file cannot be opened, read or written, and advice if the cause suggests any.
#[derive(Debug, Clone)]
pub struct Obstacle {
    found: Cow<'static, str>,
    advice: Option<&'static str>,
    missing: bool,
    /// The error of the system.
    cause: Option<Arc<io::Error>>,
}

impl Obstacle {
    pub(super) fn new(found: impl Into<Cow<'static, str>>, advice: Option<&'static str>) -> Self {
        Self { found: found.into(), advice, missing: false, cause: None }
    }

    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// Whether this process has as many open files as it may have.
    #[cfg(feature = "native")]
    pub(crate) fn is_of_limit(&self) -> bool {
        #[cfg(unix)]
        {
            let code = self.cause.as_ref().and_then(|cause| cause.raw_os_error());
            code.map(rustix::io::Errno::from_raw_os_error) == Some(rustix::io::Errno::MFILE)
        }
        #[cfg(not(unix))]
        {
            false
        }
    }

    /// What was found instead of what was expected.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// Makes an error about `thing`. `advice` is used if the cause has no advice of its own.
    pub fn error(
        self,
        kind: ErrorKind,
        thing: impl Display,
        expected: impl Display,
        advice: impl Display,
    ) -> Error {
        let thing = thing.to_string();
        #[cfg(feature = "native")]
        let near = if self.missing { super::nearest::nearest(std::path::Path::new(&thing)) } else { None };
        #[cfg(not(feature = "native"))]
        let near: Option<std::path::PathBuf> = None;
        let mut error = match near {
            Some(near) => {
                let advice = format!("did you mean {}?", near.display());
                Error::new(kind, thing, expected, &self.found, advice)
            }
            None => Error::new(kind, thing, expected, &self.found, advice),
        };
        if let Some(cause) = self.cause {
            error = error.with_source(cause);
        }
        match self.advice {
            Some(advice) => error.with_advice(advice),
            None => error,
        }
    }
}

impl From<io::Error> for Obstacle {
    fn from(e: io::Error) -> Self {
        // The error of a temporary file names that file, which means nothing to the user. So its inner error is used.
        let inner = e.get_ref().and_then(|inner| inner.source()).and_then(|e| e.downcast_ref::<io::Error>());
        let cause = match inner {
            Some(inner) => {
                inner.raw_os_error().map(io::Error::from_raw_os_error).unwrap_or_else(|| inner.kind().into())
            }
            None => e,
        };
        let e = &cause;
        let missing = e.kind() == io::ErrorKind::NotFound;
        let (found, advice) = match words(e) {
            Some((found, advice)) => (found.into(), Some(advice).filter(|advice| !advice.is_empty())),
            None => (e.to_string().into(), None),
        };
        Self { found, advice, missing, cause: Some(Arc::new(cause)) }
    }
}

/// The meaning of a system error, and advice. If the advice is empty, the caller's advice is used.
fn words(e: &io::Error) -> Option<(&'static str, &'static str)> {
    #[cfg(all(unix, feature = "native"))]
    {
        use rustix::io::Errno;
        let code = e.raw_os_error().map(Errno::from_raw_os_error);
        let of_unix = match code {
            Some(Errno::IO) => (
                "a disk or connection that fails",
                "check it (the system's log says more), and copy the file to another disk",
            ),
            Some(Errno::MFILE) => (
                "as many open files as this process may have",
                "raise the limit, as with `ulimit -n 4096`, and call again",
            ),
            Some(Errno::NFILE) => (
                "as many open files as the system may have",
                "close other programs, or have the administrator raise the limit",
            ),
            Some(Errno::LOOP) => ("links that lead in a circle", "remove the link, or give the file itself"),
            Some(Errno::NXIO) => ("nothing that reads or writes at its other end", "start that first"),
            Some(Errno::NODEV) => ("a device that is not there", "choose another file"),
            _ => ("", ""),
        };
        if !of_unix.0.is_empty() {
            return Some(of_unix);
        }
    }
    use io::ErrorKind as Kind;
    let elsewhere = "free space there, or write elsewhere";
    let found = match e.kind() {
        Kind::NotFound => ("no such file", ""),
        Kind::PermissionDenied => ("no right to it", "give yourself the right to it, or choose another"),
        Kind::AlreadyExists => ("a file of this name", ""),
        Kind::NotADirectory => ("a file where a folder should be", ""),
        Kind::IsADirectory => ("a folder", ""),
        Kind::StorageFull => ("a full disk", elsewhere),
        Kind::QuotaExceeded => ("a quota of disk space that is used up", elsewhere),
        Kind::ReadOnlyFilesystem => ("a file system that can only be read", "write elsewhere"),
        Kind::FileTooLarge => (
            "a size beyond the limit of files",
            "raise the limit, as with `ulimit -f unlimited`, or write to another file system",
        ),
        Kind::InvalidFilename => {
            ("a name that the file system does not take", "choose another name, a shorter one")
        }
        Kind::ResourceBusy => {
            ("a file in use by the system", "free it first (it may be a mount), or choose another")
        }
        Kind::StaleNetworkFileHandle => ("a file that its server no longer has", "mount the share anew"),
        Kind::BrokenPipe => ("a reader that has gone", "have what reads it read on to the end"),
        Kind::OutOfMemory => ("not enough memory", "use a smaller file, or free memory"),
        Kind::UnexpectedEof => ("the end of the file", ""),
        _ => return None,
    };
    Some(found)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_the_system_says_is_in_words_with_advice() {
        let rows = [
            (Errno::NOENT, "no such file", ""),
            (Errno::ACCESS, "no right to it", "give yourself the right"),
            (Errno::PERM, "no right to it", "give yourself the right"),
            (Errno::IO, "a disk or connection that fails", "copy the file to another disk"),
            (Errno::MFILE, "as many open files as this process may have", "ulimit -n"),
            (Errno::NFILE, "as many open files as the system may have", "close other programs"),
            (Errno::NOSPC, "a full disk", "free space there"),
            (Errno::DQUOT, "a quota of disk space that is used up", "free space there"),
            (Errno::ROFS, "a file system that can only be read", "write elsewhere"),
            (Errno::FBIG, "a size beyond the limit of files", "ulimit -f"),
            (Errno::NAMETOOLONG, "a name that the file system does not take", "a shorter one"),
            (Errno::LOOP, "links that lead in a circle", "remove the link"),
            (Errno::PIPE, "a reader that has gone", "read on to the end"),
        ];
        for (code, found, advice) in rows {
            let error = Obstacle::from(io::Error::from(code)).error(ErrorKind::Data, "f", "x", "ask");
            let text = error.to_string();
            assert!(text.starts_with(&format!("f: expected x, found {found}; ")), "{text}");
            assert!(text.contains(if advice.is_empty() { "; ask" } else { advice }), "{text}");
            assert!(!text.contains("os error"), "{text}");
        }
    }

    /// Built like an error of a temporary file.
    #[derive(Debug)]
    struct Named(io::Error);

    impl Display for Named {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{} at .wgoal-partial-x", self.0)
        }
    }

    impl std::error::Error for Named {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn names_of_temporary_files_stay_unsaid() {
        for (code, found) in [(Errno::MFILE, "as many open files"), (Errno::NOTTY, "Inappropriate ioctl")] {
            let error = io::Error::other(Named(code.into()));
            assert!(error.to_string().contains(".wgoal"), "{error}");
            let obstacle = Obstacle::from(error);
            assert!(obstacle.found().starts_with(found), "{}", obstacle.found());
            assert!(!obstacle.found().contains(".wgoal"), "{}", obstacle.found());
        }
    }

    #[test]
    fn an_error_of_a_file_has_its_cause() {
        let path = std::path::Path::new("no such folder/file");
        let error =
            crate::io::read(path, crate::io::SMALL).unwrap_err().error(ErrorKind::Data, "f", "x", "y");
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }
}
