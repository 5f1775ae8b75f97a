//! Runs the check of every registry entry in all variants, so a new kernel is tested from the start.

use super::bench::Outcome;
use crate::common::{check, runs_kernel};
use wgoal::Device;
use wgoal::doctor::kernels;
use wgoal::kernels::lab::Lab;

pub fn entries(device: &Device) -> Outcome {
    let lanes = [1, 8, 64, 256].map(|lanes| (Some(lanes), false));
    for kernel in kernels() {
        for (lanes, split) in lanes.into_iter().chain([(None, true)]) {
            let mut lab = Lab::new(device);
            (lab.lanes, lab.split) = (lanes, split);
            (kernel.check)(&mut lab)?;
            let (name, within) = (kernel.spec.name, lab.worst <= kernel.tolerance);
            check(lab.compared == runs_kernel(device, name), format!("{name}: compared {}", lab.compared))?;
            check(within, format!("{name}, {lanes:?} lanes, split {split}: error {:e}", lab.worst))?;
        }
    }
    Ok(())
}
