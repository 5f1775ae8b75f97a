//! The pages that wgoal writes, opened in headless Chromium: at the width of a desk and of a phone, in light and in
//! dark mode.

use crate::place::Place;
use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Text that would be markup, a script or a request if a page did not escape it.
const HOSTILE: &str = "</title><script>console.error(1)</script><img src='http://example.org/a'>\"&";

/// Widths of the window in pixels.
const WIDTHS: [u32; 2] = [1280, 390];

/// A page, and the headings that it must have.
struct Page {
    name: &'static str,
    file: &'static str,
    headings: &'static [&'static str],
}

const PAGES: [Page; 3] = [
    Page {
        name: "train",
        file: "one/report.html",
        headings: &[
            "Result",
            "Learning curves",
            "Validation recall",
            "Similarities during training",
            "start: before training",
            "end: epoch 3",
            "What the objective does",
            "T P⁺, the pull on the positive",
            "Ranks of the right answers",
            "Best and worst captions",
            "Repeat this run",
        ],
    },
    Page {
        name: "compare",
        file: "compare.html",
        headings: &["Comparison of 2 runs", "Results", "Learning curves"],
    },
    Page {
        name: "sweep",
        file: "table/report.html",
        headings: &["Results", "Learning curves", "Each objective"],
    },
];

/// One test per page. They are ignored without a browser, unless `WGOAL_REQUIRE_BROWSER` is set, as in CI.
pub fn trials() -> Vec<Trial> {
    let test = |page: &'static Page| {
        Trial::ignorable_test(format!("browser::{}", page.name), move || match browser() {
            Some(browser) => look(browser, page).map(|()| Completion::Completed),
            None if std::env::var_os("WGOAL_REQUIRE_BROWSER").is_some_and(|value| !value.is_empty()) => {
                Err("no Chromium here: see scripts/test".into())
            }
            None => Ok(Completion::ignored_with("no Chromium here: see scripts/test")),
        })
    };
    PAGES.iter().map(test).collect()
}

fn browser() -> Option<&'static str> {
    let answers = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(answers)
}

/// Two runs, a comparison and a sweep of a dataset with hostile captions and names.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        let lines = |count: usize| (0..count).map(|k| format!("{k} {HOSTILE}\n")).collect::<String>();
        std::fs::write(place.path("data/captions.txt"), lines(80)).unwrap();
        std::fs::write(place.path("data/image_names.txt"), lines(40)).unwrap();
        let small = "--device cpu --batch 16 --embed 4";
        place.ok(&format!("train data {small} --epochs 3 --recipe goal --out one"));
        place.ok(&format!("train data {small} --epochs 2 --objective infonce --out two"));
        place.ok("compare one two --html compare.html");
        place
            .ok(&format!("sweep data {small} --epochs 2 --objectives con:con,hinge --seeds 0,1 --out table"));
        place
    })
}

/// Asks the page what a reader sees of it, and writes the answer into it.
const PROBE: &str = r#"<script>
const all = selector => [...document.querySelectorAll(selector)];
const shown = all('h1,h2,h3').map(heading => heading.textContent);
const light = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
    return (0.3 * r + 0.6 * g + 0.1 * b) / 255;
};
const fill = selector => {
    const one = document.querySelector(selector);
    return one ? light(getComputedStyle(one).fill) : -1;
};
const style = getComputedStyle(document.body);
// Windows have a least width. What scrolls on its own may be wider than the page.
const wanted = WANTED;
document.documentElement.style.width = wanted + 'px';
const apart = one => one.parentElement.closest('.wide, pre, svg');
const edges = all('main *').filter(one => !apart(one)).map(one => one.getBoundingClientRect().right);
const answer = {
    headings: shown,
    overflow: Math.max(...edges) - wanted,
    paper: light(style.backgroundColor),
    ink: light(style.color),
    chart_ink: fill('svg .f-muted'),
    charts: all('svg').length,
    untitled: all('svg').filter(svg => !svg.querySelector('title') || !svg.querySelector('desc')).length,
    narrow: all('figure svg').filter(svg => svg.getBoundingClientRect().width < 250).length,
    empty: all('figure svg').filter(svg => svg.querySelectorAll('polyline,rect,circle').length < 3).length,
    foreign: all('script,img,iframe,link[rel=stylesheet]').length - 1,
    requests: performance.getEntriesByType('resource').map(entry => entry.name),
};
const place = document.createElement('pre');
place.id = 'answer';
place.textContent = JSON.stringify(answer);
document.body.append(place);
</script>"#;

fn look(browser: &str, page: &Page) -> Result<(), Failed> {
    let place = place();
    let path = place.path(page.file);
    let text = std::fs::read_to_string(&path)?;
    let check = |ok: bool, what: String| if ok { Ok(()) } else { Err(Failed::from(what)) };
    check(text.len() < 1_000_000, format!("{} bytes", text.len()))?;
    // As it is: it must not say anything on the console.
    open(browser, &path, 1280, false)?;
    // The policy of the page would keep the probe from running.
    let start = text.find("<meta http-equiv").ok_or("no policy")?;
    let end = start + text[start..].find('>').ok_or("no end of the policy")? + 1;
    for (width, dark) in WIDTHS.into_iter().flat_map(|width| [(width, false), (width, true)]) {
        let probe = path.with_extension(format!("{width}.html"));
        let script = PROBE.replace("WANTED", &width.to_string());
        std::fs::write(&probe, format!("{}{}{script}", &text[..start], &text[end..]))?;
        let seen = open(browser, &probe, width, dark)?;
        let (_, answer) = seen.split_once("<pre id=\"answer\">").ok_or("no answer of the page")?;
        let answer = answer.split_once("</pre>").map_or("", |(answer, _)| answer);
        let plain = answer.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let answer: Value = serde_json::from_str(&plain)?;
        let number = |key: &str| answer[key].as_f64().unwrap_or(f64::NAN);
        let at = format!("{} at {width}, dark {dark}: {answer}", page.name);
        for heading in page.headings {
            let shown = answer["headings"].as_array().is_some_and(|all| all.iter().any(|one| one == heading));
            check(shown, format!("no heading {heading}, {at}"))?;
        }
        check((number("paper") < 0.2) == dark && (number("ink") > 0.8) == dark, format!("colours, {at}"))?;
        check((number("chart_ink") > 0.5) == dark, format!("colours of charts, {at}"))?;
        check(number("overflow") <= 0.0, format!("wider than the window, {at}"))?;
        check(number("charts") > 0.0 && number("untitled") == 0.0, format!("charts without a title, {at}"))?;
        check(number("narrow") == 0.0 && number("empty") == 0.0, format!("narrow or empty charts, {at}"))?;
        check(number("foreign") == 0.0, format!("scripts or pictures, {at}"))?;
        check(answer["requests"].as_array().is_some_and(Vec::is_empty), format!("requests, {at}"))?;
    }
    Ok(())
}

/// The document after the page has loaded. Anything on the console is an error. So is a request, because no name
/// resolves.
fn open(browser: &str, page: &Path, width: u32, dark: bool) -> Result<String, Failed> {
    let profile = tempfile::tempdir()?;
    let scheme = u8::from(!dark);
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]);
    command.args(["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]);
    command.args(["--enable-logging=stderr", "--log-level=0", "--dump-dom"]);
    command.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    command.arg(format!("--window-size={width},1600"));
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("file://{}", page.display()));
    let (out, log) = (profile.path().join("out"), profile.path().join("log"));
    command.stdout(std::fs::File::create(&out)?).stderr(std::fs::File::create(&log)?);
    let mut child = command.spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill()?;
            child.wait()?;
            return Err("the browser hangs".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    match log.lines().find(|line| line.contains("CONSOLE")) {
        Some(line) => Err(format!("on the console: {line}").into()),
        None => Ok(String::from_utf8_lossy(&std::fs::read(&out)?).into_owned()),
    }
}
