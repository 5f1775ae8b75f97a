//! The options with which a resumed run continues, and its messages about them.

use super::place::*;
use serde_json::Value;

fn config(place: &Place, run: &str) -> Value {
    serde_json::from_slice(&place.read(&format!("{run}/config.json"))).unwrap()
}

fn lines<'a>(output: &'a Output, start: &str) -> Vec<&'a str> {
    output.stderr.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn a_recipe_does_not_take_back_what_the_run_was_started_with() {
    let place = Place::new();
    let small = "--embed 4 --batch 16 --device cpu --no-baselines";
    place.ok(&format!("train data --recipe wgoal --epochs 4 --lr 0.001 {small} --out whole"));
    place.ok(&format!("train data --recipe wgoal --epochs 4 --lr 0.001 {small} --out parts"));
    let before = config(&place, "parts");
    assert_eq!(before["recipe"], "wgoal");
    // Neither the 10 epochs of the recipe nor its learning rate and width are used.
    for args in ["--recipe wgoal", "--recipe wgoal --epochs 4", ""] {
        let output = place.run(&format!("train --resume {args} --no-baselines --out parts"));
        assert_eq!((output.code, lines(&output, "note: ")), (0, vec![]), "{args}\n{}", output.stderr);
        assert_eq!(config(&place, "parts"), before, "{args}");
    }
    assert!(place.read("whole/last.safetensors") == place.read("parts/last.safetensors"));
    place.ok("train --resume --recipe wgoal --epochs 6 --no-baselines --out parts");
    let after = config(&place, "parts");
    assert_eq!(
        (&after["epochs"], &after["lr"], &after["recipe"]),
        (&6.into(), &0.001.into(), &"wgoal".into())
    );

    let other = place.run("train --resume --recipe vsepp --out parts");
    let last = other.stderr.lines().last().unwrap();
    let expected = "error: --resume: expected --recipe wgoal, found --recipe vsepp; leave the option out, or start a new \
                    run in another --out";
    assert_eq!((other.code, last), (1, expected));
    place.train("plain", "");
    let other = place.run("train --resume --recipe wgoal --out plain");
    assert!(
        other.code == 1 && other.stderr.contains("expected --recipe goal, found --recipe wgoal"),
        "{}",
        other.stderr
    );
}

#[test]
fn what_another_number_of_epochs_changes_is_said_before() {
    let place = Place::new();
    // 48 captions in batches of 16 give three steps per epoch.
    let resume = |out: &str, start: &str, resume: &str| {
        place.train(out, &format!("--epochs 4 --lr 1 --weight-decay 0 {start}"));
        let output = place.run(&format!("train --resume --no-baselines {resume} --out {out}"));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let said = lines(&output, "note: ").into_iter().map(String::from).collect::<Vec<_>>();
        let rate = place.metrics(out).get(4).map(|line| line["lr"].as_f64().unwrap());
        (said, rate)
    };
    let (said, rate) = resume("both", "--lr-warmup 50% --schedule cosine", "--epochs 8");
    let expected = "note: 8 epochs instead of 4: the learning rate rises until step 12 instead of step 6, it falls until epoch \
                    8 instead of epoch 4, the next step trains at 1.000e0 instead of 0.000e0";
    assert_eq!(said, [expected]);
    // The steps of the fifth epoch are 12, 13 and 14. At the last one, 2 of the 12 steps after the warm-up are done.
    let fallen = 0.5 * (1.0 + (std::f64::consts::PI * 2.0 / 12.0).cos());
    assert!((rate.unwrap() - fallen).abs() < 1e-6, "{rate:?}");
    let (said, _) = resume("linear", "--schedule linear", "--epochs 5");
    let expected = "note: 5 epochs instead of 4: it falls until epoch 5 instead of epoch 4, the next step trains at 2.000e-1 instead of \
                    0.000e0";
    assert_eq!(said, [expected.replace("it falls", "the learning rate falls")]);
    assert_eq!(resume("constant", "", "--epochs 5").0, ["note: 5 epochs instead of 4"]);
    assert_eq!(resume("steps", "--lr-warmup 2", "--epochs 5").0, ["note: 5 epochs instead of 4"]);
    assert_eq!(resume("same", "--schedule cosine", "--epochs 4").0, [""; 0]);
}

#[test]
fn a_run_that_patience_ended_says_so_and_trains_on() {
    let place = Place::new();
    // The learning rate is so small that nothing changes, so the first epoch stays the best.
    place.train("run", "--epochs 9 --patience 2 --lr 1e-30 --weight-decay 0");
    assert_eq!(place.metrics("run").len(), 3);
    let before = place.listing();
    let resume = |args: &str| place.run(&format!("train --resume --no-baselines {args} --out run"));
    // More epochs alone train nothing, so this is an error.
    for args in ["--epochs 20", "--epochs 20 --patience 1", "--patience 1", "--epochs 20 --patience 2"] {
        let output = resume(args);
        let patience = if args.ends_with('1') { 1 } else { 2 };
        let expected = format!(
            "error: --resume: expected a run that can continue, found one that --patience {patience} ended after epoch 3, \
             because epoch 1 was the best; to continue, add --patience 0, or a --patience above 2"
        );
        assert_eq!((output.code, output.stderr.lines().last().unwrap()), (1, &*expected), "{args}");
        assert!(place.listing() == before, "{args}");
    }
    // The same command again prints the result.
    let output = resume("");
    let expected = "note: --patience 2 ended the run after epoch 3 of 9; to continue, add --patience 0, or a --patience above 2";
    assert_eq!((output.code, lines(&output, "note: ")), (0, vec![expected]), "{}", output.stderr);
    // Both ways of the advice work.
    let output = resume("--patience 3");
    assert_eq!((output.code, lines(&output, "note: ")), (0, vec!["note: --patience 3 instead of 2"]));
    assert_eq!(place.metrics("run").len(), 4);
    let output = resume("--patience 0 --epochs 11");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(place.metrics("run").len(), 11);
    assert_eq!(config(&place, "run")["patience"], 0);
}
