//! Texts that are too large, too deep or broken give an error, never a panic or a stack overflow.

use crate::common::random::Random;
use crate::common::{Outcome, check};
use wgoal::Error;
use wgoal::objective::CustomWeights;

const PAIR: &str = "fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0); }\n";

fn with_body(body: &str) -> String {
    format!("{PAIR}fn triplet_weight(p: f32, n: f32) -> f32 {{ {body} }}\n")
}

fn new(source: &str) -> Result<CustomWeights, Error> {
    CustomWeights::new("mine.wgsl", source, [])
}

/// Checks the form of an error: one line, and below it a marked line of the text, without control characters.
fn well_formed(error: &Error) -> Outcome {
    let line = error.to_string();
    check(line.starts_with("mine.wgsl") || line.contains(" of mine.wgsl at p ="), &line)?;
    check(line.chars().count() < 500 && !line.contains(char::is_control), format!("{line:?}"))?;
    check(!line.contains("report this as a bug"), &line)?;
    // The message must not show internal tables of the parser.
    let tables = (0..100).any(|k| line.contains(&format!("[{k}] ")) || line.contains("Scalar {"));
    check(!tables, &line)?;
    if let Some(excerpt) = error.excerpt() {
        let lines: Vec<_> = excerpt.split('\n').collect();
        check(lines.len() == 2 && lines[1].trim_start().chars().all(|c| c == '^'), excerpt)?;
        check(lines.iter().all(|line| line.starts_with("    ") && line.chars().count() < 250), excerpt)?;
        check(!lines.concat().contains(char::is_control), format!("{excerpt:?}"))?;
    }
    Ok(())
}

/// Runs on a stack as small as a browser's, with anything that can be repeated.
fn on_a_small_stack(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Outcome {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(work).map_err(|e| e.to_string())?;
    Ok(thread.join().map_err(|_| "a panic")??)
}

const STACK: usize = 2 << 20;

/// What is repeated, by its beginning, its repeated part and its end.
fn repeated(times: usize) -> Vec<(&'static str, String)> {
    let nested = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let functions = |calls: &str| {
        let mut text = "fn call_0(x: f32) -> f32 { return x; }\n".to_string();
        for k in 1..times {
            text += &format!(
                "fn call_{k}(x: f32) -> f32 {{ return {}; }}\n",
                calls.replace("f(", &format!("call_{}(", k - 1))
            );
        }
        text
    };
    let constants: String = (1..times).rev().map(|k| format!("const c{k} = c{} + 0.001;\n", k - 1)).collect();
    let last = times - 1;
    vec![
        ("terms", with_body(&format!("return p{};", " + p".repeat(times)))),
        ("constants", with_body(&format!("return p{};", " + 1.0".repeat(times)))),
        (
            "variable",
            format!(
                "override g: f32 = 1.0;\n{}",
                with_body(&format!("var x = g{}; return x;", " + 0.001".repeat(times)))
            ),
        ),
        (
            "override",
            format!(
                "override f: f32 = 1.0; override g: f32 = f{};\n{}",
                " + 0.001".repeat(times),
                with_body("return g;")
            ),
        ),
        ("parentheses", with_body(&format!("return {};", nested("(", "p", ")")))),
        ("calls", with_body(&format!("return {};", nested("abs(", "p", ")")))),
        ("signs", with_body(&format!("return {}p;", "- ".repeat(times)))),
        ("not", with_body(&format!("return select(0.0, 1.0, {}(p > 0.0));", "!".repeat(times)))),
        ("and", with_body(&format!("return select(0.0, 1.0, p > 0.0{});", " && n > p".repeat(times)))),
        ("swizzles", with_body(&format!("var v = vec2f(p, n); return v{}.x;", ".xy".repeat(times)))),
        ("if", with_body(&format!("var x = p; {} return x;", nested("if (p > 0.0) {", "x = 1.0;", "}")))),
        ("loop", with_body(&format!("var x = p; {} return x;", nested("loop {", "x = 1.0;", "break; }")))),
        ("block", with_body(&format!("var x = p; {} return x;", nested("{", "x = 1.0;", "}")))),
        (
            "switch",
            with_body(&format!(
                "var x = p; {} return x;",
                nested("switch 1 { default: {", "x = 1.0;", "} }")
            )),
        ),
        (
            "else",
            with_body(&format!(
                "var x = p; {} {{ x = 1.0; }} return x;",
                "if (p > 0.5) { x = 2.0; } else ".repeat(times)
            )),
        ),
        ("types", with_body(&format!("var x: {}; return p;", nested("vec2<", "f32", ">")))),
        ("arrays", with_body(&format!("var x: {}; return p;", nested("array<", "f32", ", 2>")))),
        ("attributes", format!("{} {}", "@id(1) ".repeat(times), with_body("return p;"))),
        ("comments", format!("{} {}", nested("/*", "", "*/"), with_body("return p;"))),
        ("functions", format!("{}{}", functions("f(x)"), with_body(&format!("return call_{last}(p);")))),
        (
            "doubled",
            format!(
                "{}{}",
                functions("f(x) + f(-x)"),
                with_body(&format!("if (p > 5.0) {{ return call_{last}(p); }} return 1.0;"))
            ),
        ),
        ("chain", format!("const c0 = 1.0;\n{constants}{}", with_body(&format!("return c{last};")))),
        ("name", with_body(&format!("return {};", "x".repeat(times)))),
        ("statements", with_body(&format!("var x = p; {} return x;", "x = x * 0.5;".repeat(times)))),
    ]
}

pub fn large() -> Outcome {
    for times in [30, 49, 100, 150, 250, 499, 20_000] {
        for (name, source) in repeated(times) {
            on_a_small_stack(move || match new(&source) {
                // A few repetitions are accepted, unless the text is invalid for another reason.
                Err(error)
                    if times <= 30
                        && !["types", "arrays", "attributes", "name", "doubled", "switch"]
                            .contains(&name) =>
                {
                    Err(format!("{times} {name}: {error}"))
                }
                Err(error) => well_formed(&error).map_err(|e| format!("{times} {name}: {e:?}")),
                Ok(_) if times == 20_000 && name != "comments" => Err(format!("accepted: {times} {name}")),
                Ok(weights) => {
                    weights.at(0.5f32, 0.25).map(|_| ()).map_err(|e| format!("{times} {name}: {e}"))
                }
            })?;
        }
    }
    let error = new(&" ".repeat(1 << 17)).err().ok_or("accepted")?.to_string();
    check(error.contains("mine.wgsl: expected at most 65536 bytes, found more"), error)
}

/// Valid texts with random changes.
pub fn mutated() -> Outcome {
    let texts = [
        include_str!("../../examples/weights/angles.wgsl"),
        include_str!("../../examples/weights/cir_sig.wgsl"),
        "@id(3) override g: f32 = -max(1.0, C) /* ; */ * vec2f(4.0, 5.0).x; const C: f32 = 2.0; override h = g / 4;
         fn f(v: vec3i) -> i32 { var s = 0; for (var i = 0; i < 3; i++) { s += v[i] / (i - 1) << 2u; } return s; }
         fn triplet_weight(p: f32, n: f32) -> f32 { switch f(vec3i(1)) { case 1, 2: { return g; } default: { return h; } } }
         fn pair_weights(p: f32, n: f32) -> vec2f { var v = vec2f(p, n); loop { v.x += 0.5; if (v.x > 3.0) { break; } } return v; }",
    ];
    let signs = [
        "(",
        ")",
        "{",
        "}",
        ";",
        ",",
        ".x",
        "override",
        "const",
        "fn",
        "var",
        "let",
        "return",
        "-",
        "/",
        "0",
        "1e39",
        "-1",
        "u",
        "f32",
        "vec2f",
        "vec4<i32>",
        "array<f32, 4>",
        "array<f32, 4000000000>()",
        "loop",
        "if",
        "else",
        "break",
        "continue",
        "&",
        "*",
        "//",
        "/*",
        "*/",
        "@id(1)",
        "<",
        ">>",
        "é",
        "\u{1b}[31m",
        "\u{0}",
        "\u{202e}",
        "2147483648",
        "g",
        "p",
        "%",
        "99u",
        "==",
        "bitcast<i32>",
        "struct S { x: f32 }",
        "enable f16;",
        "const_assert false;",
        "alias f32 = i32;",
        "ptr<function, f32>",
        "1f",
        "0x",
    ];
    let mut random = Random::new(17);
    let mut draw = move |below: usize| (random.values(1)[0].abs() as f64 * 1e7) as usize % below;
    let mut accepted = 0;
    for round in 0..600 {
        let text = texts[round % texts.len()];
        let mut text: Vec<char> = text.chars().collect();
        for _ in 0..=draw(3) {
            let at = draw(text.len());
            let end = (at + draw(12)).min(text.len());
            match draw(4) {
                0 => drop(text.drain(at..end)),
                1 => {
                    let part: Vec<_> = text[at..end].to_vec();
                    let to = draw(text.len());
                    drop(text.splice(to..to, part));
                }
                _ => drop(text.splice(at..at, signs[draw(signs.len())].chars())),
            }
        }
        let text: String = text.into_iter().collect();
        match std::panic::catch_unwind(|| new(&text)) {
            Err(_) => return Err(format!("a panic from:\n{text}").into()),
            Ok(Ok(_)) => accepted += 1,
            Ok(Err(error)) => well_formed(&error).map_err(|e| format!("{e:?} from:\n{text}"))?,
        }
    }
    check((20..500).contains(&accepted), format!("{accepted} accepted"))
}
