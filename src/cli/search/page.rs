//! The page of a search: one HTML file without scripts, which loads nothing from a network.

use super::item::Item;
use super::{Findings, Hit, thumbnail};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::path::Path;
use wgoal::data::Side;
use wgoal::io::{is_standard_output, same_file};
use wgoal::{Error, ErrorKind, Plain, Result};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6472; --page: #f6f7f9; --card: #ffffff; --line: #d9dde3;
  --right: #12703a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #a3acb9; --page: #14171c; --card: #1e232b; --line: #343b46; --right: #63d693; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem; max-width: 75rem; font: 1rem/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1 { margin: 0 0 .25rem; font-size: 1.35rem; }
p { margin: .25rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.query { display: flex; gap: 1rem; align-items: flex-start; margin-bottom: 1.25rem; flex-wrap: wrap; }
.query img { max-width: 14rem; max-height: 14rem; border-radius: .4rem; background: #ffffff; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: 1rem; margin: 0;
  padding: 0; list-style: none; }
li { padding: .75rem; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); }
li.right { border: 2px solid var(--right); }
li img { display: block; width: 100%; height: 11rem; object-fit: contain; margin-bottom: .5rem; border-radius: .4rem;
  background: #ffffff; }
.mark { float: right; color: var(--right); font-weight: 600; }
footer { margin-top: 1.25rem; }
";

/// Nothing but the page itself and local pictures is loaded, and nothing runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data: file:";

/// The pictures of a page.
struct Pictures<'a> {
    folder: Option<&'a Path>,
    page: &'a Path,
    /// Names that no file has, or whose file cannot be read.
    missing: Vec<String>,
    shown: usize,
}

impl Pictures<'_> {
    /// Says which pictures the page lacks.
    fn note(&self) {
        match (self.folder, self.missing.first()) {
            (Some(folder), Some(first)) => {
                let (missing, all) = (self.missing.len(), self.missing.len() + self.shown);
                let (folder, first) = (Plain(folder.display()), Plain(first));
                note!("note: {missing} of {all} pictures are not in {folder}, the first is {first}");
            }
            (Some(_), None) if self.shown == 0 => {
                note!("note: the dataset has no image_names.txt, so the page shows no pictures");
            }
            _ => {}
        }
    }

    /// The address of an item's picture.
    fn address(&mut self, item: &Item) -> Result<Option<String>> {
        let (Some(folder), Some(name)) = (self.folder, &item.name) else { return Ok(None) };
        let Some(file) = thumbnail::find(folder, name) else {
            self.missing.push(name.clone());
            return Ok(None);
        };
        if same_file(self.page, &file) {
            let expected = "a file that this command does not read, because it would be overwritten";
            let advice = "give another file";
            return Err(Error::new(ErrorKind::Config, "--html", expected, file.display(), advice));
        }
        let beside = self
            .page
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty() && !is_standard_output(self.page));
        match thumbnail::address(&file, beside.unwrap_or(Path::new("."))) {
            Ok(address) => {
                self.shown += 1;
                Ok(Some(address))
            }
            Err(_) => {
                self.missing.push(name.clone());
                Ok(None)
            }
        }
    }
}

/// The text of the page `page`, with pictures of `images`. A note says how many pictures are missing.
pub fn write(findings: &Findings, page: &Path, images: Option<&Path>) -> Result<String> {
    if let Some(folder) = images.filter(|folder| !folder.is_dir()) {
        let (expected, advice) = ("a folder with the pictures", "check the path");
        return Err(Error::new(
            ErrorKind::Config,
            "--images",
            expected,
            format!("no folder {}", folder.display()),
            advice,
        ));
    }
    let mut pictures = Pictures { folder: images, page, missing: Vec::new(), shown: 0 };
    let Findings { query, split, candidates, results, .. } = findings;
    let query_picture = pictures.address(&query.item)?;
    let mut cards = Vec::new();
    for hit in results {
        let picture = pictures.address(&hit.item)?;
        cards.push(card(hit, query.searched(), picture));
    }
    let what = if query.searched() == Side::Image { "images" } else { "texts" };
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { "wgoal search: " (query.to_string()) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header.query {
                    @if let Some(address) = query_picture { img src=(address) alt="The picture of the query"; }
                    div {
                        h1 { (title(findings)) }
                        @for caption in query.item.captions.iter().skip(usize::from(query.side == Side::Text)) {
                            p { (shown(caption)) }
                        }
                        @if let Some(name) = &query.item.name { p.soft { (shown(name)) } }
                        p.soft { "The best " (results.len()) " of " (candidates) " " (what) " (split: " (split) ")" }
                        @if let Some(said) = findings.said_of_right() { p.soft { (said) } }
                    }
                }
                main { ol { @for card in &cards { (card) } } }
                footer.soft {
                    "Made by wgoal " (env!("CARGO_PKG_VERSION")) ". The score is the cosine of the embeddings."
                }
            }
        }
    };
    pictures.note();
    Ok(text.into_string())
}

/// Text of the user's, in which nothing is invisible or changes the direction of what follows.
fn shown(text: &str) -> String {
    Plain(text).to_string()
}

fn title(findings: &Findings) -> String {
    let query = &findings.query;
    match (query.side, query.item.captions.first()) {
        (Side::Text, Some(caption)) => format!("“{}”", shown(caption)),
        (Side::Image, _) if query.file.is_none() => format!("Image {}", query.item.image.unwrap_or(0)),
        _ => query.to_string(),
    }
}

fn card(hit: &Hit, side: Side, picture: Option<String>) -> Markup {
    let Hit { rank, score, item, right } = hit;
    let right = *right == Some(true);
    let what = if side == Side::Image { "image" } else { "text" };
    let label = item.name.as_deref().map_or_else(|| "A picture".to_string(), shown);
    html! {
        li.right[right] {
            @if let Some(address) = picture { img src=(address) alt=(label) loading="lazy"; }
            p {
                @if right { span.mark { "✓ right" } }
                b { (rank) } " " span.soft { (format!("{score:.4}")) }
            }
            @for caption in &item.captions { p { (shown(caption)) } }
            @if let Some(name) = &item.name { p.soft { (shown(name)) } }
            p.soft { (what) " " (item.row(side).unwrap_or(0)) }
        }
    }
}
