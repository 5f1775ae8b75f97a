//! Every shader in every form that can be dispatched.

use wgoal::kernels::{KERNELS, KernelSpec, MATMUL_VARIANTS};

pub type Constants = Vec<(&'static str, String)>;

/// Every page as written, and specialised in every way that is dispatched. Objectives choose kernels, and forms of one by
/// its parameters, so this covers all of them.
pub fn variants() -> Vec<(&'static KernelSpec, Constants)> {
    let mut variants: Vec<_> = KERNELS.iter().map(|&spec| (spec, Vec::new())).collect();
    for variant in &MATMUL_VARIANTS {
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            variants.extend([true, false].map(|accumulated| variant.page(a, b, accumulated)));
        }
    }
    for spec in KERNELS.iter().filter(|spec| !spec.name.starts_with("matmul")) {
        for lanes in [8, 64, 256] {
            variants.push((spec, vec![("LANES", format!("{lanes}u"))]));
        }
    }
    // Only one page tells an accumulated result apart.
    let mut seen = std::collections::BTreeSet::new();
    variants.retain(|(spec, constants)| seen.insert((spec.name, constants.clone())));
    variants
}

/// Whether a page needs subgroups, which not every device has.
pub fn has_subgroups(source: &str) -> bool {
    source.contains("subgroupBroadcast(")
}
