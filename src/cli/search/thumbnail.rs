//! Pictures of a page: found by name, small ones embedded, large ones linked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::{Component, Path, PathBuf};
use wgoal::io::{self, Obstacle};

/// Most bytes of a picture that becomes part of the page.
pub const EMBEDDED: u64 = 1 << 18;

/// Endings of pictures that browsers show, with their media types.
const TYPES: [(&str, &str); 8] = [
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("png", "image/png"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("svg", "image/svg+xml"),
    ("bmp", "image/bmp"),
    ("avif", "image/avif"),
];

/// The media type of a picture's file.
fn media_type(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_lowercase();
    TYPES.iter().find(|(known, _)| *known == ending).map(|(_, media)| *media)
}

/// The file of a picture named `name` in `folder`. The name may lack its ending. It never leads out of the folder.
pub fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let inside =
        Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || name.is_empty() {
        return None;
    }
    let with = |ending: String| folder.join(format!("{name}{ending}"));
    let endings =
        TYPES.iter().flat_map(|(ending, _)| [format!(".{ending}"), format!(".{}", ending.to_uppercase())]);
    let mut files = std::iter::once(String::new()).chain(endings).map(with);
    files.find(|path| media_type(path).is_some() && path.is_file())
}

/// The address of a picture in a page that lies in `base`: its bytes, or a link if the file is large.
///
/// # Errors
/// A file that cannot be read.
pub fn address(file: &Path, base: &Path) -> Result<String, Obstacle> {
    let (_, length) = io::open(file)?;
    if length > EMBEDDED {
        return Ok(link(file, base));
    }
    let media = media_type(file).unwrap_or("application/octet-stream");
    Ok(format!("data:{media};base64,{}", STANDARD.encode(io::read(file, EMBEDDED)?)))
}

/// A relative link to a file from a page in the folder `base`.
fn link(file: &Path, base: &Path) -> String {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let (file, base) = (whole(file), whole(base));
    let shared = file.components().zip(base.components()).take_while(|(a, b)| a == b).count();
    let up = base.components().skip(shared).map(|_| "..".to_string());
    let down = file.components().skip(shared).map(|part| escaped(part.as_os_str().as_encoded_bytes()));
    up.chain(down).collect::<Vec<_>>().join("/")
}

/// A part of a path as part of an address.
fn escaped(part: &[u8]) -> String {
    let mut text = String::new();
    for &byte in part {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn pictures_are_found_inside_their_folder_only() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("pictures");
        fs::create_dir_all(folder.join("sub")).unwrap();
        for name in ["a.png", "sub/b.JPG", "c.txt", "../out.png", "d e#.svg"] {
            fs::write(folder.join(name), name).unwrap();
        }
        let found =
            |name: &str| find(&folder, name).map(|path| path.strip_prefix(&folder).unwrap().to_path_buf());
        assert_eq!(found("a.png"), Some("a.png".into()));
        assert_eq!(found("a"), Some("a.png".into()));
        assert_eq!(found("sub/b"), Some("sub/b.JPG".into()));
        let outside = folder.join("a.png");
        for name in ["c.txt", "c", "../out.png", "", "x", outside.to_str().unwrap()] {
            assert_eq!(found(name), None, "{name}");
        }
        assert_eq!(address(&folder.join("a.png"), place.path()).unwrap(), "data:image/png;base64,YS5wbmc=");
        assert_eq!(link(&folder.join("d e#.svg"), place.path()), "pictures/d%20e%23.svg");
        assert_eq!(link(&place.path().join("out.png"), &folder.join("sub")), "../../out.png");
        fs::write(folder.join("a.png"), vec![0; EMBEDDED as usize + 1]).unwrap();
        assert_eq!(address(&folder.join("a.png"), &folder).unwrap(), "a.png");
    }
}
