//! Checks the documents: every link leads somewhere, README is short, comments cite only documents that exist, and the
//! documents name only options and messages that wgoal has.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The largest number of lines of README.
const README_LINES: usize = 150;
/// The folders whose comments may cite documents.
const CODE: [&str; 7] = ["src", "shaders", "tests", "examples", "benches", "python", "web"];
/// The documents that wgoal writes for its user.
const WRITTEN: [&str; 1] = ["table.md"];
/// The endings of files with comments.
const COMMENTED: [&str; 4] = ["rs", "wgsl", "py", "sh"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|ending| endings.iter().any(|&known| ending == known))
}

/// The documents whose links are checked, relative to the repository.
fn documents() -> Vec<PathBuf> {
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    let mut documents: Vec<_> = top.into_iter().filter(|path| path.exists()).collect();
    documents.extend(files(&root().join("docs")).into_iter().filter(|path| has_ending(path, &["md"])));
    documents.into_iter().map(|path| path.strip_prefix(root()).unwrap().to_path_buf()).collect()
}

/// All lines outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// A line without its code spans. Brackets in code are not links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The targets of a line's links and pictures: the text between `](` and the next `)`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let after_brackets = line.split("](").skip(1);
    after_brackets.filter_map(|rest| Some(rest.split_once(')')?.0.to_string())).collect()
}

/// The anchor that GitHub gives a heading.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of a document. A repeated heading gets a number.
fn anchors(text: &str) -> Vec<String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len() && heading.starts_with(' ')).then(|| slug(heading))
    });
    headings
        .map(|slug| {
            let times = count.entry(slug.clone()).or_default();
            *times += 1;
            if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) }
        })
        .collect()
}

/// A path without `.` and `..`; `None` if it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// What is wrong with a link of a document, or `None`.
fn fault(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() { document.to_path_buf() } else { document.with_file_name(file) };
    let Some(path) = normal(&path).filter(|path| root().join(path).exists()) else {
        return Some(format!("expected a file of the repository, found {target}"));
    };
    let anchor = anchor?;
    let known = if has_ending(&path, &["md"]) { anchors(&read(&root().join(&path))) } else { Vec::new() };
    (!known.iter().any(|known| known == anchor))
        .then(|| format!("expected a heading of {}, found #{anchor}", path.display()))
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let (mut faults, mut links) = (Vec::new(), 0);
    for document in documents() {
        for (number, line) in prose(&read(&root().join(&document))) {
            for target in targets(line) {
                links += 1;
                let fault = fault(&document, &target);
                faults.extend(fault.map(|fault| format!("{}:{number}: {fault}", document.display())));
            }
        }
    }
    report(&faults);
    assert!(links > 50, "expected the links of all documents, found {links}");
}

#[test]
fn readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= README_LINES, "README.md: expected at most {README_LINES} lines, found {lines}");
}

/// The names of documents in a comment, such as `docs/math.md`: words that end in `.md`.
fn cited(line: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| !(c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
    let words = line.split(word).map(|word| word.trim_end_matches('.'));
    words.filter(|word| word.strip_suffix(".md").is_some_and(|name| !name.is_empty() && !name.ends_with('/')))
}

/// The text of a line's comment, after the first `//` or `#`. Doc comments start with one of them as well.
fn comment<'a>(path: &Path, line: &'a str) -> Option<&'a str> {
    let mark = if has_ending(path, &["rs", "wgsl"]) { "//" } else { "#" };
    line.split_once(mark).map(|(_, comment)| comment)
}

#[test]
fn every_document_that_a_comment_cites_exists() {
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut cites = 0;
    for path in CODE.iter().flat_map(|folder| files(&root().join(folder))) {
        if !has_ending(&path, &COMMENTED) {
            continue;
        }
        let shown = path.strip_prefix(root()).unwrap().to_path_buf();
        for (number, line) in (1..).zip(read(&path).lines()) {
            for name in comment(&path, line).into_iter().flat_map(cited) {
                cites += 1;
                if WRITTEN.contains(&name) {
                    continue;
                }
                // The path may start at the root of the repository or beside the file.
                let beside =
                    normal(&shown.with_file_name(name)).is_some_and(|path| root().join(path).exists());
                if !root().join(name).exists() && !beside {
                    missing.entry(name.into()).or_default().push(format!("  {}:{number}", shown.display()));
                }
            }
        }
    }
    let faults: Vec<_> = missing
        .iter()
        .map(|(name, places)| {
            format!(
                "{name}: expected in the repository, cited {} times:\n{}",
                places.len(),
                places.join("\n")
            )
        })
        .collect();
    report(&faults);
    assert!(cites > 0, "expected comments that cite documents, found none");
}

/// Options of other tools that the documents name: cargo, mpirun, `scripts/python`, `python/bench/gradients.py`,
/// `scripts/pytorch_step.py` and `scripts/burn_step`.
const OTHER_TOOLS: [&str; 16] = [
    "bind-to",
    "bench",
    "example",
    "features",
    "gpu",
    "install",
    "large",
    "lib",
    "locked",
    "no-default-features",
    "open",
    "path",
    "release",
    "seconds",
    "test",
    "torch",
];
/// Pieces of a message that are shorter than this are not searched for, because they say too little.
const PIECE: usize = 6;

/// The text of all files below some folders. Strings that continue on the next line are joined.
fn all_text(folders: &[&str]) -> String {
    let mut text = String::new();
    for path in folders.iter().flat_map(|folder| files(&root().join(folder))) {
        if has_ending(&path, &["rs", "txt"]) && !path.ends_with("docs.rs") {
            text.extend(read(&path).split("\\\n").map(str::trim_start));
        }
    }
    text
}

/// The options that a line names, without their dashes.
fn options(line: &str) -> impl Iterator<Item = &str> {
    line.split("--").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-')).unwrap_or(rest.len());
        (!rest[..end].starts_with('-') && end > 1).then(|| rest[..end].trim_end_matches('-'))
    })
}

#[test]
fn every_option_in_a_document_exists() {
    let (code, mut faults, mut named) = (all_text(&["src/cli"]), Vec::new(), 0);
    // An option of the command line is a field of a struct, or its name is in a string.
    let exists = |option: &str| {
        code.contains(&format!(" {}: ", option.replace('-', "_"))) || code.contains(&format!("\"{option}\""))
    };
    for document in documents() {
        for (number, line) in (1..).zip(read(&root().join(&document)).lines()) {
            for option in options(line).filter(|option| !OTHER_TOOLS.contains(option)) {
                named += 1;
                if !exists(option) {
                    faults.push(format!(
                        "{}:{number}: expected an option of wgoal, found --{option}",
                        document.display()
                    ));
                }
            }
        }
    }
    report(&faults);
    assert!(named > 50, "expected the options of all documents, found {named}");
}

/// The fixed pieces of a message, between the parts that vary.
fn pieces(message: &str) -> impl Iterator<Item = &str> {
    message
        .split("...")
        .flat_map(|part| part.split([':', ',', '(', ')', '\'', '`']))
        .flat_map(|part| part.split(|c: char| c.is_ascii_digit()))
        .map(|piece| {
            piece
                .trim()
                .trim_start_matches("expected ")
                .trim_start_matches("found ")
                .trim_end_matches(" found")
        })
        .filter(|piece| piece.len() >= PIECE)
}

#[test]
fn every_message_in_troubleshooting_exists() {
    let (code, mut faults, mut quotes) = (all_text(&["src", "tests"]), Vec::new(), 0);
    let document = Path::new("docs/troubleshooting.md");
    for (number, line) in prose(&read(&root().join(document))) {
        // The text between backticks in the first cell of a row.
        let Some(cell) = line.strip_prefix("| ").and_then(|row| row.split(" |").next()) else { continue };
        for piece in cell.split('`').skip(1).step_by(2).flat_map(pieces) {
            quotes += 1;
            if !code.contains(piece) {
                faults.push(format!(
                    "{}:{number}: expected words of a message of wgoal, found \"{piece}\"",
                    document.display()
                ));
            }
        }
    }
    report(&faults);
    assert!(quotes > 50, "expected the messages of the tables, found {quotes}");
}

#[test]
fn links_anchors_and_citations_are_read_as_written() {
    assert_eq!(targets("![a](x.svg), [b](y.md#z) and `[c](no)`"), ["x.svg", "y.md#z"]);
    assert_eq!(slug(" NVIDIA's GL driver, `a_b`: 50 %"), "nvidias-gl-driver-a_b-50-");
    assert_eq!(anchors("# A\n```sh\n# no\n```\n## B c\n## A\n#no"), ["a", "b-c", "a-1"]);
    assert_eq!(
        cited("see docs/math.md, \"Mining\" (README.md). No: .md, a.mdx").collect::<Vec<_>>(),
        ["docs/math.md", "README.md"]
    );
    assert_eq!(options("--a-b=on, `--lr` 1--2 ---x --").collect::<Vec<_>>(), ["a-b", "lr"]);
    assert_eq!(
        pieces("--lr: expected a finite number, found 12 ... more words").collect::<Vec<_>>(),
        ["a finite number", "more words"]
    );
    assert_eq!(normal(Path::new("docs/../README.md")), Some("README.md".into()));
    assert_eq!(normal(Path::new("docs/../../README.md")), None);
    let document = Path::new("docs/README.md");
    assert!(fault(document, "../README.md#licence").is_none());
    assert!(fault(document, "../README.md#nowhere").is_some() && fault(document, "nowhere.md").is_some());
}
