//! The kernels: one WGSL page each in `shaders/`, beside it one file here with its contract ([`KernelSpec`]), its
//! dispatch function of the same name, and its CPU twin.
//!
//! A twin is a plain loop, generic over `f32` and `f64`. In f64 it is the oracle that every adapter is tested against;
//! in f32 it is what `--device cpu` runs (matrix products excepted, which go through the `gemm` crate). Matrices are
//! laid out as [`crate::device::padded`] says.

/// Declares a kernel's parameter block and lists its members, so that a test can hold it against the shader's.
/// `block` puts the six members in front that all kernels on a [`Block`] share, and `on(&Block)` fills them; `weights`
/// puts those at the end that the weights of triplets take, and `weighing(&WeightParams)` fills them. A name in front is
/// that of a second block in the file.
macro_rules! params {
    (block weights $($field:ident: $ty:ident),* $(,)?) => {
        params!(
            weights anchors: u32, candidates: u32, anchor_stride: u32, candidate_stride: u32,
            anchor_offset: u32, candidate_offset: u32, $($field: $ty),*
        );
        params!(on);
    };
    (block $($field:ident: $ty:ident),* $(,)?) => {
        params!(
            anchors: u32, candidates: u32, anchor_stride: u32, candidate_stride: u32,
            anchor_offset: u32, candidate_offset: u32, $($field: $ty),*
        );
        params!(on);
    };
    (weights $($field:ident: $ty:ident),* $(,)?) => {
        params!(
            $($field: $ty,)* triplet: u32, pair: u32, loss: u32, hinge: u32, exclude_own: u32, tau: f32, alpha: f32,
            beta: f32, lambda: f32, circle: f32, margin: f32, scale: f32, own_0: f32, own_1: f32, own_2: f32,
            own_3: f32, own_4: f32, own_5: f32, own_6: f32, own_7: f32
        );
        impl Params {
            fn weighing(self, weights: &$crate::kernels::WeightParams) -> Self {
                let own = |k: usize| {
                    let own = weights.custom.as_ref().and_then(|custom| custom.parameters().get(k));
                    own.map_or(0.0, |(_, value)| *value)
                };
                Self {
                    triplet: weights.triplet as u32,
                    pair: weights.pair as u32,
                    loss: weights.loss as u32,
                    hinge: weights.margin.is_some().into(),
                    exclude_own: weights.exclude_own.into(),
                    tau: weights.tau,
                    alpha: weights.alpha,
                    beta: weights.beta,
                    lambda: weights.lambda,
                    circle: weights.circle,
                    margin: weights.margin.unwrap_or(0.0),
                    scale: weights.scale,
                    own_0: own(0),
                    own_1: own(1),
                    own_2: own(2),
                    own_3: own(3),
                    own_4: own(4),
                    own_5: own(5),
                    own_6: own(6),
                    own_7: own(7),
                    ..self
                }
            }
        }
    };
    (on) => {
        impl Params {
            fn on(block: &$crate::kernels::Block) -> Self {
                Self {
                    anchors: block.anchors as u32,
                    candidates: block.candidates as u32,
                    anchor_stride: block.anchor_stride as u32,
                    candidate_stride: block.candidate_stride as u32,
                    anchor_offset: block.anchor_offset as u32,
                    candidate_offset: block.candidate_offset as u32,
                    ..Default::default()
                }
            }
        }
    };
    ($($field:ident: $ty:ident),* $(,)?) => {
        params!(Params { $($field: $ty),* });
    };
    ($name:ident { $($field:ident: $ty:ident),* $(,)? }) => {
        #[derive(encase::ShaderType, Default)]
        struct $name { $($field: $ty),* }
        impl $name {
            const MEMBERS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),*];
        }
    };
}

mod accumulate;
mod adamw;
mod batch_norm;
mod ceiling;
mod column_sum;
mod compose;
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
pub use mined_order::{SortForm, mined_keys, mined_order};
pub use ranks::{RankBlock, ranks};
pub use record::{RECORD, StepRecord, record};
pub use relative::{Relative, relative};
pub use sgd::{SgdParams, sgd};
pub use sum_squares::{PARTS, sum_squares};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use tuning::Choices;
pub use weights::{
    OWN, WEIGHTS_SECTION, WeightParams, loss_at, weighing_pages, weight_sections, weights, weights_at,
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

use scan::{LANES, Lanes, NO_PAIR, Scan};

use crate::device::{Recorder, Region, padded};
use crate::{Error, Result};
use std::ops::Range;

/// Numbers that a CPU twin computes with.
pub trait Real:
    num_traits::Float + num_traits::NumAssign + Default + std::fmt::Display + Send + Sync + 'static
{
    /// The nearest number to `value`.
    fn of(value: f64) -> Self;

    /// e to this power, in a form that the compiler can do for several numbers at once. In f32 right to 2 units in the
    /// last place, powers kept within -87 and 88.
    fn power_of_e(self) -> Self;
}

/// 0 in the place of a number too small to be normal: what a parameter without gradients leaves of its moments after some
/// hundred steps, and what processors compute with several times slower. GPUs may do the same by themselves.
#[inline(always)]
fn without_subnormals<T: Real>(x: T) -> T {
    if x.abs() < T::min_positive_value() { T::zero() } else { x }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn power_of_e(self) -> Self {
        // e^x = 2^k e^r with |r| <= ln 2 / 2. Adding 1.5 2^23 rounds to a whole number and leaves it in the low bits.
        const ROUNDER: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
        let k = shifted - ROUNDER;
        // ln 2 in two parts, the first with so few bits that its product with k is exact.
        const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        let r = x - k * LN_2[0] - k * LN_2[1];
        // The series of e^r to r^7, the rest of which is below 6e-9, in halves that do not wait for each other.
        let (r2, one) = (r * r, 1.0 + r);
        let low = one + (0.5 + r * (1.0 / 6.0)) * r2;
        let high = (1.0 / 24.0 + r * (1.0 / 120.0)) + (1.0 / 720.0 + r * (1.0 / 5040.0)) * r2;
        let sum = low + high * (r2 * r2);
        sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn power_of_e(self) -> Self {
        self.exp()
    }
}

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

/// Sum of f(k) over 0..n in independent lanes, so that the compiler can vectorise it; the order is fixed.
#[inline(always)]
fn lane_sum<T: Real>(n: usize, f: impl Fn(usize) -> T) -> T {
    const LANES: usize = 16;
    let mut sums = [T::zero(); LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    for k in whole..n {
        sums[k - whole] += f(k);
    }
    sums.into_iter().fold(T::zero(), |total, sum| total + sum)
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
