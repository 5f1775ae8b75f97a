//! `wgoal search`: what it finds, how it prints it, and its page.

use super::embed::{ids, vectors};
use super::place::*;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A place with captions and names, some of which are hostile.
fn place() -> Place {
    let place = Place::new();
    let captions: Vec<String> = (0..2 * IMAGES)
        .map(|text| match text {
            6 => "A red Bird on a branch".into(),
            7 => "<script>alert(\"x\")</script> & a bird".into(),
            30 => "\u{1b}[31mred\u{202e} BIRD\u{7}".into(),
            _ => format!("caption {text}"),
        })
        .collect();
    fs::write(place.path("data/captions.txt"), captions.join("\n")).unwrap();
    let names: Vec<String> = (0..IMAGES).map(|image| format!("set/{image}\"><b>")).collect();
    fs::write(place.path("data/image_names.txt"), names.join("\n")).unwrap();
    place.train("run", "");
    place
}

fn rows_of(found: &Value, what: &str) -> Vec<u64> {
    found["results"].as_array().unwrap().iter().map(|hit| hit[what].as_u64().unwrap()).collect()
}

#[test]
fn the_results_are_the_nearest_embeddings() {
    let place = place();
    place.ok("embed run data --split all --device cpu --out v");
    let [images, texts] = ["images", "texts"].map(|name| vectors(&place, &format!("v/{name}.npy")));
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let nearest = |query: &[f32], rows: &[Vec<f32>], only: &dyn Fn(usize) -> bool| {
        let mut order: Vec<usize> = (0..rows.len()).filter(|&row| only(row)).collect();
        order.sort_by(|&a, &b| cosine(query, &rows[b]).total_cmp(&cosine(query, &rows[a])));
        order.into_iter().map(|row| row as u64).collect::<Vec<_>>()
    };
    let search = |args: &str| place.json(&format!("search run data --device cpu --json {args}"));
    for text in [0, 13, 79] {
        let order = nearest(&texts[text], &images, &|_| true);
        let found = search(&format!("--text-row {text}"));
        assert_eq!(rows_of(&found, "image"), order[..10]);
        let right = 1 + order.iter().position(|&image| image == text as u64 / 2).unwrap();
        assert_eq!(found["right_ranks"], serde_json::json!([right]));
        for hit in found["results"].as_array().unwrap() {
            let (rank, image) = (hit["rank"].as_u64().unwrap(), hit["image"].as_u64().unwrap() as usize);
            assert_eq!(hit["right"], rank as usize == right);
            assert!(
                (hit["score"].as_f64().unwrap() - f64::from(cosine(&texts[text], &images[image]))).abs()
                    < 1e-5
            );
            assert_eq!(hit["captions"].as_array().unwrap().len(), 2);
        }
        // Features of the encoder from a file are the same query; a gallery of images is enough.
        let [_, features] = features();
        let own = &features[text * DIMS[1]..][..DIMS[1]];
        for shape in [&[5u64][..], &[1, 5]] {
            write_npy(&place.path("query.npy"), shape, own);
            let by_vector = search("--query query.npy");
            assert_eq!(rows_of(&by_vector, "image"), order[..10]);
            assert_eq!(
                (by_vector["right_ranks"].clone(), by_vector["query"]["file"].clone()),
                (Value::Null, "query.npy".into())
            );
        }
        fs::create_dir_all(place.path("gallery")).unwrap();
        fs::copy(place.path("data/images.npy"), place.path("gallery/images.npy")).unwrap();
        let gallery = place.json("search run gallery --query query.npy --device cpu --json --top 3");
        assert_eq!(rows_of(&gallery, "image"), order[..3]);
    }
    let order = nearest(&images[35], &texts, &|text| (64..80).contains(&text));
    let found = search("--image-row 35 --split test --top 99");
    assert_eq!((rows_of(&found, "text"), found["candidates"].as_u64()), (order.clone(), Some(16)));
    let right: Vec<usize> = (0..16).filter(|&at| order[at] / 2 == 35).map(|at| at + 1).collect();
    assert_eq!(found["right_ranks"], serde_json::json!(right));
    // A query from outside the split has no right result in it.
    let text = place.ok("search run data --image-row 3 --split test --device cpu");
    assert!(text.ends_with("the right result is not in this split\n"), "{text}");
    let text = place.ok("search run data --text-row 13 --top 40 --device cpu");
    assert_eq!((text.matches("  right  ").count(), text.lines().count()), (1, 42), "{text}");
    assert_eq!(ids(&place, "v/image_rows.npy").len(), 40);
}

#[test]
fn a_caption_is_found_by_its_words() {
    let place = place();
    let run = |args: &str| {
        let mut command = place.command();
        command.args(["search", "run", "data", "--device", "cpu"]).args(args.split('|'));
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, stderr) = run("--caption|RED bird");
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("query: text 6  set/3\"><b>  \"A red Bird on a branch\"\n"), "{stdout}");
    assert!(!stderr.contains("captions contain"), "{stderr}");
    // Several: the first one, and a note with the others. No character of a caption controls the terminal.
    let (_, stdout, stderr) = run("--caption|bird|--top|40");
    let note = "note: 3 captions contain these words; the query is the first, row 6; the others: \
                row 7 \"<script>alert(\"x\")</script> & a bird\", row 30 \"\\u{1b}[31mred\\u{202e} BIRD\\u{7}\"\n";
    assert!(stderr.contains(note), "{stderr}");
    assert!(!stdout.contains(['\u{1b}', '\u{202e}', '\u{7}']) && stdout.contains("\\u{1b}[31m"), "{stdout}");
    // Only captions of the split count.
    let (code, _, stderr) = run("--caption|bird|--split|test");
    let message = "error: --caption \"bird\": expected words of a caption of data, found none that contains them; \
                   give fewer words, or another --split\n";
    assert!(code == 1 && stderr.ends_with(message), "{stderr}");
    fs::remove_file(place.path("data/captions.txt")).unwrap();
    let (code, _, stderr) = run("--caption|bird");
    assert!(code == 1 && stderr.contains("captions.txt"), "{stderr}");
}

/// A picture of one grey pixel.
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\x80\x80\x80\0\0\0!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

fn add_pictures(place: &Place, found: &Value) {
    fs::create_dir_all(place.path("pictures/set")).unwrap();
    for (rank, image) in rows_of(found, "image").into_iter().enumerate() {
        let mut bytes = GIF.to_vec();
        // The second is too large to be embedded, the third is missing.
        if rank == 1 {
            bytes.resize((1 << 18) + 1, 0);
        }
        if rank != 2 {
            fs::write(place.path(&format!("pictures/set/{image}\"><b>.gif")), bytes).unwrap();
        }
    }
}

#[test]
fn the_page_is_whole_and_escapes_what_it_shows() {
    let place = place();
    let search = "search run data --device cpu --text-row 7 --top 5";
    let found = place.json(&format!("{search} --json"));
    add_pictures(&place, &found);
    fs::create_dir(place.path("pages")).unwrap();
    let output = place.run(&format!("{search} --html pages/found.html --images pictures"));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.ends_with("page: pages/found.html\n"), "{}", output.stdout);
    let missing = rows_of(&found, "image")[2];
    // The picture of the query counts too.
    let own = format!("pictures are not in pictures, the first is set/{missing}\"><b>");
    assert!(output.stderr.contains(&own) || missing == 3, "{}", output.stderr);
    let page = String::from_utf8(place.read("pages/found.html")).unwrap();
    assert!(!page.contains("<script") && !page.contains("<b>set") && !page.contains("\"><b>"), "{page}");
    assert!(page.contains("&lt;script&gt;") && page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("width=device-width") && !page.contains("http:") && !page.contains("https:"));
    assert!(page.contains("data:image/gif;base64,R0lGOD"), "{page}");
    let large = rows_of(&found, "image")[1];
    assert!(page.contains(&format!("src=\"../pictures/set/{large}%22%3E%3Cb%3E.gif\"")), "{page}");
    assert_eq!(page.matches("<li").count(), 5);
    // The page replaces nothing that is read.
    let before = place.listing();
    for html in ["data/captions.txt", "run/best.safetensors"] {
        assert_eq!(place.run(&format!("{search} --html {html}")).code, 1, "{html}");
    }
    let mut command = place.command();
    let picture = format!("pictures/set/{large}\"><b>.gif");
    command.args(search.split(' ')).args(["--images", "pictures", "--html", &picture]);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert!(place.listing() == before);
}

/// What Chromium makes of a page: its document once it is loaded.
fn rendered(chromium: &str, page: &Path, profile: &Path) -> String {
    let output = std::process::Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--window-size=390,800"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs Chromium; scripts/test installs it and runs this"]
fn chromium_shows_the_page() {
    let chromium = "chromium";
    if std::process::Command::new(chromium).arg("--version").output().is_err() {
        let required = std::env::var("WGOAL_REQUIRE_ADAPTERS").unwrap_or_default();
        // SwiftShader comes with Chromium.
        assert!(!required.contains("swiftshader"), "no {chromium} here");
        eprintln!("not tested: no {chromium} here");
        return;
    }
    let place = place();
    let search = "search run data --device cpu --text-row 7 --top 5";
    add_pictures(&place, &place.json(&format!("{search} --json")));
    place.ok(&format!("{search} --html found.html --images pictures"));
    // The page loads a picture of its own to report on the others: a probe that only this test adds.
    let page = String::from_utf8(place.read("found.html")).unwrap();
    let probe = "<script>addEventListener('load', () => { const all = [...document.images]; \
                 document.body.dataset.loaded = all.filter(i => i.naturalWidth > 0).length + ' of ' + all.length; \
                 document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth; });</script></body>";
    let page = page
        .replace("default-src 'none'", "script-src 'unsafe-inline'")
        .replace("</body>", probe)
        .replace(" loading=\"lazy\"", "");
    fs::write(place.path("probe.html"), page).unwrap();
    let document = rendered(chromium, &place.path("probe.html"), &place.path("profile"));
    let pictures = document.matches("<img").count();
    assert!(pictures >= 4, "{document}");
    assert!(document.contains(&format!("data-loaded=\"{pictures} of {pictures}\"")), "{document}");
    assert!(document.contains("data-wide=\"false\""), "{document}");
    // The caption is text, and did not run.
    assert!(document.contains("&lt;script&gt;alert"), "{document}");
}
