//! Completions, manual pages, and colours.

use super::place::*;

#[test]
fn completions_know_commands_and_options() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.ok(&format!("completions {shell}"));
        for word in ["train", "baseline", "config", "weight-decay", "nesterov"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // A shell that is there reads its script.
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")] {
        std::fs::write(place.path("script"), place.ok(&format!("completions {shell}"))).unwrap();
        if let Ok(status) = std::process::Command::new(shell).arg(check).arg(place.path("script")).status() {
            assert!(status.success(), "{shell}");
        }
    }
    assert_eq!(place.run("completions tcsh").code, 2);
}

#[test]
fn manual_pages_have_every_command_and_overwrite_only_themselves() {
    let place = Place::new();
    let page = place.ok("man");
    assert!(page.contains(".TH wgoal 1") && page.contains("train"), "{page}");
    place.ok("man --out pages");
    let names = place.names("pages");
    for name in ["wgoal.1", "wgoal-train.1", "wgoal-bench-step.1", "wgoal-man.1"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    let train = String::from_utf8(place.read("pages/wgoal-train.1")).unwrap();
    for word in [".TH wgoal-train 1", "weight\\-decay", "SYNOPSIS", "wgoal train my\\-features"] {
        assert!(train.contains(word), "{word}\n{train}");
    }
    place.ok("man --out pages");
    std::fs::write(place.path("pages/wgoal-eval.1"), "mine").unwrap();
    let output = place.run("man --out pages");
    assert!(output.code == 1 && output.stderr.contains("wgoal-eval.1: expected no file, or a manual page"));
    assert_eq!(place.read("pages/wgoal-eval.1"), b"mine");
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    let place = Place::new();
    let said = |args: &str, variable: &str| {
        let mut command = place.command();
        for name in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
            command.env_remove(name);
        }
        if !variable.is_empty() {
            command.env(variable, "1");
        }
        let output = command.args(args.split(' ')).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let train = "train data --device cpu --embed 4 --batch 16 --epochs 1 --no-baselines --decay-biases on --weight-decay 0";
    for args in
        ["train data --lr 0", "train data --lrr 0", "train data --lr fast", &format!("{train} --out plain")]
    {
        let text = said(args, "");
        assert!(!text.contains('\x1b'), "{args}\n{text}");
    }
    let always = |args: &str| said(&format!("--color always {args}"), "NO_COLOR");
    for args in ["train data --lr 0", "train data --lrr 0", "train data --lr fast"] {
        let text = always(args);
        assert!(text.contains("\x1b[31m") && text.contains("error:"), "{args}\n{text}");
    }
    let text = always(&format!("{train} --out colours"));
    let best = "\x1b[32m*\x1b[0m\n";
    assert!(text.contains("\x1b[33mwarning:\x1b[0m --decay-biases") && text.contains(best), "{text}");
    let text = said(&format!("{train} --color never --out never"), "CLICOLOR_FORCE");
    assert!(text.contains(" *\n") && !text.contains('\x1b'), "{text}");
}
