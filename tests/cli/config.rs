//! Options in a TOML file.

use super::place::*;
use serde_json::Value;
use std::fs;

/// Options that keep runs short.
const SHORT: &str = "--recipe goal --device cpu --embed 4 --batch 16 --epochs 1 --no-baselines";

fn options(place: &Place, run: &str) -> Value {
    let mut options: Value = serde_json::from_slice(&place.read(&format!("{run}/config.json"))).unwrap();
    // The commands differ.
    options.as_object_mut().unwrap().remove("command").unwrap();
    options
}

/// The lines of a printed file that are options behind a `#`.
fn behind_marks(text: &str) -> Vec<&str> {
    let is_option =
        |line: &&str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    text.lines().filter(is_option).map(|line| &line[1..]).collect()
}

#[test]
fn the_printed_file_is_taken_as_it_is_and_with_all_its_defaults() {
    let place = Place::new();
    let text = place.ok("config");
    assert_eq!(text, place.ok("config train"));
    fs::write(place.path("as-printed.toml"), &text).unwrap();
    place.ok(&format!("train data {SHORT} --out none"));
    place.ok(&format!("train data --config as-printed.toml {SHORT} --out as-printed"));
    assert_eq!(options(&place, "none"), options(&place, "as-printed"));
    // What has no default stands there with the name of its value, and some options exclude each other.
    let without = ["margin", "weights", "param", "lr-drop", "out", "dataset", "resume", "checkpoint-every"];
    // These have defaults for some recipes, objectives or optimisers only.
    let of_others = [
        "recipe",
        "objective",
        "temperature",
        "image-pooling",
        "text-pooling",
        "signed-root",
        "standardize",
        "init",
        "embed",
        "lr",
        "batch",
        "epochs",
        "dropout",
        "landmarks",
        "bandwidth",
        "regularization",
        "ema",
        "lr-linear",
        "centre-kernel",
        "momentum",
        "nesterov",
    ];
    let lines = behind_marks(&text);
    let named =
        |line: &&&str, names: &[&str]| names.iter().any(|name| line.starts_with(&format!("{name} =")));
    let defaults: Vec<_> =
        lines.iter().filter(|line| !named(line, &without) && !named(line, &of_others)).copied().collect();
    assert!(defaults.len() >= 30, "{defaults:?}");
    fs::write(place.path("defaults.toml"), defaults.join("\n")).unwrap();
    place.ok(&format!("train data --config defaults.toml {SHORT} --out defaults"));
    assert_eq!(options(&place, "none"), options(&place, "defaults"));
    // Every option of the help is there.
    let help = place.ok("train --help");
    for option in help.split("--").skip(1).filter_map(|rest| rest.split([' ', '[', '\n']).next()) {
        let known = lines.iter().any(|line| line.starts_with(&format!("{option} =")));
        let other = ["", "config", "help", "color", "version"].contains(&option);
        assert!(known || other || !help.contains(&format!("      --{option}")), "--{option}");
    }
}

#[test]
fn a_run_is_repeated_from_the_file_in_its_folder() {
    let place = Place::new();
    let weights = "override gamma: f32 = 2.0;
        fn triplet_weight(p: f32, n: f32) -> f32 { return exp(gamma * (n - p)); }
        fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }";
    fs::write(place.path("mine.wgsl"), weights).unwrap();
    let runs = [
        "",
        "--objective cir:sig --tau 3 --margin -0.5 --negatives top:2 --lambda 0.1 --mask-same-image off",
        "--objective infonce-masked --temperature 0.1 --learn-temperature --standardize",
        "--objective hinge+0.5*cir:lin --tau 2 --signed-root images",
        "--objective custom --weights mine.wgsl --param gamma=0.3",
        "--optimizer sgd --nesterov --momentum 0.5 --lr 1e-3",
        "--optimizer lion --betas 0.8,0.9 --decay-biases off --weight-decay 0.1",
        "--epsilon 1e-5 --lr-warmup 50% --schedule linear --clip 0.1 --dropout 0.3",
        "--objective hinge --shuffle blocks:512 --batch 2 --seed 18446744073709551615 --memory-bank 40 --bank-warmup 0",
        "--recipe wgoal --batch 8 --lr-drop 1 --epochs 2 --warmup-epochs 0",
        "--init cca --patience 1 --epochs 3",
    ];
    for (i, given) in runs.into_iter().enumerate() {
        let default = |option: &str, value: &str| match given.contains(option) {
            true => String::new(),
            false => format!("{option} {value}"),
        };
        let short = [default("--epochs", "1"), default("--batch", "16")].join(" ");
        let args = format!("train data {given} {short} --embed 4 --no-baselines --device cpu --out a{i}");
        place.ok(&args);
        let output = place.run(&format!("train --config a{i}/run.toml --no-baselines --out b{i}"));
        assert_eq!(output.code, 0, "{given}\n{}", output.stderr);
        assert!(!output.stderr.contains("warning: --"), "{given}\n{}", output.stderr);
        let [mut before, mut after] = ["a", "b"].map(|run| options(&place, &format!("{run}{i}")));
        for config in [&mut before, &mut after] {
            // The file says what the recipe set, and where the weights are. So does the id of the run.
            config.as_object_mut().unwrap().remove("recipe");
            config.as_object_mut().unwrap().remove("run");
            if let Some(file) = config.pointer_mut("/objective/custom/weights/file") {
                *file = Value::Null;
            }
        }
        assert_eq!(before, after, "{given}");
        let [before, after] =
            ["a", "b"].map(|run| read_tensors(&place.read(&format!("{run}{i}/best.safetensors"))).0);
        assert!(before == after, "{given}");
        let text = |run: &str| {
            let text = String::from_utf8(place.read(&format!("{run}{i}/run.toml"))).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(text("a"), text("b"), "{given}");
    }
}

/// The file has every value that decides the results, also those that only some objectives read.
#[test]
fn a_sweep_is_repeated_from_the_file_in_its_folder() {
    let place = Place::new();
    let weights = "override gamma: f32 = 2.0;
        fn triplet_weight(p: f32, n: f32) -> f32 { return exp(gamma * (n - p)); }
        fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }";
    fs::write(place.path("mine.wgsl"), weights).unwrap();
    let sweeps = [
        "--objectives nca:con,hinge,infonce --seeds 2 --grid tau=1,5 --standardize=on --temperature 0.2",
        "--objectives cir:sig,nca:lin --seeds 0,7 --baseline nca:lin@top:2 --tau 3 --margin 0.4 --negatives top:2 --lr 1e-3",
        "--objectives custom,hinge --weights mine.wgsl --param gamma=0.3 --seeds 0 --optimizer sgd --momentum 0.5",
        "--objectives infonce-masked,cir:con --recipe wgoal --seeds 0 --warmup-epochs 0 --grid dropout=0.1,0.3 lr=0.01",
        "--objectives hinge+0.5*cir:lin --negatives semi-hard --tau 2 --seeds 1 --init cca --lr-drop 1",
    ];
    for (i, given) in sweeps.into_iter().enumerate() {
        let sweep = format!("sweep data {given} --epochs 2 --batch 16 --embed 4 --device cpu --out a{i}");
        place.ok(&sweep);
        let output = place.run(&format!("sweep --config a{i}/sweep.toml --out b{i}"));
        assert_eq!(output.code, 0, "{given}\n{}", output.stderr);
        assert!(!output.stderr.contains("warning: --"), "{given}\n{}", output.stderr);
        for name in ["table.json", "table.csv", "table.md"] {
            assert!(
                place.read(&format!("a{i}/{name}")) == place.read(&format!("b{i}/{name}")),
                "{given}: {name}"
            );
        }
        // The plan, in the first line of results.jsonl, has the configurations.
        let plan = |folder: &str| {
            let text = String::from_utf8(place.read(&format!("{folder}{i}/results.jsonl"))).unwrap();
            let path = place.path("mine.wgsl").display().to_string();
            text.lines().next().unwrap().replace(&path, "mine.wgsl")
        };
        assert_eq!(plan("a"), plan("b"), "{given}");
        let options = |folder: &str| {
            let text = String::from_utf8(place.read(&format!("{folder}{i}/sweep.toml"))).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(options("a"), options("b"), "{given}");
        // The same command continues, and another one leaves the file as it is.
        let before = place.read(&format!("a{i}/sweep.toml"));
        let other = place.run(&format!("{sweep} --weight-decay 0.5"));
        assert!(other.code == 1 && place.read(&format!("a{i}/sweep.toml")) == before, "{}", other.stderr);
    }
    fs::create_dir(place.path("mine")).unwrap();
    let text = "dataset = \"data\"\nobjectives = [\"hinge\"]\nseeds = [0]\nepochs = 1\nembed = 4\ndevice = \"cpu\"\n";
    fs::write(place.path("mine/sweep.toml"), text).unwrap();
    let output = place.run("sweep --config mine/sweep.toml --out mine");
    assert!(output.code == 0 && output.stderr.contains("note: mine/sweep.toml is not from a sweep"));
    assert_eq!(place.read("mine/sweep.toml"), text.as_bytes());
}

#[test]
fn the_command_line_wins_over_the_file() {
    let place = Place::new();
    let file = "dataset = \"data\"\nout = \"from-file\"\nepochs = 1\nembed = 4\nbatch = 16\nlr = 0.25\ndevice = \"cpu\"\n\
                no-baselines = true\nstandardize = true\nlr_drop = [1, 2]\nobjective = 'hinge'\njson = false\n";
    fs::write(place.path("run.toml"), file).unwrap();
    assert_eq!(place.run("train --config run.toml").code, 0);
    let of_file = options(&place, "from-file");
    assert_eq!(
        (&of_file["lr"], &of_file["lr_drop"], &of_file["standardize"]),
        (&0.25.into(), &vec![1, 2].into(), &true.into())
    );
    write_dataset(&place.path("other"));
    place.ok("train other --config=run.toml --lr 0.5 --lr-drop 3 --standardize=off --out given --objective infonce");
    let given = options(&place, "given");
    assert_eq!(
        (&given["lr"], &given["lr_drop"], &given["standardize"]),
        (&0.5.into(), &vec![3].into(), &false.into())
    );
    assert!(given["dataset"].as_str().unwrap().ends_with("other"));
    assert!(given["objective"]["infonce"].is_object() && given["epochs"] == 1);
    let sweep = "out = \"table\"\nobjectives = [\"hinge\", \"con:con\"]\nseeds = [3]\ngrid = [\"lr=1e-3,1e-2\"]\nepochs = 1\n\
                 embed = 4\nbatch = 16\ndataset = \"data\"\ndevice = \"cpu\"\n";
    fs::write(place.path("sweep.toml"), sweep).unwrap();
    place.ok("sweep --config sweep.toml --objectives hinge");
    let results = String::from_utf8(place.read("table/results.jsonl")).unwrap();
    assert_eq!(results.lines().filter(|line| line.starts_with("{\"run\"")).count(), 2, "{results}");
    // The grid of the command line replaces that of the file, and its dataset is found behind it.
    place.ok("sweep --config sweep.toml --objectives hinge --out t2 --grid tau=1 other");
    let results = String::from_utf8(place.read("t2/results.jsonl")).unwrap();
    assert_eq!(results.lines().filter(|line| line.starts_with("{\"run\"")).count(), 1, "{results}");
    assert!(results.starts_with("{\"dataset\":\"other "), "{results}");
}

#[test]
fn a_file_of_the_user_is_kept() {
    let place = Place::new();
    fs::create_dir(place.path("mine")).unwrap();
    let text =
        "dataset = \"data\"\nepochs = 1\nembed = 4\nno-baselines = true\ndevice = \"cpu\"\nout = \"mine\"\n";
    fs::write(place.path("mine/run.toml"), text).unwrap();
    let output = place.run("train --config mine/run.toml");
    assert!(
        output.code == 0 && output.stderr.contains("note: mine/run.toml is not from a run"),
        "{}",
        output.stderr
    );
    assert_eq!(place.read("mine/run.toml"), text.as_bytes());
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let place = Place::new();
    let cases = [
        (
            "lr = 1\nlearning_rate = 1\n",
            "2: expected an option of `wgoal train`, found learning_rate; use lr",
        ),
        ("\nepoch = 1\n", "2: expected an option of `wgoal train`, found epoch; use epochs"),
        ("batch_sise = 1", "1: expected an option of `wgoal train`, found batch_sise; use batch"),
        (
            "zzz = 1",
            "1: expected an option of `wgoal train`, found zzz; leave it out; `wgoal config train` lists all options",
        ),
        ("config = \"x\"", "1: expected an option of `wgoal train`, found config; leave it out"),
        ("data = \"x\"", "1: expected an option of `wgoal train`, found data; use dataset"),
        (
            "optimizer = \"adam\"",
            "1: expected one of adamw, sgd, lion for optimizer, found 'adam'; change optimizer, or leave it out",
        ),
        (
            "lr = \"fast\"",
            "1: expected a value of --lr, found 'fast': invalid float literal; change lr, or leave it out",
        ),
        ("lr = true", "1: expected a value of --lr, found a boolean; write lr = \"RATE\""),
        ("lr = [1, 2]", "1: expected one value for lr, found an array; write lr = \"RATE\""),
        ("json = 1", "1: expected true or false for json, found an integer; write json = true"),
        ("[lr]\na = 1", "1: expected a value of --lr, found a table; write lr = \"RATE\""),
        (
            "seed = 1\nseed = 2\n",
            "2: expected TOML, one NAME = VALUE per line, found duplicate key; correct the line",
        ),
    ];
    for (text, message) in cases {
        fs::write(place.path("bad.toml"), text).unwrap();
        let output = place.run("train data --config bad.toml --out new");
        let expected = format!("error: bad.toml line {message}\n");
        assert_eq!((output.code, output.stderr), (1, expected), "{text}");
    }
    assert!(!place.path("new").exists());
}
