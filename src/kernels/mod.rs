//! The kernels: one WGSL page each in `shaders/`, beside it one file here with its contract ([`KernelSpec`]), its
//! dispatch function of the same name, and its CPU twin.
//!
//! A twin is a plain loop, generic over `f32` and `f64`. In f64 it is the oracle that every adapter is tested against;
//! in f32 it is what `--device cpu` runs (matrix products excepted, which go through the `gemm` crate). Matrices are
//! laid out as [`crate::device::padded`] says.

#[macro_use]
mod params;

mod accumulate;
mod adamw;
mod batch_norm;
mod ceiling;
mod column_sum;
mod compose;
mod cpu_product;
mod dense_field;
mod dense_sum;
mod exponential_field;
mod exponential_sum;
mod gpo;
mod gpo_weights;
mod gru;
mod hardest;
mod infonce;
mod l2norm;
mod log_sum_exp;
mod matmul;
mod mined_order;
mod ranks;
mod real;
mod record;
mod relative;
mod scan;
mod sgd;
mod sum_squares;
#[cfg(not(target_arch = "wasm32"))]
mod tuning;
mod weights;
mod widen;

pub use accumulate::accumulate;
pub use adamw::{AdamwParams, adamw};
pub use batch_norm::{NormGradient, batch_norm, batch_norm_backward};
pub use ceiling::ceiling;
pub use column_sum::column_sum;
pub use compose::{Composition, compose};
pub use dense_field::dense_field;
pub use dense_sum::{Dense, dense_sum};
pub use exponential_field::{ExponentialParams, exponential_field};
pub use exponential_sum::exponential_sum;
pub use gpo::{Ragged, gpo, gpo_backward, gpo_dots, gpo_order};
pub use gpo_weights::{gpo_weights, gpo_weights_backward};
pub use gru::{Chains, GRU_UNITS, GruGradient, GruTrace, GruWeights, gru, gru_backward};
pub use hardest::{Below, Candidates, Hardest, hardest};
pub use infonce::{InfonceField, infonce};
pub use l2norm::{l2norm, l2norm_backward};
pub use log_sum_exp::{SameImage, log_sum_exp};
pub use matmul::{MATMUL_VARIANTS, MatmulVariant, Product, matmul};
pub use mined_order::{MAX_PAIRS, SortForm, mined_keys, mined_order};
pub use ranks::{RankBlock, ranks};
pub use real::Real;
pub use record::{RECORD, StepRecord, record};
pub use relative::{Relative, relative};
pub use sgd::{SgdParams, sgd};
pub use sum_squares::{PARTS, sum_squares};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use tuning::Choices;
pub use weights::{
    OWN, PositivePart, WEIGHTS_SECTION, WeightParams, loss_at, weighing_pages, weight_sections, weights,
    weights_at,
};
pub use widen::widen;

/// The CPU twins, as oracles for tests.
pub mod twin {
    pub use super::accumulate::twin as accumulate;
    pub use super::adamw::twin as adamw;
    pub use super::batch_norm::{backward_twin as batch_norm_backward, twin as batch_norm};
    pub use super::ceiling::twin as ceiling;
    pub use super::column_sum::twin as column_sum;
    pub use super::compose::twin as compose;
    pub use super::dense_field::twin as dense_field;
    pub use super::dense_sum::twin as dense_sum;
    pub use super::exponential_field::{twin as exponential_field, whole_twin as exponential};
    pub use super::exponential_sum::twin as exponential_sum;
    pub use super::gpo::{
        backward_twin as gpo_backward, dots_twin as gpo_dots, order_twin as gpo_order, twin as gpo,
    };
    pub use super::gpo_weights::{backward_twin as gpo_weights_backward, twin as gpo_weights};
    pub use super::gru::{backward_twin as gru_backward, twin as gru};
    pub use super::hardest::twin as hardest;
    pub use super::infonce::twin as infonce;
    pub use super::l2norm::{backward_twin as l2norm_backward, twin as l2norm};
    pub use super::log_sum_exp::twin as log_sum_exp;
    pub use super::matmul::twin as matmul;
    pub use super::mined_order::twin as mined_order;
    pub use super::ranks::twin as ranks;
    pub use super::record::twin as record;
    pub use super::relative::twin as relative;
    pub use super::sgd::twin as sgd;
    pub use super::sum_squares::twin as sum_squares;
    pub use super::weights::twin as weights;
    pub use super::widen::twin as widen;
}

use real::without_subnormals;
use scan::{LANES, Lanes, NO_PAIR, Scan};

use crate::device::{Recorder, Region, padded};
use crate::{Error, Result};
use std::ops::Range;

/// How a shader uses a storage binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
    /// Read from a copy in an image, whose texels are the vec4s of the region, 2,048 a row.
    Image,
}

/// The contract with a shader: binding 0 is the uniform parameter block, then the storage bindings in order.
#[derive(Debug)]
pub struct KernelSpec {
    /// Name of the shader file and of the dispatch function.
    pub name: &'static str,
    /// The page itself.
    pub source: &'static str,
    /// Members of the parameter block, in order, with their WGSL types.
    pub params: &'static [(&'static str, &'static str)],
    /// Storage bindings 1, 2, ...
    pub bindings: &'static [Access],
    /// Invocations of a workgroup by the constants the page is written with.
    pub workgroup: [u32; 3],
}

/// All shaders.
pub static KERNELS: &[&KernelSpec] = &[
    &accumulate::SPEC,
    &adamw::SPEC,
    &batch_norm::SPEC,
    &batch_norm::BACKWARD_SPEC,
    &ceiling::SPEC,
    &column_sum::SPEC,
    &compose::SPEC,
    &dense_field::SPEC,
    &dense_sum::SPEC,
    &gpo::SPEC,
    &gpo::BACKWARD_SPEC,
    &gpo::DOTS_SPEC,
    &gpo::ORDER_SPEC,
    &gpo_weights::SPEC,
    &gpo_weights::BACKWARD_SPEC,
    &gru::SPEC,
    &gru::BACKWARD_SPEC,
    &exponential_field::SPEC,
    &exponential_sum::SPEC,
    &hardest::SPEC,
    &infonce::SPEC,
    &l2norm::SPEC,
    &l2norm::BACKWARD_SPEC,
    &log_sum_exp::SPEC,
    &matmul::TILED_SPEC,
    &matmul::REGISTERS_SPEC,
    &matmul::SUBGROUPS_SPEC,
    &mined_order::SPEC,
    &ranks::SPEC,
    &record::SPEC,
    &relative::SPEC,
    &sgd::SPEC,
    &sum_squares::SPEC,
    &weights::SPEC,
    &widen::SPEC,
];

/// Rewrites the values of `const NAME = value;` lines of a shader. This is how tile sizes, which WGSL's `override`
/// cannot express for a thread's own arrays, live in one language. A name `section NAME` stands for the lines between
/// `// section NAME` and `// end of section`.
///
/// # Errors
/// When a constant does not occur exactly once, or a section is not there.
pub fn specialise(source: &str, constants: &[(&str, String)]) -> Result<String> {
    let mut lines: Vec<String> = source.lines().map(str::to_string).collect();
    for (name, value) in constants {
        if name.starts_with("section ") {
            let Some(inside) = section_lines(lines.iter().map(String::as_str), name) else {
                return Err(Error::config(
                    format!("shader {name}"),
                    format!("lines `// {name}` and `// end of section`"),
                    "none",
                    "mark the section in the shader",
                ));
            };
            lines.splice(inside, value.lines().map(str::to_string));
            continue;
        }
        let start = format!("const {name} = ");
        let mut matching = lines.iter_mut().filter(|line| line.starts_with(&start));
        match (matching.next(), matching.next()) {
            (Some(line), None) => *line = format!("{start}{value};"),
            (first, _) => {
                let found = if first.is_none() { "none" } else { "several" };
                return Err(Error::config(
                    format!("shader constant {name}"),
                    format!("one line `{start}...;`"),
                    found,
                    "name each constant of the shader once",
                ));
            }
        }
    }
    Ok(lines.join("\n"))
}

/// The lines between `// NAME` and the next `// end of section`.
fn section_lines<'a>(lines: impl Iterator<Item = &'a str> + Clone, name: &str) -> Option<Range<usize>> {
    let is = |line: &str, mark: &str| line.strip_prefix("// ") == Some(mark);
    let first = lines.clone().position(|line| is(line, name))? + 1;
    let len = lines.skip(first).position(|line| is(line, "end of section"))?;
    Some(first..first + len)
}

/// The `LANES` constant of the row kernels on this recorder's device.
fn lanes(recorder: &Recorder) -> [(&'static str, String); 1] {
    [("LANES", format!("{}u", recorder.lanes))]
}

/// A block of the similarity matrix as one direction sees it: anchors against candidates.
///
/// Both are numbered by pair. Images own rows, texts own columns of the same stored block.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    pub anchors: usize,
    pub candidates: usize,
    pub anchor_stride: usize,
    pub candidate_stride: usize,
    /// Pair number of the first anchor.
    pub anchor_offset: usize,
    /// Pair number of the first candidate.
    pub candidate_offset: usize,
}

impl Block {
    /// Images `first..first + rows` as anchors against all `pairs` texts.
    pub fn images(first: usize, rows: usize, pairs: usize) -> Self {
        Self {
            anchors: rows,
            candidates: pairs,
            anchor_stride: padded(pairs),
            candidate_stride: 1,
            anchor_offset: first,
            candidate_offset: 0,
        }
    }

    /// All `pairs` texts as anchors against images `first..first + rows`.
    pub fn texts(first: usize, rows: usize, pairs: usize) -> Self {
        Self {
            anchors: pairs,
            candidates: rows,
            anchor_stride: 1,
            candidate_stride: padded(pairs),
            anchor_offset: 0,
            candidate_offset: first,
        }
    }
}

/// 0..n in stretches of `step`.
fn stretches(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(step.max(1)).map(move |first| first..(first + step).min(n))
}

/// Dispatches a kernel of one workgroup a row, with as many rows at a time as bindings hold. `regions` come with the
/// floats that a row has in each, `flops` is the work of a row, `params` takes a number of rows.
fn by_rows<P: encase::ShaderType + encase::internal::WriteInto>(
    recorder: &mut Recorder,
    spec: &'static KernelSpec,
    rows: usize,
    regions: &[(Region, usize)],
    flops: usize,
    params: impl Fn(usize) -> P,
) -> Result<()> {
    let widest = regions.iter().map(|&(_, stride)| stride).max().unwrap_or(1);
    for rows in stretches(rows, recorder.rows_per_binding(widest)) {
        let part = |stride: usize| rows.start * stride..rows.end * stride;
        let regions: Vec<_> = regions.iter().map(|&(region, stride)| region.part(part(stride))).collect();
        let cost = (flops * rows.len()) as f64;
        recorder.dispatch(spec, &lanes(recorder), &params(rows.len()), &regions, [rows.len(), 1, 1], cost)?;
    }
    Ok(())
}

/// Dispatches an elementwise kernel over `len` elements, with as many at a time as bindings hold: `shared` is bound
/// whole after the first of `regions`, `flops` is the work of an element, `params` takes a number of vec4s.
fn by_elements<P: encase::ShaderType + encase::internal::WriteInto>(
    recorder: &mut Recorder,
    spec: &'static KernelSpec,
    len: usize,
    shared: Region,
    regions: &[Region],
    flops: f64,
    params: impl Fn(u32) -> P,
) -> Result<()> {
    // Workgroups at most; each takes a share of the elements.
    const GROUPS: usize = 4096;
    for part in stretches(len, recorder.elements_per_binding()) {
        let mut regions: Vec<_> = regions.iter().map(|region| region.part(part.clone())).collect();
        regions.insert(1, shared);
        let grid = [(part.len() / 4).div_ceil(recorder.lanes as usize).min(GROUPS), 1, 1];
        let params = params(part.len() as u32 / 4);
        recorder.dispatch(spec, &lanes(recorder), &params, &regions, grid, flops * part.len() as f64)?;
    }
    Ok(())
}

/// Does work compiled for the vector instructions that the processor has. What it calls must be inlined.
#[inline(always)]
fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Inner product of slices of one length in independent lanes, so that the compiler can vectorise it; the order is fixed.
#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    const LANES: usize = 64;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [T::zero(); LANES];
    // By chunks of known length: with an index that is checked, the lanes would be kept in memory.
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (&a, &b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Sigmoid, stable on both tails.
fn sigma<T: Real>(z: T) -> T {
    T::one() / (T::one() + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::{AdamwParams, Real, adamw};

    #[test]
    fn moments_without_gradients_end_at_zero_and_not_below_the_normal_numbers() {
        let unbounded = (f32::MIN, f32::MAX);
        let params = AdamwParams {
            rate: 1e-3,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            decay: 0.0,
            step: 900,
            bounds: unbounded,
        };
        let (mut w, mut m, mut v) = ([1.0f32], [f32::MIN_POSITIVE], [f32::MIN_POSITIVE]);
        adamw::twin(&params, (&[0.0], 1.0), [&mut w, &mut m, &mut v]);
        assert_eq!((m, v), ([0.0], [0.0]));
    }

    #[test]
    fn powers_of_e_are_right_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for k in 0..175_000 * 8 {
            let x = -87.0 + k as f32 / 8000.0;
            let (found, exact) = (x.power_of_e(), f64::from(x).exp());
            let unit = f64::from(f32::from_bits(found.to_bits() + 1)) - f64::from(found);
            worst = worst.max((f64::from(found) - exact).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units");
        // Beyond, as at the ends: a sum of them neither overflows nor is cut.
        assert_eq!((-1e9f32).power_of_e(), (-87.0f32).power_of_e());
        assert!(1e9f32.power_of_e().is_finite() && 0.0f32.power_of_e() == 1.0);
        assert_eq!(f32::NEG_INFINITY.power_of_e(), (-87.0f32).power_of_e());
    }
}
