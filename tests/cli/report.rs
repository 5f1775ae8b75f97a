//! What is reported of runs: the page of a run, runs side by side, the page of a sweep.

use super::place::*;
use serde_json::Value;
use std::fs;

fn page(place: &Place, name: &str) -> String {
    String::from_utf8(place.read(name)).unwrap()
}

/// A page without what differs between equal runs: the name of the folder, the time, and the command.
fn comparable(place: &Place, out: &str) -> String {
    let page = page(place, &format!("{out}/report.html")).replace(out, "RUN");
    let (start, rest) = page.split_once("<pre><code>wgoal ").unwrap();
    let (_, rest) = rest.split_once("</code></pre>").unwrap();
    let (middle, rest) = rest.split_once("time of the epochs").unwrap();
    let (_, end) = rest.split_once("</tr>").unwrap();
    format!("{start}{middle}{end}")
}

#[test]
fn a_run_in_parts_writes_the_report_of_the_whole() {
    let place = Place::new();
    place.train("whole", "--epochs 5");
    for first in [1, 2, 3] {
        let out = format!("first{first}");
        place.train(&out, &format!("--epochs {first}"));
        place.ok(&format!("train --resume --epochs 5 --device cpu --out {out}"));
        for name in ["similarities.jsonl", "result.json"] {
            let [part, whole] = [&out, "whole"].map(|run| place.read(&format!("{run}/{name}")));
            assert!(part == whole, "{out}: {name}");
        }
        assert_eq!(comparable(&place, &out), comparable(&place, "whole"), "{out}");
    }
    let epochs: Vec<_> = page(&place, "whole/similarities.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["epoch"].as_u64().unwrap())
        .collect();
    assert_eq!(epochs, [0, 1, 2, 3, 4, 5]);
    // A command that is given again with other options is that of the whole.
    let parts = page(&place, "first2/report.html");
    assert!(
        parts.contains("wgoal train data --device cpu --batch 16 --embed 4 --recipe goal --correction none --json --epochs 5<"),
        "{parts}"
    );
}

#[test]
fn report_writes_the_page_again() {
    let place = Place::new();
    place.train("run", "--epochs 3");
    let first = page(&place, "run/report.html");
    fs::remove_file(place.path("run/report.html")).unwrap();
    assert_eq!(place.json("report run --json"), serde_json::json!({ "report": "run/report.html" }));
    assert!(page(&place, "run/report.html") == first);
    assert_eq!(place.ok("report run --html elsewhere.html"), "report: elsewhere.html\n");
    assert!(page(&place, "elsewhere.html") == first);
    // The dataset is not needed.
    fs::remove_dir_all(place.path("data")).unwrap();
    place.ok("report run");
    assert!(page(&place, "run/report.html") == first);
    let before = place.read("run/config.json");
    let output = place.run("report run --html run/config.json");
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(place.read("run/config.json") == before);
    let output = place.run("report .");
    let expected = "error: .: expected the folder of a run, found no config.json in it; give a folder that `wgoal train` \
                    has written";
    assert_eq!((output.code, output.stderr.trim_end()), (1, expected));
}

/// The page has a line per member, so their number is limited.
#[test]
fn a_config_that_claims_many_members_is_refused() {
    let place = Place::new();
    place.train("run", "--epochs 1 --no-report");
    let text = String::from_utf8(place.read("run/config.json")).unwrap();
    let claims = text.replace("\"ensemble\": 1,", "\"ensemble\": 9000000000,");
    assert!(claims != text, "{text}");
    fs::write(place.path("run/config.json"), claims).unwrap();
    let output = place.run("report run");
    let expected = "error: run/config.json: expected the folder of a run, found an ensemble of 9000000000 heads; the most are \
                    64; give a folder that `wgoal train` has written";
    assert_eq!((output.code, output.stderr.trim_end()), (1, expected));
}

#[test]
fn a_run_without_a_report_has_the_same_head() {
    let place = Place::new();
    let with = place.train("with", "--epochs 3");
    let without = place.train("without", "--epochs 3 --no-report");
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(place.read(&format!("with/{name}")) == place.read(&format!("without/{name}")), "{name}");
    }
    assert_eq!((&with["val"], &with["test"]), (&without["val"], &without["test"]));
    let names = "best.safetensors config.json last.safetensors metrics.jsonl result.json run.toml";
    assert_eq!(place.names("without").join(" "), names);
    // The page can still be written, with what the run kept.
    place.ok("report without");
    let page = page(&place, "without/report.html");
    assert!(page.contains("Learning curves") && !page.contains("Similarities during training"));
}

#[test]
fn a_report_that_fails_loses_nothing() {
    let place = Place::new();
    place.train("run", "--epochs 2");
    fs::remove_file(place.path("run/report.html")).unwrap();
    fs::create_dir(place.path("run/report.html")).unwrap();
    let output = place.run("train --resume --epochs 4 --device cpu --out run");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("note: no report: run/report.html: "), "{}", output.stderr);
    assert_eq!(place.metrics("run").len(), 4);
    let result: Value = serde_json::from_slice(&place.read("run/result.json")).unwrap();
    assert!(result["test"]["rsum"].is_f64(), "{result}");
}

#[test]
fn a_page_of_the_user_is_not_overwritten() {
    let place = Place::new();
    for name in ["report.html", "similarities.jsonl", "result.json"] {
        let out = name.split('.').next().unwrap();
        fs::create_dir(place.path(out)).unwrap();
        fs::write(place.path(out).join(name), "mine").unwrap();
        let output = place.run(&format!("train data --device cpu --embed 4 --out {out}"));
        let expected = format!(
            "error: {out}/{name}: expected no file, because the run will write one, found a file; move it elsewhere, or \
             choose another --out"
        );
        assert_eq!((output.code, output.stderr.lines().last().unwrap()), (1, &*expected));
        assert_eq!((place.read(&format!("{out}/{name}")), place.names(out).len()), (b"mine".to_vec(), 1));
    }
    // So in a sweep.
    fs::create_dir(place.path("table")).unwrap();
    fs::write(place.path("table/report.html"), "mine").unwrap();
    let output = place.run("sweep data --objectives hinge --epochs 1 --device cpu --embed 4 --out table");
    assert!(
        output.code == 1 && output.stderr.contains("table/report.html: expected no file"),
        "{}",
        output.stderr
    );
    assert_eq!(place.read("table/report.html"), b"mine");
}

#[test]
fn texts_of_files_are_escaped() {
    let place = Place::new();
    let hostile = "<img src=x>&\u{202e}\u{1b}[31m";
    let lines = |n: u32| (0..n).map(|k| format!("{k}{hostile}\n")).collect::<String>();
    fs::write(place.path("data/captions.txt"), lines(2 * IMAGES)).unwrap();
    fs::write(place.path("data/image_names.txt"), lines(IMAGES)).unwrap();
    place.train("run", "");
    let page = page(&place, "run/report.html");
    assert!(page.contains("&lt;img src=x&gt;&amp;\\u{202e}\\u{1b}[31m"), "captions are shown");
    assert!(!page.contains("<img") && !page.contains('\u{202e}') && !page.contains('\u{1b}'));
}

#[test]
fn the_numbers_of_a_page_are_those_of_the_run() {
    let place = Place::new();
    let summary = place.train("run", "--epochs 3");
    let result: Value = serde_json::from_slice(&place.read("run/result.json")).unwrap();
    assert_eq!((&result["test"], &result["best"]["recall"]), (&summary["test"], &summary["val"]));
    let reference = |k: usize, key: &str| result["references"][k][key].as_f64().unwrap();
    assert_eq!(result["references"][0]["test"], summary["baselines"]["cca"]);
    assert_eq!(summary["baselines"]["val"]["ridge"], reference(1, "val"));
    // Every query of this small split is ranked, so the ranks are those behind the recall.
    let ranks = |side: &str| -> Vec<u64> {
        result["ranked"][side].as_array().unwrap().iter().map(|rank| rank.as_u64().unwrap()).collect()
    };
    for (side, key) in [("images", "i2t"), ("captions", "t2i")] {
        let ranks = ranks(side);
        for (name, k) in [("r1", 1), ("r5", 5), ("r10", 10)] {
            let share = 100.0 * ranks.iter().filter(|&&rank| rank <= k).count() as f64 / ranks.len() as f64;
            assert!((share - summary["test"][key][name].as_f64().unwrap()).abs() < 1e-9, "{key} {name}");
        }
    }
    let page = page(&place, "run/report.html");
    for number in [&summary["test"]["rsum"], &summary["val"]["rsum"], &summary["baselines"]["ridge"]] {
        let shown = format!("{:.1}", number.as_f64().unwrap());
        assert!(page.contains(&shown), "{shown}");
    }
}

#[test]
fn compare_shows_what_differs() {
    let place = Place::new();
    place.train("a", "--lr 0.01");
    place.train("b", "--lr 0.02 --objective infonce --temperature 0.1 --no-baselines");
    let table = place.ok("compare a b");
    let lines: Vec<&str> = table.lines().collect();
    let head: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let expected = "run|objective|lr|best epoch|val rsum|test rsum|test i2t R@1|test t2i R@1";
    assert_eq!((head.join("|"), lines.len()), (expected.into(), 3), "{table}");
    assert!(
        lines[1].starts_with("a    cir:sig-ms  0.01") && lines[2].starts_with("b    infonce     0.02"),
        "{table}"
    );
    assert_eq!(lines.iter().filter(|line| line.ends_with(" *")).count(), 1, "{table}");
    let compared = place.json("compare a b --json --html page.html");
    let runs = compared["runs"].as_array().unwrap();
    for (run, name) in runs.iter().zip(["a", "b"]) {
        let result: Value = serde_json::from_slice(&place.read(&format!("{name}/result.json"))).unwrap();
        assert_eq!(
            (&run["run"], &run["test"], &run["val"]),
            (&name.into(), &result["test"], &result["best"]["recall"])
        );
        assert_eq!((&run["best_epoch"], &run["ended"]), (&result["best"]["epoch"], &true.into()));
    }
    assert_eq!(runs[0]["options"], serde_json::json!({ "lr": "0.01" }));
    assert!(page(&place, "page.html").contains("Comparison of 2 runs"));
    // Parameters of one objective.
    place.train("c", "--lr 0.01 --tau 3");
    let compared = place.json("compare a c --json");
    assert_eq!(compared["runs"][1]["options"], serde_json::json!({ "tau": "3.0" }));
    // Two runs of one name, one of them not ended.
    fs::create_dir(place.path("other")).unwrap();
    place.train("other/a", "--lr 0.01");
    fs::remove_file(place.path("other/a/result.json")).unwrap();
    let output = place.run("compare a other/a");
    assert!(output.stdout.contains("\nother/a ") && output.stdout.contains('–'), "{}", output.stdout);
    assert!(output.stderr.contains("a run that has not ended has no test recall"), "{}", output.stderr);
    let before = place.read("a/result.json");
    assert_eq!(place.run("compare a b --html a/result.json").code, 1);
    assert!(place.read("a/result.json") == before);
    assert_eq!(place.run("compare").code, 2);
}

#[test]
fn a_sweep_keeps_its_learning_curves_and_reports() {
    let place = Place::new();
    let sweep =
        "sweep data --objectives con:con,hinge --seeds 0,1 --epochs 3 --embed 4 --batch 16 --device cpu";
    let table = place.json(&format!("{sweep} --out table --json"));
    let written: Value = serde_json::from_slice(&place.read("table/table.json")).unwrap();
    assert_eq!(table, written);
    let text = page(&place, "table/results.jsonl");
    let runs = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let runs: Vec<_> =
        runs.filter(|line| line.get("run").is_some()).map(|line| line["run"].clone()).collect();
    assert_eq!(runs.len(), 4);
    for run in &runs {
        // The curve is that of the same run by train.
        let (objective, seed) = (run["objective"].as_str().unwrap(), &run["seed"]);
        let out = format!("{}{seed}", objective.replace(':', ""));
        place.train(&out, &format!("--epochs 3 --objective {objective} --seed {seed} --no-baselines"));
        let curve = run["epochs"].as_array().unwrap();
        for (point, line) in curve.iter().zip(place.metrics(&out)) {
            for key in ["epoch", "loss", "positive", "hardest", "gradient_norm", "val"] {
                assert_eq!(point[key], line[key], "{objective} {seed} {key}");
            }
        }
        assert_eq!(curve.len(), 3);
    }
    let first = page(&place, "table/report.html");
    assert!(first.contains("Each objective") && first.contains("baseline con:con"));
    // Called again, it writes the same page. Results of an older version have no curves.
    place.ok(&format!("{sweep} --out table"));
    assert!(page(&place, "table/report.html") == first);
    let mut old = String::new();
    for line in text.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.get_mut("run").and_then(Value::as_object_mut).map(|run| run.remove("epochs"));
        old += &format!("{line}\n");
    }
    let plan = text.split_inclusive('\n').next().unwrap();
    let rest: String = old.split_inclusive('\n').skip(1).collect();
    fs::write(place.path("table/results.jsonl"), format!("{plan}{rest}")).unwrap();
    place.ok(&format!("{sweep} --out table"));
    assert!(page(&place, "table/report.html").contains("kept no learning curves"));
}
