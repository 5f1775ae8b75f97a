//! Checks the structure of the source: a lower layer never imports a higher one, and long files and functions say why
//! they are long.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules at the root of the crate, from the lowest layer to the highest. Modules on the same line do not import
/// each other.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["math", "io", "draw", "cluster"],
    &["device"],
    &["objective"],
    &["kernels"],
    &["gradient"],
    &["similarity"],
    &["model", "optim"],
    &["data"],
    &["eval"],
    &["train"],
    &["sweep", "analysis", "doctor", "bench"],
    &["report"],
];

/// The most lines of a file, and of a function, that need no reason.
const FILE: usize = 400;
const FUNCTION: usize = 60;

/// All Rust files of `src`, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_path_buf(), text)
    };
    found.into_iter().map(read).collect()
}

/// The layer of a module at the root.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The text without comments, so that paths in them do not count.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first names of all paths that begin with `crate::`, including those in braces.
fn imported(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(inside) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = 0;
            for (i, c) in inside.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth > 0 => depth -= 1,
                    ',' | '}' if depth == 0 => {
                        names.push(first_name(&inside[start..i]));
                        start = i + 1;
                        if c == '}' {
                            break;
                        }
                    }
                    _ => {}
                }
            }
        } else {
            names.push(first_name(rest));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()
}

/// What a file of the module `module` imports from its own layer or from a higher one.
fn violations(module: &str, text: &str) -> Vec<String> {
    // The names at the root come from `error`.
    const ROOT: [&str; 5] = ["Error", "ErrorKind", "Result", "Plain", "is_unsafe"];
    let own = layer(module).unwrap_or_else(|| panic!("{module} is in no layer: add it to LAYERS"));
    let wrong = |name: &String| match layer(name) {
        Some(other) => name != module && other >= own,
        None => !ROOT.contains(&name.as_str()),
    };
    imported(&code(text)).into_iter().filter(wrong).collect()
}

#[test]
fn a_lower_layer_never_imports_a_higher_one() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let module = path.iter().next().unwrap().to_str().unwrap();
        match module {
            "lib.rs" => {}
            // The command line is the highest layer. It uses the public interface of the library, as `wgoal::`.
            "main.rs" | "cli" => {
                let own = |name: &String| name != "cli";
                found.extend(
                    imported(&code(&text))
                        .into_iter()
                        .filter(own)
                        .map(|name| format!("{path:?} imports {name}")),
                );
            }
            _ => found
                .extend(violations(module, &text).into_iter().map(|name| format!("{path:?} imports {name}"))),
        }
        // Another way to name the crate, which `imported` does not see.
        if !["lib.rs", "main.rs", "cli"].contains(&module) && code(&text).contains("wgoal::") {
            found.push(format!("{path:?} imports wgoal: write crate"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn imports_of_higher_layers_are_seen() {
    assert_eq!(violations("device", "use crate::kernels::matmul;"), ["kernels"]);
    assert_eq!(violations("device", "use crate::{Error, io, train::Trainer};"), ["train"]);
    assert_eq!(violations("math", "fn f() { crate::io::read() }"), ["io"], "layers of one line are apart");
    assert_eq!(violations("eval", "use crate::Recall;"), ["Recall"], "by its module, not from the root");
    let fine = "use crate::{Error, Result};\nuse crate::device::{Device, Gpu};\n// crate::train is higher";
    assert!(violations("kernels", fine).is_empty());
}

#[test]
fn the_root_of_src_holds_folders() {
    let root = sources().into_iter().map(|(path, _)| path).filter(|path| path.iter().count() == 1);
    assert_eq!(root.collect::<Vec<_>>(), [Path::new("lib.rs"), Path::new("main.rs")]);
}

/// Whether a reason is given: a sentence with the word `long` in the comment at the top of the file or of the function.
#[test]
fn what_is_long_says_why() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        let is_comment =
            |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
        let says_why = |comment: &str| comment.split(|c: char| !c.is_alphabetic()).any(|word| word == "long");
        let top: String = lines.iter().take_while(is_comment).copied().collect();
        if lines.len() > FILE && !says_why(&top) {
            found.push(format!("{path:?} has {} lines", lines.len()));
        }
        for (i, line) in lines.iter().enumerate() {
            let Some((name, len)) = function(&lines[i..], line) else { continue };
            let above: String = lines[..i].iter().rev().take_while(is_comment).copied().collect();
            if len > FUNCTION && !says_why(&above) {
                found.push(format!("{path:?} {name} has {len} lines"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The name of a function that begins at the first of `lines`, and its number of lines as formatted by rustfmt.
fn function<'a>(lines: &[&str], line: &'a str) -> Option<(&'a str, usize)> {
    let indent = line.len() - line.trim_start().len();
    let words = line.trim_start().split_once("fn ")?;
    let prefix = words.0.split_whitespace().all(|word| {
        word.starts_with("pub") || ["const", "async", "unsafe", "in", "super)", "crate)"].contains(&word)
    });
    // A function without a body ends on its line.
    if !prefix || line.ends_with("{}") {
        return None;
    }
    let end = format!("{}}}", " ".repeat(indent));
    // A declaration in a trait ends with a semicolon.
    let declared = |line: &&&str| line.ends_with(';') && line.len() - line.trim_start().len() == indent;
    let len = lines.iter().position(|line| *line == end)?;
    if lines[..len].iter().find(declared).is_some() {
        return None;
    }
    Some((words.1.split(['(', '<']).next().unwrap_or_default(), len + 1))
}
