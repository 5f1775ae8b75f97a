//! `examine` passes on correct devices, and finds the kernel that a faulty driver computes wrongly.

use crate::common::{Outcome, Replaced, Suite, check, runs_kernel};
use std::ops::ControlFlow;
use wgoal::Device;
use wgoal::doctor::{examine, examine_kernel, kernels};

fn sound(device: &Device) -> Outcome {
    let (mut names, mut wrong) = (Vec::new(), Vec::new());
    let passed = examine(device, |finding| {
        names.push(finding.name.clone());
        if !finding.passed() {
            wrong.push(format!("{finding:?}"));
        }
        ControlFlow::Continue(())
    });
    check(passed && wrong.is_empty(), wrong.join("\n"))?;
    let runs = kernels().map(|kernel| kernel.spec.name).filter(|name| runs_kernel(device, name));
    let unseen: Vec<_> = runs.filter(|name| !names.iter().any(|found| found == name)).collect();
    check(unseen.is_empty(), format!("kernels without a finding: {unseen:?}"))
}

/// The check of each kernel fails if its shader is wrong. `refused` shows that this fails the whole examination.
fn wrong_driver(device: &Device) -> Outcome {
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    // A kernel that the device does not run cannot fail there.
    for kernel in kernels().filter(|kernel| runs_kernel(device, kernel.spec.name)) {
        let (spec, [from, to]) = (&kernel.spec, kernel.mutation);
        check(spec.source.contains(from), format!("{} has no `{from}`", spec.name))?;
        let _wrong = Replaced::new(gpu, spec, spec.source.replacen(from, to, 1));
        let finding = examine_kernel(device, kernel);
        let seen = finding.as_ref().is_some_and(|found| !found.passed() && found.fault.is_none());
        check(seen, format!("{} went unseen: {finding:?}", spec.name))?;
    }
    Ok(())
}

/// A shader that does not compile gives a finding with the driver's message and fails the examination, which ends where
/// the caller says.
fn refused(device: &Device) -> Outcome {
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    let own = &kernels().find(|kernel| kernel.spec.name == "sgd").ok_or("no sgd")?.spec;
    let _wrong = Replaced::new(gpu, own, format!("{}\nfn broken( {{", own.source));
    let mut fault = None;
    let mut last = String::new();
    let passed = examine(device, |finding| {
        last = finding.name.clone();
        if finding.name == "sgd" {
            fault = finding.fault.clone();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    check(!passed && last == "sgd", format!("it should fail and end at sgd, ended at {last}"))?;
    check(fault.is_some_and(|fault| fault.contains("sgd")), "the fault should name the kernel")
}

pub fn tests(suite: &mut Suite) {
    suite.each("sound", sound);
    suite.each_adapter("wrong_driver", wrong_driver);
    suite.each_adapter("refused", refused);
}
