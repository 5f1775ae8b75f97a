//! The adapters of this machine: chosen by name, in agreement with each other, and with failures that are known.

mod common;

use common::{check, devices, judge, known_failure};
use libtest_mimic::{Failed, Trial};
use wgoal::{Dataset, Device, DeviceKind, TrainConfig, Trainer};

type Outcome = Result<(), Failed>;

/// A device answers to the name that the tests know it by.
fn chosen_by_name(device: &Device) -> Outcome {
    let info = device.info();
    let Some((name, _)) = devices().iter().find(|(_, other)| other.info().index == info.index) else {
        return Err(format!("{device} is not among the devices").into());
    };
    let chosen = Device::open(name)?;
    // The CPU is opened without looking at the list.
    let same = info.kind == DeviceKind::Cpu || chosen.info().index == info.index;
    check(
        same && chosen.info().kind == info.kind && chosen.info().name == info.name,
        format!("{name} is {chosen}"),
    )
}

/// An adapter that is computed on the CPU is never taken for a GPU.
fn software_is_known(device: &Device) -> Outcome {
    let info = device.info();
    let software = ["llvmpipe", "SwiftShader"].iter().any(|name| info.name.contains(name));
    check(!software || info.kind == DeviceKind::Software, format!("{device} is {:?}", info.kind))
}

/// Five epochs from one seed end at the same validation rsum on every device. They differ by rounding, and a query whose
/// rank a rounding turns costs a part of a point.
fn agreement(objective: &str) -> Outcome {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let mut rsums = Vec::new();
    for (name, device) in devices() {
        let config =
            TrainConfig { objective: objective.parse()?, epochs: 5, embed: 64, ..Default::default() };
        let mut trainer = Trainer::new(device, Dataset::open(folder)?, config)?;
        let last = trainer.epochs().last().ok_or("no epoch")??;
        println!("{objective} on {name}: validation rsum {:.2} after epoch {}", last.val.rsum, last.epoch);
        rsums.push(last.val.rsum);
    }
    let (low, high) = rsums.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    // Chance is 10.6: heads that learn nothing agree as well.
    check(low > 50.0, format!("rsum {low}"))?;
    check(high - low <= 1.0, format!("rsums from {low} to {high}"))
}

/// The table of known failures: what is in it must fail, what is not must pass.
fn known_failures() -> Outcome {
    let table = [("gl", "matmul", "its driver is wrong")];
    check(known_failure(&table, "gl", "matmul") == Some("its driver is wrong"), "the line is not found")?;
    check(known_failure(&table, "gl", "ranks").is_none(), "another test")?;
    check(known_failure(&table, "lavapipe", "matmul").is_none(), "another adapter")?;
    check(judge(None, || Ok(())).is_ok(), "a pass")?;
    check(judge(None, || Err("it failed".into())).is_err(), "a failure")?;
    check(judge(Some("why"), || Err("it failed".into())).is_ok(), "a known failure")?;
    check(
        judge(Some("why"), || std::panic::resume_unwind(Box::new("a panic"))).is_ok(),
        "a known failure by panic",
    )?;
    let unexpected =
        judge(Some("why"), || Ok(())).err().and_then(|failed| failed.message().map(String::from));
    check(
        unexpected.is_some_and(|message| message.contains("passes, but is known to fail (why)")),
        "an unexpected pass",
    )
}

fn main() {
    let tests: [(&str, common::Test); 2] =
        [("chosen_by_name", chosen_by_name), ("software_is_known", software_is_known)];
    let others = vec![
        Trial::test("known_failures", known_failures),
        Trial::test("agreement/infonce", || agreement("infonce")),
        Trial::test("agreement/hinge", || agreement("hinge")),
        Trial::test("agreement/cir:sig-ms", || agreement("cir:sig-ms")),
    ];
    common::run_with(tests.map(|(name, test)| (name.to_string(), test)).to_vec(), others)
}
