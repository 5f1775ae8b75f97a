//! Folders: which files hold which array.
//!
//! Knows the names of files, in every layout that is read. A plain `.npy` file comes first, then numbered `.npy` files,
//! then Parquet and Arrow files. The arrays of other programs' layouts count only where no such file exists.

use super::columns::{self, EXTENSIONS};
use super::file::{ARRAYS, TEXTS};
use super::foreign;
use super::lines::Lines;
use super::npy::npy_header;
use super::positioned::Header;
use super::scan::Scan;
use super::shards::{check_numbers, join_files, numbered, pattern};
use super::splits::TEXT_TO_IMAGE;
use crate::io::RowList;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of one array.
#[derive(Debug)]
enum Place {
    /// One `.npy` file.
    Npy,
    /// `.npy` files with numbers.
    Shards(Vec<(u64, String)>),
    /// One Parquet or Arrow file, or several with numbers.
    Columns(Vec<(u64, String)>, &'static str),
}

/// A folder of arrays.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The names of all its entries.
    entries: Vec<String>,
    places: BTreeMap<&'static str, Place>,
    /// Arrays whose headers are known: those of other programs' layouts.
    headers: BTreeMap<&'static str, Header>,
    /// Arrays that follow from the layout.
    derived: BTreeMap<&'static str, RowList>,
    /// Where the captions and the names of images are.
    lines: [Lines; 2],
    notes: Vec<String>,
}

impl Folder {
    /// Opens a folder. Reads the headers of arrays only where they decide on the layout.
    pub fn open(path: &Path) -> Result<Self> {
        let mut folder = Self::list(path);
        folder.of_clip_retrieval()?;
        folder.of_scan()?;
        Ok(folder)
    }

    /// Looks at the names of the files.
    fn list(path: &Path) -> Self {
        let entries = entries(path);
        let mut places = BTreeMap::new();
        for name in ARRAYS {
            // A link that leads nowhere counts: the error names it.
            let place = if fs::symlink_metadata(path.join(format!("{name}.npy"))).is_ok() {
                Some(Place::Npy)
            } else {
                let shards = numbered(&entries, name, "npy");
                let of_columns = || {
                    EXTENSIONS.into_iter().find_map(|extension| {
                        let whole = format!("{name}.{extension}");
                        let files = match entries.contains(&whole) {
                            true => vec![(0, whole)],
                            false => numbered(&entries, name, extension),
                        };
                        (!files.is_empty()).then_some(Place::Columns(files, extension))
                    })
                };
                if shards.is_empty() { of_columns() } else { Some(Place::Shards(shards)) }
            };
            places.extend(place.map(|place| (name, place)));
        }
        let lines = TEXTS.map(|name| Lines::File(path.join(name)));
        Self {
            path: path.into(),
            entries,
            places,
            headers: BTreeMap::new(),
            derived: BTreeMap::new(),
            lines,
            notes: Vec::new(),
        }
    }

    /// Every file that the dataset may consist of, whether it exists or not.
    pub fn paths(path: &Path) -> Vec<PathBuf> {
        let folder = Self::list(path);
        let fixed = ARRAYS.iter().map(|name| format!("{name}.npy")).chain(TEXTS.map(String::from));
        let numbered = folder.places.values().flat_map(|place| match place {
            Place::Npy => &[][..],
            Place::Shards(files) | Place::Columns(files, _) => files,
        });
        let names = fixed.chain(numbered.map(|(_, name)| name.clone())).map(|name| path.join(name));
        let clip = CLIP.into_iter().flat_map(|(inner, extension)| {
            let inside = path.join(inner);
            let files = numbered_in(&inside, inner, extension);
            files.into_iter().map(move |(_, name)| inside.join(name))
        });
        names.chain(clip).chain(Scan::paths(path, &folder.entries)).collect()
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the array in messages.
    pub fn label(&self, name: &str) -> String {
        match (self.headers.get(name), self.places.get(name)) {
            (Some(header), _) => header.label.clone(),
            (None, Some(Place::Shards(files))) if files.len() > 1 => pattern(&self.path, name, "npy"),
            (None, Some(Place::Columns(files, extension))) if files.len() > 1 => {
                pattern(&self.path, name, extension)
            }
            (None, Some(Place::Shards(files) | Place::Columns(files, _))) => {
                self.path.join(&files[0].1).display().to_string()
            }
            (None, Some(Place::Npy)) => self.npy(name).display().to_string(),
            (None, None) if self.derived.contains_key(name) => {
                format!("{} (from its layout)", self.npy(name).display())
            }
            (None, None) => self.npy(name).display().to_string(),
        }
    }

    /// Whether there is an array `name`, valid or not. A file in a format that is not read counts: its error says how to
    /// convert it.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
            || self.headers.contains_key(name)
            || self.derived.contains_key(name)
            || foreign::has_array(&self.entries, name)
    }

    /// The row numbers `name`, where they follow from the layout.
    pub fn rows(&self, name: &str) -> Option<&RowList> {
        let is_file = self.places.contains_key(name) || self.headers.contains_key(name);
        self.derived.get(name).filter(|_| !is_file)
    }

    /// The header of the array `name`.
    pub fn header(&self, name: &str) -> Result<Header> {
        if let Some(header) = self.headers.get(name) {
            return Ok(header.clone());
        }
        match self.places.get(name) {
            Some(Place::Npy) => npy_header(&self.npy(name)),
            Some(Place::Shards(files)) => {
                check_numbers(&self.path, files)?;
                Ok(join_files(self.label(name), &self.join(files))?.0)
            }
            Some(Place::Columns(..)) if !columns::ENABLED => {
                let error = foreign::array(&self.path, &self.entries, name);
                Err(error.unwrap_or_else(|| foreign::needs_install(self.label(name))))
            }
            Some(Place::Columns(files, _)) => {
                check_numbers(&self.path, files)?;
                columns::header(self.label(name), &self.join(files), name)
            }
            None => {
                let foreign = foreign::array(&self.path, &self.entries, name);
                let scan = || Scan::without_texts(&self.path, &self.entries).filter(|_| name == "texts");
                foreign.or_else(scan).map_or_else(|| npy_header(&self.npy(name)), Err)
            }
        }
    }

    /// Where the captions and the names of images are.
    pub fn lines(&self) -> [Lines; 2] {
        self.lines.clone()
    }

    /// What the user should know about how the folder is read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn npy(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.npy"))
    }

    fn join(&self, files: &[(u64, String)]) -> Vec<PathBuf> {
        files.iter().map(|(_, name)| self.path.join(name)).collect()
    }

    /// Uses lines from elsewhere if the folder has no text file of its own.
    fn set_lines(&mut self, which: usize, lines: Lines) {
        if !self.entries.iter().any(|entry| entry == TEXTS[which]) {
            self.lines[which] = lines;
        }
    }

    /// The layout of clip-retrieval: numbered files in `img_emb`, `text_emb` and `metadata`. Row i of the images and row i
    /// of the texts are a pair.
    fn of_clip_retrieval(&mut self) -> Result<()> {
        let mut sides = Vec::new();
        for ((inner, extension), name) in CLIP.into_iter().zip(["images", "texts"]) {
            let folder = self.path.join(inner);
            let files = numbered_in(&folder, inner, extension);
            if files.is_empty() || self.places.contains_key(name) {
                continue;
            }
            let paths: Vec<_> = files.iter().map(|(_, file)| folder.join(file)).collect();
            let label = match &paths[..] {
                [path] => path.display().to_string(),
                _ => pattern(&folder, inner, extension),
            };
            let (header, rows) = join_files(label, &paths)?;
            self.headers.insert(name, header);
            sides.push((files, paths, rows));
        }
        if let [images, texts] = &sides[..] {
            pairs(images, texts)?;
            if !self.places.contains_key("text_to_image") {
                let rows = images.2.iter().sum::<u64>();
                self.derived.insert(TEXT_TO_IMAGE, (0..rows).into());
            }
        }
        if sides.is_empty() {
            return Ok(());
        }
        let (inner, extension) = CLIP[2];
        let folder = self.path.join(inner);
        let files = numbered_in(&folder, inner, extension);
        if files.is_empty() {
            return Ok(());
        }
        if !columns::ENABLED {
            let (folder, how) = (folder.display(), columns::INSTALL);
            self.notes
                .push(format!("{folder}: captions and names are not read; for them, install with {how}"));
            return Ok(());
        }
        let paths: Vec<_> = files.into_iter().map(|(_, file)| folder.join(file)).collect();
        self.set_lines(0, Lines::Column(paths.clone(), columns::CAPTIONS));
        self.set_lines(1, Lines::Column(paths, columns::NAMES));
        Ok(())
    }

    /// The layout of SCAN and VSE++.
    fn of_scan(&mut self) -> Result<()> {
        let has = |name: &str| self.places.contains_key(name) || self.headers.contains_key(name);
        if has("images") || has("image_regions") {
            return Ok(());
        }
        let Some(scan) = Scan::open(&self.path, &self.entries)? else { return Ok(()) };
        for (name, header) in scan.headers {
            if !self.places.contains_key(name) {
                self.headers.insert(name, header);
            }
        }
        for (name, rows) in scan.rows {
            if !self.places.contains_key(name) {
                self.derived.insert(name, rows);
            }
        }
        self.set_lines(0, scan.captions);
        Ok(())
    }
}

/// The folders of clip-retrieval, and the endings of the files in them.
const CLIP: [(&str, &str); 3] = [("img_emb", "npy"), ("text_emb", "npy"), ("metadata", "parquet")];

/// Numbers and names of files, their paths, and the rows of each.
type Side = (Vec<(u64, String)>, Vec<PathBuf>, Vec<u64>);

/// Checks that the files of images and of texts have the same numbers and rows. Otherwise rows are no pairs.
fn pairs(images: &Side, texts: &Side) -> Result<()> {
    let advice = "write both again in one run of clip-retrieval, or remove the files without a partner";
    for (k, ((number, _), path)) in texts.0.iter().zip(&texts.1).enumerate() {
        let Some(other) = images.0.iter().position(|(other, _)| other == number) else {
            let expected = format!("a file with the same number in {}", CLIP[0].0);
            return Err(Error::data(path.display(), expected, "none", advice));
        };
        let (rows, found) = (images.2[other], texts.2[k]);
        if rows != found {
            let expected = format!("{rows} rows, as in {}", images.1[other].display());
            return Err(Error::data(path.display(), expected, found, advice));
        }
    }
    let lonely = images.0.iter().position(|(number, _)| !texts.0.iter().any(|(other, _)| other == number));
    match lonely {
        Some(k) => {
            let expected = format!("a file with the same number in {}", CLIP[1].0);
            Err(Error::data(images.1[k].display(), expected, "none", advice))
        }
        None => Ok(()),
    }
}

/// The names of the entries of a folder; none if it cannot be listed.
pub(super) fn entries(path: &Path) -> Vec<String> {
    // The folder of a name alone is the current one.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let listed = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> = listed.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The numbered files `NAME_0.EXTENSION`, ... of a folder.
fn numbered_in(folder: &Path, name: &str, extension: &str) -> Vec<(u64, String)> {
    numbered(&entries(folder), name, extension)
}
