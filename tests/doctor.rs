//! The examination passes on sound devices and finds the kernel that a wrong driver gets wrong.

mod common;

use common::{check, runs_subgroups};
use libtest_mimic::Failed;
use wgoal::Device;
use wgoal::doctor::examine;
use wgoal::kernels::KERNELS;

type Outcome = Result<(), Failed>;

/// A small wrong in every page, as a broken compiler might make it: (page, what is replaced, by what).
const WRONGS: [(&str, &str, &str); 35] = [
    ("adamw", "sqrt(second)", "second"),
    ("batch_norm", "squared / max(count - 1.0, 1.0)", "squared / count"),
    ("batch_norm_backward", "select(1.0, params.repeats, last)", "1.0"),
    ("ceiling", "v3 = four_times(v3,", "v3 = four_times(v2,"),
    ("column_sum", "i < params.rows", "i + 1u < params.rows"),
    ("compose", "other[j].y * y", "0.999 * other[j].y * y"),
    ("exponential_field", "+ push(s, column)", "+ 1.001 * push(s, column)"),
    ("exponential_sum", "earlier + partial[0]", "earlier + 1.001 * partial[0]"),
    ("gpo", "sum += theta", "sum += 1.001 * theta"),
    ("gpo_backward", "params.slots + t]", "params.slots]"),
    ("gpo_dots", "d < width", "d + 1u < width"),
    ("gpo_order", ">= f", "> f"),
    ("gpo_weights", "0.5 * both", "0.499 * both"),
    ("gpo_weights_backward", "- along)", "- 0.999 * along)"),
    ("gru", "after = (1.0 - z) * c", "after = (1.0 - z) * r"),
    ("gru_backward", "sum = g * z", "sum = 0.999 * g * z"),
    ("hardest", "i < best_index[lane]", "i > best_index[lane]"),
    ("mined_order", "(first + at) & size) == 0u", "(first + at) & size) != 0u"),
    ("dense_field", "positive[j], s,", "positive[i], s,"),
    ("accumulate", "params.weight * x[k]", "1.001 * params.weight * x[k]"),
    ("infonce", "rate * (a.x + a.y);", "(a.x + a.y);"),
    ("l2norm", "sqrt(partial[0])", "1.0001 * sqrt(partial[0])"),
    ("l2norm_backward", "if (r > 0.0)", "if (r >= 0.0)"),
    ("log_sum_exp", "vec4f(exp(x), exp(x)", "vec4f(1.0001 * exp(x), exp(x)"),
    ("matmul", "k < STEP;", "k + 1u < STEP;"),
    ("matmul_registers", "c11 += b1 * a1;", "c11 += b1 * a0;"),
    ("matmul_subgroups", "c7 += y * high(r3);", "c7 += y * high(r2);"),
    ("ranks", "c < r)", "c <= r)"),
    ("record", "0.5 * (value_it[i] + value_ti[i])", "value_it[i]"),
    ("relative", "sums[anchor] = partial[0];", "sums[anchor] = partial[0] + vec4f(0.0, 1.0, 0.0, 0.0);"),
    ("sgd", "params.decay * w[k]", "0.0"),
    ("sum_squares", "k < end", "k + 1u < end"),
    ("dense_sum", "vec2f(total.x, 0.0)", "vec2f(1.001 * total.x, 0.0)"),
    ("weights", "n * n - 2.0", "n - 2.0"),
    ("widen", "pairs.y >> 16u", "pairs.x >> 16u"),
];

fn sound(device: &Device) -> Outcome {
    let mut wrong = Vec::new();
    let passed = examine(device, |finding| {
        if !finding.passed() {
            wrong.push(format!("{finding:?}"));
        }
    });
    check(passed && wrong.is_empty(), wrong.join("\n"))
}

fn wrong_driver(device: &Device) -> Outcome {
    let Device::Gpu(gpu) = device else { return Ok(()) };
    // A page that the device cannot run cannot be wrong there.
    let absent = |name: &str| name == "matmul_subgroups" && !runs_subgroups(gpu);
    for spec in KERNELS.iter().filter(|spec| !absent(spec.name)) {
        let found = WRONGS.iter().find(|(page, ..)| *page == spec.name);
        let (_, from, to) = found.ok_or_else(|| format!("no wrong for {}", spec.name))?;
        check(spec.source.contains(from), format!("{} has no `{from}`", spec.name))?;
        gpu.replace_shader(spec.name, spec.source.replacen(from, to, 1));
        let mut failed = Vec::new();
        let passed = examine(device, |finding| {
            if !finding.passed() {
                failed.push(finding.name.clone());
            }
        });
        gpu.replace_shader(spec.name, spec.source.into());
        let name = spec.name.trim_end_matches("_registers").trim_end_matches("_subgroups");
        check(!passed && failed.iter().any(|f| f == name), format!("{} went unseen: {failed:?}", spec.name))?;
    }
    Ok(())
}

/// A page that does not compile is a finding with the driver's words.
fn refused(device: &Device) -> Outcome {
    let Device::Gpu(gpu) = device else { return Ok(()) };
    let own = KERNELS.iter().find(|spec| spec.name == "sgd").ok_or("no sgd")?;
    gpu.replace_shader("sgd", format!("{}\nfn broken( {{", own.source));
    let mut fault = None;
    examine(device, |finding| {
        if finding.name == "sgd" {
            fault = finding.fault.clone();
        }
    });
    gpu.replace_shader("sgd", own.source.into());
    check(fault.is_some_and(|fault| fault.contains("sgd")), "the fault should name the kernel")
}

fn main() {
    common::run(vec![
        ("sound".into(), sound),
        ("wrong_driver".into(), wrong_driver),
        ("refused".into(), refused),
    ])
}
