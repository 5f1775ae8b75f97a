//! The first run: `train` without options beats the closed forms, starts from one, and says what it gained.

use super::place::*;
use serde_json::{Value, json};

const MINI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");

fn rsum(recall: &Value) -> f64 {
    recall["rsum"].as_f64().unwrap()
}

fn epochs(place: &Place, run: &str) -> Vec<u64> {
    place.metrics(run).iter().map(|line| line["epoch"].as_u64().unwrap()).collect()
}

fn last_lines(text: &str) -> Vec<&str> {
    text.trim_end().lines().rev().take(3).collect()
}

/// The number between two texts.
fn number(text: &str, before: &str, after: &str) -> f64 {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0.parse().unwrap()
}

/// The first command of the README, with three seeds.
#[test]
fn training_without_options_beats_the_closed_forms() {
    let place = Place::new();
    let output = place.run(&format!("train {MINI} --device cpu --out s0"));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let [head, gain, without] = last_lines(&output.stdout)[..] else { panic!("{}", output.stdout) };
    assert_eq!(head, "head: s0/best.safetensors");
    let points = number(gain, "training gained ", " points of test rsum");
    let (cca, kernel) =
        (number(without, "rsum ", " by CCA"), number(without, "regression, ", " by kernel CCA"));
    assert!(gain.ends_with(&format!("over the best closed form (kernel CCA, {kernel:.1})")), "{gain}");
    let first = number(&output.stdout, "\nrsum ", " of 600");
    assert!((first - kernel - points).abs() < 0.11, "{first} {kernel} {points}");
    assert!(kernel > cca && cca > 200.0, "{without}");

    let others = [1, 2].map(|seed| {
        let summary = place.json(&format!("train {MINI} --seed {seed} --device cpu --json --out s{seed}"));
        [rsum(&summary["test"]), summary["baselines"]["kcca"].as_f64().unwrap()]
    });
    let sums = [first + others[0][0] + others[1][0], kernel + others[0][1] + others[1][1]];
    assert!(sums[0] >= sums[1] && sums[0] > 3.0 * cca, "{first} {others:?} {kernel}");
    for seed in 0..3 {
        let metrics = place.metrics(&format!("s{seed}"));
        assert_eq!((&metrics[0]["epoch"], &metrics[0]["init"]), (&json!(0), &json!("kcca")));
    }
}

/// Also where the embedding is wider than CCA can be: the rows beyond it change nothing.
#[test]
fn epoch_0_validates_as_the_closed_form_does() {
    let place = Place::new();
    for (data, options) in [
        ("data", "--embed 3 --standardize=off --signed-root none"),
        ("data", "--embed 5 --standardize=on --signed-root both"),
        ("data", "--embed 40 --standardize=off --signed-root images"),
        (MINI, "--embed 500 --standardize=on --signed-root images"),
    ] {
        let closed = place.json(&format!("baseline cca {data} {options} --device cpu --json"));
        let out = format!("run{}", options.replace([' ', '='], ""));
        let train = format!(
            "train {data} --init cca {options} --epochs 1 --device cpu --no-baselines --json --out {out}"
        );
        let run = place.json(&train);
        let start = &place.metrics(&out)[0];
        assert_eq!((&start["epoch"], &start["best"]), (&json!(0), &json!(true)), "{options}");
        assert_eq!(start["val"], closed["val"], "{data} {options}");
        assert!(rsum(&run["val"]) >= rsum(&closed["val"]), "{data} {options}");
    }
}

#[test]
fn best_is_never_worse_than_the_start() {
    let place = Place::new();
    // Such a rate destroys what CCA has found.
    let output = place.run("train data --init cca --lr 3 --epochs 2 --device cpu --out run");
    assert_eq!(output.code, 0, "{}", output.stderr);
    let metrics = place.metrics("run");
    assert_eq!(epochs(&place, "run"), [0, 1, 2]);
    assert!(metrics[1..].iter().all(|line| rsum(&line["val"]) < rsum(&metrics[0]["val"])));
    assert!(output.stderr.contains("best epoch 0 by validation"), "{}", output.stderr);
    let gain = last_lines(&output.stdout)[1];
    assert!(
        gain.starts_with("training did not gain: its test rsum equals that of the best closed form (CCA, ")
    );
    assert!(gain.ends_with("; no epoch validated better than the start, so the head is the start"), "{gain}");
    let eval = place.json("eval run data --split val --device cpu --json");
    assert_eq!(rsum(&eval), rsum(&metrics[0]["val"]));
    // The run goes on, and the start stays the best.
    let summary = place.json("train --resume --epochs 3 --no-baselines --json --out run");
    assert_eq!((summary["best_epoch"].as_u64(), epochs(&place, "run")), (Some(0), vec![0, 1, 2, 3]));
}

#[test]
fn a_run_below_the_closed_forms_says_so() {
    let place = Place::new();
    let output = place.run("train data --recipe goal --epochs 1 --device cpu --out plain");
    let gain = last_lines(&output.stdout)[1];
    assert!(gain.starts_with("training did not gain: its test rsum is "), "{gain}");
    assert!(gain.ends_with("; a start from CCA may help: --init cca, or the default recipe"), "{gain}");
    // With nothing to compare with, chance is the measure.
    let output = place.run("train data --epochs 1 --device cpu --no-baselines --out alone");
    assert!(last_lines(&output.stdout)[1].starts_with("chance: rsum "), "{}", output.stdout);
}

/// A run that starts from CCA goes on to the same bits, from the start or from any epoch.
#[test]
fn a_run_from_cca_goes_on_in_parts() {
    let place = Place::new();
    let options = "--embed 9 --batch 16 --lr 0.01 --device cpu --no-baselines";
    place.ok(&format!("train data {options} --epochs 5 --out whole"));
    place.ok(&format!("train data {options} --epochs 2 --out parts"));
    place.ok("train --resume --epochs 3 --no-baselines --out parts");
    place.ok("train --resume --epochs 5 --no-baselines --out parts");
    // What a run leaves that is killed in its first epoch.
    place.ok(&format!("train data {options} --epochs 5 --out killed"));
    std::fs::remove_file(place.path("killed/last.safetensors")).unwrap();
    let lines = String::from_utf8(place.read("killed/metrics.jsonl")).unwrap();
    let first = lines.split_inclusive('\n').take(2).collect::<String>();
    std::fs::write(place.path("killed/metrics.jsonl"), first).unwrap();
    place.ok("train --resume --no-baselines --out killed");
    for run in ["parts", "killed"] {
        assert_eq!(epochs(&place, run), [0, 1, 2, 3, 4, 5], "{run}");
        for name in ["best.safetensors", "last.safetensors"] {
            assert!(place.read(&format!("whole/{name}")) == place.read(&format!("{run}/{name}")), "{run}");
        }
    }
}

#[test]
fn patience_counts_from_the_start() {
    let place = Place::new();
    // At such a rate nothing changes.
    let frozen = "--lr 1e-30 --weight-decay 0 --epochs 9 --device cpu --no-baselines --json";
    let summary = place.json(&format!("train data {frozen} --patience 2 --out run"));
    assert_eq!((summary["best_epoch"].as_u64(), epochs(&place, "run")), (Some(0), vec![0, 1, 2]));
    let output = place.run("train --resume --no-baselines --out run");
    let note = "note: --patience 2 ended the run after epoch 2 of 9; to continue, add --patience 0, or a --patience \
                above 2";
    assert!(output.stderr.lines().any(|line| line == note), "{}", output.stderr);
}

/// A folder whose run trained nothing can be used again, also after its start.
#[test]
fn a_start_alone_does_not_keep_a_folder() {
    let place = Place::new();
    let output = place.run("train data --lr 1e30 --batch 8 --epochs 5 --device cpu --out run");
    assert_eq!((output.code, epochs(&place, "run")), (1, vec![0]), "{}", output.stderr);
    let left = ["best.safetensors", "config.json", "metrics.jsonl", "run.toml", "similarities.jsonl"];
    assert_eq!(place.names("run"), left);
    place.ok("train data --epochs 2 --device cpu --no-baselines --out run");
    assert_eq!(epochs(&place, "run"), [0, 1, 2]);
    let output = place.run("train data --epochs 2 --device cpu --out run");
    assert!(output.code == 1 && output.stderr.contains("an earlier run"), "{}", output.stderr);
}

#[test]
fn the_choice_is_said_in_one_line() {
    let place = Place::new();
    let line = |options: &str, out: &str| {
        let output =
            place.run(&format!("train data --device cpu --epochs 1 --no-baselines --out {out} {options}"));
        assert_eq!(output.code, 0, "{options}\n{}", output.stderr);
        let lines: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("recipe ")).collect();
        assert_eq!(lines.len(), 1, "{}", output.stderr);
        lines[0].to_string()
    };
    assert_eq!(
        line("", "a"),
        "recipe wgoal for 48 pairs: infonce-masked, from exact kernel CCA, 64 wide, 1 epoch, batches of 16, dropout 0.8"
    );
    let random = line("--image-encoder residual-mlp --objective hinge", "b");
    assert!(
        random.contains(": hinge, from random weights, because the head is not linear, 384 wide"),
        "{random}"
    );
    assert!(line("--recipe goal", "c").starts_with("recipe goal: GOAL, plain"));
}

#[test]
fn the_size_of_data_and_head_is_said_before_training() {
    let place = Place::new();
    let output = place.run("train data --init cca --device cpu --epochs 1 --no-baselines --out run");
    for line in [
        "images: 40, 6 wide",
        "captions: 80, 5 wide; 2 per image",
        "splits: train 24 images with 48 captions, val 8 images with 16 captions, test 8 images with 16 captions",
        "head: images 6 to 5, captions 5 to 5; 65 parameters",
    ] {
        assert!(output.stderr.lines().any(|found| found == line), "{line}\n{}", output.stderr);
    }
}

#[test]
fn quiet_prints_results_and_errors_only() {
    let place = Place::new();
    let train = "train data --device cpu --epochs 1";
    let loud = place.run(&format!("{train} --out loud"));
    let quiet = place.run(&format!("{train} --quiet --out quiet"));
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    assert_eq!(quiet.stdout, loud.stdout.replace("loud", "quiet"));
    assert!(quiet.stdout.contains("image to text") && quiet.stdout.contains("head: "), "{}", quiet.stdout);
    let error = place.run(&format!("{train} --quiet --out quiet"));
    assert!(error.code == 1 && error.stderr.starts_with("error: "), "{}", error.stderr);
    assert_eq!(error.stderr.lines().count(), 1);
}

#[test]
fn json_names_the_head_and_the_objective_as_typed() {
    let place = Place::new();
    let train = "train data --device cpu --epochs 1 --no-baselines --json";
    let typed = "infonce+0.50*cir:sig-ms";
    let summary = place.json(&format!("{train} --objective {typed} --out run"));
    assert_eq!((&summary["objective"], &summary["recipe"]), (&json!(typed), &json!("wgoal")));
    let head = summary["head"].as_str().unwrap();
    place.ok(&format!("eval {head} data --device cpu"));
    let by_recipe = place.json(&format!("{train} --out other"));
    assert_eq!(by_recipe["objective"], "infonce-masked");
}

#[test]
fn resume_auto_starts_a_run_or_continues_it() {
    let place = Place::new();
    for (number, resume) in ["--resume=auto", "--resume auto"].into_iter().enumerate() {
        let out = format!("run{number}");
        let train = |epochs: usize| {
            place.run(&format!(
                "train data {resume} --epochs {epochs} --device cpu --no-baselines --out {out}"
            ))
        };
        // The dataset follows from the run, or is the first word: `auto` is none here.
        let first = match resume.contains('=') {
            true => train(2),
            false => place.run(&format!("train data --epochs 2 --device cpu --no-baselines --out {out}")),
        };
        assert_eq!((first.code, epochs(&place, &out)), (0, vec![0, 1, 2]), "{}", first.stderr);
        let second = match resume.contains('=') {
            true => train(4),
            false => place.run(&format!("train {resume} --epochs 4 --device cpu --no-baselines --out {out}")),
        };
        assert_eq!((second.code, epochs(&place, &out)), (0, vec![0, 1, 2, 3, 4]), "{}", second.stderr);
        assert!(second.stderr.contains("resuming after epoch 2 of 4"), "{}", second.stderr);
    }
    let none = place.run("train data --resume --device cpu --out nothing");
    assert!(none.code == 1 && none.stderr.contains("found no config.json in it"), "{}", none.stderr);
}

/// The case of a run that patience ended: more epochs alone do not go on, and the advice does.
#[test]
fn a_run_that_stopped_early_says_how_to_go_on() {
    let place = Place::new();
    let train = "train data --objective infonce --embed 4 --batch 32 --lr 0.5 --epochs 40 --patience 2";
    place.ok(&format!("{train} --device cpu --no-baselines --out p"));
    let done = epochs(&place, "p").len() - 1;
    assert!(done < 40, "{done} epochs");
    let refused = place.run("train --out p --resume --epochs 80 --no-baselines");
    assert_eq!(refused.code, 1);
    let advice = "to continue, add --patience 0, or a --patience above ";
    assert!(
        refused.stderr.contains(advice) && refused.stderr.contains("--patience 2 ended"),
        "{}",
        refused.stderr
    );
    place.ok("train --out p --resume --epochs 80 --no-baselines --patience 0");
    assert_eq!(*epochs(&place, "p").last().unwrap(), 80);
}

/// Without a test split, validation is what can be reported, and it is said so.
#[test]
fn training_needs_no_test_split() {
    let place = Place::new();
    std::fs::remove_file(place.path("data/split_test.npy")).unwrap();
    let output = place.run("train data --device cpu --epochs 1 --out run");
    assert_eq!(output.code, 0, "{}", output.stderr);
    let said = "; there is no test split, so this is validation, which chose the epoch:";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    let gain = last_lines(&output.stdout)[1];
    assert!(gain.contains(" validation rsum ") && !gain.contains("test"), "{gain}");
    let summary = place.json("train --resume --json --out run");
    assert_eq!((summary.get("test"), &summary["baselines"]["split"]), (None, &json!("val")));
    let printed = number(&output.stdout, "\nrsum ", " of 600");
    assert!((rsum(&summary["val"]) - printed).abs() < 0.06, "{printed}");
}
