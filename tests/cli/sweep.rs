//! Sweeps that are repeated or interrupted, the contents of their tables, and what they refuse.

use super::place::*;
use serde_json::Value;

const TABLES: [&str; 3] = ["table.md", "table.csv", "table.json"];
const SMALL: &str = "--epochs 2 --embed 4 --batch 16 --device cpu";

fn results(place: &Place, out: &str) -> Vec<Value> {
    let text = String::from_utf8(place.read(&format!("{out}/results.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_same_tables(place: &Place, one: &str, other: &str) {
    for name in TABLES {
        assert!(place.read(&format!("{one}/{name}")) == place.read(&format!("{other}/{name}")), "{name}");
    }
}

/// A sweep may be cut in the middle of a line or between two lines. It continues with what is missing and ends with the
/// same bytes.
#[test]
fn a_sweep_that_was_cut_ends_with_the_same_tables() {
    let place = Place::new();
    let sweep = format!("sweep data --objectives con:con,hinge --seeds 0,1 --grid lr=0.001,0.1 {SMALL}");
    place.ok(&format!("{sweep} --out whole"));
    // The file holds the plan, then four runs per objective and one test per seed.
    let whole = place.read("whole/results.jsonl");
    let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    let kinds: Vec<_> =
        results(&place, "whole").iter().skip(1).map(|line| keys(line)[0].to_string()).collect();
    assert_eq!(kinds.join(" "), ["run run run run test test"; 2].join(" "));
    assert_eq!(place.names("whole/heads").len(), 4, "the chosen heads, one a seed and objective");

    for (kept, half, runs) in
        [(0, true, 8), (1, false, 8), (3, true, 6), (5, false, 4), (6, true, 4), (9, true, 2)]
    {
        let out = format!("cut{kept}");
        std::fs::create_dir_all(place.path(&out).join("heads")).unwrap();
        for name in place.names("whole/heads") {
            std::fs::copy(place.path("whole/heads").join(&name), place.path(&out).join("heads").join(&name))
                .unwrap();
        }
        let mut left = lines[..kept].concat();
        if half {
            left.extend(&lines[kept][..lines[kept].len() / 2]);
        }
        std::fs::write(place.path(&out).join("results.jsonl"), left).unwrap();
        let output = place.run(&format!("{sweep} --out {out}"));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let told = output.stderr.lines().filter(|line| line.contains("val rsum")).count();
        assert_eq!(told, runs, "{kept} lines kept:\n{}", output.stderr);
        assert_same_tables(&place, "whole", &out);
        assert_eq!(results(&place, &out).len(), lines.len(), "whole lines only");
        assert_eq!(place.names("whole/heads"), place.names(&format!("{out}/heads")));
    }
    // A finished sweep trains nothing.
    let again = place.run(&format!("{sweep} --out whole --baseline con:con"));
    assert!(again.stderr.contains("8 of 8 runs are in whole") && !again.stderr.contains("val rsum"));
    assert_eq!(place.read("whole/results.jsonl"), whole);
    assert_same_tables(&place, "whole", "cut3");
}

/// The sweep is really killed, at random moments.
#[cfg(unix)]
#[test]
fn a_sweep_that_was_killed_goes_on() {
    use std::process::Stdio;
    let place = Place::new();
    let sweep = format!("sweep data --objectives con:con,cir:sig-ms,infonce --seeds 3,5 {SMALL} --epochs 60");
    let sweep = sweep.replace("--epochs 2 ", "");
    place.ok(&format!("{sweep} --out whole"));
    // On a busy machine a sweep may end before a kill hits. Then another one is started.
    let (mut kills, mut sweeps) = (0, 0);
    while kills < 3 && sweeps < 20 {
        sweeps += 1;
        let out = format!("killed{sweeps}");
        for runs in [1, 2, 4] {
            let mut child = place.start(&format!("{sweep} --out {out}"), Stdio::null);
            let path = place.path(&out).join("results.jsonl");
            while std::fs::read_to_string(&path).unwrap_or_default().lines().count() <= runs
                && child.try_wait().unwrap().is_none()
            {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            kills += u32::from(kill(child));
        }
        place.ok(&format!("{sweep} --out {out}"));
        assert_same_tables(&place, "whole", &out);
        assert_eq!(place.names("whole/heads"), place.names(&format!("{out}/heads")));
        assert_eq!(results(&place, "whole").len(), results(&place, &out).len());
    }
    assert!(kills >= 3, "{kills} kills hit in {sweeps} sweeps");
}

/// A signal ends a sweep after a step of the run that trains. It leaves no temporary file.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_sweep_and_the_same_command_goes_on() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::Stdio;
    let place = Place::new();
    let sweep = format!("sweep data --objectives con:con --seeds 0,1,2,3 {SMALL} --epochs 300");
    let sweep = sweep.replace("--epochs 2 ", "");
    place.ok(&format!("{sweep} --out whole"));
    for (signal, name, code) in [(Signal::INT, "Ctrl-C", 130), (Signal::TERM, "SIGTERM", 143)] {
        let mut child = place.start(&format!("{sweep} --out {name}"), Stdio::piped);
        let lines = || {
            let path = place.path(name).join("results.jsonl");
            std::fs::read_to_string(path).unwrap_or_default().lines().count()
        };
        // The first line is that of the sweep.
        while lines() < 2 {
            assert!(child.try_wait().unwrap().is_none());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        let done = lines() - 1;
        let expected = format!(
            "stopped by {name}; {done} of 4 runs are in {name}: give the same command again to go on"
        );
        assert_eq!(stderr.lines().last(), Some(expected.as_str()), "{stderr}");
        assert!((1..4).contains(&done) && output.stdout.is_empty(), "{stderr}");
        let listing = place.listing();
        assert!(!listing.keys().any(|path| path.to_string_lossy().contains(".wgoal-")), "{listing:?}");
        place.ok(&format!("{sweep} --out {name}"));
        assert_same_tables(&place, "whole", name);
    }
}

/// The runs are those of `train`, and the table follows from them.
#[test]
fn the_table_is_that_of_the_runs() {
    let place = Place::new();
    let stdout = place
        .ok(&format!("sweep data --objectives con:con,nca:lin --seeds 0,1,2 --lr 0.05 {SMALL} --out sweep"));
    assert_eq!(stdout.as_bytes(), place.read("sweep/table.md"));
    let test = |objective: &str, seed: u32| {
        let out = format!("{}{seed}", objective.replace(':', ""));
        place.train(&out, &format!("--objective {objective} --lr 0.05 --seed {seed}"))
    };
    let runs = ["con:con", "nca:lin"].map(|objective| [0, 1, 2].map(|seed| test(objective, seed)));
    let of = |run: &Value, pointer: &str| run.pointer(pointer).unwrap().as_f64().unwrap();
    let table: Value = serde_json::from_slice(&place.read("sweep/table.json")).unwrap();
    let csv = String::from_utf8(place.read("sweep/table.csv")).unwrap();
    let csv: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((csv.len(), csv.iter().all(|line| line.len() == 24)), (3, true), "{csv:?}");
    let rows = table["rows"].as_array().unwrap();
    for (objective, runs) in ["con:con", "nca:lin"].iter().zip(&runs) {
        let row = rows.iter().position(|row| row["objective"] == **objective).unwrap();
        for (place, (name, pointer)) in [
            ("i2t_r1", "/test/i2t/r1"),
            ("t2i_r1", "/test/t2i/r1"),
            ("rsum", "/test/rsum"),
            ("val_rsum", "/val/rsum"),
        ]
        .into_iter()
        .enumerate()
        {
            let score = &table["rows"][row][name];
            let [a, b, c] = [0, 1, 2].map(|seed| of(&runs[seed], pointer));
            assert_eq!(score["values"], serde_json::json!([a, b, c]));
            let mean = (a + b + c) / 3.0;
            let sd = (((a - mean).powi(2) + (b - mean).powi(2) + (c - mean).powi(2)) / 2.0).sqrt();
            assert!(
                (of(score, "/mean") - mean).abs() < 1e-9 && (of(score, "/sd") - sd).abs() < 1e-9,
                "{score}"
            );
            assert_eq!(csv[row + 1][4 + 4 * place].parse::<f64>().unwrap(), of(score, "/mean"));
            let printed = format!("| {mean:.1} ± {sd:.1} |");
            assert!(stdout.lines().nth(6 + row).unwrap().contains(&printed), "{printed} in\n{stdout}");
        }
    }
    // With two degrees of freedom, p has a closed form.
    let differences =
        [0, 1, 2].map(|seed| of(&runs[1][seed], "/test/rsum") - of(&runs[0][seed], "/test/rsum"));
    let mean = differences.iter().sum::<f64>() / 3.0;
    let t = mean / (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 2.0 / 3.0).sqrt();
    let p = 1.0 - t.abs() / (t * t + 2.0).sqrt();
    let row = |name: &str| rows.iter().find(|row| row["objective"] == name).unwrap();
    let found = &row("nca:lin")["rsum"]["test"];
    assert!((of(found, "/t") - t).abs() < 1e-9 && (of(found, "/p") - p).abs() < 1e-9, "{found} {t} {p}");
    assert_eq!((&row("con:con")["rsum"]["test"], &table["baseline"]), (&Value::Null, &"con:con".into()));
}

/// Holm's method: the smallest of m values of p counts m times, the next m − 1 times, and none less than the one before.
#[test]
fn p_is_corrected_for_the_number_of_objectives() {
    let place = Place::new();
    let names = "con:con,nca:lin,hinge,infonce";
    let stdout =
        place.ok(&format!("sweep data --objectives {names} --seeds 0,1,2 --lr 0.05 {SMALL} --out sweep"));
    let table: Value = serde_json::from_slice(&place.read("sweep/table.json")).unwrap();
    let rows = table["rows"].as_array().unwrap();
    let tests: Vec<_> = rows.iter().filter(|row| !row["rsum"]["test"].is_null()).collect();
    let p = |row: &Value| row["rsum"]["test"]["p"].as_f64().unwrap();
    assert_eq!(tests.len(), 3);
    for row in &tests {
        let smaller = tests.iter().filter(|other| p(other) <= p(row));
        let rank = |other: &Value| tests.iter().filter(|third| p(third) < p(other)).count();
        let expected = smaller.map(|other| (3 - rank(other)) as f64 * p(other)).fold(0.0, f64::max).min(1.0);
        let found = row["rsum"]["test"]["holm"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}: {rows:?}");
        let name = row["objective"].as_str().unwrap();
        let line = stdout.lines().find(|line| line.replace(" | ", ":").contains(&format!("| {name}:")));
        assert!(line.is_some_and(|line| line.contains(&format!("| {found:.3} |"))), "{line:?} {found}");
    }
}

/// The heads of the chosen points get the correction that `train` gives its head.
#[test]
fn chosen_heads_are_corrected_for_hubs() {
    let place = Place::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let sweep =
        format!("sweep {data} --objectives con:con,infonce --seeds 0,1 --epochs 1 --embed 24 --device cpu");
    let stdout = place.ok(&format!("{sweep} --out sweep"));
    let table: Value = serde_json::from_slice(&place.read("sweep/table.json")).unwrap();
    let mut corrected = 0;
    for row in table["rows"].as_array().unwrap() {
        let name = row["objective"].as_str().unwrap().replace(':', "-");
        for seed in [0, 1] {
            let head = format!("sweep/heads/{name}-1-s{seed}.safetensors");
            let eval = place.json(&format!("eval {head} {data} --device cpu --json"));
            assert_eq!(row["corrected_rsum"]["values"][seed], eval["rsum"], "{head}");
            let plain = eval.get("plain").unwrap_or(&eval);
            assert_eq!(row["rsum"]["values"][seed], plain["rsum"], "{head}");
            corrected += usize::from(eval.get("plain").is_some());
        }
        let mean = row["corrected_rsum"]["mean"].as_f64().unwrap();
        assert!(stdout.contains(&format!("| {mean:.1} ± ")), "{mean} in\n{stdout}");
    }
    assert!(corrected > 0 && stdout.contains("| rsum | p | corrected rsum | p | val rsum |"), "{stdout}");
    let page = String::from_utf8(place.read("sweep/report.html")).unwrap();
    assert!(page.contains("corrected rsum"));
    let without = place.ok(&format!("{sweep} --correction none --out without"));
    assert!(!without.contains("corrected rsum") && without.contains("| rsum | p | val rsum |"), "{without}");
}

#[test]
fn one_seed_has_no_deviation_and_no_test() {
    let place = Place::new();
    let stdout = place.ok(&format!("sweep data --objectives hinge,infonce --seeds 4 {SMALL} --out sweep"));
    assert!(
        stdout.contains("against hinge")
            && !stdout.lines().any(|line| line.starts_with('|') && line.contains('±'))
    );
    let infonce = stdout.lines().find(|line| line.starts_with("| infonce")).unwrap();
    assert!(infonce.contains("| n/a |"), "{stdout}");
}

#[test]
fn all_is_the_papers_table() {
    let place = Place::new();
    let stdout = place.ok(&format!("sweep data --seeds 0 {SMALL} --lr 0.1 --out sweep"));
    let rows: Vec<_> = stdout.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    let mut names: Vec<_> =
        rows.iter().map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" ")).collect();
    names.sort();
    assert_eq!(rows.len(), 17);
    assert_eq!((&*names[0], &*names[4], &*names[12]), ("| cir con", "| cir sig-ms", "| nca con"));
    assert!(names[10].starts_with("| hinge") && names[11].starts_with("| infonce"), "{names:?}");
    // From the best mean on validation to the worst.
    let table: Value = serde_json::from_slice(&place.read("sweep/table.json")).unwrap();
    let means: Vec<_> =
        table["rows"].as_array().unwrap().iter().map(|row| &row["val_rsum"]["mean"]).collect();
    assert!(means.windows(2).all(|pair| pair[0].as_f64() >= pair[1].as_f64()), "{means:?}");
    assert!(means[0].as_f64() > means[16].as_f64(), "{means:?}");
}

/// The point is chosen by validation, whatever the test split says. An option without effect on an objective does not
/// add points to it.
#[test]
fn the_grid_is_chosen_by_validation() {
    let place = Place::new();
    let options = "--epochs 3 --embed 4 --batch 16 --device cpu";
    let grid = "--grid tau=1,8 lr=1e-30,0.01,0.05";
    place.ok(&format!("sweep data --objectives nca:con,infonce --seeds 0,1 {grid} {options} --out sweep"));
    let results = results(&place, "sweep");
    let runs: Vec<_> = results.iter().filter_map(|line| line.get("run")).collect();
    let tests: Vec<_> = results.iter().filter_map(|line| line.get("test")).collect();
    assert_eq!((runs.len(), tests.len()), (2 * 6 + 2 * 3, 4));
    let table: Value = serde_json::from_slice(&place.read("sweep/table.json")).unwrap();
    for row in table["rows"].as_array().unwrap() {
        let mut sums = std::collections::BTreeMap::<&str, f64>::new();
        for run in runs.iter().filter(|run| run["objective"] == row["objective"]) {
            *sums.entry(run["point"].as_str().unwrap()).or_default() +=
                run["best"]["recall"]["rsum"].as_f64().unwrap();
        }
        assert_eq!(sums.len(), if row["objective"] == "infonce" { 3 } else { 6 });
        let best = sums.values().copied().fold(f64::MIN, f64::max);
        let chosen = row["point"].as_str().unwrap();
        assert_eq!(sums[chosen], best, "{chosen} of {sums:?}");
        assert!(sums.values().any(|&sum| sum < best) && !chosen.contains("1e-30"), "{sums:?}");
        // The test split is used for this point only.
        let of = tests.iter().filter(|test| test["objective"] == row["objective"]);
        assert!(of.clone().count() == 2 && of.clone().all(|test| test["point"] == *chosen));
    }
}

#[test]
fn a_point_that_diverges_is_ruled_out() {
    let place = Place::new();
    let sweep = format!("sweep data --objectives con:con,cir:lin --seeds 0,1 {SMALL} --out");
    let stdout = place.ok(&format!("{sweep} some --grid lr=1e300,0.01"));
    assert!(stdout.lines().last().unwrap().ends_with("| lr=0.01 |"), "{stdout}");
    let kept = place.names("some/heads");
    assert_eq!(
        kept,
        ["cir-lin-2-s0", "cir-lin-2-s1", "con-con-2-s0", "con-con-2-s1"].map(|n| format!("{n}.safetensors"))
    );
    // The tables are written, but a sweep without a successful run is an error.
    for _ in 0..2 {
        let output = place.run(&format!("{sweep} all --lr 1e300"));
        assert!(output.stdout.lines().last().unwrap().contains("| diverged | n/a |"), "{}", output.stdout);
        let expected = "error: all: expected an objective whose runs finish with all seeds, found none: a run \
                        diverged at every point; lower --lr, set --clip, or use milder --tau, --alpha, --beta, in another --out";
        assert_eq!((output.code, output.stderr.lines().last().unwrap()), (1, expected));
        let csv = String::from_utf8(place.read("all/table.csv")).unwrap();
        assert!(csv.lines().last().unwrap().starts_with("cir:lin,,2,0,,,"), "{csv}");
    }
}

/// If one seed of an objective fails, no head of the objective is kept.
#[test]
fn a_seed_that_diverges_leaves_no_heads() {
    let place = Place::new();
    let sweep = format!("sweep data --objectives con:con,hinge --seeds 0,1 {SMALL} --out sweep");
    place.ok(&sweep);
    assert_eq!(place.names("sweep/heads").len(), 4);
    // As if one run of hinge had diverged, and the sweep had been cut after the other one.
    let mut lines = results(&place, "sweep");
    lines.retain(|line| line["test"]["objective"] != "hinge");
    let run = lines.iter_mut().find(|line| line["run"]["objective"] == "hinge").unwrap();
    (run["run"]["best"], run["run"]["diverged"]) = (Value::Null, "in its first step".into());
    let text: String = lines.iter().skip(1).map(|line| format!("{line}\n")).collect();
    let plan = String::from_utf8(place.read("sweep/results.jsonl")).unwrap();
    let plan = plan.split_inclusive('\n').next().unwrap();
    std::fs::write(place.path("sweep/results.jsonl"), format!("{plan}{text}")).unwrap();

    let output = place.run(&sweep);
    assert_eq!(output.code, 0, "one objective has a result: {}", output.stderr);
    assert!(output.stderr.contains("warning: hinge diverged at every point"), "{}", output.stderr);
    assert_eq!(place.names("sweep/heads"), ["con-con-1-s0.safetensors", "con-con-1-s1.safetensors"]);
}

/// The test split is used last, but its absence is found first.
#[test]
fn a_sweep_that_could_not_be_evaluated_does_not_begin() {
    use wgoal::sweep::{Sweep, Variant};
    use wgoal::{Dataset, Device, Split, TrainConfig};
    let place = Place::new();
    let variant = |config: TrainConfig| Variant { point: config.batch.to_string(), config };
    let small = TrainConfig::default().with(|c| {
        c.embed = 4;
        c.epochs = 1;
        c.batch = 16;
    });
    let sweep = |config: TrainConfig, splits: &[Split]| {
        let sweep = Sweep::new(vec![variant(small.clone()), variant(config)], vec![0], None).unwrap();
        let dataset = Dataset::open_for(place.path("data"), splits).unwrap();
        let found = sweep.run(&Device::cpu(), dataset, &place.path("out"), |_| panic!("it has begun"));
        assert!(!place.path("out").exists());
        found.unwrap_err().to_string()
    };
    std::fs::remove_file(place.path("data/split_test.npy")).unwrap();
    let without = sweep(small.clone().with(|c| c.batch = 8), &[Split::Train, Split::Val]);
    assert!(without.contains("split_test"), "{without}");
    write_dataset(&place.path("data"));
    // These faults would otherwise appear only in the last run.
    let pooled = small.clone().with(|c| {
        c.batch = 8;
        c.text_pooling = wgoal::model::Pooling::Mean;
    });
    assert!(sweep(pooled, &Split::ALL).contains("text_tokens"));
    let bank = small.clone().with(|c| {
        c.batch = 8;
        c.memory_bank = 4;
    });
    assert!(sweep(bank, &Split::ALL).contains("--memory-bank"));
}

#[test]
fn results_of_other_options_are_refused() {
    let place = Place::new();
    let sweep =
        |args: &str| place.run(&format!("sweep data --batch 16 --embed 4 --device cpu --out sweep {args}"));
    let first = "--objectives con:con --seeds 0,1 --epochs 1 --grid lr=0.01,0.02";
    assert_eq!(sweep(first).code, 0);
    let before = place.listing();
    let advice = "give the options that the sweep was started with, or another --out";
    for (args, difference) in [
        (first.replace("--epochs 1", "--epochs 2"), "expected epochs = 1, found epochs = 2"),
        (first.replace("0,1", "0,2"), "expected seeds = [0,1], found seeds = [0,2]"),
        (
            first.replace("con:con", "con:lin"),
            r#"expected objectives = ["con:con lr=0.01","con:con lr=0.02"], found objectives = ["con:lin lr=0.01","con:lin lr=0.02"]"#,
        ),
        (format!("{first} --tau 3"), "expected objective.goal"),
    ] {
        let output = sweep(&args);
        let last = output.stderr.lines().last().unwrap();
        assert!(output.code == 1 && last.contains(difference) && last.ends_with(advice), "{args}: {last}");
        assert!(last.starts_with("error: sweep/results.jsonl: "), "{last}");
        assert!(place.listing() == before, "{args}");
    }
    std::fs::write(place.path("sweep/results.jsonl"), "something else\n").unwrap();
    assert!(sweep(first).stderr.contains("expected the results of a sweep, found another file"));
}

/// A sweep fits the start of its runs once per kind of input. The runs must still be those of `train`.
#[test]
fn runs_that_begin_with_cca_are_those_of_train() {
    let place = Place::new();
    let options = "--init cca --epochs 1 --batch 16 --device cpu";
    let grid = "--grid embed=3,5 --grid signed-root=none,images";
    place.ok(&format!("sweep data --objectives con:con,hinge --seeds 0,1 {options} {grid} --out sweep"));
    let runs = results(&place, "sweep");
    let runs: Vec<_> =
        runs.iter().filter(|line| line.get("run").is_some()).map(|line| &line["run"]).collect();
    assert_eq!(runs.len(), 16);
    for run in runs {
        let text = |key: &str| run[key].as_str().unwrap();
        let point =
            text("point").split(' ').map(|option| format!("--{option}")).collect::<Vec<_>>().join(" ");
        let (objective, seed) = (text("objective"), &run["seed"]);
        place.ok(&format!(
            "train data --recipe goal {options} {point} --objective {objective} --seed {seed} --no-baselines --out alone"
        ));
        assert_eq!(place.metrics("alone")[0]["val"], run["best"]["recall"], "{objective} {point} {seed}");
        std::fs::remove_dir_all(place.path("alone")).unwrap();
    }
}
