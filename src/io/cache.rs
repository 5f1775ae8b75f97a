//! The folder for what may be lost.

use std::path::PathBuf;

/// `WGOAL_CACHE_DIR`, or the platform's cache folder.
pub(crate) fn cache_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let variable = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    let platform = || match () {
        () if cfg!(windows) => variable("LOCALAPPDATA"),
        () if cfg!(target_os = "macos") => variable("HOME").map(|home| home.join("Library/Caches")),
        // Relative paths must be ignored (XDG Base Directory Specification).
        () => variable("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".cache"))),
    };
    variable("WGOAL_CACHE_DIR").or_else(|| platform().map(|folder| folder.join("wgoal")))
}
