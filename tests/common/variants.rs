//! All shaders in every variant that can be dispatched.

use wgoal::device::KernelSpec;
use wgoal::doctor::kernels;
use wgoal::kernels::{MATMUL_VARIANTS, SortForm, weighing_kernels, weight_sections};
use wgoal::objective::CustomWeights;

/// The contracts of all kernels.
pub fn specs() -> impl Iterator<Item = &'static KernelSpec> {
    kernels().map(|kernel| &kernel.spec)
}

pub type Constants = Vec<(&'static str, String)>;

/// Every shader as written, and in every specialisation that is dispatched. Objectives only choose kernels and, by
/// their parameters, variants, so this covers all objectives.
pub fn variants() -> Vec<(&'static KernelSpec, Constants)> {
    let mut variants: Vec<_> = specs().map(|spec| (spec, Vec::new())).collect();
    for variant in &MATMUL_VARIANTS {
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            variants.push(variant.shader(a, b, false));
        }
        variants.push(variant.shader(false, true, true));
    }
    for spec in specs().filter(|spec| !spec.name.starts_with("matmul")) {
        for lanes in [8, 64, 256] {
            variants.push((spec, vec![("LANES", format!("{lanes}u"))]));
        }
    }
    for spec in specs().filter(|spec| spec.name == "mined_order") {
        for (lanes, chunk) in [(8, 2), (64, 128), (8, 1024), (64, 1024), (256, 1024)] {
            for form in [SortForm::Begin, SortForm::Within, SortForm::Across] {
                let lanes = ("LANES", format!("{lanes}u"));
                variants.push((spec, [lanes].into_iter().chain(form.constants(chunk)).collect()));
            }
        }
    }
    let own = CustomWeights::new("operations.wgsl", include_str!("operations.wgsl"), []);
    let own = own.unwrap_or_else(|e| panic!("{e}\n{}", e.excerpt().unwrap_or_default()));
    for (spec, weights) in
        weighing_kernels().into_iter().flat_map(|kernel| [(&kernel.spec, None), (&kernel.spec, Some(&own))])
    {
        for lanes in [8, 64] {
            let lanes = ("LANES", format!("{lanes}u"));
            variants.push((spec, [lanes].into_iter().chain(weight_sections(weights)).collect()));
        }
    }
    variants
}

/// The same constants without the texts of sections and without those that choose between variants.
pub fn numbers(constants: &Constants) -> Constants {
    let forms = ["BEGIN", "ACROSS", "CHUNK"];
    let number = |(name, _): &&(&str, String)| !name.starts_with("section ") && !forms.contains(name);
    constants.iter().filter(number).cloned().collect()
}

/// Whether a shader needs subgroups, which not every device has.
pub fn has_subgroups(source: &str) -> bool {
    source.contains("subgroupBroadcast(")
}
