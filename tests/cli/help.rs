//! Help fits the width of the terminal.

use super::place::*;

const COMMANDS: [&str; 24] = [
    "",
    "train",
    "baseline",
    "sweep",
    "compare",
    "report",
    "eval",
    "embed",
    "rank",
    "search",
    "gradient",
    "analyze",
    "bench",
    "bench step",
    "bench roofline",
    "bench pairs",
    "bench epoch",
    "bench eval",
    "bench ranks",
    "doctor",
    "config",
    "completions",
    "man",
    "devices",
];

/// The help of a command on a terminal with this number of columns.
fn help(place: &Place, command: &str, option: &str, columns: usize) -> String {
    let mut call = place.command();
    call.env("COLUMNS", columns.to_string()).args(command.split_whitespace()).arg(option);
    let output = call.output().unwrap();
    assert!(output.status.success(), "{command} {option}");
    String::from_utf8(output.stdout).unwrap()
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.trim_end().chars().count()).max().unwrap()
}

#[test]
fn help_fits_the_terminal() {
    let place = Place::new();
    for command in COMMANDS {
        for option in ["-h", "--help"] {
            let text = help(&place, command, option, 100);
            assert!(widest(&text) <= 100, "{command} {option}\n{text}");
        }
    }
    // Lines are broken at the width of the terminal, and earlier on very wide terminals.
    let [narrow, usual, wide] = [80, 100, 300].map(|columns| help(&place, "train", "--help", columns));
    assert!(widest(&narrow) <= 80 && (81..=100).contains(&widest(&usual)), "{narrow}\n{usual}");
    assert!((101..=120).contains(&widest(&wide)), "{wide}");
}

#[test]
fn baseline_lists_no_pooling_that_it_refuses() {
    let place = Place::new();
    for option in ["-h", "--help"] {
        assert!(help(&place, "train", option, 100).contains("gpo"));
        let text = help(&place, "baseline", option, 100);
        assert!(text.contains("joined") && !text.contains("gpo"), "{text}");
    }
    assert_eq!(place.run("baseline cca data --image-pooling gpo").code, 2);
}
