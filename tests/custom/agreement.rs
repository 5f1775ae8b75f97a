//! A weight file gives the same result on every device, also for operations whose result WGSL or a driver leaves open.

#[path = "../common/programs.rs"]
mod generated;

use crate::common::random::Random;
use crate::common::{Outcome, check};
use wgoal::gradient::GradientOptions;
use wgoal::objective::CustomWeights;
use wgoal::{Device, Objective};

/// The statements before the weights, and the weights: P⁺ and P⁻ from p, n, the whole numbers k = 8 p and m = 8 n, and
/// u = k + 16.
const CASES: &[(&str, &str, &str)] = &[
    // Integers: division by zero, overflow, negative remainders.
    ("", "f32(k / (m - 3))", "f32(k % (m - 3))"),
    ("", "f32(u / (u - 17u))", "f32(u % (u - 17u))"),
    ("", "f32(k / (k - k))", "f32((k - 40) % 7)"),
    ("", "f32((k - k - 2147483647 - 1) / (m - m - 1))", "f32((k - k - 2147483647 - 1) % (m - m - 1))"),
    ("let a = vec3i(k, m, 5) / vec3i(m - 3, k - k, k);", "f32(a.x + a.y)", "f32(a.z)"),
    ("var a = vec2u(u, 7u); a %= vec2u(u - 17u, u - u);", "f32(a.x)", "f32(a.y)"),
    ("", "f32(k * 1000000007)", "f32(k + 2147483640)"),
    ("", "f32(abs(k - k - 2147483647 - 1))", "f32(-(k - k - 2147483647 - 1))"),
    ("", "f32(k << u32(m + 30))", "f32(k >> u32(m + 30))"),
    ("", "f32(u << u32(m + 30))", "f32((u - 20u) >> u32(m + 30))"),
    ("let a = vec2i(k, m) << vec2u(u + 33u, u);", "f32(a.x)", "f32(a.y)"),
    ("", "f32(sign(k))", "f32(clamp(k, 5, -5))"),
    ("", "f32(clamp(u, 9u, 3u))", "f32(min(k, m)) + f32(max(u, 3u))"),
    ("", "f32(dot(vec3i(k, m, 2), vec3i(3, k, m)))", "f32((k & 6) | (m ^ 3)) + f32(~k)"),
    // Conversions.
    ("", "f32(i32(p * 1e10))", "f32(u32(n * 1e10))"),
    ("", "f32(u32(-p * 3.0))", "f32(i32(exp(p * 100.0)))"),
    ("let a = vec2i(vec2f(p, n) * 3e9);", "f32(a.x)", "f32(a.y)"),
    ("", "f32(u32(k))", "f32(i32(u - 20u)) + f32(bool(k)) + f32(bool(p))"),
    // Indices outside the array.
    ("let a = vec4f(1.0, 2.0, 3.0, 4.0);", "a[k]", "a[u]"),
    ("var a = vec3f(p, n, 5.0); a[m] = 9.0; a[u] += 1.0;", "a.x + 2.0 * a.y", "a.z + a[k]"),
    ("var a = vec2f(p, n); let b = vec2f(n, p);", "a[k - 1]", "b[min(u, 7u)] + vec2f(1.0, 2.0)[k]"),
    // Swapped bounds, signs, halves.
    ("", "clamp(p, 0.5, -0.5)", "clamp(vec2f(p, n), vec2f(0.5), vec2f(-0.5)).y"),
    ("", "smoothstep(1.0, 0.0, p)", "smoothstep(0.0, 1.0, n) + smoothstep(p + 3.0, p + 2.0, n)"),
    ("", "saturate(p) + step(p, n)", "step(0.5, p) - step(n, 0.25)"),
    ("", "sign(p) + fract(-p) + fract(n * 1.25)", "round(p * 4.0) + round(n * 4.0 - 8.0)"),
    ("", "p % 0.375", "(-n) % (p + 3.125)"),
    ("", "floor(p * 1.5) + ceil(n * 1.5)", "trunc(p * 1.5) + abs(n)"),
    ("", "min(p, n) + max(p, 0.25)", "select(p, n, p < n)"),
    // Not-a-number values that do not affect the result.
    ("", "select(sqrt(p), 0.0, p < 0.0)", "select(1.0 / n, 2.0, n == 0.0)"),
    // Variables, loops, branches, calls.
    (
        "var a: f32; var b: vec3i; for (var i = 0; i < 3; i++) { var c: f32; c += p; a += c; b[i] += i; }",
        "a",
        "f32(b.z)",
    ),
    (
        "var a = 0.0; var i = 0; loop { if (i == 3) { i++; continue; } if (i > 6) { break; } a += p; continuing { i++; break if i > 20; } }",
        "a",
        "f32(i)",
    ),
    (
        "var a = 0.0; switch k { case 0, 1: { a = 1.0; } case -3: { a = 3.0; } default: { if (p > 0.7) { break; } a = 5.0; } }",
        "a",
        "f(a)",
    ),
    ("var a = g; var b = g * 2.0 + 1.0; while (a < 20.0) { a *= b; }", "a", "b * g"),
    (
        "let a = p > 0.0 && f(p) > 0.5 || n < -0.5;",
        "f32(a)",
        "f32(any(vec2f(p, n) > vec2f(0.2)) != all(vec2f(p, n) > vec2f(0.2)))",
    ),
    ("var b = p; let c = &b; *c += 1.0;", "b", "C + D.y + exp(2.0)"),
];

/// The same for functions that devices approximate.
const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("", "1.0 / (1.0 + exp(-200.0 * p))", "tanh(100.0 * p) + tanh(n)"),
    ("", "exp2(p) + log2(3.0 + n)", "exp(p) + log(3.0 + n)"),
    ("", "pow(abs(p) + 0.1, 2.5)", "sqrt(abs(n)) + inverseSqrt(abs(p) + 0.5)"),
    ("", "sin(p) + cos(n) + tan(p * 0.5)", "asin(p * 0.3) + acos(n * 0.3) + atan(p)"),
    ("", "sinh(p) + cosh(n)", "asinh(p) + acosh(1.5 + abs(n)) + atanh(p * 0.4)"),
    ("", "atan2(p, n + 3.0) + atan2(p, -3.0)", "degrees(p) + radians(n)"),
    ("", "mix(p, n, 0.25) + fma(p, n, 1.0)", "length(vec3f(p, n, 1.0)) + distance(p, n)"),
    (
        "",
        "normalize(vec2f(p, 1.0)).x + dot(vec2f(p, n), vec2f(n, 2.0))",
        "length(p) + (vec4f(p, n, 1.0, 2.0).wzyx).x",
    ),
];

/// Names that kernels use as well. One of them is a built-in function of WGSL.
const BEFORE: &str = "
    override g: f32 = 1.5;
    const C = 0.5;
    const D: vec2f = vec2f(1.0, C);
    const LANES = 3;
    alias positive = f32;
    fn f(x: f32) -> positive { if (x > 0.5) { return 1.0; } else { return x * f32(LANES); } }
";
const OWN_EXP: &str = "fn exp(x: f32) -> f32 { return x + 1.0; }";

fn file(before: &str, positive: &str, negative: &str) -> String {
    // Some cases are about built-in functions of WGSL.
    let exp = if format!("{positive} {negative}").contains("exp(p") || positive.contains("exp(-") {
        ""
    } else {
        OWN_EXP
    };
    format!(
        "{BEFORE}{exp}
        fn triplet_weight(p: f32, n: f32) -> f32 {{ return 1.0; }}
        fn pair_weights(p: f32, n: f32) -> vec2f {{
            let k = i32(p * 8.0); let m = i32(n * 8.0); let u = u32(k + 16);
            {before}
            return vec2f({positive}, {negative});
        }}"
    )
}

/// The files above.
pub fn operations(device: &Device) -> Outcome {
    let exact = CASES.iter().map(|case| (case, 1e-6));
    let approximate = FUNCTIONS.iter().map(|case| (case, 2e-4));
    let cases = exact
        .chain(approximate)
        .map(|((before, positive, negative), tolerance)| (file(before, positive, negative), tolerance));
    let all = include_str!("../common/operations.wgsl").to_string();
    for (source, tolerance) in cases.chain([(all, 2e-4)]) {
        let weights = CustomWeights::new("case.wgsl", &source, []).map_err(|e| format!("{source}\n{e}"))?;
        let has_gradient = compare(device, weights, tolerance).map_err(|e| format!("{source}\n{e}"))?;
        check(has_gradient, format!("no gradient of\n{source}"))?;
    }
    Ok(())
}

/// Generated files. `WGOAL_PROGRAMS` is how many; the short form tries a few.
pub fn programs(device: &Device) -> Outcome {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (wanted, mut random) = (number("WGOAL_PROGRAMS", 10), Random::new(number("WGOAL_FUZZ_SEED", 5)));
    let (mut tried, mut accepted, mut with_gradient) = (0, 0, 0);
    while accepted < wanted {
        let choices: Vec<u8> = (0..100 + random.below(1500)).map(|_| random.below(256) as u8).collect();
        let source = generated::program(&choices);
        tried += 1;
        check(tried < 40 + 8 * wanted, format!("{accepted} of {tried} programs are accepted:\n{source}"))?;
        // A program may divide constants by zero, or give no positive weights.
        let Ok(weights) = CustomWeights::new("generated.wgsl", &source, []) else { continue };
        accepted += 1;
        let has_gradient = compare(device, weights, 2e-4).map_err(|e| format!("{source}\n{e}"))?;
        with_gradient += u64::from(has_gradient);
    }
    let name = &device.info().name;
    println!("{name}: {accepted} of {tried} programs are accepted, {with_gradient} have a gradient");
    check(2 * with_gradient >= accepted, format!("{with_gradient} of {accepted} programs have a gradient"))
}

/// Compares gradients with these weights in the interpreter and on a device. Returns whether one is not zero. All similarities are products of eighths, which every
/// device computes exactly.
fn compare(device: &Device, weights: CustomWeights, tolerance: f32) -> Result<bool, String> {
    let images: Vec<f32> = (0..16).map(|k| (k as f32 - 7.0) / 8.0).collect();
    let texts: Vec<f32> = (0..16).map(|k| if k % 3 == 0 { -1.0 } else { 1.0 }).collect();
    let objective = Objective::Custom { weights, margin: None };
    let options = GradientOptions::default().with(|c| c.normalize = false);
    let [expected, found] = [&Device::cpu(), device]
        .map(|d| objective.gradients(d, (&images, 1), (&texts, 1), options).map_err(|e| e.to_string()));
    let (expected, found) = (expected?, found?);
    let mut has_gradient = true;
    for (a, b) in [(&expected.images, &found.images), (&expected.texts, &found.texts)] {
        let size = a.iter().fold(0.0f32, |size, x| size.max(x.abs()));
        has_gradient &= size > 0.0;
        let near = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * size);
        if !near {
            return Err(format!("the interpreter gives {a:?}\n{} gives {b:?}", device.info().name));
        }
    }
    Ok(has_gradient)
}
