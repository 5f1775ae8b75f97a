//! Weight files: built-in combinations written as files, parameters, configurations, and what is refused.

mod agreement;
mod attacks;
#[path = "../common/mod.rs"]
mod common;

use common::random::Random;
use common::{Outcome, Suite, check};
use wgoal::gradient::GradientOptions;
use wgoal::objective::{CustomWeights, GoalParams};
use wgoal::{Device, Objective, TrainConfig};

const COMMON: &str = "
    override tau: f32 = 1.0;
    override alpha: f32 = 2.0;
    override beta: f32 = 10.0;
    override lambda: f32 = 0.5;
    override circle: f32 = 0.5;
    fn bounded_exp(z: f32) -> f32 { return exp(clamp(z, -87.0, 87.0)); }
    fn sigma(z: f32) -> f32 { return 1.0 / (1.0 + bounded_exp(-z)); }
";

const TRIPLETS: [(&str, &str); 3] = [
    ("con", "1.0"),
    ("nca", "sigma(tau * (n - p))"),
    ("cir", "sigma(tau * ((1.0 - p) * (1.0 - p) + n * n - 2.0 * circle * circle))"),
];

const PAIRS: [(&str, &str); 3] = [
    ("con", "vec2f(1.0)"),
    ("lin", "vec2f(1.0 - p, n)"),
    (
        "sig",
        "vec2f(1.0 / (bounded_exp(alpha * (p - lambda)) + 1.0), 1.0 / (bounded_exp(-beta * (n - lambda)) + 1.0))",
    ),
];

fn file(triplet: &str, pair: &str) -> String {
    format!(
        "{COMMON}fn triplet_weight(p: f32, n: f32) -> f32 {{ return {triplet}; }}\nfn pair_weights(p: f32, n: f32) -> \
         vec2f {{ return {pair}; }}"
    )
}

/// Every combination without relative sets, equal bit for bit.
fn combinations(device: &Device) -> Outcome {
    const DIM: usize = 6;
    let mut random = Random::new(3);
    let (images, texts) = (random.values(37 * DIM), random.values(37 * DIM));
    let params = GoalParams::default().with(|c| {
        c.tau = 3.0;
        c.alpha = 2.5;
        c.beta = 20.0;
        c.lambda = 0.4;
    });
    let given = [("tau", 3.0), ("alpha", 2.5), ("beta", 20.0), ("lambda", 0.4)];
    for ((triplet, t), (pair, q)) in TRIPLETS.iter().flat_map(|t| PAIRS.map(|q| (t, q))) {
        let name = format!("{triplet}:{pair}");
        for margin in [None, Some(0.3)] {
            let Objective::Goal(t0, p0, _) = name.parse::<Objective>()? else { return Err("no GOAL".into()) };
            let built_in = Objective::Goal(t0, p0, params.with(|c| c.margin = margin));
            let weights = CustomWeights::new("combination.wgsl", &file(t, q), given)?;
            let custom = Objective::Custom { weights, margin };
            let options = GradientOptions::default().with(|c| {
                c.normalize = true;
                c.scale = 0.7;
            });
            let [a, b] =
                [&built_in, &custom].map(|o| o.gradients(device, (&images, DIM), (&texts, DIM), options));
            let (a, b) = (a?, b?);
            check(a.images.iter().any(|x| *x != 0.0), format!("{name}: no gradient"))?;
            let same = a.images == b.images && a.texts == b.texts && a.loss == b.loss;
            check(same, format!("{name}, margin {margin:?}: {:?} and {:?}", &a.images[..6], &b.images[..6]))?;
        }
    }
    Ok(())
}

fn parameters() -> Outcome {
    let source = "override gamma: f32 = 2.0; override my_override: f32 = gamma / 4; // override\n\
                  override late = 3.5;\n\
                  fn triplet_weight(p: f32, n: f32) -> f32 { return gamma; }\n\
                  fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(my_override, late * n); }";
    let weights = CustomWeights::new("mine.wgsl", source, [])?;
    check(weights.at(0.5f64, 2.0)? == [2.0, 0.5, 7.0], format!("{:?}", weights.at(0.5f64, 2.0)?))?;
    let names: Vec<_> = weights.parameters().iter().map(|(name, value)| format!("{name}={value}")).collect();
    check(names == ["gamma=2", "my_override=0.5", "late=3.5"], format!("{names:?}"))?;
    let weights = weights.with([("gamma", -8.0)])?.with([("late", 1e-3)])?;
    let found = weights.at(0.5f32, 2.0)?;
    check(found == [-8.0, -2.0, 2e-3], format!("{found:?}"))?;

    let config = TrainConfig::default().with(|c| c.objective = Objective::Custom { weights, margin: None });
    let written = serde_json::to_string(&config).map_err(|e| e.to_string())?;
    let read: TrainConfig = serde_json::from_str(&written).map_err(|e| e.to_string())?;
    check(read == config, written)?;
    let Objective::Custom { weights, .. } = read.objective else { return Err("not custom".into()) };
    check(weights.at(0.5f32, 2.0)? == found, "other weights after reading")
}

/// Expressions that `override` may have as its default, and their values.
fn defaults() -> Outcome {
    let cases: [(&str, &[f32]); 14] = [
        ("const C: f32 = 2.0; override g: f32 = C;", &[2.0]),
        ("override g: f32 = C; fn f() -> f32 { return 1.0; } const C = 2.0;", &[2.0]),
        ("override g: f32 = max(1.0, 2.0);", &[2.0]),
        ("override g: f32 = vec2f(4.0, 5.0).x;", &[4.0]),
        ("override g: f32 = vec2f(4.0, 5.0)[C] + select(1.0, 2.0, C > 0); const C = 1;", &[7.0]),
        ("override g: f32 = -3.0; override h: f32 = -(g);", &[-3.0, 3.0]),
        ("override g: f32 = ((1.0 + 2.0) * /* ; override x = 1.0; */ 2.0) // ; }\n ;", &[6.0]),
        ("/* a /* b; */ ; */ override\n g\n :\n f32\n = 1e-3f\n;", &[1e-3]),
        ("@id(7) override g: f32 = 0.5; @id(1 + 1) override h = 2.5f;", &[0.5, 2.5]),
        ("override h: f32 = g / 4; override g: f32 = 2;", &[0.5, 2.0]),
        (
            "override g: f32 = 2; override h: f32 = select(g, max(g, 3.0) + vec2f(g, 1.0).y, g > 1.0);",
            &[2.0, 4.0],
        ),
        ("alias number = f32; override g: number = f32(3u) + number(1);", &[4.0]),
        ("override override_g: f32 = 0x1p-2; override é = 1.5;", &[0.25, 1.5]),
        ("override g: f32 = smoothstep(0.0, 1.0, f); override f: f32 = 0.5;", &[0.5, 0.5]),
    ];
    for (text, expected) in cases {
        let weights = CustomWeights::new("mine.wgsl", &format!("{text}\n{TRIPLET}\n{PAIR}"), [])
            .map_err(|e| format!("{text}: {e}"))?;
        let found: Vec<_> = weights.parameters().iter().map(|(_, value)| *value).collect();
        check(found == expected, format!("{text}: {found:?}"))?;
        let (name, _) = weights.parameters()[0].clone();
        let weights = weights.with([(name.as_str(), 9.0)])?;
        check(weights.parameters()[0] == (name, 9.0), format!("{text}: {:?}", weights.parameters()))?;
    }
    // A parameter that is computed from others follows them.
    let text = format!("override g: f32 = 2.0; override h: f32 = g * g;\n{TRIPLET}\n{PAIR}");
    let weights = CustomWeights::new("mine.wgsl", &text, [("g", 3.0)])?;
    check(weights.parameters()[1].1 == 9.0, format!("{:?}", weights.parameters()))
}

/// The line of the text, and the mark below it.
fn excerpts() -> Outcome {
    let long = format!("return {}+;", "p + ".repeat(60));
    let cases = [
        ("\treturn é * p +;".to_string(), "    return é * p +;\n                  ^"),
        ("return \u{1b}[31mp;".into(), "    return \\u{1b}[31mp;\n           ^^^^^^"),
        (long, "^"),
    ];
    for (body, expected) in cases {
        let text = format!("{PAIR}\nfn triplet_weight(p: f32, n: f32) -> f32 {{\n{body}\n}}");
        let error = CustomWeights::new("mine.wgsl", &text, []).err().ok_or("accepted")?;
        let found = error.excerpt().unwrap_or_default();
        check(
            found == expected || expected == "^" && found.contains("    ..."),
            format!("{error}\n{found}"),
        )?;
    }
    Ok(())
}

const PAIR: &str = "fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0); }";
const TRIPLET: &str = "fn triplet_weight(p: f32, n: f32) -> f32 { return 1.0; }";

/// The text of a file, and parts of the message.
fn refused() -> Outcome {
    let both = |before: &str| format!("{before}\n{TRIPLET}\n{PAIR}");
    let triplet = |body: &str| format!("{PAIR}\nfn triplet_weight(p: f32, n: f32) -> f32 {{\n    {body}\n}}");
    let cases = [
        (
            TRIPLET.to_string(),
            "mine.wgsl: expected `fn pair_weights(p: f32, n: f32) -> vec2f`, found no function",
        ),
        (
            PAIR.to_string(),
            "mine.wgsl: expected `fn triplet_weight(p: f32, n: f32) -> f32`, found no function",
        ),
        (format!("{PAIR}\nfn triplet_weight(p: f32) -> f32 {{ return 1.0; }}"), "mine.wgsl, line 2, column "),
        (
            format!("{TRIPLET}\nfn pair_weights(p: f32, n: f32) -> vec3f {{ return vec3f(p); }}"),
            "line 2, column ",
        ),
        (triplet("return p +;"), "mine.wgsl, line 3, column 15: expected WGSL, found expected expression"),
        (
            triplet("return tau * p;"),
            "mine.wgsl, line 3, column 12: expected WGSL, found no definition in scope",
        ),
        (triplet("return vec2f(p, n);"), "mine.wgsl, line 3, column "),
        (triplet("return 1 / 0;"), "mine.wgsl, line 3, column "),
        (
            triplet("return f32(i32(p) / 0);"),
            "mine.wgsl, line 3, column 16: expected valid WGSL, found a division by zero",
        ),
        (
            triplet("return f32(i32(p) << 33u);"),
            "line 3, column 16: expected valid WGSL, found a shift by more than 31",
        ),
        (triplet("workgroupBarrier(); return p;"), "mine.wgsl, line 3, column 5: expected arithmetic"),
        (triplet("var a = array<f32, 2>(p, n); return a[0];"), "line 3, column "),
        (triplet("return f32(countOneBits(u32(p)));"), "found countonebits"),
        (
            both("@group(0) @binding(9) var<storage> s: array<f32>;"),
            "mine.wgsl, line 1, column 23: expected weights that depend on p and n alone, found a binding",
        ),
        (both("var<private> s: f32;"), "found a variable of the module"),
        (both("@compute @workgroup_size(1) fn run() {}"), "found the entry point `run`"),
        (both("override g = 3;"), "mine.wgsl, line 1, column 1: expected a parameter of type f32"),
        (both("override g: f32 = triplet_weight(0.0, 1.0);"), "mine.wgsl, line 1, column 19: expected WGSL"),
        (
            both("override f: f32 = 0.0; override g: f32 = 1.0 / f;"),
            "mine.wgsl, line 1, column 24: expected a finite",
        ),
        (
            triplet("return f32(p + n > 0.0 && sqrt(p) > 0.5);"),
            "line 3, column 31: expected weights that can be evaluated",
        ),
        (triplet("return max(sqrt(p), 0.1);"), "triplet_weight of mine.wgsl at p = -1"),
        (triplet("return min(abs(1.0 / n), 5.0);"), "triplet_weight of mine.wgsl at p = -1.000001, n = 0"),
        (triplet("return smoothstep(0.5, 0.5, p);"), "triplet_weight of mine.wgsl at p = -1"),
        (triplet("return atan2(p - p, n - n);"), "found NaN"),
        (triplet("return max(pow(p, 2.0), 0.1);"), "triplet_weight of mine.wgsl at p = -1"),
        (
            triplet("return f32(i32(log(p)));"),
            "found a result that depends on a number without a value (NaN), at p = -1",
        ),
        (
            triplet("var a: f32; for (;;) { a += 1.0; } return a;"),
            "mine.wgsl, line 2, column 1: expected weights that",
        ),
        (triplet("return triplet_weight(p, n);"), "mine.wgsl, line 2, column "),
        (triplet("return p + vec2f(n);"), "mine.wgsl, line 3, column "),
        (triplet("const a = array(1.0, 2.0); return a[i32(p)];"), "found an array, a matrix or a structure"),
        (
            both("override flag: bool = true;"),
            "mine.wgsl, line 1, column 1: expected a parameter of type f32",
        ),
        (both("override gamma: f32;"), "expected a parameter with a value"),
        (triplet("return 1.0 / (1.0 - p);"), "triplet_weight of mine.wgsl at p = 1"),
        (triplet("return exp(100.0 * n);"), "triplet_weight of mine.wgsl at p = -1"),
        (triplet("return sqrt(1.0 - p * p);"), "found NaN"),
        (triplet("loop { if (p > 2.0) { break; } } return p;"), "found a loop that does not end"),
    ];
    for (source, expected) in cases {
        match CustomWeights::new("mine.wgsl", &source, []) {
            Ok(_) => return Err(format!("accepted: {source}").into()),
            Err(error) => {
                check(error.to_string().contains(expected), format!("{expected:?} is not in: {error}"))?
            }
        }
    }
    let weights =
        |parameter| CustomWeights::new("mine.wgsl", &both("override gamma: f32 = 1.0;"), [parameter]);
    for (parameter, expected) in [
        (("delta", 1.0), "--param: expected a parameter of mine.wgsl: gamma, found `delta`"),
        (("gamma", f32::NAN), "--param gamma: expected a finite number, found NaN"),
    ] {
        let error = weights(parameter).map_err(|e| e.to_string()).err().unwrap_or_default();
        check(error.contains(expected), format!("{expected:?} is not in: {error}"))?;
    }
    Ok(())
}

fn main() {
    // As in release builds, where the driver gets no runtime checks.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("WGOAL_SHADER_CHECKS", "off") };
    let mut suite = Suite::default();
    suite.module("custom");
    suite.each("combinations", combinations);
    suite.each("operations", agreement::operations);
    suite.each("programs", agreement::programs);
    suite.once("parameters", parameters);
    suite.once("defaults", defaults);
    suite.once("refused", refused);
    suite.once("excerpts", excerpts);
    suite.once("large", attacks::large);
    suite.once("mutated", attacks::mutated);
    suite.run()
}
