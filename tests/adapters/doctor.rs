//! The examination passes on sound devices and finds the kernel that a wrong driver gets wrong.

use crate::common::{Outcome, Suite, check, runs_subgroups};
use wgoal::Device;
use wgoal::doctor::{examine, kernels};

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
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    // A shader that the device cannot run cannot be wrong there.
    let absent = |name: &str| name == "matmul_subgroups" && !runs_subgroups(gpu);
    for kernel in kernels().filter(|kernel| !absent(kernel.spec.name)) {
        let (spec, [from, to]) = (&kernel.spec, kernel.mutation);
        check(spec.source.contains(from), format!("{} has no `{from}`", spec.name))?;
        gpu.replace_shader(spec.name, spec.source.replacen(from, to, 1));
        let mut failed = Vec::new();
        let passed = examine(device, |finding| {
            if !finding.passed() {
                failed.push(finding.name.clone());
            }
        });
        gpu.replace_shader(spec.name, spec.source.into());
        check(
            !passed && failed.iter().any(|f| f == spec.name),
            format!("{} went unseen: {failed:?}", spec.name),
        )?;
    }
    Ok(())
}

/// A page that does not compile is a finding with the driver's words.
fn refused(device: &Device) -> Outcome {
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    let own = &kernels().find(|kernel| kernel.spec.name == "sgd").ok_or("no sgd")?.spec;
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

pub fn tests(suite: &mut Suite) {
    suite.each("sound", sound);
    suite.each_adapter("wrong_driver", wrong_driver);
    suite.each_adapter("refused", refused);
}
