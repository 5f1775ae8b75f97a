//! Weight files on the command line: the lines that an error shows, what a checkpoint contains, and the time of an
//! analysis.

use super::place::*;

const PAIR: &str = "fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }\n";

fn place_with(before: &str, triplet: &str) -> Place {
    let place = Place::new();
    let text = format!("{before}{PAIR}fn triplet_weight(p: f32, n: f32) -> f32 {{\n{triplet}\n}}\n");
    std::fs::write(place.path("mine.wgsl"), text).unwrap();
    place
}

#[test]
fn an_error_is_one_line_and_shows_the_place_below_it() {
    let place = place_with("", "\treturn p + \u{1b}[2Jn;");
    let output = place.run("analyze custom --weights mine.wgsl");
    let lines: Vec<_> = output.stderr.lines().collect();
    assert_eq!((output.code, lines.len()), (1, 3), "{}", output.stderr);
    assert!(
        lines[0].starts_with("error: mine.wgsl, line 3, column 13: expected WGSL, found "),
        "{}",
        lines[0]
    );
    assert_eq!(lines[1..], [r"    return p + \u{1b}[2Jn;", "               ^^^^^^"]);

    let place = place_with("", "return p + vec2f(n);");
    let output = place.run("train data --device cpu --weights mine.wgsl --out run");
    let lines: Vec<_> = output.stderr.lines().collect();
    assert_eq!(lines[1..], ["    return p + vec2f(n);", "           ^^^^^^^^^^^^"]);
    assert!(!place.path("run").exists());
}

#[test]
fn a_file_of_another_kind_is_refused_without_being_read_whole() {
    let place = Place::new();
    // A sparse file of 1 TiB, which does not fit into memory.
    std::fs::File::create(place.path("mine.wgsl")).unwrap().set_len(1 << 40).unwrap();
    let output = place.run("analyze custom --weights mine.wgsl");
    let expected = "error: mine.wgsl: expected a text file that can be read, found a file of more than 16777216 bytes; check \
                    that it is the right file: such a one is never so large\n";
    assert_eq!((output.code, output.stderr.as_str()), (1, expected));
    std::fs::write(place.path("mine.wgsl"), b"fn \xff").unwrap();
    let output = place.run("analyze custom --weights mine.wgsl");
    assert!(output.stderr.contains("mine.wgsl: expected a text file that can be read, found another encoding at byte 3; save the file as UTF-8"));
}

#[test]
fn a_checkpoint_carries_parameters_that_constants_define() {
    let place = place_with("const C: f32 = 2.0; override g: f32 = max(C, 1.0);\n", "return g;");
    // Some editors on Windows start a file with this mark.
    let marked = format!("\u{feff}{}", String::from_utf8(place.read("mine.wgsl")).unwrap());
    std::fs::write(place.path("mine.wgsl"), marked).unwrap();
    place.train("run", "--objective custom --weights mine.wgsl");
    std::fs::remove_file(place.path("mine.wgsl")).unwrap();
    place.ok("eval run/best.safetensors data --device cpu");
    place.ok("train data --resume --device cpu --out run --epochs 3");
}

#[test]
fn an_analysis_of_long_loops_ends_soon_and_tells_how_far_it_is() {
    let place = place_with("", "var x = p; for (var i = 0; i < 3000; i++) { x = x * 0.5 + 0.1; } return x;");
    let output = place.run("analyze custom --weights mine.wgsl");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("long loops in the weight file: looked at fewer points, "),
        "{}",
        output.stdout
    );
    // Progress is printed once per second, so a fast machine prints nothing. tests/library/analysis.rs counts the calls
    // behind it.
    let told = |line: &str| line.starts_with("analyzing: ") && line.ends_with(" %");
    assert!(output.stderr.lines().all(told), "{}", output.stderr);

    let place = place_with("", "var x = p; for (var i = 0; i < 1000000; i++) { x = x * 0.5; } return x;");
    let output = place.run("analyze custom --weights mine.wgsl");
    let expected = "found a loop that does not end, or more than 100000 operations, at p = ";
    assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
}
